"""Everything that can be set, as frozen dataclasses: the flags of `train.py`, and what a checkpoint keeps."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from caption.errors import UserError
from caption.fields import check, require
from caption.images import Fit

Attend = Literal["expectation", "most_probable", "draw"]
DRAWING = ("hard", "retina")  # the selections that draw locations


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


@dataclass(frozen=True)
class ReinforceConfig:
    """How drawn locations are trained (paper, section 4.1, eq. 11-12); of `--decoder.selection hard` or retina."""

    weight: float = 1.0
    """lambda_r, of the reward; 1: as the bound of eq. 10 has it."""
    entropy: float = 0.0
    """lambda_e, of the entropy of alpha, which is kept high: larger, flatter maps and more trying out. Of hard alone:
    the retina's is always the same."""
    expectation: float = 0.5
    """Chance that a caption attends to the expectation (the retina: to its centre) instead of drawing: less variance,
    not the same gradient."""
    first_epoch: int = 1
    """The first epoch (from 1) in which captions draw; before it, all take the expectation, as with soft attention."""
    draws: int = 1
    """N, draws of locations for each caption."""
    reward: Literal["whole", "to_go"] = "whole"
    """whole: a draw answers for all words of its caption (eq. 11); to_go: for those from its step on."""
    baseline: Literal["none", "moving", "leave_one_out"] = "moving"
    """moving: b_k = 0.9 b_(k-1) + 0.1 log p (paper); leave_one_out: the mean of the caption's other draws."""

    def __post_init__(self) -> None:
        check(self, "training.reinforce", "0 or more", "weight", "entropy")
        check(self, "training.reinforce", "in [0, 1]", "expectation")
        check(self, "training.reinforce", "at least 1", "draws", "first_epoch")
        if self.baseline == "leave_one_out":
            require(self.draws > 1, "training.reinforce.draws", self.draws, "at least 2 for baseline leave_one_out")


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Training on the score of captions that the model draws (Rennie et al., 2017), after cross-entropy."""

    first_epoch: int = 0
    """The first epoch (from 1) that is trained so; 0: none. 1, with `--start-from`, goes on from another run."""
    reward: Literal["cider_d", "bleu_4"] = "cider_d"
    """Of a caption against its image's references; of BLEU-4, the smoothed one of a sentence."""
    baseline: Literal["greedy", "leave_one_out"] = "leave_one_out"
    """A draw must be better than the greedy caption (paper), or than the mean of the image's other draws."""
    samples: int = 5
    """Captions drawn of each image."""
    learning_rate: float = 5e-5
    """Of the decoder, from the first such epoch on; the schedule begins anew there, without warm-up."""

    def __post_init__(self) -> None:
        check(self, "training.self_critical", "0 or more", "first_epoch")
        check(self, "training.self_critical", "positive", "learning_rate")
        check(self, "training.self_critical", "at least 1", "samples")
        if self.baseline == "leave_one_out":
            require(self.samples > 1, "training.self_critical.samples", self.samples, "at least 2 for leave_one_out")


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
    schedule: Literal["constant", "cosine", "plateau", "inverse_sqrt"] = "cosine"
    """cosine: falls to 0 at the last epoch; plateau: halved after `plateau_epochs` without a better score;
    inverse_sqrt: falls with the root of the steps (Vaswani et al., whose peak is 1 / sqrt(E warmup_steps))."""
    plateau_epochs: int = 2
    clip_norm: float = 5.0
    """Largest norm of the whole gradient; 0: no clipping."""
    label_smoothing: float = 0.0
    doubly_stochastic: float = 1.0
    """lambda of eq. 14: the penalty sums over locations, against the sum of log-probabilities over words."""
    scheduled_sampling: float = 0.0
    """Share of words read that the model wrote itself, in the last epoch; rises evenly from 0 (Bengio et al., 2015)."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)
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
        check(self, "training", "at least 1", "epochs", "batch_size", "finetune_epoch", "plateau_epochs")
        check(self, "training", "positive", "learning_rate", "encoder_learning_rate")
        check(self, "training", "0 or more", "warmup_steps", "clip_norm", "doubly_stochastic", "patience")
        check(self, "training", "0 or more", "checkpoint_steps", "workers")
        check(self, "training", "in [0, 1)", "label_smoothing")
        check(self, "training", "in [0, 1]", "scheduled_sampling")
        if not self.self_critical.first_epoch and self.self_critical != SelfCriticalConfig():
            raise UserError(
                "training.self_critical is set, but its first_epoch is 0; add --training.self-critical.first-epoch"
            )
        if self.schedule == "inverse_sqrt":
            require(self.warmup_steps > 0, "training.warmup_steps", 0, "at least 1 for the schedule inverse_sqrt")


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
        selection, reinforce = self.decoder.selection, self.training.reinforce
        if selection not in DRAWING and reinforce != ReinforceConfig():
            raise UserError(
                f"training.reinforce is set, but decoder.selection is {selection}; add "
                "--decoder.selection hard or retina"
            )
        if selection not in DRAWING and self.search.attend != "expectation":
            raise UserError(f"search.attend is {self.search.attend}, which needs --decoder.selection hard or retina")
        if selection in DRAWING and self.training.self_critical.first_epoch:
            raise UserError(
                f"training.self_critical is set, but decoder.selection is {selection}: it would have to draw locations "
                "as well as words; use soft"
            )
        if selection == "retina" and reinforce.entropy:
            raise UserError(
                f"training.reinforce.entropy is {reinforce.entropy}, but with decoder.selection retina the entropy is "
                "always the same; leave it 0"
            )
