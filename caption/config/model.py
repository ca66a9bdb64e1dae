"""Configuration of the model; a checkpoint stores it beside the weights."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from caption.config.validation import check, require, require_default
from caption.errors import UserError

TIMM = "timm/"  # begins the name of an encoder of timm
Fit = Literal["crop", "squash"]  # make an image square: keep the centre, or keep everything and distort it
Interpolation = Literal["bilinear", "bicubic"]  # between pixels, when the square is resized


@dataclass(frozen=True)
class ImageConfig:
    """The way images were made square; read from the data file and kept with the model."""

    size: Annotated[int, "at least 1"]
    fit: Fit
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check(self, "image")

    def __str__(self) -> str:
        return f"{self.size} pixels ({self.fit}, {self.interpolation})"


@dataclass(frozen=True)
class EncoderConfig:
    """The network that turns an image into annotation vectors [L, D], one per region."""

    name: str = "vgg19"
    """`small_cnn`, `recursive_cnn`, `recurrent_cnn`, any torchvision classifier (vgg19, resnet101, ...), or timm/NAME
    for a model of timm (timm/vit_small_patch14_reg4_dinov2)."""
    weights: str = "none"
    """Name of torchvision weights (IMAGENET1K_V1), DEFAULT, path of a state dict, or none."""
    layer: str = ""
    """Module whose output gives the regions (resnet101: layer3 for 14x14); empty: the last spatial map."""
    finetune_from: str = ""
    """First module to train (layer3, features.28; all: the whole encoder); empty: the encoder is frozen."""
    padding: Literal["torchvision", "tensorflow"] = "torchvision"
    """Padding of strided convolutions: as in torchvision, or at the end only, for weights converted from TensorFlow."""
    recurrence_steps: Annotated[int, "at least 1"] = 3
    """N of recursive_cnn and recurrent_cnn: applications of the shared convolution after the first one."""

    def __post_init__(self) -> None:
        check(self, "encoder")
        if self.name not in ("recursive_cnn", "recurrent_cnn"):
            reason = f"{self.name} has none; add --encoder.name recurrent_cnn or recursive_cnn, or leave it at 3"
            require_default(self, "encoder", "recurrence_steps", reason)


@dataclass(frozen=True)
class TransformerConfig:
    """Fields of the Transformer decoder alone; used with `--decoder.name transformer`."""

    layers: Annotated[int, "at least 1"] = 3
    """N, layers of self-attention, attention over the regions and two feed-forward layers."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalisation before each sublayer (pre), or after its residual sum (post, as published)."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Position encoding of the words; learned positions end at 128, and later words share the last one."""
    grid_positions: bool = False
    """Also encode the row and column of each region."""

    def __post_init__(self) -> None:
        check(self, "decoder.transformer")


@dataclass(frozen=True)
class DecoderConfig:
    """The network that writes the caption: an LSTM with attention, or a Transformer."""

    name: str = "show_attend_tell"
    """show_attend_tell: an LSTM that attends with its previous state (Xu et al., 2015); luong: with its current state
    (Luong et al., 2015); adaptive: with a visual sentinel (Lu et al., 2017); up_down: one LSTM attends, another writes
    (Anderson et al., 2018); transformer: Vaswani et al., 2017."""
    embedding_dim: Annotated[int, "positive"] = 512
    """E, width of a word embedding; in the Transformer also the width of its layers."""
    hidden_dim: Annotated[int, "positive"] = 512
    """H, width of the LSTM state; in the Transformer the inner width of its feed-forward layers."""
    attention_dim: Annotated[int, "positive"] = 512
    """A, width of keys and queries, all heads together; the scores dot and general use H instead."""
    score: str = "additive"
    """Compares regions with the state: additive (paper, eq. 4), concat, dot (needs `hidden_dim` equal to D, the region
    width), general, scaled_dot or multi_head."""
    heads: Annotated[int, "positive"] = 8
    """M, heads of the score multi_head and of the Transformer; must divide `attention_dim`."""
    window: Literal["global", "local_m", "local_p"] = "global"
    """global: all regions; local_m: those near region t at step t; local_p: near a predicted location (Luong et al.,
    2015)."""
    window_dims: Literal["1d", "2d"] = "2d"
    """Distances in a local window: along the regions in reading order (1d, as published) or in the image (2d)."""
    window_radius: Annotated[int, "positive"] = 2
    """D of a local window: it holds the regions within D of its centre."""
    attention: Literal["soft", "hard", "draw", "retina"] = "soft"
    """soft: the expectation (paper, section 4.2); hard: one sampled location (section 4.1). Or a glimpse of the image:
    draw: a grid of Gaussian filters (Gregor et al., 2015); retina: patches around a sampled location (Mnih et al.,
    2014)."""
    glimpse_size: Annotated[int, "at least 1"] = 3
    """With attention draw: N, filters per side of the grid; with retina: patches, each twice as wide as the last."""
    temperature: Annotated[float, "in [0.001, 1000]"] = 1.0
    """Temperature of the softmax over locations: below 1 sharper, above 1 flatter."""
    state_dropout: Annotated[float, "in [0, 1)"] = 0.5
    """Dropout on the LSTM output before the output layer: with more of it, words rely more on the image. In the decoder
    adaptive also the probability that a word is trained without the sentinel. In the Transformer: on the output of
    every sublayer."""
    dropout: Annotated[float, "in [0, 1)"] = 0.5
    """Dropout before the output layer; in the Transformer also on its input."""
    tie_embeddings: bool = False
    """Share the weights of the word embedding with the output layer."""
    pretrained_embeddings: str = ""
    """Text file of word vectors (GloVe's format) of width `embedding_dim` to initialise the word embeddings."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        check(self, "decoder")
        if self.name == "transformer":
            self._require_defaults("decoder.name is transformer", "score", "window", "attention", "temperature")
            rule = "divisible by 4 for a Transformer"
            require(self.embedding_dim % 4 == 0, "decoder.embedding_dim", self.embedding_dim, rule)
        elif self.transformer != TransformerConfig():
            raise UserError(
                f"decoder.transformer is set, but decoder.name is {self.name}; add --decoder.name transformer"
            )
        elif self.score == "multi_head":
            self._require_defaults("decoder.score is multi_head", "window", "attention")
        else:
            require_default(self, "decoder", "heads", "nothing has heads; add --decoder.score multi_head")
        if self.name == "adaptive":  # the sentinel competes with the regions by their own score, v . tanh(k_i + q)
            rule = "with --decoder.name adaptive, whose sentinel has no other"
            require(self.score in ("additive", "concat"), "decoder.score", self.score, f"additive or concat {rule}")
            require(self.attention in ("soft", "hard"), "decoder.attention", self.attention, f"soft or hard {rule}")
        if self.attention in ("draw", "retina"):
            self._require_defaults(f"decoder.attention is {self.attention}", "score", "window", "temperature")
        else:
            reason = f"decoder.attention is {self.attention}; add --decoder.attention draw or retina"
            require_default(self, "decoder", "glimpse_size", reason)
        if self.window == "global" and (self.window_dims, self.window_radius) != ("2d", 2):
            raise UserError(
                "decoder.window_dims or window_radius is set, but decoder.window is global; add --decoder.window "
                "local_m or local_p"
            )

    def _require_defaults(self, case: str, *names: str) -> None:
        """Raise UserError where a named field, which has no effect in this case, is not at its default."""
        for name in names:
            require_default(self, "decoder", name, f"{case}, which has {getattr(DecoderConfig, name)} alone")
