"""Configuration of the model; a checkpoint stores it beside the weights."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from caption.config.validation import check, require
from caption.errors import UserError

Fit = Literal["crop", "squash"]  # make an image square: keep the centre, or keep everything and distort it


@dataclass(frozen=True)
class ImageConfig:
    """The way images were made square; read from the data file and kept with the model."""

    size: int
    fit: Fit

    def __post_init__(self) -> None:
        require(self.size > 0, "the image size", self.size, "at least 1 pixel")


@dataclass(frozen=True)
class EncoderConfig:
    """The network that turns an image into annotation vectors [L, D], one per region."""

    name: str = "vgg19"
    """`small_cnn`, `recursive_cnn`, `recurrent_cnn`, or any torchvision classifier (vgg19, resnet101, ...)."""
    weights: str = "none"
    """Name of torchvision weights (IMAGENET1K_V1, DEFAULT), path of a state dict, or none."""
    layer: str = ""
    """Module whose output gives the regions (resnet101: layer3 for 14x14); empty: the last spatial map."""
    finetune_from: str = ""
    """First module to train (layer3, features.28; all: the whole encoder); empty: the encoder is frozen."""
    padding: Literal["torchvision", "tensorflow"] = "torchvision"
    """Padding of strided convolutions: as in torchvision, or at the end only, for weights converted from TensorFlow."""
    recurrence_steps: int = 3
    """N of recursive_cnn and recurrent_cnn: applications of the shared convolution after the first one."""

    def __post_init__(self) -> None:
        check(self, "encoder", "at least 1", "recurrence_steps")
        if self.recurrence_steps != 3 and self.name not in ("recursive_cnn", "recurrent_cnn"):
            raise UserError(
                f"encoder.recurrence_steps is {self.recurrence_steps}, but {self.name} has none; add --encoder.name "
                "recurrent_cnn or recursive_cnn, or leave it at 3"
            )


@dataclass(frozen=True)
class TransformerConfig:
    """Fields of the Transformer decoder alone; used with `--decoder.name transformer`."""

    layers: int = 3
    """N, layers of self-attention, attention over the regions and two feed-forward layers."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalisation before each sublayer (pre), or after its residual sum (post, as published)."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Position encoding of the words; learned positions end at 128, and later words share the last one."""
    grid_positions: bool = False
    """Also encode the row and column of each region."""

    def __post_init__(self) -> None:
        check(self, "decoder.transformer", "at least 1", "layers")


@dataclass(frozen=True)
class DecoderConfig:
    """The network that writes the caption: an LSTM with attention, or a Transformer."""

    name: str = "show_attend_tell"
    """show_attend_tell: an LSTM that attends with its previous state (Xu et al., 2015); luong: with its current state
    (Luong et al., 2015); transformer: Vaswani et al., 2017."""
    embedding_dim: int = 512
    """E, width of a word embedding; in the Transformer also the width of its layers."""
    hidden_dim: int = 512
    """H, width of the LSTM state; in the Transformer the inner width of its feed-forward layers."""
    attention_dim: int = 512
    """A, width of keys and queries, all heads together; the scores dot and general use H instead."""
    score: str = "additive"
    """Compares regions with the state: additive (paper, eq. 4), concat, dot (needs `hidden_dim` equal to D, the region
    width), general, scaled_dot or multi_head."""
    heads: int = 8
    """M, heads of the score multi_head and of the Transformer; must divide `attention_dim`."""
    window: Literal["global", "local_m", "local_p"] = "global"
    """global: all regions; local_m: those near region t at step t; local_p: near a predicted location (Luong et al.,
    2015)."""
    window_dims: Literal["1d", "2d"] = "2d"
    """Distances in a local window: along the regions in reading order (1d, as published) or in the image (2d)."""
    window_radius: int = 2
    """D of a local window: it holds the regions within D of its centre."""
    attention: Literal["soft", "hard", "draw", "retina"] = "soft"
    """soft: the expectation (paper, section 4.2); hard: one sampled location (section 4.1). Or a glimpse of the image:
    draw: a grid of Gaussian filters (Gregor et al., 2015); retina: patches around a sampled location (Mnih et al.,
    2014)."""
    glimpse_size: int = 3
    """With attention draw: N, filters per side of the grid; with retina: patches, each twice as wide as the last."""
    temperature: float = 1.0
    """Temperature of the softmax over locations: below 1 sharper, above 1 flatter."""
    state_dropout: float = 0.5
    """Dropout on the LSTM output before the output layer: with more of it, words rely more on the image. In the
    Transformer: on the output of every sublayer."""
    dropout: float = 0.5
    """Dropout before the output layer; in the Transformer also on its input."""
    tie_embeddings: bool = False
    """Share the weights of the word embedding with the output layer."""
    pretrained_embeddings: str = ""
    """Text file of word vectors (GloVe's format) of width `embedding_dim` to initialise the word embeddings."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        check(self, "decoder", "positive", "embedding_dim", "hidden_dim", "attention_dim", "temperature")
        check(self, "decoder", "positive", "window_radius", "heads")
        check(self, "decoder", "at least 1", "glimpse_size")
        check(self, "decoder", "in [0, 1)", "state_dropout", "dropout")
        if self.name == "transformer":
            fields = ("score", "window", "attention", "temperature")
            self._require_defaults("decoder.name is transformer", *fields)
            rule = "divisible by 4 for a Transformer"
            require(self.embedding_dim % 4 == 0, "decoder.embedding_dim", self.embedding_dim, rule)
        elif self.transformer != TransformerConfig():
            raise UserError(
                f"decoder.transformer is set, but decoder.name is {self.name}; add --decoder.name transformer"
            )
        elif self.score == "multi_head":
            self._require_defaults("decoder.score is multi_head", "window", "attention")
        elif self.heads != 8:
            raise UserError(f"decoder.heads is {self.heads}, but nothing has heads; add --decoder.score multi_head")
        if self.attention in ("draw", "retina"):
            self._require_defaults(f"decoder.attention is {self.attention}", "score", "window", "temperature")
        elif self.glimpse_size != 3:
            raise UserError(
                f"decoder.glimpse_size is {self.glimpse_size}, but decoder.attention is {self.attention}; add "
                "--decoder.attention draw or retina"
            )
        if self.window == "global" and (self.window_dims, self.window_radius) != ("2d", 2):
            raise UserError(
                "decoder.window_dims or window_radius is set, but decoder.window is global; add --decoder.window "
                "local_m or local_p"
            )

    def _require_defaults(self, case: str, *names: str) -> None:
        """Raise UserError where a named field, which has no effect in this case, is not at its default."""
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UserError(
                    f"decoder.{name} is {getattr(self, name)}, but {case}, which has {defaults[name]} alone"
                )
