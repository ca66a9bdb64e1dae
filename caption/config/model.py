"""What decides the shape of a model, as frozen dataclasses: a checkpoint keeps them beside the weights."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from caption.config.validation import check, require
from caption.errors import UserError

Fit = Literal["crop", "squash"]  # into a square: keep the centre, or keep everything, out of shape


@dataclass(frozen=True)
class ImageConfig:
    """How pictures were brought into a square; taken from the data file, kept with the model."""

    size: int
    fit: Fit

    def __post_init__(self) -> None:
        require(self.size > 0, "the picture's size", self.size, "at least 1 pixel")


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
    padding: Literal["torchvision", "tensorflow"] = "torchvision"
    """Of strided convolutions: as torchvision's network has it; or behind alone, for weights from TensorFlow."""
    passes: int = 3
    """N, of recursive_cnn and recurrent_cnn: how often the shared convolution is applied after the first one."""

    def __post_init__(self) -> None:
        check(self, "encoder", "at least 1", "passes")
        if self.passes != 3 and self.name not in ("recursive_cnn", "recurrent_cnn"):
            raise UserError(
                f"encoder.passes is {self.passes}, but {self.name} has none; add --encoder.name recurrent_cnn or "
                "recursive_cnn, or leave it at 3"
            )


@dataclass(frozen=True)
class TransformerConfig:
    """What the Transformer has beside the fields it shares with the LSTM; read with `--decoder.kind transformer`."""

    layers: int = 3
    """N, each of self-attention, attention over the regions and two feed-forward layers."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalisation before each sublayer, or after its residual sum (as published)."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Of words in the caption; learned ones end at 128 words, the last stands for all beyond."""
    grid_positions: bool = False
    """Tell each region's row and column, too."""

    def __post_init__(self) -> None:
        check(self, "decoder.transformer", "at least 1", "layers")


@dataclass(frozen=True)
class DecoderConfig:
    """What writes the caption: an LSTM with attention, or a Transformer."""

    kind: Literal["lstm", "transformer"] = "lstm"
    """lstm: the paper's; transformer: Vaswani et al., 2017."""
    embedding: int = 512
    """E, width of a word embedding; of the Transformer, of all its layers."""
    hidden: int = 512
    """H, width of the LSTM state; of the Transformer's feed-forward layers between the two."""
    attention: int = 512
    """A, width of keys and queries, of all heads together; the scores dot and general have H instead."""
    score: Literal["additive", "concat", "dot", "general", "scaled_dot", "multi_head"] = "additive"
    """How regions are compared to the state: additive (paper, eq. 4); dot needs `hidden` as wide as a region."""
    heads: int = 8
    """M, of the score multi_head and of the Transformer; must divide `attention`."""
    query: Literal["previous", "current"] = "previous"
    """Attend by the state before the recurrence (paper) or by the one after it (Luong et al.)."""
    window: Literal["global", "local_m", "local_p"] = "global"
    """Where attention may look: everywhere; near region t at step t; near a place that it predicts (Luong et al.)."""
    window_over: Literal["line", "plane"] = "plane"
    """Of a local window, regions are on a line, row by row (as published for words), or on the picture's plane."""
    window_radius: int = 2
    """D, of a local window: places within D of its middle."""
    selection: Literal["soft", "hard", "draw", "retina"] = "soft"
    """soft: attend to the expectation (paper, section 4.2); hard: to one drawn location (section 4.1); or to a glimpse
    of the plane: draw: a grid of Gaussian filters (Gregor et al., 2015); retina: patches around a drawn place (Mnih et
    al., 2014)."""
    glimpse: int = 3
    """Of the selection draw: N, filters along each side of its grid; of retina: its patches, each twice as wide."""
    temperature: float = 1.0
    """Of the softmax over locations: below 1 sharper, above 1 flatter."""
    state_dropout: float = 0.5
    """On the LSTM's output, on its way to the words: the more of it, the more a word must be read from the picture. Of
    the Transformer: on the output of every sublayer."""
    dropout: float = 0.5
    """Before the output layer; of the Transformer, on its input, too."""
    tie: bool = False
    """The output layer has the embedding's weights."""
    vectors: str = ""
    """A text file of word vectors as wide as `embedding` (GloVe's format), with which embeddings begin."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        check(self, "decoder", "positive", "embedding", "hidden", "attention", "temperature", "window_radius", "heads")
        check(self, "decoder", "at least 1", "glimpse")
        check(self, "decoder", "at least 0 and below 1", "state_dropout", "dropout")
        if self.kind == "transformer":
            self._only("decoder.kind is transformer", "score", "query", "window", "selection", "temperature")
            require(self.embedding % 4 == 0, "decoder.embedding", self.embedding, "divisible by 4 for a Transformer")
        elif self.transformer != TransformerConfig():
            raise UserError("decoder.transformer is set, but decoder.kind is lstm; add --decoder.kind transformer")
        elif self.score == "multi_head":
            self._only("decoder.score is multi_head", "window", "selection")
        elif self.heads != 8:
            raise UserError(f"decoder.heads is {self.heads}, but nothing has heads; add --decoder.score multi_head")
        if self.selection in ("draw", "retina"):
            self._only(f"decoder.selection is {self.selection}", "score", "window", "temperature")
        elif self.glimpse != 3:
            raise UserError(
                f"decoder.glimpse is {self.glimpse}, but decoder.selection is {self.selection}; add "
                "--decoder.selection draw or retina"
            )
        if self.window == "global" and (self.window_over, self.window_radius) != ("plane", 2):
            raise UserError(
                "decoder.window_over or window_radius is set, but decoder.window is global; add --decoder.window "
                "local_m or local_p"
            )

    def _only(self, case: str, *names: str) -> None:
        """In this case, the named fields have no choice but their default."""
        for name in names:
            default = next(each.default for each in dataclasses.fields(self) if each.name == name)
            if getattr(self, name) != default:
                raise UserError(f"decoder.{name} is {getattr(self, name)}, but {case}, which has {default} alone")
