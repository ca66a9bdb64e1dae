"""Train one epoch, validate: plain arguments in, numbers out."""

import contextlib
import inspect
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from caption import distributed, ops
from caption.captioner import Captioner
from caption.config import TrainingConfig
from caption.data.dataset import Batch
from caption.progress import ProgressBar
from caption.training import losses, precision, schedule
from caption.training.objective import MicroBatchLoss, Objective, decode
from caption.training.self_critical import CaptionSampler
from caption.training.state import TrainState

CHECK_STEPS = 50  # steps between two checks of the loss on a GPU, which wait for it


def train_epoch(
    captioner: Captioner,
    loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    state: TrainState,
    steps: int,
    after_step: Callable[[], None] = lambda: None,
    caption_sampler: CaptionSampler | None = None,
    scaler: GradScaler | None = None,
) -> dict[str, float]:
    """Train the rest of the current epoch and return its log: means over the words, and the speed.

    `loader` gives `config.accumulation_steps` micro-batches per batch; `steps` is the number of batches in all epochs.
    `state` is updated, and `after_step` called, after every step. With a `caption_sampler`, training is self-critical.
    `scaler` is the loss scale of fp16: a batch whose gradients overflow changes no weights, but counts as a step.
    Raises UserError when the loss is no longer finite.
    """
    captioner.train()
    objective = Objective(captioner, config, caption_sampler)
    model = data_parallel(objective) if distributed.world_size() > 1 else objective
    scaler, device = scaler or GradScaler(enabled=False), next(captioner.parameters()).device
    sample_locations = state.epoch >= config.reinforce.first_epoch
    sampling_rate = schedule.sampling_rate(config, state.epoch)
    start = time.perf_counter()
    groups = zip(*[iter(loader)] * config.accumulation_steps, strict=True)  # the micro-batches of each batch
    length = len(loader) // config.accumulation_steps
    bar = ProgressBar(groups, f"epoch {state.epoch}", "batches", state.batch, leave=True, length=length)
    for micro_batches in bar:
        state.data_seconds += time.perf_counter() - start
        factor = schedule.rate_factor(config, state.step, steps, state.lr_reductions)
        schedule.set_learning_rates(optimizer, factor, self_critical=caption_sampler is not None)
        optimizer.zero_grad(set_to_none=True)
        results = [
            forward_backward(
                model, batch, batch is micro_batches[-1], sample_locations, sampling_rate, state.baseline, scaler
            )
            for batch in micro_batches
        ]
        words, captions = distributed.sum_integers(
            sum(result.words for result in results), sum(result.captions for result in results)
        )
        scaler.unscale_(optimizer)
        scale_gradients(captioner, distributed.world_size() / words, config.max_grad_norm)
        scaler.step(optimizer)
        if scaler.is_enabled():
            state.skipped_steps = precision.update_scale(scaler, device) + state.skipped_steps
        state.add_step(results, words, captions)
        if device.type == "cpu" or state.batch % CHECK_STEPS == 0:
            state.check_finite(results[0].logged)
            precision.check_scale(scaler)
            name, label = ("reward", "reward") if caption_sampler else ("cross_entropy", "loss")
            bar.set_note(f"{label} {float(state.sums[name]) / state.words:.3f}")
        state.seconds += time.perf_counter() - start
        after_step()
        start = time.perf_counter()
    state.check_finite()
    distributed.broadcast_buffers(captioner)  # validation reads them, and they are saved by rank 0
    return epoch_log(state, scaler)


def epoch_log(state: TrainState, scaler: GradScaler) -> dict[str, float]:
    """Return what is logged of the current epoch: means over the words, and the speed."""
    return {
        **{name: float(value) / state.words for name, value in state.sums.items()},
        **({} if state.baseline is None else {"baseline": float(state.baseline)}),
        **({"skipped_steps": int(state.skipped_steps)} if scaler.is_enabled() else {}),
        "captions_per_second": state.captions / state.seconds,
        "data_fraction": state.data_seconds / state.seconds,
    }


def data_parallel(objective: Objective) -> DistributedDataParallel:
    """Return the objective with gradients that the processes exchange.

    Buffers they exchange at the end of an epoch: training reads no running statistics of batch normalisation.
    """
    names = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # its older name
    return DistributedDataParallel(objective, **{name: False})  # type: ignore[arg-type]


def forward_backward(
    model: nn.Module,
    batch: Batch,
    is_last: bool,
    sample_locations: bool,
    sampling_rate: float,
    baseline: Tensor | None,
    scaler: GradScaler,
) -> MicroBatchLoss:
    """Run a micro-batch and add the gradient of the sum over its words, times the loss scale, to the gradients there
    are.

    Processes exchange gradients with the last micro-batch of a batch.
    """
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else contextlib.nullcontext():
        result: MicroBatchLoss = model(batch, sample_locations, sampling_rate, baseline)
        scaler.scale(result.total * result.words).backward()  # type: ignore[no-untyped-call]
    logged = {name: value.detach() for name, value in result.logged.items()}
    return result._replace(total=result.total.detach(), logged=logged)


def scale_gradients(captioner: Captioner, factor: float, max_norm: float) -> None:
    """Multiply all gradients by the factor, then clip their norm to `max_norm`, unless it is 0, in a single pass."""
    gradients = [weights.grad for weights in captioner.parameters() if weights.grad is not None]
    scale: Tensor | float = factor
    if max_norm:
        norm = torch.nn.utils.get_total_norm(gradients) * factor
        scale = factor * (max_norm / (norm + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, scale)


@torch.inference_mode()
def validate(captioner: Captioner, loader: DataLoader[Any], config: TrainingConfig) -> dict[str, float]:
    """Return the loss terms of a split, means over its words, by teacher forcing (hard attention: expectation)."""
    captioner.eval()
    sums: dict[str, float] = {"words": 0}
    with ops.reuse_weights(captioner.decoder):
        for batch in ProgressBar(loader, "validate", "batches"):
            decoded = decode(captioner, batch, config, sample_locations=False)
            sums["words"] += len(decoded.targets)
            terms = losses.compute_terms(losses.LossInputs(decoded), config)
            for name, value in zip(terms, torch.stack([*terms.values()]).tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value * len(decoded.targets)
    ranks = distributed.gather({distributed.rank(): sums}).values()
    totals = {name: sum(rank.get(name, 0.0) for rank in ranks) for rank in ranks for name in rank}
    return {name: value / totals["words"] for name, value in totals.items() if name != "words"}
