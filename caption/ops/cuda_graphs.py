"""CUDA graphs: what a GPU has to do, recorded once for each shape and from then on started as a whole.

A word takes a decoder some dozens of short kernels, there and back, and a GPU mostly waits for Python to start the next
one. A graph starts them all, but reads and writes the same memory every time: arguments are copied to where it reads,
and what it gives holds until the next call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from caption.ops import torch_compile

WARM = 3  # runs before the recording, in which kernels are compiled and libraries get ready
LIMIT = 64  # graphs of one module; shapes beyond are computed without

Work = Callable[[], Sequence[Tensor | None]]
Recorded = tuple[Sequence[Tensor | None], Callable[[], None]]


def records(device: torch.device) -> bool:
    """Whether time loops are recorded: on a GPU, with `--training.compile`."""
    return device.type == "cuda" and torch_compile.wanted()


class Recorder:
    """Graphs on the present GPU, in memory that they share: one runs at a time."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm(self, work: Work) -> None:
        """Run it as it will be recorded."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Work) -> Recorded:
        """What it gives, and what computes that anew in the same place."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, which pin memory or exchange gradients, may go on meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            results = work()
        return results, graph.replay


class Graphs:
    """A module from tensors to a tuple of tensors, and its gradient, as two graphs for each set of shapes.

    The backward pass of a call comes before the next call, and once; else it raises RuntimeError. The module's weights
    stay where they are.
    """

    def __init__(self, module: nn.Module, recorder: Recorder | None = None) -> None:
        self.module, self.recorder = module, recorder or Recorder()
        self.known: dict[Any, _Pair] = {}
        self.places: dict[Any, Tensor] = {}  # from which graphs read; those of like shape the same
        self.turn = 0  # passes so far, forward and backward

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """As the module."""
        kind = arguments[0].device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        keys = [(i, each.shape, each.dtype, each.requires_grad) for i, each in enumerate(arguments)]
        key = (*keys, precision, self.module.training)
        if key not in self.known:
            if len(self.known) == LIMIT:
                return self.module(*arguments)  # type: ignore[no-any-return]
            for one, each in zip(keys, arguments, strict=True):
                if one not in self.places:
                    self.places[one] = each.detach().clone().requires_grad_(each.requires_grad)
            self.known[key] = _Pair(self.module, [self.places[one] for one in keys], precision, self.recorder)
        results: tuple[Tensor, ...] = _Replay.apply(self, self.known[key], *arguments, *self.module.parameters())
        return results


class _Pair:
    """The graphs of a forward and of its backward pass."""

    def __init__(
        self, module: nn.Module, places: list[Tensor], precision: torch.dtype | None, recorder: Recorder
    ) -> None:
        # The weights under other names: their gradients belong to these graphs alone.
        weights = {name: each.detach().requires_grad_(each.requires_grad) for name, each in module.named_parameters()}
        kind = places[0].device.type
        made: list[Tensor] = []
        self.places, reads = places, [*places, *weights.values()]
        self.slopes: list[Tensor | None] = []  # where gradients of the results are copied to; None: one has none

        def forward() -> Sequence[Tensor]:
            # Weights that autocast keeps from one use to the next would not follow training.
            with torch.enable_grad(), torch.autocast(kind, precision, precision is not None, cache_enabled=False):
                made[:] = functional_call(module, weights, tuple(places))
            return [each.detach() for each in made]

        def backward() -> Sequence[Tensor | None]:
            wanted = [each for each in reads if each.requires_grad]
            sloping = [each for each in made if each.requires_grad]
            slopes = [slope for slope in self.slopes if slope is not None]
            found = iter(torch.autograd.grad(sloping, wanted, slopes, allow_unused=True))
            return [next(found) if each.requires_grad else None for each in reads]

        def both() -> Sequence[Tensor | None]:
            forward()
            self.slopes = [torch.zeros_like(each) if each.requires_grad else None for each in made]
            return backward()

        for _ in range(WARM):
            recorder.warm(both)
        self.results, self.forth = recorder.record(forward)
        self.gradients, self.back = recorder.record(backward)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: Graphs, pair: _Pair, *arguments: Tensor) -> tuple[Tensor, ...]:
        graphs.turn += 1
        ctx.graphs, ctx.pair, ctx.turn = graphs, pair, graphs.turn
        for place, value in zip(pair.places, arguments, strict=False):  # the weights are where they were
            place.copy_(value)
        pair.forth()
        results = [each.detach() for each in pair.results if each is not None]
        constant = [each for each, slope in zip(results, pair.slopes, strict=True) if slope is None]
        ctx.mark_non_differentiable(*constant)
        return tuple(results)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.turn != ctx.graphs.turn:
            raise RuntimeError("the graphs have run since this forward pass: its backward pass comes next, and once")
        ctx.graphs.turn += 1
        for place, slope in zip(ctx.pair.slopes, slopes, strict=True):
            if place is not None:
                place.copy_(slope)
        ctx.pair.back()
        return None, None, *(None if each is None else each.clone() for each in ctx.pair.gradients)
