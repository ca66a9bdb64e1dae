"""Configuration of the search for captions."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from caption.config.validation import check, require, require_default

HardAttentionMode = Literal["expectation", "argmax", "sample"]


@dataclass(frozen=True)
class SearchConfig:
    """Options of caption generation."""

    beam_size: Annotated[int, "at least 1"] = 3
    """Beams per image; 1: greedy search."""
    max_length: Annotated[int, "at least 1"] = 30
    """Most words in a caption; an unfinished caption is kept as it is."""
    min_length: Annotated[int, "0 or more"] = 1
    """Fewest words in a caption."""
    length_penalty: Annotated[float, "in [0, 10]"] = 0.0
    """Rank hypotheses by log-probability / steps ** penalty (steps: words and <end>); 0: no penalty."""
    no_repeat_ngram: Annotated[int, "0 or more"] = 0
    """Forbid an n-gram of this length to occur twice; 0: allowed."""
    suppress_unknown: bool = True
    """Never write <unknown>."""
    method: Literal["beam", "sample"] = "beam"
    """beam: the most probable captions; sample: `beam_size` independent samples."""
    temperature: Annotated[float, "in [0.001, 1000]"] = 1.0
    """Temperature of the word distribution for `sample`: below 1 sharper, above 1 flatter."""
    top_p: Annotated[float, "in (0, 1]"] = 1.0
    """With `sample`: only of the most probable words that together have this probability (nucleus sampling, Holtzman et
    al., 2020); 1: of all words."""
    hard_attention: HardAttentionMode = "expectation"
    """Location that hard attention and retina use: the expectation (hard: as soft attention; retina: its centre), the
    most probable location (argmax), or a sampled one."""

    def __post_init__(self) -> None:
        check(self, "search")
        if self.method != "sample":
            require_default(self, "search", "top_p", f"search.method is {self.method}, which samples no words")
        require(self.min_length <= self.max_length, "search.min_length", self.min_length, "at most max_length")

    def for_attention(self, stochastic: bool) -> "SearchConfig":
        """Return the search for a model whose attention is or is not stochastic: another one has the expectation
        alone."""
        return self if stochastic else replace(self, hard_attention="expectation")
