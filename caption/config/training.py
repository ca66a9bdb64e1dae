"""Everything that can be set, as frozen dataclasses: the flags of `train.py`."""

from dataclasses import dataclass, field
from typing import Literal

from caption.config.model import DecoderConfig, EncoderConfig
from caption.config.search import SearchConfig
from caption.config.validation import check, require
from caption.errors import UserError

DRAWING = ("hard", "retina")  # the selections that draw locations


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
    temperature: float = 1.0
    """Of the distribution that captions are drawn from and that is trained. Below 1 sharper: what was trained with
    label smoothing, or on few pictures, else draws wrong words in most captions, and unlearns much besides them."""
    dropout: bool = False
    """Dropout works while the draws are read again, though not while they are drawn: no longer quite the gradient of
    the expected reward, but few pictures are less soon known by heart."""
    learning_rate: float = 5e-5
    """Of the decoder, from the first such epoch on, where the schedule begins anew, without warm-up. The encoder's
    falls in proportion; label smoothing and the doubly stochastic penalty are cross-entropy's."""

    def __post_init__(self) -> None:
        check(self, "training.self_critical", "0 or more", "first_epoch")
        check(self, "training.self_critical", "positive", "learning_rate", "temperature")
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
    """Images a batch, of all processes together; with `--training.batching lengths`, captions a batch."""
    accumulate: int = 1
    """Parts of a batch that are taken one after the other: the same gradient with less memory."""
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
    mirror: bool = False
    """Mirror each picture with a chance of one half; captions that tell left from right are then false."""
    scheduled_sampling: float = 0.0
    """Share of words read that the model wrote itself, in the last epoch of cross-entropy; rises evenly from 0 (Bengio
    et al., 2015)."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)
    patience: int = 0
    """Stop after this many epochs without a better score; 0: never."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast where this machine multiplies it faster, fp32 (on a GPU, products in TF32) elsewhere."""
    compile: bool = False
    """On a GPU: record the LSTM's time loop as CUDA graphs, and make kernels of its gates and of the cross-entropy by
    torch.compile, which takes half a minute. On a CPU there are such kernels anyway."""
    checkpoint_steps: int = 0
    """Also write last.pt every so many steps; 0: at the end of an epoch and when interrupted."""
    workers: int = 0
    """Processes that read data; 0: the main one."""
    cache: Literal["auto", "never"] = "auto"
    """auto: where all pictures or features take less than a quarter of what is free on the GPU, they are read once and
    stay there, and `workers` have nothing to do."""
    seed: int = 1

    def __post_init__(self) -> None:
        check(self, "training", "at least 1", "epochs", "batch_size", "accumulate", "finetune_epoch", "plateau_epochs")
        require(
            self.accumulate <= self.batch_size, "training.accumulate", self.accumulate, "at most training.batch_size"
        )
        check(self, "training", "positive", "learning_rate", "encoder_learning_rate")
        check(self, "training", "0 or more", "warmup_steps", "clip_norm", "doubly_stochastic", "patience")
        check(self, "training", "0 or more", "checkpoint_steps", "workers")
        check(self, "training", "in [0, 1)", "label_smoothing")
        check(self, "training", "in [0, 1]", "scheduled_sampling")
        if not self.self_critical.first_epoch and self.self_critical != SelfCriticalConfig():
            raise UserError(
                "training.self_critical is set, but its first_epoch is 0; add --training.self-critical.first-epoch"
            )
        if self.self_critical.first_epoch > self.epochs:
            rule = f"at most training.epochs, {self.epochs}"
            require(False, "training.self_critical.first_epoch", self.self_critical.first_epoch, rule)
        if self.schedule == "inverse_sqrt":
            require(self.warmup_steps > 0, "training.warmup_steps", 0, "at least 1 for the schedule inverse_sqrt")


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
        if self.start_from and self.decoder.vectors:
            raise UserError("decoder.vectors is set, but start_from has embeddings already; leave out one of them")
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
