"""Step through a caption's equations, move its light: `python -m caption.explore --image IMAGE --output PAGE.html`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

from pathlib import Path
from typing import Any

import torch

from caption.captioner import Captioner
from caption.config.cli import parse, run
from caption.config.inference import ExploreConfig
from caption.data.photos import Photo, load_photo
from caption.files import check_replaceable, locked, write_text
from caption.visualise.explorer import explorer_page, model_entry, tensor_entry
from caption.visualise.html import shown_entry


def main(arguments: list[str]) -> None:
    args = parse(ExploreConfig, arguments, "caption.explore", __doc__)
    path = Path(args.output)
    check_replaceable(path)
    with locked(path):
        captioner = Captioner.load(args.checkpoint)
        content = page(captioner, load_photo(args.image, captioner.image), args.image)
        write_text(path, content)
    print(f"wrote {path} ({len(content) / 1e6:.1f} MB)")


def page(captioner: Captioner, photo: Photo, name: str) -> str:
    """Return a page that explores the captions of an image. Raises UserError for a decoder that it cannot compute."""
    image = shown_entry(photo.shown, photo.window, name)
    return explorer_page(f"{name}, step by step", explorable(captioner), {**image, **regions_entry(captioner, photo)})


def explorable(captioner: Captioner) -> dict[str, Any]:
    """Return the decoder as the page computes it. Raises UserError for one that it cannot compute."""
    return model_entry(
        captioner.decoder, captioner.configs["decoder"], captioner.vocabulary, captioner.encoder.feature_grid
    )


@torch.inference_mode()
def regions_entry(captioner: Captioner, photo: Photo) -> dict[str, Any]:
    """Return the annotation vectors of an image, which the page's decoder reads."""
    square = torch.from_numpy(photo.square[None]).to(next(captioner.parameters()).device)
    return {"regions": tensor_entry(captioner.regions(square)[0])}


if __name__ == "__main__":
    run(main)
