"""One step of additive attention (scores, softmax, contexts), forward and backward, beside the rate of memory.

    python -m benchmarks.attend [--images 13 64] [--device cpu] [--keep]

L = 196, A = 512, five rows an image; values of width 2,048 in fp32 and in bf16, which get no gradient, as with a frozen
encoder. `reference` is the equations in PyTorch, `blocks` is exp_tanh.py in PyTorch, `kernel` is C (kernels.c) and, on
a GPU, Triton (triton_kernels.py). The limit is the time of reading keys and values once, forward and again backward,
and of writing the keys' gradient, at the rate at which this machine copies a large tensor, measured in the same run.
"""

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Literal

import torch

from benchmarks import measure
from benchmarks.train_step import CAPTIONS, WIDTH, L
from caption import ops
from caption.attention import AdditiveScore, SoftAttention
from caption.device import autocast, set_tf32

D = 2048


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy of half a gigabyte."""
    values, there = torch.ones(2**27, device=device), torch.empty(2**27, device=device)
    times = [measure.seconds(lambda: there.copy_(values), device) for _ in range(6)]
    return 2 * values.nbytes / statistics.median(times[1:])


def make_step(
    mode: str, images: int, device: torch.device
) -> tuple[SoftAttention, int, Callable[[], object], Callable[[], object]]:
    """Return the attention, the bytes of its keys, one step forward, and one forward and backward."""
    precision, kind = mode.split()
    attention = SoftAttention(AdditiveScore(WIDTH, D, WIDTH), D).to(device)
    regions, query = torch.randn(images, L, D, device=device), torch.randn(images, CAPTIONS, WIDTH, device=device)
    switch: Literal["auto", "reference"] = "reference" if kind == "reference" else "auto"
    with ops.use(switch), torch.no_grad(), autocast(device, precision):
        memory = attention.prepare(regions)
    query.requires_grad_()
    memory = memory._replace(keys=memory.keys.detach().requires_grad_())

    def step(backward: bool) -> None:
        with ops.use(switch), without_kernels(kind == "blocks"):
            with torch.set_grad_enabled(backward), autocast(device, precision):
                context = attention(query, memory).context
            if backward:
                torch.autograd.grad(context.sum(), (query, memory.keys))

    return attention, memory.keys.nbytes, functools.partial(step, False), functools.partial(step, True)


@contextlib.contextmanager
def without_kernels(off: bool) -> Iterator[None]:
    """Leave out the backends of attention that are kernels."""
    kept = dict(ops.BACKENDS)
    if off:
        ops.BACKENDS.update(additive_attention=(), additive_scores=kept["additive_scores"][-1:])
    try:
        yield
    finally:
        ops.BACKENDS.update(kept)


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[13, 64])
    args, device = measure.begin(parser)
    set_tf32(device, allowed=True)
    kinds = ("reference", "blocks", "kernel")
    print(measure.machine(device))
    precisions = measure.precisions(device)
    for images in args.images:
        works: dict[str, Callable[[], object]] = {}
        rates: list[float] = []
        sizes: dict[str, int] = {}
        attentions = torch.nn.ModuleList()
        modes = [f"{precision} {kind}" for precision in precisions for kind in kinds]
        for mode in modes:
            attention, sizes[mode], works[mode], works[f"{mode} both"] = make_step(mode, images, device)
            attentions.append(attention)
        works["rate"] = functools.partial(lambda rates: rates.append(copy_rate(device)), rates)
        with ops.reuse_weights(attentions):
            taken = measure.in_turn(works, device, args.rounds)
        times = {name: statistics.median(values) for name, values in taken.items()}
        rate = statistics.median(rates)
        print(f"\n{images} images x {CAPTIONS} rows, L {L}, A {WIDTH}, D {D}; copying {rate / 1e9:.1f} GB/s")
        print(f"{'':16}{'forward, ms':>14}{'of the limit':>14}{'both, ms':>12}{'of the limit':>14}")
        figures: dict[str, object] = {"images": images, "GB/s": round(rate / 1e9, 1)}
        for mode in modes:
            keys, values = sizes[mode], (4 if mode.startswith("fp32") else 2) * images * L * D
            one, both = times[mode], times[f"{mode} both"]
            limits = (keys + values) / rate, (3 * keys + 2 * values) / rate
            print(f"{mode:16}{1e3 * one:14.2f}{limits[0] / one:14.0%}{1e3 * both:12.2f}{limits[1] / both:14.0%}")
            figures[mode] = {"forward, ms": round(1e3 * one, 2), "both, ms": round(1e3 * both, 2)}
        if args.keep:
            measure.keep("attend", device, figures)


if __name__ == "__main__":
    main()
