"""Pictures -> region features (annotation vectors, section 3.1.1): a classifier cut at its last spatial map."""

import hashlib
import math
import pickle
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from caption.config import EncoderConfig
from caption.encoders.cnn import CNNS
from caption.encoders.grid import FeatureGrid
from caption.encoders.same_padding import SameConv2d, pad_as_tensorflow
from caption.errors import UserError

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and standard deviation of R, G, B in [0, 1]

# Where the usual backbones are cut; others are probed with an empty picture. VGG: before the last pooling (conv5_4's
# ReLU in VGG-19, the paper's 14x14x512).
CUTS = {
    "vgg11": "features.19",
    "vgg13": "features.23",
    "vgg16": "features.29",
    "vgg19": "features.35",
    "mobilenet_v2": "features",
    "vit_b_16": "encoder.ln",
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), "layer4"),
}


class Encoder(nn.Module):
    """Backbone with its normalisation: uint8 pictures [B, 3, S, S] -> regions [B, L, D], rows of the grid first.

    `width` is D, `cells` says where the L regions lie on the picture. Weights before `finetune_from` are frozen;
    a backbone taken from torchvision always runs in evaluation mode, so that no batch-norm statistic moves.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, image_size: int, load_weights: bool = True) -> None:
        """`load_weights=False` leaves the backbone random, for a checkpoint that will fill it.

        Raises UserError for an unknown name or layer, and for weights that cannot be had or do not fit.
        """
        super().__init__()
        self.name, self.padding = config.name, config.padding
        mean, std = IMAGENET
        self.pretrained = config.name not in CNNS
        if self.pretrained:
            backbone, (mean, std) = _torchvision_model(config, load_weights)
            self.layer = config.layer or CUTS.get(config.name) or _last_spatial_map(backbone.eval(), image_size)
            self.backbone = _cut(backbone, config.name, self.layer)
            if config.padding == "tensorflow" and not pad_as_tensorflow(self.backbone):
                raise UserError(f"encoder.padding is tensorflow, but {config.name} pads nothing it would change")
        elif config.weights != "none" or config.layer or config.padding != "torchvision":
            raise UserError(
                f"encoder {config.name} has no weights, layers or padding to choose; leave them as they are"
            )
        else:
            self.layer, self.backbone = "", CNNS[config.name](config.recurrence_steps)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.trained = _trained_parameters(self.backbone, config)
        self.fine_tune(bool(self.trained))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.cells, self.width = self._measure(config, image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns, L = rows * columns."""
        return self.cells.rows, self.cells.columns

    def _measure(self, config: EncoderConfig, image_size: int) -> tuple[FeatureGrid, int]:
        """Where the regions lie, and D, from an empty picture."""
        training = self.training
        try:
            with torch.no_grad(), _Strides(self.backbone) as strides:
                regions = self.eval()(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
            side = math.isqrt(regions.shape[1])
            if side**2 != regions.shape[1] or side == 0:
                raise ValueError(f"{regions.shape[1]} regions are no square grid")
        except (RuntimeError, AssertionError, IndexError, ValueError) as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"encoder {config.name} cannot make regions of pictures of {image_size} pixels ({reason}); make the "
                "data with another --size (vit_b_16 needs 224), or choose another encoder.layer"
            ) from None
        self.train(training)
        return strides.cells(side, image_size), int(regions.shape[2])

    def identity(self) -> dict[str, Any]:
        """What tells this encoder from others whose features are not the same: plain values, for a manifest."""
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
        """Let the weights from `finetune_from` on train, or not yet."""
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False
        for parameter in self.trained:
            parameter.requires_grad = on

    def train(self, mode: bool = True) -> "Encoder":
        """Batch-norm statistics move only in a network trained from scratch, and there only where weights train."""
        super().train(mode)
        for module in self.backbone.modules():
            if self.pretrained or not any(parameter.requires_grad for parameter in module.parameters()):
                module.train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Pictures uint8 [B, 3, S, S] -> regions [B, L, D]. Raises ValueError for pictures that are not uint8."""
        if images.dtype != torch.uint8:
            raise ValueError(f"pictures are {images.dtype}, but the encoder scales bytes: give uint8")
        pixels = (images.float() / 255 - self.mean) / self.std
        features = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        if isinstance(features, Mapping):
            features = features["regions"]
        if features.dim() == 3:  # transformer: [B, 1 + L, D], the class token first
            regions: Tensor = features[:, 1:]
        else:
            if features.dim() != 4 or features.shape[2] != features.shape[3]:
                raise ValueError(f"the layer gives {tuple(features.shape)}, not a map [B, D, rows, columns]")
            regions = features.flatten(2).transpose(1, 2)  # [B, D, rows, columns] -> [B, L, D]
        return regions


class _Strides:
    """Notes, while a network runs, what makes its map smaller and how each layer moves the middle of what is seen."""

    def __init__(self, network: nn.Module) -> None:
        self.found: dict[int, tuple[int, float, int]] = {}  # side before -> stride, middle of the first, side after
        kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
        self.hooks = [m.register_forward_hook(self._note) for m in network.modules() if isinstance(m, kinds)]

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before, after = inputs[0].shape[-1], output.shape[-1]
        if after < before:
            settings: list[Any] = [module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1)]
            kernel, stride, padding, dilation = (n if isinstance(n, int) else n[-1] for n in settings)
            if isinstance(module, SameConv2d):
                padding = module.around(tuple(inputs[0].shape[2:]))[1][0]
            # Parallel branches (a block and its shortcut) begin with one side and agree in their middles.
            self.found.setdefault(before, (stride, dilation * (kernel - 1) / 2 - padding, after))

    def cells(self, side: int, size: int) -> FeatureGrid:
        """Where the cells lie on a picture; divided evenly if other layers, too, made the map smaller."""
        first, step, reached = 0.0, 1, size
        while reached in self.found:
            stride, middle, reached = self.found[reached]
            first, step = first + step * middle, step * stride
        return FeatureGrid(side, side, size, first, step) if reached == side else FeatureGrid.even(side, side, size)

    def __enter__(self) -> "_Strides":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def read_weights(path: str) -> dict[str, Tensor]:
    """A state dict from a file. Raises UserError when it is none."""
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path}: not a state dict that torch.load(weights_only=True) accepts ({type(error).__name__}); "
            "save model.state_dict() with torch.save"
        ) from None
    return state


def download(url: str) -> None:
    """Fetch weights into torch hub's cache, their hash checked. Raises UserError with the way around."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"weights cannot be downloaded from {url} ({reason}); fetch that file elsewhere and place it at {target}, "
            "or give its path as encoder.weights"
        ) from None


