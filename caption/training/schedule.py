"""The optimizer, and what changes from step to step: learning rates and the rate of scheduled sampling."""

import math

import torch

from caption.captioner import Captioner
from caption.config import TrainingConfig


def build_optimizer(captioner: Captioner, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return an optimizer with a group for the decoder and one for the encoder weights that train now or later.

    Each group holds its peak learning rate, and that of self-critical training, lower by the same factor for both.
    """
    factor = config.self_critical.learning_rate / config.learning_rate
    rates = [
        (list(captioner.decoder.parameters()), config.learning_rate),
        (captioner.encoder.finetuned, config.encoder_learning_rate),
    ]
    rates = [(weights, peak) for weights, peak in rates if weights]
    groups = [{"params": weights, "lr": peak, "peak": peak, "critical_peak": factor * peak} for weights, peak in rates]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups)
    return torch.optim.Adam(groups, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float, self_critical: bool) -> None:
    """Set the learning rate of each group to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["critical_peak" if self_critical else "peak"] * factor


def rate_factor(config: TrainingConfig, step: int, steps: int, lr_reductions: int) -> float:
    """Return the learning rate at a step (from 0) of `steps`, as a fraction of the peak.

    It warms up, then follows the schedule, which starts again without warm-up when self-critical training begins.
    """
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
    return 0.5**lr_reductions if config.schedule == "plateau" else 1.0


def sampling_rate(config: TrainingConfig, epoch: int) -> float:
    """Return the fraction of input words that are the model's own in an epoch (from 1).

    It rises linearly from 0 to `scheduled_sampling` in the last epoch of cross-entropy (Bengio et al., 2015).
    """
    last = (config.self_critical.first_epoch or config.epochs + 1) - 2  # that epoch, counted from 0
    return config.scheduled_sampling * ((epoch - 1) / last if last > 0 else 1.0)
