"""The options of evaluate.py, caption_image.py, caption.explore and caption.export."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from caption.config.search import SearchConfig
from caption.config.validation import check
from caption.errors import UserError
from caption.files import HUB, PRETRAINED, run_folder

Split = Literal["train", "val", "test"]
KnockOut = Literal["uniform", "shuffled", "center", "previous", "first-word", "image-mean"]
NEEDED: tuple[KnockOut, ...] = ("uniform", "shuffled", "image-mean")  # by the verdict


@dataclass(frozen=True)
class EvaluationConfig:
    """Score a model on a split of a data file; scores and captions are written beside the checkpoint."""

    checkpoint: str
    """A run's best.pt, the folder of an exported model, or hf://owner/name."""
    data: str
    """The HDF5 file with the split."""
    split: Split = "test"
    instances: str = ""
    """COCO instance annotations of the split: also score whether captions name objects that are not there (CHAIR),
    whether attention falls on what a word names and, for drawn shapes, whether captions are true."""
    gates: bool = False
    """Also score when the model looks, by the gate of show_attend_tell or adaptive: how much the image counts for each
    kind of word, and for which words it counts the most and the least."""
    captions_only: bool = False
    """Write captions_SPLIT.json alone, in the results format of COCO's server, and compute no scores: for images
    without captions of their own."""
    knock_out: tuple[KnockOut | Literal["all"], ...] | None = None
    """Instead of scores: what they lose if the weights of attention are replaced by even ones (uniform), those of
    another image (shuffled), the centre of the image (center), or those of the word before (previous), of the first
    word (first-word), or the mean over the caption's words (image-mean). Writes knock_out_SPLIT.json."""
    faithfulness: bool = False
    """Instead of scores: how far the log-probability of a word falls without the regions that attention weighed the
    most, or others. Writes faithfulness_SPLIT.json and .png."""
    report: str = ""
    """Folder for a page to open in a browser: scores, curves, every caption with its attention."""
    java: bool = True
    """Also METEOR and SPICE, if Java and pycocoevalcap are installed."""
    batch_size: Annotated[int, "at least 1"] = 32
    """Images captioned at a time."""
    workers: Annotated[int, "0 or more"] = 0
    """Processes that read data; 0: the main one."""
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """bf16, fp16: autocast; fp32: single precision, on a GPU without TF32; auto: the fastest here."""
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of sampled words, sampled locations and the intervals."""
    output: str = ""
    """Folder for scores and captions; empty: that of the checkpoint."""
    overwrite: bool = False
    """Replace the results of another evaluation: of another checkpoint, search, data file and so on."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        check(self)
        modes = {
            "--captions-only": self.captions_only,
            "--knock-out": self.knock_out is not None,
            "--faithfulness": self.faithfulness,
        }
        asked = [flag for flag, given in modes.items() if given]
        if len(asked) > 1:
            raise UserError(f"{asked[0]} and {asked[1]} are two evaluations; leave out one of them")
        for name in ("report", "gates", *["instances"] * self.captions_only):
            if asked and (value := getattr(self, name)):
                flag = f"--{name}" if value is True else f"--{name} {value}"
                raise UserError(f"{flag} needs scores, but {asked[0]} computes none; leave out one of them")
        if self.knock_out == ():
            raise UserError(f"--knock-out needs a name: {', '.join(get_args(KnockOut))}, or all")
        if self.knock_out and self.batch_size == 1:
            raise UserError("--knock-out exchanges the images of a batch: --batch-size must be at least 2")
        if self.faithfulness and self.search.hard_attention != "expectation":
            raise UserError(
                f"--faithfulness reads expectations, but --hard-attention is {self.search.hard_attention}; leave it out"
            )
        if self.checkpoint.startswith(HUB) and not self.output:
            raise UserError(f"--checkpoint {self.checkpoint} has no folder here: give --output, for the scores")

    @property
    def knock_outs(self) -> list[KnockOut]:
        """The knock-outs asked for, with those that the verdict needs; none if none was."""
        every = get_args(KnockOut)
        if self.knock_out is None:
            return []
        chosen = every if "all" in self.knock_out else (*self.knock_out, *NEEDED)
        return [name for name in every if name in chosen]

    @property
    def folder(self) -> Path:
        """The folder of scores and captions."""
        return Path(self.output) if self.output else run_folder(self.checkpoint)

    @property
    def results_path(self) -> Path:
        """The file that holds the results, with the settings that they are of; captions alone have none."""
        name = "knock_out" if self.knock_out else "faithfulness" if self.faithfulness else "scores"
        return self.folder / f"{name}_{self.split}.json"


