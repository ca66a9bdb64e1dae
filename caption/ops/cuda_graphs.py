"""CUDA graphs: the work of a GPU, recorded once for each set of shapes and replayed as a whole from then on.

A word takes some dozens of short kernels, forward and backward, and a GPU mostly waits for Python to launch the next
one. A graph launches them all, but reads and writes the same memory every time: arguments are copied to where it reads,
and its results hold until the next call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from caption.ops import exp_tanh, switch

WARMUP_RUNS = 3  # before the recording: kernels are compiled and libraries allocate their workspaces
MAX_GRAPHS = 64  # of one module; further shapes are computed without

_state = {"enabled": False}

Function = Callable[..., Sequence[Tensor]]
Work = Callable[[], Sequence[Tensor | None]]
Recorded = tuple[Sequence[Tensor | None], Callable[[], None]]


def enable(on: bool) -> None:
    """Record time loops from now on, or stop it. The backward pass of a forward pass must then come before the next."""
    _state["enabled"] = on


def records(device: torch.device) -> bool:
    """Return whether time loops are recorded: on a GPU, in training unless `--training.no-cuda-graphs`."""
    return device.type == "cuda" and switch.fast() and _state["enabled"]


class Recorder:
    """Records graphs on the current GPU, in memory that they share: one runs at a time."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm(self, work: Work) -> None:
        """Run the work as it will be recorded."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Work) -> Recorded:
        """Return the results of the work, and a function that computes them again in the same memory."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, which pin memory or exchange gradients, may go on meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            results = work()
        return results, graph.replay


class Graphs:
    """A function of a module and tensors, giving a tuple of tensors, and its gradient, as two graphs for each set of
    shapes.

    The backward pass of a call must come before the next call, and only once; otherwise it raises RuntimeError. The
    module's weights must stay where they are.
    """

    def __init__(self, module: nn.Module, function: Function | None = None, recorder: Recorder | None = None) -> None:
        """Without `function`, the module itself is called."""
        self.module, self.recorder = _Bound(module, function or type(module).forward), recorder or Recorder()
        self.recorded: dict[Any, _Pair] = {}
        self.inputs: dict[Any, Tensor] = {}  # that graphs read; arguments of the same shape share one
        self.turn = 0  # passes so far, forward and backward

    def __call__(self, *tensors: Tensor, static: tuple[Any, ...] = ()) -> tuple[Tensor, ...]:
        """Return function(module, *static, *tensors); each value of `static` has graphs of its own."""
        device_type = tensors[0].device.type
        precision = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
        shapes = [(i, value.shape, value.dtype, value.requires_grad) for i, value in enumerate(tensors)]
        key = (*shapes, static, precision, self.module.owner.training)  # dropout is recorded on or off
        if key not in self.recorded:
            if len(self.recorded) == MAX_GRAPHS:
                return self.module(static, *tensors)  # type: ignore[no-any-return]
            for shape, value in zip(shapes, tensors, strict=True):
                if shape not in self.inputs:
                    self.inputs[shape] = value.detach().clone().requires_grad_(value.requires_grad)
            inputs = [self.inputs[shape] for shape in shapes]
            self.recorded[key] = _Pair(self, static, inputs, precision)
        return _Replay.apply(self, self.recorded[key], *tensors, *self.module.parameters())


class _Bound(nn.Module):
    """A function of a module as a module of its own, because `functional_call` replaces a module's weights."""

    def __init__(self, owner: nn.Module, function: Function) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, static: tuple[Any, ...], *tensors: Tensor) -> Sequence[Tensor]:
        return self.function(self.owner, *static, *tensors)


