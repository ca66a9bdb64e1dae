"""Configuration of an experiment; its fields are the flags of `train.py`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from caption.config.model import DecoderConfig, EncoderConfig
from caption.config.search import SearchConfig
from caption.config.validation import check, require, require_default
from caption.errors import UserError

STOCHASTIC = ("hard", "retina")  # values of decoder.attention that sample locations


@dataclass(frozen=True)
class ReinforceConfig:
    """Training of sampled locations (paper, section 4.1, eq. 11-12); used with `--decoder.attention hard` or retina."""

    estimator: Literal["reinforce", "straight_through", "gumbel_softmax"] = "reinforce"
    """Estimator of the gradient of the probabilities of locations. reinforce: by a reward (paper); the others through a
    relaxed sample, softmax((log alpha + Gumbel noise) / gumbel_temperature) (Jang et al., 2017): gumbel_softmax reads
    it in place of a location, straight_through reads the location and takes its gradient. They have no reward, hence
    neither weight nor baseline, and are for hard attention only."""
    gumbel_temperature: Annotated[float, "in [0.001, 1000]"] = 1.0
    """tau of straight_through and gumbel_softmax: smaller is closer to a sample, with a gradient of more variance."""
    weight: Annotated[float, "0 or more"] = 1.0
    """lambda_r, weight of the REINFORCE term; 1: the gradient of the bound in eq. 10."""
    entropy: Annotated[float, "0 or more"] = 0.0
    """lambda_e, weight of the entropy of alpha: larger gives flatter maps and more exploration. With hard attention
    only: the entropy of the retina is constant."""
    soft_probability: Annotated[float, "in [0, 1]"] = 0.5
    """Probability that a caption uses the expectation (retina: its centre) instead of a sample: less variance, but not
    the same expected gradient."""
    first_epoch: Annotated[int, "at least 1"] = 1
    """First epoch (from 1) that samples locations; earlier epochs use the expectation, as soft attention does."""
    samples: Annotated[int, "at least 1"] = 1
    """N, sequences of locations sampled per caption."""
    reward: Literal["caption", "to_go"] = "caption"
    """Log-probability that rewards a location: of the whole caption (eq. 11), or of the words from its step on."""
    baseline: Literal["none", "moving_average", "leave_one_out"] = "moving_average"
    """moving_average: b_k = 0.9 b_(k-1) + 0.1 log p (paper); leave_one_out: mean of the caption's other samples."""

    def __post_init__(self) -> None:
        check(self, "training.reinforce")
        if self.estimator == "reinforce":
            reason = "the estimator reinforce relaxes no samples; add --training.reinforce.estimator straight_through"
            require_default(self, "training.reinforce", "gumbel_temperature", reason)
        else:
            names = ("weight", "reward", "baseline")
            changed = [name for name in names if getattr(self, name) != getattr(type(self), name)]
            if changed:  # perhaps by a preset
                values = ", ".join(f"{name} is {getattr(self, name)}" for name in changed)
                flags = " ".join(f"--training.reinforce.{name} {getattr(type(self), name)}" for name in changed)
                raise UserError(
                    f"training.reinforce.{values}, but the estimator {self.estimator} reads no reward; add {flags}"
                )
        if self.baseline == "leave_one_out":
            rule = "at least 2 for baseline leave_one_out"
            require(self.samples > 1, "training.reinforce.samples", self.samples, rule)


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Training on the score of sampled captions (Rennie et al., 2017), after cross-entropy."""

    first_epoch: Annotated[int, "0 or more"] = 0
    """First self-critical epoch (from 1); 0: none. Use 1 with `--init-from` to fine-tune another run."""
    reward: Literal["cider_d", "bleu_4"] = "cider_d"
    """Score of a caption against the references of its image; bleu_4: the smoothed sentence BLEU-4."""
    baseline: Literal["greedy", "leave_one_out"] = "leave_one_out"
    """Reward that a sample must exceed: of the greedy caption (paper), or the mean of the image's other samples."""
    samples: Annotated[int, "at least 1"] = 5
    """Captions sampled per image."""
    temperature: Annotated[float, "in [0.001, 1000]"] = 1.0
    """Temperature of the word distribution that is sampled and trained; below 1 sharper. Use less than 1 after label
    smoothing or with few images: otherwise most samples contain wrong words, and training unlearns more than those."""
    dropout: bool = False
    """Apply dropout while samples are scored (never while they are sampled): less overfitting on few images, but not
    quite the gradient of the expected reward."""
    learning_rate: Annotated[float, "positive"] = 5e-5
    """Learning rate of the decoder from `first_epoch` on, where the schedule starts again without warm-up. The
    encoder's changes in proportion. Label smoothing and the doubly stochastic penalty end with cross-entropy."""

    def __post_init__(self) -> None:
        check(self, "training.self_critical")
        if self.baseline == "leave_one_out":
            require(self.samples > 1, "training.self_critical.samples", self.samples, "at least 2 for leave_one_out")


