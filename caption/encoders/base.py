"""Turn images into region features (annotation vectors, section 3.1.1): what the encoders of all families share.

A family supplies a `Backbone`, the network with what is particular to it; `registry.py` lists the families.
"""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from caption.config import EncoderConfig
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError, one_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(NamedTuple):
    """A network and what `Encoder` needs to know about it."""

    network: nn.Module
    """Maps normalised pixels [B, 3, S, S] to a square map [B, D, rows, columns], or to tokens [B, 1 + L, D], the class
    token first (and dropped)."""
    layer: str = ""
    """The layer that `network` ends with, for the fingerprint."""
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    frozen_statistics: bool = True
    """Stay in evaluation mode while weights are finetuned, so that batch-norm statistics never change."""


class BackboneBuilder(Protocol):
    """Builds the backbones of one family."""

    def __call__(self, config: EncoderConfig, image_size: int, load_weights: bool) -> Backbone:
        """Return the backbone `config.name` for images of S = `image_size` pixels.

        With `load_weights=False` its weights stay random and `config.weights` is not read: a checkpoint will fill them.
        Raises UserError for a layer, weights or padding that this family does not have.
        """


class Encoder(nn.Module):
    """Map uint8 images [B, 3, S, S] to regions [B, L, D], row by row.

    `width` is D, and `feature_grid` says where the L regions lie on the image. `finetuned` lists the parameters from
    `finetune_from` on; all others are frozen. Normalisation is part of the encoder and of its state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, backbone: Backbone, image_size: int) -> None:
        """Raises UserError if `finetune_from` names no weights, or if images of this size leave no map."""
        super().__init__()
        self.name, self.padding, self.layer = config.name, config.padding, backbone.layer
        self.frozen_statistics = backbone.frozen_statistics
        self.backbone = backbone.network
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))
        self.finetuned = _finetuned_parameters(self.backbone, config)
        self.fine_tune(bool(self.finetuned))
        self.feature_grid, self.width = self._measure(image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the regions; L = rows * columns."""
        return self.feature_grid.rows, self.feature_grid.columns

    def _measure(self, image_size: int) -> tuple[FeatureGrid, int]:
        """Return where the regions lie, and D, by encoding a black image, from now on with the channels last."""
        strides = _Strides()
        try:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            with torch.no_grad(), contextlib.ExitStack() as hooks:
                for module in self.backbone.modules():
                    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
                        hooks.enter_context(module.register_forward_hook(strides.record))
                regions = self.eval()(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
            side = math.isqrt(regions.shape[1])
            if side**2 != regions.shape[1] or side < 2:
                raise ValueError(f"no square map of two regions or more to a side: {regions.shape[1]} in all")
        except Exception as error:  # of any layer of any model: it has no common ancestor
            raise UserError(
                f"encoder {self.name} cannot make regions of images of {image_size} pixels ({one_line(error)}); make "
                "the data with the --size that the model was trained with, or give another encoder.layer or model"
            ) from error
        self.train()
        return strides.feature_grid(side, image_size), int(regions.shape[2])

    def fingerprint(self) -> dict[str, Any]:
        """Return plain values, for a manifest, that differ between encoders whose features differ."""
        digest = hashlib.sha256()
        for name, value in self.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return {
            "name": self.name,
            "layer": self.layer,
            "grid": list(self.grid),
            "width": self.width,
            "digest": digest.hexdigest()[:16],
            **({"padding": self.padding} if self.padding != "torchvision" else {}),
        }

    def fine_tune(self, on: bool) -> None:
        """Switch gradients on or off for the parameters that `finetune_from` selects."""
        self.backbone.requires_grad_(False)
        for parameter in self.finetuned:
            parameter.requires_grad = on

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode, except for modules whose statistics must not change: they stay in evaluation mode."""
        super().train(mode)
        for module in self.backbone.modules():
            if self.frozen_statistics or not any(parameter.requires_grad for parameter in module.parameters()):
                module.train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Encode images uint8 [B, 3, S, S] as regions [B, L, D]. Raises ValueError for images that are not uint8."""
        if images.dtype != torch.uint8:
            raise ValueError(f"images are {images.dtype}, but the encoder scales bytes: give uint8")
        pixels = (images.float() / 255 - self.mean) / self.std
        features: Tensor = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        if features.dim() == 3:
            return features[:, 1:]  # [B, 1 + L, D] -> [B, L, D]
        if features.dim() != 4 or features.shape[2] != features.shape[3]:
            raise ValueError(f"the layer gives {tuple(features.shape)}, not a map [B, D, rows, columns]")
        return features.flatten(2).transpose(1, 2)  # [B, D, rows, columns] -> [B, L, D]


def _finetuned_parameters(backbone: nn.Module, config: EncoderConfig) -> list[nn.Parameter]:
    """Return the parameters from the module `finetune_from` on, in the order of the network."""
    if not config.finetune_from:
        return []
    parameters = list(backbone.named_parameters())
    if config.finetune_from == "all":
        return [parameter for _, parameter in parameters]
    prefix = config.finetune_from + "."
    first = next((i for i, (name, _) in enumerate(parameters) if (name + ".").startswith(prefix)), None)
    if first is None:
        modules = dict.fromkeys(name.rsplit(".", 1)[0] for name, _ in parameters)
        problem = (
            "has no weights in" if config.finetune_from in dict(backbone.named_modules()) else "names no weights of"
        )
        raise UserError(
            f"encoder.finetune_from {config.finetune_from!r} {problem} {config.name}: give all, nothing, "
            f"or a module's path such as {', '.join(list(modules)[-3:])}"
        )
    return [parameter for _, parameter in parameters[first:]]


class _Strides(dict[int, tuple[int, float, int]]):
    """Layers that shrink a map: input side -> stride, centre of the first receptive field, output side."""

    def record(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Note a layer's geometry, as its forward hook."""
        before, after = inputs[0].shape[-1], output.shape[-1]
        if after < before:
            settings: list[Any] = [module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1)]
            kernel, stride, padding, dilation = (n if isinstance(n, int) else n[-1] for n in settings)
            # Padding that is not declared, but that the size of the output tells, is `SAME`: the smaller half before.
            padding = max(padding, (stride * (after - 1) + dilation * (kernel - 1) + 1 - before) // 2)
            # Parallel branches (a block and its shortcut) have the same input side and agree on the centre.
            self.setdefault(before, (stride, dilation * (kernel - 1) / 2 - padding, after))

    def feature_grid(self, side: int, image_size: int) -> FeatureGrid:
        """Return the grid of `side` cells to a side; an even one if layers of other kinds shrank the map too."""
        first, step, reached = 0.0, 1, image_size
        while reached in self:
            stride, centre, reached = self[reached]
            first, step = first + step * centre, step * stride
        if reached != side:
            return FeatureGrid.even(side, side, image_size)
        return FeatureGrid(side, side, image_size, first, step)
