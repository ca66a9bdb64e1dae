"""TensorFlow's `SAME` padding, for weights that were trained with it.

With stride s, kernel k and an input of n pixels, `SAME` gives ceil(n / s) outputs and pads just enough zeros for them,
half before and the larger half after. For stride 2, kernel 3 and even n that is none before and one after, where
torchvision's networks pad one on both sides (and never read the last). With the wrong convention every such layer reads
its input one pixel off and sees zeros at the opposite border, and the weights lose accuracy.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """A convolution with `SAME` padding and the weights and settings of another convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        nn.Module.__init__(self)  # not of nn.Conv2d, which would make weights of its own
        vars(self).update(vars(convolution), padding=(0, 0))  # `forward` pads

    def pad_amounts(self, sides: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the zeros (before, after) that each side (rows, columns) is padded with."""
        totals = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, k, d in zip(sides, self.stride, self.kernel_size, self.dilation, strict=True)
        ]
        return [(total // 2, total - total // 2) for total in totals]

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [B, C, rows, columns] to [B, C', ceil(rows / stride), ceil(columns / stride)]."""
        rows, columns = self.pad_amounts(tuple(pixels.shape[2:]))
        return super().forward(F.pad(pixels, (*columns, *rows)))


def use_same_padding(network: nn.Module) -> int:
    """Give a network's strided convolutions that pad `SAME` padding, and return how many there were.

    Convolutions of stride 1 with an odd kernel are the same in both conventions; poolings are left as they are.
    """
    count = 0
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.padding != (0, 0):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, SameConv2d(module))
            count += 1
    return count
