"""Train one epoch, validate: plain arguments in, numbers out."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from caption import distributed
from caption.captioner import Captioner
from caption.config import TrainingConfig
from caption.data.dataset import Batch
from caption.errors import UserError
from caption.ops.recurrent_linear import unrolled
from caption.progress import ProgressBar, Sized
from caption.training import losses
from caption.training.objective import Lost, Objective, decode
from caption.training.self_critical import Critic

T = TypeVar("T")


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
    after_step: Callable[[], None] = lambda: None,
    critic: Critic | None = None,
) -> dict[str, float]:
    """The rest of the epoch under way; means over its words of every loss term, captions a second, and the share of
    the time that was spent waiting for data.

    With a `critic`, it is trained on captions that the model draws. The loader gives `config.accumulate` parts of each
    batch. `progress` is kept up to date, `after_step` is called after every step. Raises UserError when the loss is no
    longer finite; a GPU is asked only now and then, because asking waits for it.
    """
    captioner.train()
    objective = Objective(captioner, config, critic)
    model = DistributedDataParallel(objective) if distributed.world_size() > 1 else objective
    on_cpu = next(captioner.parameters()).device.type == "cpu"
    sums, draw = progress.sums, progress.epoch >= config.reinforce.first_epoch
    soon = (config.self_critical.first_epoch or config.epochs + 1) - 2  # epochs of cross-entropy after the first
    own = config.scheduled_sampling * ((progress.epoch - 1) / soon if soon > 0 else 1.0)
    left = Sized(batched(loader, config.accumulate), len(loader) // config.accumulate)
    bar = ProgressBar(left, f"epoch {progress.epoch}", "batches", done=progress.batch, keep=True)
    last = time.perf_counter()
    for parts in bar:
        progress.waiting += time.perf_counter() - last
        for group in optimizer.param_groups:
            group["lr"] = group["critical_peak" if critic else "peak"] * rate_factor(
                config, progress.step, steps, progress.reductions
            )
        optimizer.zero_grad(set_to_none=True)
        losts = [take_part(model, part, part is parts[-1], draw, own, progress.baseline) for part in parts]
        words, captions = distributed.sum_integers(sum(one.words for one in losts), sum(one.captions for one in losts))
        scale_gradients(captioner, distributed.world_size() / words, config.clip_norm)
        optimizer.step()
        terms = distributed.all_reduce(
            torch.stack([torch.stack([*one.terms.values()]) * one.words for one in losts]).sum(0)
        )
        for name, value in zip(losts[0].terms, terms, strict=True):
            sums[name] = value + sums.get(name, 0)
        if drawn := [one.drawn for one in losts if one.drawn is not None]:
            progress.baseline = losses.next_baseline(
                progress.baseline, distributed.all_reduce(torch.stack(drawn).sum(0))
            )
        progress.words += words
        progress.captions += captions
        progress.batch += 1
        progress.step += 1
        if on_cpu or progress.batch % 50 == 0:
            check_finite(progress, losts[0].terms)
            told = "reward" if critic else "cross_entropy"
            bar.set_note(f"{told.replace('cross_entropy', 'loss')} {float(sums[told]) / progress.words:.3f}")
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


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at a time."""
    several: list[T] = []
    for item in items:
        several.append(item)
        if len(several) == size:
            yield several
            several = []


def take_part(model: nn.Module, part: Batch, last: bool, draw: bool, own: float, baseline: Tensor | None) -> Lost:
    """Forward and backward of a part of a batch: the gradient of its words' sum is added to what is there. Processes
    exchange gradients with the last."""
    alone = contextlib.nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()
    with alone:
        lost: Lost = model(part, draw, own, baseline)
        (lost.total * lost.words).backward()  # type: ignore[no-untyped-call]
    return lost._replace(total=lost.total.detach(), terms={name: term.detach() for name, term in lost.terms.items()})


def scale_gradients(captioner: Captioner, factor: float, clip_norm: float) -> None:
    """Times the factor, then down to the norm `clip_norm`, if it is not 0; one pass for both."""
    gradients = [weights.grad for weights in captioner.parameters() if weights.grad is not None]
    scale: Tensor | float = factor
    if clip_norm:
        norm = torch.nn.utils.get_total_norm(gradients) * factor
        scale = factor * (clip_norm / (norm + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, scale)


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
    sums: dict[str, float] = {"words": 0}
    with unrolled(captioner.decoder):
        for batch in ProgressBar(loader, "validate", "batches"):
            decoded = decode(captioner, batch, config, device, draw=False)
            sums["words"] += len(decoded.targets)
            for name, value in losses.terms(decoded, config).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(decoded.targets)
    parts = distributed.gather({distributed.rank(): sums}).values()
    whole = {name: sum(part.get(name, 0.0) for part in parts) for part in parts for name in part}
    return {name: value / whole["words"] for name, value in whole.items() if name != "words"}
