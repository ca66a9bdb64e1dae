"""Train one epoch, validate, generate: plain arguments in, numbers out."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from caption import losses
from caption.captioner import Captioner
from caption.config import SearchConfig, TrainingConfig
from caption.data import Batch
from caption.decoder import Decoded
from caption.errors import UserError
from caption.progress import Bar
from caption.search import Hypothesis, search
from caption.selfcritical import Critic


@dataclass
class Progress:
    """How far training has come: with the weights and the optimizer, all that a resumed run needs."""

    epoch: int = 1  # under way
    batch: int = 0  # batches of it that are done
    step: int = 0  # batches of all epochs
    best_score: float = -1.0
    best_epoch: int = 0
    reductions: int = 0  # halvings of the learning rate (plateau)
    baseline: Tensor | None = None  # of hard attention, b of eq. 12, on the device
    # Of the epoch under way:
    sums: dict[str, Tensor] = field(default_factory=dict)  # of loss terms times words, on the device
    words: int = 0
    captions: int = 0
    seconds: float = 0.0  # of training alone
    waiting: float = 0.0  # seconds of them, for data

    def next_epoch(self) -> "Progress":
        """The same at the beginning of the next epoch."""
        kept = (self.step, self.best_score, self.best_epoch, self.reductions, self.baseline)
        return Progress(self.epoch + 1, 0, *kept)


def choose_device(name: str) -> torch.device:
    """Raises UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} is not to be had here ({reason}); use auto or cpu") from None


