"""Everything that can be set, as frozen dataclasses: the flags of `train.py`, and what a checkpoint keeps."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from caption.errors import UserError
from caption.images import Fit

T = TypeVar("T")
Attend = Literal["expectation", "most_probable", "draw"]


RULES: dict[str, Callable[[float], bool]] = {
    "positive": lambda value: value > 0,
    "at least 1": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "at least 0 and below 1": lambda value: 0 <= value < 1,
}


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{name} is {value}, but must be {rule}")


def _check(config: object, section: str, rule: str, *names: str) -> None:
    """Each of the named fields must keep the rule."""
    for name in names:
        value = getattr(config, name)
        _require(RULES[rule](value), f"{section}.{name}", value, rule)


@dataclass(frozen=True)
class ImageConfig:
    """How pictures were brought into a square; taken from the data file, kept with the model."""

    size: int
    fit: Fit

    def __post_init__(self) -> None:
        _require(self.size > 0, "the picture's size", self.size, "at least 1 pixel")


@dataclass(frozen=True)
class EncoderConfig:
    """The network that turns a picture into region features [B, L, D]."""

    name: str = "vgg19"
    """`small_cnn`, `recursive_cnn`, `recurrent_cnn`, or any classifier of torchvision (vgg19, resnet101, ...)."""
    weights: str = "none"
    """A torchvision weights name (IMAGENET1K_V1, DEFAULT), the file of a state dict, or none."""
    layer: str = ""
    """Where to cut, as a module's path (resnet101: layer3 for 14x14); empty: the last spatial map."""
    finetune_from: str = ""
    """Train the encoder from this module on (layer3, features.28; all: everything); empty: frozen."""
    passes: int = 3
    """N, of recursive_cnn and recurrent_cnn: how often the shared convolution is applied after the first one."""

    def __post_init__(self) -> None:
        _check(self, "encoder", "at least 1", "passes")
        if self.passes != 3 and self.name not in ("recursive_cnn", "recurrent_cnn"):
            raise UserError(
                f"encoder.passes is {self.passes}, but {self.name} has none; add --encoder.name recurrent_cnn or "
                "recursive_cnn, or leave it at 3"
            )


@dataclass(frozen=True)
class DecoderConfig:
    """The LSTM decoder with attention."""

    embedding: int = 512
    """E, width of a word embedding."""
    hidden: int = 512
    """H, width of the LSTM state."""
    attention: int = 512
    """A, width of keys and queries; the scores dot and general have H instead."""
    score: Literal["additive", "concat", "dot", "general", "scaled_dot"] = "additive"
    """How regions are compared to the state: additive (paper, eq. 4); dot needs `hidden` as wide as a region."""
    window: Literal["global", "local_m", "local_p"] = "global"
    """Where attention may look: everywhere; near region t at step t; near a place that it predicts (Luong et al.)."""
    window_over: Literal["line", "plane"] = "plane"
    """Of a local window, regions are on a line, row by row (as published for words), or on the picture's plane."""
    window_radius: int = 2
    """D, of a local window: places within D of its middle."""
    selection: Literal["soft", "hard"] = "soft"
    """soft: attend to the expectation (paper, section 4.2); hard: to one drawn location (section 4.1)."""
    temperature: float = 1.0
    """Of the softmax over locations: below 1 sharper, above 1 flatter."""
    state_dropout: float = 0.5
    """On the LSTM's output, on its way to the words: the more of it, the more a word must be read from the picture."""
    dropout: float = 0.5
    """Before the output layer."""

    def __post_init__(self) -> None:
        _check(self, "decoder", "positive", "embedding", "hidden", "attention", "temperature", "window_radius")
        _check(self, "decoder", "at least 0 and below 1", "state_dropout", "dropout")
        if self.window == "global" and (self.window_over, self.window_radius) != ("plane", 2):
            raise UserError(
                "decoder.window_over or window_radius is set, but decoder.window is global; add --decoder.window "
                "local_m or local_p"
            )


