"""The state of a training run: with the model, all that makes a resumed run equal to an uninterrupted one."""

import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from caption import checkpoint, distributed, ops
from caption.captioner import Captioner
from caption.config import TrainingConfig
from caption.device import device_name
from caption.errors import UserError
from caption.training.objective import MicroBatchLoss
from caption.training.reinforce import update_baseline


@dataclass
class TrainState:
    """Progress of training: with weights and optimizer, all that a resumed run needs."""

    epoch: int = 1  # the current one, from 1
    batch: int = 0  # batches of the current epoch that are done
    step: int = 0  # batches of all epochs
    best_score: float = -1.0
    best_epoch: int = 0
    lr_reductions: int = 0  # times that schedule plateau has halved the learning rate
    baseline: Tensor | None = None  # [], b of section 4.1, on the device
    # Of the current epoch:
    sums: dict[str, Tensor] = field(default_factory=dict)  # logged values times words, on the device
    words: int = 0
    captions: int = 0
    skipped_steps: Tensor | int = 0  # [], on the device: those whose gradients overflowed in fp16
    seconds: float = 0.0  # training time, without validation
    data_seconds: float = 0.0  # part of it spent waiting for data

    def add_step(self, results: Sequence[MicroBatchLoss], words: int, captions: int) -> None:
        """Add a step's micro-batches of this process; words and captions are those of all processes."""
        values = [torch.stack([*result.logged.values()]) * result.words for result in results]
        sums = distributed.all_reduce(torch.stack(values).sum(0))
        for name, value in zip(results[0].logged, sums, strict=True):
            self.sums[name] = value + self.sums.get(name, 0)
        if reward_sums := [result.reward_sum for result in results if result.reward_sum is not None]:
            self.baseline = update_baseline(self.baseline, distributed.all_reduce(torch.stack(reward_sums).sum(0)))
        self.words += words
        self.captions += captions
        self.batch += 1
        self.step += 1

    def check_finite(self, terms: dict[str, Tensor] | None = None) -> None:
        """Raise UserError, with the loss terms, if the sums of this epoch are not finite; call it before saving."""
        if not all(math.isfinite(float(value)) for value in self.sums.values()):
            values = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in (terms or self.sums).items())
            raise UserError(
                f"the loss is no longer finite ({values}); lower training.learning_rate or training.max_grad_norm"
            )

    def begin_epoch(self, config: TrainingConfig) -> None:
        """Forget, when a new stage of training begins, what belongs to the one before."""
        if self.epoch == config.self_critical.first_epoch and not self.batch:
            self.lr_reductions = 0
        if self.epoch == config.reinforce.first_epoch:
            self.best_score = -1.0  # soft attention, whose scores do not compete, ends here; in epoch 1 there are none

    def stale_epochs(self, config: TrainingConfig) -> int:
        """Return the completed epochs since the best score; in the last stage, only those of the stage."""
        stage = config.last_stage
        return self.epoch - 1 - max(self.best_epoch, stage - 1 if self.epoch >= stage else 0)

    def out_of_patience(self, config: TrainingConfig) -> bool:
        """Return whether the last stage has gone `patience` epochs without a better score."""
        return self.epoch >= config.last_stage and 0 < config.patience <= self.stale_epochs(config)

    def end_epoch(self, score: float, config: TrainingConfig) -> bool:
        """Record the epoch's score and return whether it is the best; if it is not, perhaps reduce the rate."""
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            return True
        if (self.stale_epochs(config) + 1) % config.plateau_epochs == 0:
            self.lr_reductions += 1
        return False

    def next_epoch(self) -> "TrainState":
        """Return the state at the beginning of the next epoch."""
        kept = (self.step, self.best_score, self.best_epoch, self.lr_reductions, self.baseline)
        return TrainState(self.epoch + 1, 0, *kept)


def environment(device: torch.device) -> dict[str, Any]:
    """Return what, beside the configuration, decides the last digits of a result."""
    common = {"device": device_name(device), "processes": distributed.world_size(), "PyTorch": str(torch.__version__)}
    if device.type != "cpu":
        return common
    instructions = torch.backends.cpu.get_cpu_capability()
    return {**common, "threads": torch.get_num_threads(), "instructions": instructions, "kernels": ops.cpu_kernels()}


def restore(content: dict[str, Any], optimizer: torch.optim.Optimizer, device: torch.device) -> TrainState:
    """Undo `Saver.save`: load the optimizer, set the random states and return the state.

    Prints what is different from the environment that the run was saved in.
    """
    now = environment(device)
    changes = [
        f"{name} {now[name]} (before: {content[name]})" for name in now if content.get(name, now[name]) != now[name]
    ]
    if changes:
        print(f"resumed with {', '.join(changes)}: the result is not to the bit that of a run without interruption")
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["rng_state"])
    if device.type == "cuda" and content["cuda_rng_state"] is not None:
        torch.cuda.set_rng_state(content["cuda_rng_state"], device)
    values: dict[str, Any] = content["train_state"]
    values |= {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    state = TrainState(**values)
    state.sums = {name: value.to(device) for name, value in state.sums.items()}
    return state


class Saver:
    """Writes last.pt, and stops the run on Ctrl-C or SIGTERM: after the current step it saves and exits with code 130.

    Further signals change nothing, since launchers repeat them: torchrun forwards the one that its process got, which a
    scheduler sent to every process. The third Ctrl-C ends the program at once.
    """

    def __init__(
        self,
        folder: Path,
        captioner: Captioner,
        optimizer: torch.optim.Optimizer,
        precision: str,
        scaler: GradScaler,
        data: dict[str, str],
    ) -> None:
        """`data` are the digests of the data that is trained on."""
        self.data = data
        self.folder, self.captioner, self.optimizer = folder, captioner, optimizer
        self.precision, self.scaler = precision, scaler
        self.stop_requested, self.interrupts = False, 0
        signal.signal(signal.SIGINT, self._request_stop)
        signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, number: int, frame: Any) -> None:
        self.stop_requested = True
        self.interrupts += number == signal.SIGINT
        if self.interrupts == 2:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, even while Python waits for a long operation

    def save(self, state: TrainState, every: int = 1) -> None:
        """Save if a stop was requested or the step is a multiple of `every` (0: never), in all processes alike."""
        stop = distributed.sum_integers(self.stop_requested)[0] > 0
        if stop or (every and state.step % every == 0):
            state.check_finite()
            device = next(self.captioner.parameters()).device
            content = {
                **self.captioner.to_checkpoint(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "precision": self.precision,
                "data": self.data,
                **environment(device),
                "train_state": vars(state),
                "rng_state": torch.get_rng_state(),
                "cuda_rng_state": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            }
            if distributed.rank() == 0:
                checkpoint.save(self.folder / "last.pt", content)
        if stop:
            if distributed.rank() == 0:
                print(f"\nstopped and saved; resume with: python train.py --resume {self.folder}", file=sys.stderr)
            sys.exit(130)
