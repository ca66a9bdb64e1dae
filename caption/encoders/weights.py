"""The weights of a pretrained encoder from a file."""

from collections.abc import Collection
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from caption import checkpoint
from caption.config import EncoderConfig
from caption.errors import reading


def load_file(network: nn.Module, classifier_names: Collection[str], config: EncoderConfig) -> None:
    """Load the state dict in the file `config.weights` into a network that is cut from a classifier.

    Of `classifier_names`, those of the classifier's state dict, the ones behind the cut are not read, such as a layer
    for other classes. The prefix `module.` of nn.DataParallel is dropped. Raises UserError for a file that is no state
    dict, or does not fit.
    """
    with reading(config.weights, "give a state dict: model.state_dict(), saved with torch.save or as .safetensors"):
        if Path(config.weights).suffix == ".safetensors":
            content = safetensors.torch.load_file(config.weights)
        else:
            content = torch.load(config.weights, map_location="cpu", weights_only=True)
        state = {name.removeprefix("module."): value for name, value in content.items()}
    unused = set(classifier_names) - set(network.state_dict())
    used = {name: value for name, value in state.items() if name not in unused}
    checkpoint.load_weights(network, used, f"encoder.weights {config.weights}, of {config.name}")