def choose_precision(name: str, device: torch.device) -> str:
    """auto: bf16 where a product of matrices takes less time in it, fp32 elsewhere."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(768, 768, dtype=dtype, device=device)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (matrix @ matrix).sum().item()
            times.append(time.perf_counter() - start)
        return min(times)

    return "bf16" if seconds(torch.bfloat16) < 0.7 * seconds(torch.float32) else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def make_optimizer(captioner: Captioner, config: TrainingConfig) -> torch.optim.Optimizer:
    """Two groups of weights, the decoder's and the encoder's that train (now or later), each with its rate, and that of
    self-critical training, to which both fall in the same proportion."""
    fall = config.self_critical.learning_rate / config.learning_rate
    rates = (
        (list(captioner.decoder.parameters()), config.learning_rate),
        (captioner.encoder.trained, config.encoder_learning_rate),
    )
    groups = [
        {"params": weights, "lr": peak, "peak": peak, "critical_peak": fall * peak}
        for weights, peak in rates
        if weights
    ]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups)
    return torch.optim.Adam(groups, fused=True)


def training_state(optimizer: torch.optim.Optimizer, progress: Progress, device: torch.device) -> dict[str, Any]:
    """What a checkpoint must hold beside the model, so that a resumed run equals an unbroken one."""
    return {
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress).copy(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_training(state: dict[str, Any], optimizer: torch.optim.Optimizer, device: torch.device) -> Progress:
    """Undo `training_state`: fill the optimizer, set the random states, return the progress."""
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    if device.type == "cuda" and state["random_cuda"] is not None:
        torch.cuda.set_rng_state(state["random_cuda"], device)
    progress = Progress(**state["progress"])
    progress.sums = {name: value.to(device) for name, value in progress.sums.items()}
    progress.baseline = None if progress.baseline is None else progress.baseline.to(device)
    return progress


def rate_factor(config: TrainingConfig, step: int, steps: int, reductions: int) -> float:
    """Share of the peak learning rate at a step (from 0) of so many: warm-up, then the schedule; without warm-up, anew
    when self-critical training begins."""
    first, last, warmup = 0, steps, config.warmup_steps
    if critical := config.self_critical.first_epoch:
        switch = steps * (critical - 1) // config.epochs
        if step < switch:
            last = switch
        else:
            first, warmup = switch, 0
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - first - warmup) / max(1, last - first - warmup)))
    if config.schedule == "inverse_sqrt":
        return math.sqrt(config.warmup_steps / (step - first + config.warmup_steps - warmup + 1))
    return 0.5**reductions if config.schedule == "plateau" else 1.0


def train_epoch(
    captioner: Captioner,
    loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    progress: Progress,
    steps: int,
    device: torch.device,
    after_step: Callable[[], None] = lambda: None,
    critic: Critic | None = None,
) -> dict[str, float]:
    """The rest of the epoch under way; means over its words of every loss term, captions a second, and the share of
    the time that was spent waiting for data.

    With a `critic`, it is trained on captions that the model draws. `progress` is kept up to date, `after_step` is
    called after every step. Raises UserError when the loss is no longer finite; a GPU is asked only now and then,
    because asking waits for it.
    """
    captioner.train()
    sums, hard = progress.sums, config.reinforce
    soon = (config.self_critical.first_epoch or config.epochs + 1) - 2  # epochs of cross-entropy after the first
    own = config.scheduled_sampling * ((progress.epoch - 1) / soon if soon > 0 else 1.0)
    bar = Bar(loader, f"epoch {progress.epoch}", "batches", done=progress.batch, keep=True)
    last = time.perf_counter()
    for batch in bar:
        progress.waiting += time.perf_counter() - last
        if config.mirror:
            batch = batch._replace(images=mirror(batch.images.to(device, non_blocking=True)))
        for group in optimizer.param_groups:
            group["lr"] = group["critical_peak" if critic else "peak"] * rate_factor(
                config, progress.step, steps, progress.reductions
            )
        if critic:
            with autocast(device, config.precision):
                decoded, gain, reward = critic(captioner, batch, batch.images.to(device, non_blocking=True))
            terms = {"self_critical": losses.self_critical(decoded, gain), "reward": gain.new_tensor(reward)}
            captions = len(batch.indices) * config.self_critical.samples
        else:
            decoded = _decode(captioner, batch, config, device, progress.epoch >= hard.first_epoch, own)
            earned, progress.baseline = losses.earnings(decoded, hard, progress.baseline)
            terms, captions = losses.terms(decoded, config, earned), int((batch.lengths > 0).sum())
        words = len(decoded.targets)
        optimizer.zero_grad(set_to_none=True)
        losses.total(terms, config).backward()  # type: ignore[no-untyped-call]
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(captioner.parameters(), config.clip_norm)
        optimizer.step()
        for name, value in terms.items():
            sums[name] = value.detach() * words + sums.get(name, 0)
        progress.words += words
        progress.captions += captions
        progress.batch += 1
        progress.step += 1
        if device.type == "cpu" or progress.batch % 50 == 0:
            check_finite(progress, terms)
            told = "reward" if critic else "cross_entropy"
            bar.tell(f"{told.replace('cross_entropy', 'loss')} {float(sums[told]) / progress.words:.3f}")
        progress.seconds += time.perf_counter() - last
        after_step()
        last = time.perf_counter()
    check_finite(progress)
    return {
        **{name: float(value) / progress.words for name, value in sums.items()},
        **({} if progress.baseline is None else {"baseline": float(progress.baseline)}),
        "captions_per_second": progress.captions / progress.seconds,
        "data_share": progress.waiting / progress.seconds,
    }


def mirror(images: Tensor) -> Tensor:
    """Pictures [B, 3, S, S], each with left and right exchanged with a chance of one half."""
    coins = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(coins, images.flip(-1), images)


def _decode(
    captioner: Captioner, batch: Batch, config: TrainingConfig, device: torch.device, draw: bool, own: float = 0.0
) -> Decoded:
    """Teacher forcing; a share `own` of the words read is the model's. With `draw`, hard attention draws locations:
    `draws` rows for each caption, but for those that take the expectation. Without, all take it."""
    captions, lengths, drawn = batch.captions.to(device, non_blocking=True), batch.lengths, None
    if draw and captioner.decoder.stochastic:
        drawn = torch.rand(captions.shape[:2], device=device) >= config.reinforce.expectation  # one coin a caption
        captions, lengths, drawn = (
            each.repeat_interleave(config.reinforce.draws, 1) for each in (captions, lengths, drawn)
        )
    weigh = config.doubly_stochastic > 0 or drawn is not None
    with autocast(device, config.precision):
        decoded: Decoded = captioner(batch.images.to(device, non_blocking=True), captions, lengths, drawn, weigh, own)
    return decoded


def check_finite(progress: Progress, terms: dict[str, Tensor] | None = None) -> None:
    """Raises UserError, with the loss terms, when the sums of the epoch under way are not finite: do not save then."""
    if not all(math.isfinite(float(value)) for value in progress.sums.values()):
        told = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in (terms or progress.sums).items())
        raise UserError(f"the loss is no longer finite ({told}); lower training.learning_rate or training.clip_norm")


@torch.inference_mode()
def validate(
    captioner: Captioner, loader: DataLoader[Any], config: TrainingConfig, device: torch.device
) -> dict[str, float]:
    """Mean loss terms over the words of a split, by teacher forcing; attention, soft or hard, by its expectation."""
    captioner.eval()
    sums: dict[str, float] = {}
    words = 0
    for batch in Bar(loader, "validate", "batches"):
        decoded = _decode(captioner, batch, config, device, draw=False)
        count = len(decoded.targets)
        words += count
        for name, value in losses.terms(decoded, config).items():
            sums[name] = sums.get(name, 0.0) + float(value) * count
    return {name: value / words for name, value in sums.items()}


class Generated(NamedTuple):
    """What the model says of an image, and where it looked."""

    image: int  # its number in the split
    hypotheses: list[Hypothesis]  # the best first
    references: list[tuple[list[str], Tensor]]  # if asked for: words, and where the model looked at them [T, L]


@torch.inference_mode()
def generate(
    captioner: Captioner,
    loader: DataLoader[Any],
    config: SearchConfig,
    device: torch.device,
    precision: str,
    references: bool = False,
) -> Iterator[Generated]:
    """Captions of every image; with `references`, also how its own captions are read, by teacher forcing (of hard
    attention the expectation). An image is encoded once for both."""
    captioner.eval()
    for batch in Bar(loader, "caption", "batches"):
        read: list[list[tuple[list[str], Tensor]]] = [[] for _ in batch.indices]
        with autocast(device, precision):
            memory = captioner.remember(batch.images.to(device, non_blocking=True))
            found = search(captioner.decoder, memory, config)
            if references:
                captions = batch.captions.to(device, non_blocking=True)
                weights = captioner.decoder(memory, captions, batch.lengths).weights
                weights = weights.float().cpu()  # [B, Q, T, L]
                for b, q in (batch.lengths > 0).nonzero().tolist():
                    length = int(batch.lengths[b, q])
                    words = captioner.vocabulary.decode(batch.captions[b, q, :length].tolist())
                    read[b].append((words, weights[b, q, : length - 1]))
        yield from map(Generated, batch.indices, found, read)
