"""Convolutions padded as TensorFlow pads them, for weights that were trained there.

With stride s, kernel k and a side of n, `SAME` makes ceil(n / s) outputs and pads what they lack: half before, the
larger half behind. At stride 2, kernel 3 and an even side that is nothing before and 1 behind, where torchvision's
networks pad 1 on both sides (the last unread). So each such layer reads its picture one pixel off, and zeros stand on
the other border: weights of the one convention lose accuracy with the other.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's `SAME` padding; `of` gives its weights and settings."""

    def __init__(self, of: nn.Conv2d) -> None:
        super().__init__(
            of.in_channels,
            of.out_channels,
            of.kernel_size,  # type: ignore[arg-type]
            of.stride,  # type: ignore[arg-type]
            dilation=of.dilation,  # type: ignore[arg-type]
            groups=of.groups,
            bias=of.bias is not None,
            device="meta",  # nothing is drawn: the weights come from `of`
        )
        self.weight, self.bias = of.weight, of.bias

    def around(self, sides: tuple[int, ...]) -> list[tuple[int, int]]:
        """Zeros (before, behind) each of the two sides (rows, columns)."""
        lacks = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, k, d in zip(sides, self.stride, self.kernel_size, self.dilation, strict=True)
        ]
        return [(lack // 2, lack - lack // 2) for lack in lacks]

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, C, rows, columns] -> [B, C', ceil(rows / stride), ceil(columns / stride)]."""
        rows, columns = self.around(tuple(pixels.shape[2:]))
        return super().forward(F.pad(pixels, (*columns, *rows)))


def pad_as_tensorflow(network: nn.Module) -> int:
    """Replace a network's strided convolutions that pad; how many there were. Those of stride 1 and an odd kernel are
    the same in both; poolings are left as they are."""
    strided = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.padding != (0, 0)
    ]
    for name, module in strided:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, SameConv2d(module))
    return len(strided)