def _torchvision_model(config: EncoderConfig, load_weights: bool) -> tuple[nn.Module, tuple[list[float], list[float]]]:
    """The whole classifier with its weights, if asked, and (mean, std) of the pixels it was trained on."""
    models = torchvision.models.list_models(module=torchvision.models)
    if config.name not in models:
        raise UserError(f"unknown encoder {config.name!r}; known: {', '.join([*CNNS, *models])}")
    entry = None
    from_file = Path(config.weights).is_file()
    if load_weights and config.weights != "none" and not from_file:
        known = torchvision.models.get_model_weights(config.name)
        names = [*(weights.name for weights in known), "DEFAULT"]
        if config.weights not in names:
            raise UserError(
                f"encoder.weights {config.weights!r} is neither a file nor weights of {config.name}: give a state "
                f"dict's path, none, or one of {', '.join(names)}"
            )
        entry = known[config.weights]
        download(entry.url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # googlenet and inception announce their initialisation
        backbone: nn.Module = torchvision.models.get_model(config.name, weights=entry)
    if hasattr(backbone, "transform_input"):  # googlenet and inception were trained on pixels scaled otherwise
        backbone.transform_input = config.weights != "none"  # type: ignore[assignment]
    if load_weights and from_file:
        _fill(backbone, read_weights(config.weights), config)
    preset = entry.transforms() if entry is not None else None
    return backbone, (list(getattr(preset, "mean", IMAGENET[0])), list(getattr(preset, "std", IMAGENET[1])))


def _fill(backbone: nn.Module, state: dict[str, Tensor], config: EncoderConfig) -> None:
    try:
        backbone.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"encoder.weights {config.weights} do not fit {config.name}: {reason}") from None


def _cut(backbone: nn.Module, name: str, layer: str) -> nn.Module:
    """The backbone up to a layer, everything behind it removed."""
    backbone.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cut: nn.Module = create_feature_extractor(backbone, {layer: "regions"}, suppress_diff_warning=True)
            return cut
        except ValueError:
            children = ", ".join(name for name, _ in backbone.named_children())
            raise UserError(f"encoder.layer {layer!r} is no module of {name}; its outermost are {children}") from None


def _last_spatial_map(backbone: nn.Module, image_size: int) -> str:
    """The last operation whose result is [1, D, rows, columns] with more than one row and column."""
    names = get_graph_node_names(backbone, suppress_diff_warning=True)[1]
    everything = create_feature_extractor(backbone, names, suppress_diff_warning=True)
    with torch.no_grad():
        results = everything(torch.zeros(1, 3, image_size, image_size))
    tensors = {name: result for name, result in results.items() if isinstance(result, Tensor)}
    maps = [name for name, t in tensors.items() if t.dim() == 4 and t.shape[2] == t.shape[3] > 1]
    maps += [name for name, t in tensors.items() if not maps and t.dim() == 3 and t.shape[1] > 2]  # patch tokens
    if not maps:
        raise UserError(f"pictures of {image_size} pixels leave this encoder no map of regions; choose a larger --size")
    return str(maps[-1])


def _trained_parameters(backbone: nn.Module, config: EncoderConfig) -> list[nn.Parameter]:
    if not config.finetune_from:
        return []
    parameters = list(backbone.named_parameters())
    if config.finetune_from == "all":
        return [parameter for _, parameter in parameters]
    start = config.finetune_from + "."
    first = next((i for i, (name, _) in enumerate(parameters) if (name + ".").startswith(start)), None)
    if first is None:
        stages = dict.fromkeys(name.rsplit(".", 1)[0] for name, _ in parameters)
        raise UserError(
            f"encoder.finetune_from {config.finetune_from!r} names no weights of {config.name}: give all, nothing, "
            f"or a module's path such as {', '.join(list(stages)[-3:])}"
        )
    return [parameter for _, parameter in parameters[first:]]