class _Pair:
    """The graphs of a forward pass and of its backward pass."""

    def __init__(
        self, graphs: Graphs, static: tuple[Any, ...], inputs: list[Tensor], precision: torch.dtype | None
    ) -> None:
        module, recorder = graphs.module, graphs.recorder
        # Detached aliases of the weights: their gradients belong to these graphs alone.
        weights = {
            name: weight.detach().requires_grad_(weight.requires_grad) for name, weight in module.named_parameters()
        }
        device = inputs[0].device.type
        outputs: list[Tensor] = []
        self.inputs, leaves = inputs, [*inputs, *weights.values()]
        self.grad_outputs: list[Tensor | None] = []  # read by the backward graph; None for a result without gradient

        def forward() -> Sequence[Tensor]:
            # Without the cache of casts, which would keep the weights of the recording.
            with torch.enable_grad(), torch.autocast(device, precision, precision is not None, cache_enabled=False):
                outputs[:] = functional_call(module, weights, (static, *inputs))
            return [output.detach() for output in outputs]

        def backward() -> Sequence[Tensor | None]:
            differentiable = [output for output in outputs if output.requires_grad]
            grad_outputs = [gradient for gradient in self.grad_outputs if gradient is not None]
            trained = [leaf for leaf in leaves if leaf.requires_grad]
            gradients = iter(torch.autograd.grad(differentiable, trained, grad_outputs, allow_unused=True))
            return [next(gradients) if leaf.requires_grad else None for leaf in leaves]

        def both() -> Sequence[Tensor | None]:
            forward()
            self.grad_outputs = [torch.zeros_like(output) if output.requires_grad else None for output in outputs]
            return backward()

        for _ in range(WARMUP_RUNS):
            recorder.warm(both)
        self.results, self.replay_forward = recorder.record(forward)
        self.gradients, self.replay_backward = recorder.record(backward)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: Graphs, pair: _Pair, *arguments: Tensor) -> tuple[Tensor, ...]:
        graphs.turn += 1
        ctx.graphs, ctx.pair, ctx.turn = graphs, pair, graphs.turn
        for target, value in zip(pair.inputs, arguments, strict=False):  # the weights are where they were
            target.copy_(value)
        pair.replay_forward()
        results = [result.detach() for result in pair.results if result is not None]
        constant = [result for result, grad in zip(results, pair.grad_outputs, strict=True) if grad is None]
        ctx.mark_non_differentiable(*constant)
        return tuple(results)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.turn != ctx.graphs.turn:
            raise RuntimeError("the graphs have run since this forward pass: its backward pass comes next, and once")
        ctx.graphs.turn += 1
        for target, gradient in zip(ctx.pair.grad_outputs, gradients, strict=True):
            if target is not None:
                target.copy_(gradient)
        ctx.pair.replay_backward()
        return None, None, *(None if gradient is None else gradient.clone() for gradient in ctx.pair.gradients)


class TimeLoop:
    """Runs the steps of a caption: replayed as CUDA graphs where that pays, one by one elsewhere."""

    def __init__(self, unroll: Callable[[Any, Sequence[Tensor], Any], tuple[Tensor, ...]]) -> None:
        """`unroll(module, inputs, memory)` runs the steps: `inputs` [b, q, ...] of each step and a NamedTuple of
        tensors and of hashable constants give a tuple of tensors."""
        self.unroll = unroll
        self.graphs: Graphs | None = None

    @staticmethod
    def replays(device: torch.device) -> bool:
        """Return whether steps on this device are replayed: then all should have one shape, and shapes should be
        few."""
        return torch.is_grad_enabled() and records(device)

    def __call__(
        self, module: nn.Module, inputs: Tensor, shapes: Sequence[tuple[int, int]], memory: Any, replay: bool
    ) -> tuple[Tensor, ...]:
        """Return the results of `unroll`. `inputs` [R, ...] hold the b q rows of each step of shape (b, q) one after
        the other; with `replay`, all steps must have the same shape."""
        if not replay:
            parts = torch.split(inputs, [b * q for b, q in shapes])
            steps = [part.view(b, q, -1) for part, (b, q) in zip(parts, shapes, strict=True)]
            return self.unroll(module, steps, memory)
        self.graphs = self.graphs or Graphs(module, self._unroll_tensors)
        fields = memory._asdict()
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        constants = tuple((name, value) for name, value in fields.items() if name not in tensors)
        stacked = inputs.view(len(shapes), *shapes[0], -1)
        return self.graphs(stacked, *tensors.values(), static=(type(memory), constants, tuple(tensors)))

    def _unroll_tensors(
        self, module: nn.Module, kind: Any, constants: Any, names: tuple[str, ...], inputs: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        memory = kind(**dict(constants), **dict(zip(names, map(exp_tanh.share_gradient, tensors), strict=True)))
        return self.unroll(module, inputs.unbind(), memory)