@dataclass(frozen=True)
class TrainingConfig:
    """Losses and optimisation."""

    epochs: Annotated[int, "at least 1"] = 20
    """Passes over the training split."""
    batch_by: Literal["images", "mixed", "lengths"] = "images"
    """images: each image once per epoch, with all its captions, beside images with captions of similar length; mixed:
    of any length, better for an encoder that trains its batch normalisation; lengths: captions of one length (paper,
    4.3)."""
    batch_size: Annotated[int, "at least 1"] = 16
    """Images per step over all processes; with `--training.batch-by lengths`, captions."""
    curriculum_epochs: Annotated[int, "0 or more"] = 0
    """First epochs, in which batches come by the length of their longest caption, shortest first, in stages of five
    words: a curriculum (Bengio et al., 2009), since what a short caption describes is simple."""
    accumulation_steps: Annotated[int, "at least 1"] = 1
    """Split each batch into this many micro-batches: the same gradient with less memory."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimiser, with PyTorch's defaults but for the learning rate."""
    learning_rate: Annotated[float, "positive"] = 4e-4
    """Peak learning rate of the decoder."""
    encoder_learning_rate: Annotated[float, "positive"] = 1e-5
    """Peak learning rate of the encoder's trained weights."""
    finetune_epoch: Annotated[int, "at least 1"] = 1
    """First epoch (from 1) that trains the encoder."""
    warmup_steps: Annotated[int, "0 or more"] = 0
    """Steps in which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine", "plateau", "inverse_sqrt"] = "cosine"
    """cosine: falls to 0 at the last epoch; plateau: halved after `plateau_epochs` without a better score;
    inverse_sqrt: falls with the root of the steps (Vaswani et al., 2017, whose peak is 1 / sqrt(E warmup_steps))."""
    plateau_epochs: Annotated[int, "at least 1"] = 2
    """Epochs without a better score before schedule plateau halves the learning rate."""
    max_grad_norm: Annotated[float, "0 or more"] = 5.0
    """Clip the norm of the gradient of all weights to this value; 0: no clipping."""
    label_smoothing: Annotated[float, "in [0, 1)"] = 0.0
    """Epsilon of label smoothing (Szegedy et al., 2016); 0: none."""
    doubly_stochastic: Annotated[float, "0 or more"] = 1.0
    """lambda of eq. 14: weight of the penalty, summed over locations, against log-probabilities summed over words."""
    horizontal_flip: bool = False
    """Flip each training image with probability 1/2; captions that name left or right become wrong."""
    random_crop: Annotated[float, "in [0.1, 1]"] = 1.0
    """Crop each training image to a random square of at least this fraction of its area, and enlarge it; 1: none."""
    scheduled_sampling: Annotated[float, "in [0, 1]"] = 0.0
    """Fraction of input words replaced by the model's own in the last cross-entropy epoch; rises linearly from 0
    (Bengio et al., 2015)."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)
    patience: Annotated[int, "0 or more"] = 0
    """Stop after this many epochs without a better score; 0: never."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16: bfloat16 autocast; fp16: half precision, with a loss scale; fp32: single precision (on a GPU, products and
    convolutions in TF32); auto: bf16 where this device has instructions for it, fp16 on a GPU without bfloat16."""
    cuda_graphs: bool = True
    """On a GPU: record the LSTM's time loop as CUDA graphs and replay it."""
    compile: bool = False
    """On a GPU: also compile the LSTM's gates and the cross-entropy with torch.compile, which takes half a minute. A
    CPU always uses kernels of its own."""
    checkpoint_steps: Annotated[int, "0 or more"] = 0
    """Also write last.pt every this many steps; 0: only after each epoch and when interrupted."""
    workers: Annotated[int, "0 or more"] = 0
    """Processes that read data; 0: the main process reads."""
    cache_on_device: Literal["auto", "never"] = "auto"
    """auto: read all images or features once and keep them in GPU memory if they take less than a quarter of what is
    free; `workers` is then ignored."""
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of the weights, the order of batches, dropout and samples."""

    def __post_init__(self) -> None:
        check(self, "training")
        steps, rule = self.accumulation_steps, "at most training.batch_size"
        require(steps <= self.batch_size, "training.accumulation_steps", steps, rule)
        if not self.self_critical.first_epoch and self.self_critical != SelfCriticalConfig():
            raise UserError(
                "training.self_critical is set, but its first_epoch is 0; add --training.self-critical.first-epoch"
            )
        first, rule = self.self_critical.first_epoch, f"at most training.epochs, {self.epochs}"
        require(first <= self.epochs, "training.self_critical.first_epoch", first, rule)
        if self.schedule == "inverse_sqrt":
            require(self.warmup_steps > 0, "training.warmup_steps", 0, "at least 1 for the schedule inverse_sqrt")

    @property
    def augmentation(self) -> str:
        """The fields that change training images, which stored features would need to be computed from anew."""
        fields = {"training.horizontal_flip": self.horizontal_flip, "training.random_crop": self.random_crop < 1}
        return " and ".join(name for name, is_set in fields.items() if is_set)

    @property
    def last_stage(self) -> int:
        """First epoch of the last stage: sampled locations, self-critical training or, without either, 1."""
        return max(self.reinforce.first_epoch, self.self_critical.first_epoch)


@dataclass(frozen=True)
class Config:
    """A complete experiment."""

    data: str
    """HDF5 file written by `python -m preprocess`."""
    output: str
    """Folder of the run; created if missing, must not hold another run."""
    init_from: str = ""
    """Checkpoint or export whose weights initialise the model (same shapes; words that it lacks begin anew); empty:
    random weights."""
    device: str = "auto"
    """auto (the GPU, if there is one), cpu, cuda, cuda:1, ..."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.init_from and self.decoder.pretrained_embeddings:
            raise UserError(
                "decoder.pretrained_embeddings is set, but init_from has embeddings already; leave out one of them"
            )
        attention, reinforce = self.decoder.attention, self.training.reinforce
        if attention not in STOCHASTIC:
            reason = f"decoder.attention is {attention}; add --decoder.attention hard or retina"
            if reinforce != ReinforceConfig():
                raise UserError(f"training.reinforce is set, but {reason}")
            require_default(self.search, "search", "hard_attention", reason)
        elif self.training.self_critical.first_epoch:
            raise UserError(
                f"training.self_critical is set, but decoder.attention is {attention}, which would sample locations as "
                "well as words; use soft"
            )
        if attention == "retina":
            reason = "decoder.attention retina samples a place, not one of several locations; use reinforce"
            require_default(reinforce, "training.reinforce", "estimator", reason)
            reason = "the entropy of decoder.attention retina is constant; leave it 0"
            require_default(reinforce, "training.reinforce", "entropy", reason)


@dataclass(frozen=True)
class ResumeConfig:
    """Resume an interrupted run; the result is the same as if it had not been interrupted."""

    resume: str
    """Folder of the run."""
    data: str = ""
    """Path of the data file, if it was moved."""
    device: str = ""
    """Device, if it is another than before."""
    epochs: Annotated[int, tyro.conf.arg(name="training.epochs")] = 0
    """Epochs in all, if there are to be more than before."""
