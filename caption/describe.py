"""A caption of one image, with the attention of its words: what `Captioner.caption` returns."""

import html as markup
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caption.data.photos import Photo
from caption.encoders.grid import FeatureGrid
from caption.search import Hypothesis

if TYPE_CHECKING:  # matplotlib takes a while to import: only what draws waits for it
    from matplotlib.figure import Figure

    from caption.visualise.figures import AttentionMaps

NOTEBOOK_HEIGHT = 500  # of the page in a notebook, in pixels


@dataclass(frozen=True, repr=False)
class Caption:
    """A caption of T words. In a notebook it shows itself: the image, lit by the attention of the word pointed at."""

    words: list[str]
    log_probability: float
    """Natural logarithm, with that of <end> if `finished`."""
    word_log_probabilities: list[float]
    """Log-probability in nats of each of the T words given those before it and, if `finished`, of <end>."""
    finished: bool
    """True if the caption ends with <end>, false if it reached the limit of its length."""
    attention: NDArray[np.float32]
    """[T, rows, columns]: the weights alpha of the regions, at each word summing to one."""
    gates: list[float] | None
    """The factor of the context at each word, in [0, 1] (`AttentionOutput.gate`); None if the decoder has no gate."""
    locations: list[tuple[int, int]] | None
    """Row and column that hard attention chose for each word; None: the expectation."""
    heads: Mapping[str, NDArray[np.float32]]
    """[T, rows, columns] of each head by its name, if there are several."""
    alternatives: list["Caption"]
    """The other captions that the search found, best first."""
    photo: Photo = field(compare=False)
    """The image."""
    grid: FeatureGrid = field(compare=False)
    """Positions of the regions on the square that the model saw."""
    hypothesis: Hypothesis = field(compare=False)
    """The search result from which the fields above are taken."""
    separator: str = " "
    """Separator that joins the words to a text: a space, or nothing if words are characters."""

    @property
    def text(self) -> str:
        """The words, with spaces between them unless they are characters."""
        return self.separator.join(self.words)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Caption({self.text!r}, log_probability={self.log_probability:.3f})"

    def maps(self, name: str = "") -> "AttentionMaps":
        """Return the attention as figures draw it, all heads together, under this name."""
        return self._maps(self.attention, name, self.hypothesis.locations)

    def head_maps(self) -> list["AttentionMaps"]:
        """Return the attention of each head as figures draw it."""
        return [self._maps(weights, name) for name, weights in self.heads.items()]

    def _maps(self, weights: NDArray[np.float32], name: str, locations: Any = None) -> "AttentionMaps":
        from caption.visualise.figures import AttentionMaps

        chosen = None if locations is None else locations[: len(self.words)].tolist()
        flat = weights.reshape(len(weights), self.grid.rows * self.grid.columns)
        return AttentionMaps(flat, self.grid, chosen, name, self.photo.window)

    def figure(self) -> "Figure":
        """Return a matplotlib figure: the image, then again for each word, bright where attention is."""
        from caption.visualise.figures import attention_figure

        return attention_figure(np.asarray(self.photo.shown), self.words, [self.maps()], self.separator)

    def page_entry(self, name: str = "") -> dict[str, Any]:
        """Return the caption, and its alternatives, as an entry of `visualise.html.write_page`."""
        from caption.visualise.html import image_entry

        captions = [(caption.words, caption.hypothesis) for caption in (self, *self.alternatives)]
        return image_entry(self.photo.shown, self.photo.window, name, captions, list(self.heads), self.separator)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from caption.visualise.html import page

        content = page("", self.grid, [self.page_entry()])
        return (
            f'<iframe srcdoc="{markup.escape(content)}" style="width: 100%; height: {NOTEBOOK_HEIGHT}px; border: 0">'
            "</iframe>"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the caption in plain values: for each word its log-probability, its attention weights as rows and
        columns of the grid, the `gate`, the `location` (row, column) that hard attention chose, and the weights of
        each head by its name."""
        steps: list[dict[str, Any]] = []
        for t, word in enumerate(self.words):
            step = {"word": word, "log_probability": self.word_log_probabilities[t]}
            step["weights"] = self.attention[t].tolist()
            if self.gates is not None:
                step["gate"] = self.gates[t]
            if self.locations is not None:
                step["location"] = self.locations[t]
            if self.heads:
                step["heads"] = {name: weights[t].tolist() for name, weights in self.heads.items()}
            steps.append(step)
        return {
            "log_probability": self.log_probability,
            "finished": self.finished,
            "grid": (self.grid.rows, self.grid.columns),
            "words": steps,
            "alternatives": [
                {"caption": other.text, "log_probability": other.log_probability, "finished": other.finished}
                for other in self.alternatives
            ],
        }


def make_caption(
    hypotheses: Sequence[tuple[list[str], Hypothesis]],
    grid: FeatureGrid,
    head_names: Sequence[str],
    photo: Photo,
    separator: str,
) -> Caption:
    """Return the caption of an image from the words and hypotheses that a search found, best first; `separator` stands
    between two words of its text."""
    (words, best), *others = hypotheses
    shape = len(words), grid.rows, grid.columns
    locations = None
    if best.locations is not None:
        locations = [divmod(int(place), grid.columns) for place in best.locations[: len(words)]]
    heads = {} if best.heads is None else dict(zip(head_names, best.heads[: len(words)].unbind(1), strict=True))
    assert best.word_log_probabilities is not None
    return Caption(
        words=words,
        log_probability=best.log_probability,
        word_log_probabilities=best.word_log_probabilities.tolist(),
        finished=best.finished,
        attention=best.weights[: len(words)].float().numpy().reshape(shape),
        gates=None if best.gates is None else best.gates[: len(words)].tolist(),
        locations=locations,
        heads={name: weights.float().numpy().reshape(shape) for name, weights in heads.items()},
        alternatives=[make_caption([other], grid, head_names, photo, separator) for other in others],
        photo=photo,
        grid=grid,
        hypothesis=best,
        separator=separator,
    )