@dataclass(frozen=True)
class ReinforceConfig:
    """How hard attention is trained (paper, section 4.1, eq. 11-12); read with `--decoder.selection hard` alone."""

    weight: float = 1.0
    """lambda_r, of the reward; 1: as the bound of eq. 10 has it."""
    entropy: float = 0.0
    """lambda_e, of the entropy of alpha, which is kept high: larger, flatter maps and more trying out."""
    expectation: float = 0.5
    """Chance that a caption attends to the expectation instead of drawing: less variance, not the same gradient."""
    first_epoch: int = 1
    """The first epoch (from 1) in which captions draw; before it, all take the expectation, as with soft attention."""
    draws: int = 1
    """N, draws of locations for each caption."""
    reward: Literal["whole", "to_go"] = "whole"
    """whole: a draw answers for all words of its caption (eq. 11); to_go: for those from its step on."""
    baseline: Literal["none", "moving", "leave_one_out"] = "moving"
    """moving: b_k = 0.9 b_(k-1) + 0.1 log p (paper); leave_one_out: the mean of the caption's other draws."""

    def __post_init__(self) -> None:
        _check(self, "training.reinforce", "0 or more", "weight", "entropy")
        _check(self, "training.reinforce", "in [0, 1]", "expectation")
        _check(self, "training.reinforce", "at least 1", "draws", "first_epoch")
        if self.baseline == "leave_one_out":
            _require(self.draws > 1, "training.reinforce.draws", self.draws, "at least 2 for baseline leave_one_out")


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, and what is minimised."""

    epochs: int = 20
    batching: Literal["images", "lengths"] = "images"
    """images: an image once an epoch with all its captions; lengths: captions of one length (paper, section 4.3)."""
    batch_size: int = 16
    """Images a batch; with `--training.batching lengths`, captions a batch."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 4e-4
    """Of the decoder."""
    encoder_learning_rate: float = 1e-5
    """Of encoder weights that train."""
    finetune_epoch: int = 1
    """The first epoch (from 1) in which the encoder is fine-tuned."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    """cosine: falls to 0 at the last epoch; plateau: halved after `plateau_epochs` without a better score."""
    plateau_epochs: int = 2
    clip_norm: float = 5.0
    """Largest norm of the whole gradient; 0: no clipping."""
    label_smoothing: float = 0.0
    doubly_stochastic: float = 1.0
    """lambda of eq. 14: the penalty sums over locations, against the sum of log-probabilities over words."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    patience: int = 0
    """Stop after this many epochs without a better score; 0: never."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast where this machine multiplies it faster, fp32 elsewhere."""
    checkpoint_steps: int = 0
    """Also write last.pt every so many steps; 0: at the end of an epoch and when interrupted."""
    workers: int = 0
    """Processes that read data; 0: the main one."""
    seed: int = 1

    def __post_init__(self) -> None:
        _check(self, "training", "at least 1", "epochs", "batch_size", "finetune_epoch", "plateau_epochs")
        _check(self, "training", "positive", "learning_rate", "encoder_learning_rate")
        _check(self, "training", "0 or more", "warmup_steps", "clip_norm", "doubly_stochastic", "patience")
        _check(self, "training", "0 or more", "checkpoint_steps", "workers")
        _check(self, "training", "in [0, 1)", "label_smoothing")


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
    """Hard attention alone: to the expectation, as soft attention does; to the most probable location; to a draw."""

    def __post_init__(self) -> None:
        _check(self, "search", "at least 1", "beam_size", "max_length")
        _check(self, "search", "0 or more", "length_penalty", "no_repeat_ngram", "min_length")
        _require(self.min_length <= self.max_length, "search.min_length", self.min_length, "at most max_length")
        _check(self, "search", "positive", "temperature")


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: str
    """The HDF5 file that `python -m preprocess` made."""
    output: str
    """The run's folder; made, must not hold another run."""
    start_from: str = ""
    """Begin with the weights of this checkpoint, a model of the same shape and vocabulary; empty: with new ones."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.decoder.selection == "soft" and self.training.reinforce != ReinforceConfig():
            raise UserError("training.reinforce is set, but decoder.selection is soft; add --decoder.selection hard")
        if self.decoder.selection == "soft" and self.search.attend != "expectation":
            raise UserError(f"search.attend is {self.search.attend}, which needs --decoder.selection hard")


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass from nested plain values, as `dataclasses.asdict` gives them.

    An unknown key is an error. A missing one takes its default, if it has one: a field that was added later must
    behave by default as the program did before it, so that older checkpoints and runs can be read.
    """
    types = get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise UserError(f"{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(types)}")
    required = {
        name for name, parameter in inspect.signature(kind).parameters.items() if parameter.default is parameter.empty
    }
    missing = sorted(required - set(values))
    if missing:
        raise UserError(f"{kind.__name__} lacks the field {missing[0]!r}")
    return kind(
        **{
            name: from_dict(types[name], value) if dataclasses.is_dataclass(types[name]) else value
            for name, value in values.items()
        }
    )
