"""The precision of a run, and the loss scale of fp16.

Half precision loses gradients below 6e-8, and ends at 65,504. The loss is therefore multiplied by a scale before the
backward pass (Micikevicius et al., 2018). Where gradients overflow, weights are left as they are and the scale is
halved; after 2,000 steps without, it is doubled.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from caption.config import Config
from caption.device import choose_precision, device_name
from caption.errors import UserError, reading

INITIAL_SCALE = 2.0**8  # of a sum over the words of a batch; customary are 2**16, of a mean
MIN_SCALE = 2.0**-16  # below it, gradients are no numbers at any scale


def resolve_precision(config: Config, saved: dict[str, Any] | None, device: torch.device) -> Config:
    """Return the configuration with the precision that `auto` stands for: that of the checkpoint `saved`, if it was
    chosen for such a device, or else the fastest of this one."""
    asked = config.training.precision
    if asked == "auto" and saved and saved["device"] == device_name(device):
        chosen = saved["precision"]
    else:
        chosen = choose_precision(asked, device)
        if saved and chosen != saved["precision"]:
            print(
                f"precision {chosen} on {device_name(device)}; before it was {saved['precision']} on {saved['device']}"
            )
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision=chosen))


def build_scaler(precision: str, device: torch.device, saved: dict[str, Any] | None) -> GradScaler:
    """Return the loss scale as the checkpoint `saved` left it, or a new one; it does nothing unless in fp16."""
    scaler = GradScaler(device.type, INITIAL_SCALE, enabled=precision == "fp16")
    if saved and saved["scaler"]:  # that of another precision is empty
        with reading("last.pt", "start a new run from best.pt, by --init-from"):
            scaler.load_state_dict(saved["scaler"])
    return scaler


def update_scale(scaler: GradScaler, device: torch.device) -> Tensor:
    """Update the scale after a step; return whether gradients had overflowed, so that weights were left as they were,
    a boolean [] that no one has waited for."""
    one = torch.ones((), device=device)
    before = scaler.scale(one)
    scaler.update()
    return scaler.scale(one) < before


def check_scale(scaler: GradScaler) -> None:
    """Raise UserError if gradients overflow at every scale; a finite loss does not show it."""
    if scaler.is_enabled() and scaler.get_scale() < MIN_SCALE:
        raise UserError(
            f"the gradients are not finite in fp16, even with the loss scaled by {scaler.get_scale():.0e}; train with "
            "--training.precision fp32"
        )
