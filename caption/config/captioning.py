"""The options of caption_image.py."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from caption.config.search import SearchConfig


@dataclass(frozen=True)
class CaptioningConfig:
    """Caption images and show the attention to each word."""

    checkpoint: str
    """A run's best.pt."""
    image: tuple[str, ...]
    """Images, or folders of images."""
    output: str = ""
    """A figure (.png, .pdf, .svg, .jpg; .gif shows one word after the other), a page for a browser with all the
    images (.html), or a folder for one figure per image; empty: none of these."""
    format: Literal["png", "pdf", "svg", "jpg", "gif"] = "png"
    """Of the figures in a folder."""
    caption: str = ""
    """Show the attention to these words instead of the model's own caption."""
    compare_with: str = ""
    """Another model's best.pt, to draw its attention to the same words below."""
    heads: bool = False
    """If attention has several heads, draw each of them in the figures below their mean. A page has them all."""
    json: bool = False
    """Print words, log-probability and attention weights as JSON, one object per image, instead of the caption."""
    device: str = "auto"
    seed: int = 1
    """Seed of sampled words and sampled locations."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(default_factory=SearchConfig)