@dataclass(frozen=True)
class ComparisonConfig:
    """Compare the captions of two runs that were scored before, and test whether their scores differ."""

    compare: tuple[str, str]
    """The folders of runs A and B."""
    split: Split = "test"
    data: str = ""
    """The HDF5 file with the split; empty: the one that A was scored on."""
    instances: str = ""
    """COCO instance annotations of the split: also compare CHAIR and, for drawn shapes, how often captions are true."""
    java: bool = True
    """Also METEOR and SPICE, if Java and pycocoevalcap are installed."""
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of the resampling."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class CaptioningConfig:
    """Caption images and show the attention for each word."""

    image: tuple[str, ...]
    """Images, or folders of images."""
    checkpoint: str = str(PRETRAINED / "flickr8k")
    """A run's best.pt, the folder of an exported model, or hf://owner/name; left out: the model of photographs that
    comes with the code."""
    output: str = ""
    """A figure (.png, .pdf, .svg, .jpg; .gif shows one word after the other), a page for a browser with all the
    images (.html), or a folder for one figure per image; empty: none of these."""
    format: Literal["png", "pdf", "svg", "jpg", "gif"] = "png"
    """File type of the figures in a folder."""
    caption: str = ""
    """Words to show the attention for, instead of the model's own caption."""
    compare_with: str = ""
    """Another model, to draw its attention for the same words below."""
    heads: bool = False
    """If attention has several heads, draw each of them in the figures below their mean. A page has them all."""
    explore: bool = False
    """Give every image of a page a button that opens the explorer of its equations (`python -m caption.explore`); the
    page then holds the decoder's weights."""
    json: bool = False
    """Print words, log-probability and attention weights as JSON, one object per image, instead of the caption."""
    device: str = "auto"
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of sampled words and sampled locations."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        check(self)
        if self.explore and not self.output.lower().endswith(".html"):
            raise UserError(
                f"--explore puts a button on a page, but --output is {self.output!r}; give one that ends with .html, "
                "or leave --explore out"
            )


@dataclass(frozen=True)
class ExploreConfig:
    """Write a page for a browser that steps through the equations of a caption, and lets the reader move the light."""

    image: str
    """The image."""
    output: str
    """The page (.html); one that this program wrote before is replaced."""
    checkpoint: str = str(PRETRAINED / "flickr8k")
    """A run's best.pt, the folder of an exported model, or hf://owner/name; left out: the model of photographs that
    comes with the code. Its decoder must be show_attend_tell, with soft or hard attention and one head."""

    def __post_init__(self) -> None:
        check(self)
        if not self.output.lower().endswith(".html"):
            raise UserError(f"--output {self.output}: must be the name of a page; let it end with .html")


@dataclass(frozen=True)
class ExportConfig:
    """Write a model as a folder for others: configuration, weights without code, vocabulary and a model card."""

    checkpoint: str
    """A run's best.pt; the scores beside it go into the model card."""
    output: str
    """The folder to write."""
    half: bool = False
    """Weights in float16: half as large."""
    notes: str = ""
    """A text file in Markdown to add to the model card: data, terms, what the model is bad at."""
    overwrite: bool = False
    """Replace an earlier export."""
