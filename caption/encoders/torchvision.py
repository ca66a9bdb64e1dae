"""The classifiers of torchvision, cut at a layer; their weights by name or from a file."""

import pickle
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from caption.config import EncoderConfig
from caption.encoders.base import IMAGENET_MEAN, IMAGENET_STD, Backbone
from caption.encoders.same_padding import use_same_padding
from caption.encoders.weights import load_file
from caption.errors import UserError, one_line

NAMES = models.list_models(module=models)

# Where the usual backbones are cut; others are probed with a black image. VGG: before the last pooling (conv5_4's
# ReLU in VGG-19, the paper's 14x14x512).
DEFAULT_LAYERS = {
    "vgg11": "features.19",
    "vgg13": "features.23",
    "vgg16": "features.29",
    "vgg19": "features.35",
    "mobilenet_v2": "features",
    "vit_b_16": "encoder.ln",
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), "layer4"),
}


def build(config: EncoderConfig, image_size: int, load_weights: bool) -> Backbone:
    """Return a classifier up to `config.layer`, by default its last spatial map. See `BackboneBuilder`."""
    from_file = Path(config.weights).is_file()
    entry = _weights_entry(config) if load_weights and config.weights != "none" and not from_file else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # googlenet and inception announce their initialisation
        classifier: nn.Module = models.get_model(config.name, weights=entry).eval()
    if hasattr(classifier, "transform_input"):  # googlenet and inception were trained on pixels scaled differently
        classifier.transform_input = config.weights != "none"  # type: ignore[assignment]
    layer = config.layer or DEFAULT_LAYERS.get(config.name) or _last_spatial_map(classifier, image_size)
    network = _cut(classifier, config.name, layer)
    if load_weights and from_file:
        load_file(network, classifier.state_dict().keys(), config)
    if config.padding == "tensorflow" and not use_same_padding(network):
        raise UserError(f"encoder.padding is tensorflow, but {config.name} pads nothing it would change")
    preset = entry.transforms() if entry is not None else None
    return Backbone(network, layer, getattr(preset, "mean", IMAGENET_MEAN), getattr(preset, "std", IMAGENET_STD))


def _weights_entry(config: EncoderConfig) -> models.WeightsEnum:
    """Download the weights of torchvision that `config.weights` names. Raises UserError for a name it does not know."""
    known = models.get_model_weights(config.name)
    names = [*(weights.name for weights in known), "DEFAULT"]
    if config.weights not in names:
        raise UserError(
            f"encoder.weights {config.weights!r} is neither a file nor weights of {config.name}: give a state dict's "
            f"path, none, or one of {', '.join(names)}"
        )
    entry = known[config.weights]
    download_weights(entry.url)
    return entry


def download_weights(url: str) -> None:
    """Fetch weights into torch hub's cache and check their hash. Raises UserError that says how to do without."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # URLError is an OSError
        raise UserError(
            f"weights cannot be downloaded from {url} ({one_line(error)}); fetch that file elsewhere and place it at "
            f"{target}, or give its path as encoder.weights"
        ) from None


def _cut(classifier: nn.Module, name: str, layer: str) -> nn.Module:
    """Return the classifier up to a layer, without the layers behind it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cut: nn.Module = create_feature_extractor(classifier, {layer: "regions"}, suppress_diff_warning=True)
        except ValueError:
            run = {node.split(".")[0] for node in get_graph_node_names(classifier)[1]}
            outermost = ", ".join(name for name, _ in classifier.named_children() if name in run)
            problem = "does not run in" if layer in dict(classifier.named_modules()) else "is no module of"
            raise UserError(f"encoder.layer {layer!r} {problem} {name}; its outermost are {outermost}") from None
    cut.register_forward_hook(lambda network, inputs, outputs: outputs["regions"])
    return cut


def _last_spatial_map(classifier: nn.Module, image_size: int) -> str:
    """Return the last operation that gives a map [1, D, rows, columns] of more than one cell, or else patch tokens."""
    names = get_graph_node_names(classifier, suppress_diff_warning=True)[1]
    extractor = create_feature_extractor(classifier, names, suppress_diff_warning=True)
    with torch.no_grad():
        outputs = extractor(torch.zeros(1, 3, image_size, image_size))
    tensors = {name: output for name, output in outputs.items() if isinstance(output, Tensor)}
    maps = [name for name, t in tensors.items() if t.dim() == 4 and t.shape[2] == t.shape[3] > 1]
    maps = maps or [name for name, t in tensors.items() if t.dim() == 3 and t.shape[1] > 2]
    if not maps:
        raise UserError(f"images of {image_size} pixels leave this encoder no map of regions; choose a larger --size")
    return str(maps[-1])
