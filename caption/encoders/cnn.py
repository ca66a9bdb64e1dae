"""Small convolutional networks that are trained from scratch, by the names that `encoder.name` takes.

In the recursive and the recurrent one the same convolution is applied several times: as deep as a longer chain of
layers, with the weights of a short one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

GROUPS = 8  # of channels


class SmallCNN(nn.Module):
    """Six convolutions for small drawings, stride 8: pixels [B, 3, S, S] -> [B, 128, S/8, S/8].

    A region sees 48 x 48 pixels around it and no more, so that to see an object is to attend near it.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (5, 24, 48, 64, 64, width, width)
        for inputs, outputs, stride in zip(widths, widths[1:], (1, 2, 2, 1, 2, 1), strict=False):
            layers += [_convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(with_place(pixels))
        return features


class SharedBlock(nn.Module):
    """One convolution applied N times over, x [B, C, rows, columns] -> h_N of the same shape.

        h_0 = relu(norm(W_ff * x))
        recursive    h_n = relu(norm(W_rec * h_(n-1)))
        recurrent    h_n = relu(norm(W_ff * x + W_rec * h_(n-1)))

    The recurrent one (Liang and Hu, 2015, eq. 1) adds the input again at each pass, so that later passes may use more
    context without forgetting what was there; both are compared by Lee and Osindero (2016). W_rec and norm are the same
    for all passes.
    """

    def __init__(self, channels: int, passes: int, recurrent: bool) -> None:
        super().__init__()
        self.passes, self.recurrent = passes, recurrent
        self.forth = nn.Conv2d(channels, channels, 3, padding=1, bias=False)  # W_ff
        self.again = nn.Conv2d(channels, channels, 3, padding=1, bias=False)  # W_rec
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        fed = self.forth(x)
        h: Tensor = self.norm(fed).relu()
        for _ in range(self.passes):
            h = self.norm(fed + self.again(h) if self.recurrent else self.again(h)).relu()
        return h


class SharedCNN(nn.Module):
    """Two blocks of shared weights, stride 8: pixels [B, 3, S, S] -> [B, 130, S/8, S/8].

    Each picture's colours are brought to mean 0 and variance 1 first (instance normalisation, Ulyanov et al., 2016):
    ground of any colour is then near 0, as the padding is. A character looks the same wherever it stands, so that its
    place is told behind the layers and not before them, by the last two channels, for attention to go by.

    Groups of channels are normalised picture by picture (Wu and He, 2018), and not over the batch: the maps of a block
    are distributed differently from pass to pass, so that one running mean would be right for none of them at test
    time, and batches of captions of like length, here of strings of one length, differ from each other.
    """

    def __init__(self, passes: int, recurrent: bool, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(3, 3, affine=False),  # as nn.InstanceNorm2d, whose gradient is wrong for channels-last maps
            _convolution(3, 32, 2),
            nn.GroupNorm(GROUPS, 32),
            nn.ReLU(inplace=True),
            SharedBlock(32, passes, recurrent),
            _convolution(32, 64, 2),
            nn.GroupNorm(GROUPS, 64),
            nn.ReLU(inplace=True),
            SharedBlock(64, passes, recurrent),
            _convolution(64, width, 2),
            nn.GroupNorm(GROUPS, width),
            nn.ReLU(inplace=True),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return with_place(self.layers(pixels))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    # An even kernel where the stride is 2: with 3 every such layer would shift the map by half a pixel, and attention
    # would be drawn, and judged, beside the place that a region sees.
    return nn.Conv2d(inputs, outputs, 4 if stride == 2 else 3, stride, padding=1, bias=False)


def with_place(features: Tensor) -> Tensor:
    """Two more channels hold the place in the picture (CoordConv, Liu et al., 2018), without which an annotation vector
    could not tell left from right: [B, C, S, S] -> [B, C + 2, S, S]."""
    size = features.shape[-1]
    ramp = torch.linspace(-1, 1, size, device=features.device, dtype=features.dtype)
    place = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"))  # [2, S, S]
    return torch.cat([features, place.expand(len(features), -1, -1, -1)], 1)


# Name -> the network with so many passes.
CNNS: dict[str, Callable[[int], nn.Module]] = {
    "small_cnn": lambda passes: SmallCNN(),
    "recursive_cnn": lambda passes: SharedCNN(passes, recurrent=False),
    "recurrent_cnn": lambda passes: SharedCNN(passes, recurrent=True),
}
