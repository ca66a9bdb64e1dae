"""How captions are made."""

from dataclasses import dataclass
from typing import Literal

from caption.config.validation import check, require

Attend = Literal["expectation", "most_probable", "draw"]


@dataclass(frozen=True)
class SearchConfig:
    """How captions are made."""

    beam_size: int = 3
    """Beams an image; 1: greedy."""
    max_length: int = 30
    """Words at most; an unfinished caption counts as it stands."""
    min_length: int = 1
    """Words at least."""
    length_penalty: float = 0.0
    """Hypotheses are ranked by log-probability / steps ** penalty (steps: words and <end>); 0: no penalty."""
    no_repeat_ngram: int = 0
    """No n words in a row may come twice; 0: allowed."""
    suppress_unknown: bool = True
    """Never write <unknown>."""
    method: Literal["beam", "sample"] = "beam"
    """beam: the most probable captions; sample: as many independent draws as there would be beams."""
    temperature: float = 1.0
    """Of the words that `sample` draws: below 1 sharper, above 1 flatter."""
    attend: Attend = "expectation"
    """Hard attention: to the expectation, as soft attention does; to the most probable location; to a draw. The retina:
    its centre is the expectation and the most probable; or to a draw."""

    def __post_init__(self) -> None:
        check(self, "search", "at least 1", "beam_size", "max_length")
        check(self, "search", "0 or more", "length_penalty", "no_repeat_ngram", "min_length")
        require(self.min_length <= self.max_length, "search.min_length", self.min_length, "at most max_length")
        check(self, "search", "positive", "temperature")
