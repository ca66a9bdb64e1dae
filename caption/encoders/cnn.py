"""Small convolutional networks that are trained from scratch.

The recursive and the recurrent one apply the same convolution several times: they are as deep as a longer chain of
layers, with the weights of a short one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from caption.config import EncoderConfig
from caption.encoders.base import Backbone
from caption.errors import UserError

GROUPS = 8  # of channels, in group normalisation


class SmallCNN(nn.Module):
    """Map pixels [B, 3, S, S] to [B, 128, S/8, S/8] by two paths that see different things, for small drawings.

    The path of shape sees how far each pixel is from the image's mean colour, and not in which direction, so that a
    shape looks the same in every colour: what was learnt of red stars holds for blue ones. The path of colour sees the
    pixels, at half the resolution. From one path for both, a captioner learns pairs: on pairs of shape and colour that
    are not in its training data it is wrong (docs/results.md, "Unseen combinations"). The coordinates are the last two
    channels: relations between objects are learnt from them, and sooner if they are large.

    Beside that mean, a region sees 38 x 38 pixels and no more, a large object and some cells about it, so that the
    decoder must attend to an object to name it. With 46 it learns for some seeds to attend beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        # Channels and stride of each layer.
        self.shape_path = convolutions(1, (32, 2), (48, 2), (48, 1), (48, 1), (96, 2))
        self.colour_path = convolutions(3 + 2, (16, 2), (32, 2), (30, 2))

    def forward(self, pixels: Tensor) -> Tensor:
        contrast = (pixels - pixels.mean((2, 3), keepdim=True)).norm(dim=1, keepdim=True)  # [B, 1, S, S]
        features = torch.cat([self.shape_path(contrast), self.colour_path(add_coordinates(pixels))], 1)
        return add_coordinates(features, scale=4)


def convolutions(inputs: int, *layers: tuple[int, int]) -> nn.Sequential:
    """Return a chain of convolutions, each of so many channels and such a stride, batch-normalised."""
    path = nn.Sequential()
    for outputs, stride in layers:
        path.extend(_convolution(inputs, outputs, stride, nn.BatchNorm2d(outputs), nn.GELU()))
        inputs = outputs
    return path


class SharedBlock(nn.Module):
    """Apply one convolution N = `steps` times, x [B, C, rows, columns] -> h_N of the same shape.

        h_0 = relu(norm(W_ff * x))
        recursive    h_n = relu(norm(W_rec * h_(n-1)))
        recurrent    h_n = relu(norm(W_ff * x + W_rec * h_(n-1)))     with `add_input`

    The recurrent form (Liang and Hu, 2015, eq. 1) adds the input again at each step, so that later steps can use more
    context without forgetting the input; Lee and Osindero (2016) compare the two. W_rec and norm are the same for all
    steps.
    """

    def __init__(self, channels: int, steps: int, add_input: bool) -> None:
        super().__init__()
        self.steps, self.add_input = steps, add_input
        self.feedforward = nn.Conv2d(channels, channels, 3, padding=1, bias=False)  # W_ff
        self.recurrent = nn.Conv2d(channels, channels, 3, padding=1, bias=False)  # W_rec
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.feedforward(x)
        h: Tensor = self.norm(inputs).relu()
        for _ in range(self.steps):
            h = self.norm(inputs + self.recurrent(h) if self.add_input else self.recurrent(h)).relu()
        return h


class SharedCNN(nn.Module):
    """Map pixels [B, 3, S, S] to [B, 130, S/8, S/8] by strided convolutions and two blocks of shared weights.

    Each image's colours are normalised to mean 0 and variance 1 first (instance normalisation, Ulyanov et al., 2016):
    a background of any colour is then near 0, as the padding is. A character looks the same wherever it stands, so the
    coordinates that attention needs are added after the layers, as the last two channels, and not before them.

    Group normalisation (Wu and He, 2018) treats each image by itself. Batch normalisation would not do: the maps of a
    block are distributed differently from step to step, so that one running mean fits none of them at test time, and
    batches are of captions of similar length, here of strings of one length, so that they differ from each other.
    """

    def __init__(self, steps: int, add_input: bool, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(3, 3, affine=False),  # as nn.InstanceNorm2d, whose gradient is wrong for channels-last maps
            *_convolution(3, 32, 2, nn.GroupNorm(GROUPS, 32)),
            SharedBlock(32, steps, add_input),
            *_convolution(32, 64, 2, nn.GroupNorm(GROUPS, 64)),
            SharedBlock(64, steps, add_input),
            *_convolution(64, width, 2, nn.GroupNorm(GROUPS, width)),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return add_coordinates(self.layers(pixels))


def _convolution(
    inputs: int, outputs: int, stride: int, norm: nn.Module, activation: nn.Module | None = None
) -> tuple[nn.Module, ...]:
    """Return a convolution with its normalisation and activation (ReLU): [B, C, rows, columns] -> [B, C', rows/stride,
    ...]."""
    # The kernel is even where the stride is 2: with 3, every such layer would shift the map by half a pixel, and
    # attention would be shown, and scored, beside the place that a region sees.
    kernel = 4 if stride == 2 else 3
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False), norm, activation or nn.ReLU(inplace=True)


def add_coordinates(features: Tensor, scale: float = 1) -> Tensor:
    """Append row and column as two channels (CoordConv, Liu et al., 2018): [B, C, S, S] -> [B, C + 2, S, S].

    They reach from -`scale` to `scale`. Without them an annotation vector could not tell left from right.
    """
    size = features.shape[-1]
    ramp = torch.linspace(-scale, scale, size, device=features.device, dtype=features.dtype)
    coordinates = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"))  # [2, S, S]
    return torch.cat([features, coordinates.expand(len(features), -1, -1, -1)], 1)


# Name -> the network with so many recurrence steps.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "small_cnn": lambda steps: SmallCNN(),
    "recursive_cnn": lambda steps: SharedCNN(steps, add_input=False),
    "recurrent_cnn": lambda steps: SharedCNN(steps, add_input=True),
}


def build(config: EncoderConfig, image_size: int, load_weights: bool) -> Backbone:
    """Return one of NETWORKS, untrained. See `BackboneBuilder`."""
    if config.weights != "none" or config.layer or config.padding != "torchvision":
        raise UserError(f"encoder {config.name} has no weights, layers or padding to choose; leave them as they are")
    return Backbone(NETWORKS[config.name](config.recurrence_steps), frozen_statistics=False)
