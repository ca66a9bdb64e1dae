"""A GPU that is not there: tensors on "cuda" with shapes but no numbers, and a record of what is asked of it.

Fake tensors refuse operations that mix devices. Every operation on a fake tensor passes `FakeGPU`, which counts
launches (operations that are not mere views) and waits: reads of a result, and copies from memory that is not pinned.
"""

import contextlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from caption.ops import triton

ROOT = Path(__file__).parents[1]
aten = torch.ops.aten
# Without a launch: views and memory that is not filled.
VIEWS = {
    "alias", "as_strided", "chunk", "detach", "empty", "empty_like", "empty_strided", "expand", "lift_fresh",
    "new_empty", "new_empty_strided", "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze",
    "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_reshape_alias", "_unsafe_view",
}  # fmt: skip
# The host reads how many there are before it goes on.
SIZED_BY_VALUES = {"nonzero", "masked_select", "unique", "_unique2", "unique_consecutive", "repeat_interleave"}


class FakeGPU(TorchDispatchMode):
    """Runs operations on the CPU as ever and those on "cuda" as fakes."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()  # by the name of the operation
        self.waits: Counter[str] = Counter()  # by the line of the project

    def wait(self) -> None:
        ours = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(ROOT / "caption"))]
        self.waits[f"{ours[-1].filename.removeprefix(f'{ROOT}/')}: {ours[-1].line}" if ours else "?"] += 1

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if target != "cuda" and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        name = function._schema.name.split("::")[1]
        if torch.is_inference_mode_enabled():  # operations come as they were called: take them apart
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if name == "_local_scalar_dense":
            self.wait()
            return False if args[0].dtype == torch.bool else 0
        if name in SIZED_BY_VALUES:
            self.wait()
        if name == "multinomial":  # two checks of the probabilities
            self.wait()
            self.wait()
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [index for index in args[1] if index is not None]
            if any(not isinstance(index, FakeTensor) or index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.wait()
        if name == "_to_copy" and target not in (None, "cuda"):
            if not kwargs.get("non_blocking"):
                self.wait()
            with unset_fake_temporarily():
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        copied = args[1] if name == "copy_" else args[0] if name == "_to_copy" else None
        if copied is not None and not isinstance(copied, FakeTensor):
            if not (getattr(copied, "is_pinned_here", False) and (kwargs.get("non_blocking") or args[2:] == (True,))):
                self.wait()
            if name == "_to_copy":
                dtype = kwargs.get("dtype") or copied.dtype
                return aten.empty_strided(copied.shape, copied.stride(), dtype=dtype, device=torch.device("cuda", 0))
        elif name not in VIEWS:
            self.launches[name] += 1
        return function(*args, **kwargs)


class _Kernel:
    """Stands for a kernel in Triton, which is compiled for a GPU that is there."""

    def __init__(self, name: str, gpu: FakeGPU) -> None:
        self.name, self.gpu = name, gpu

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **_: Any) -> None:
            tensors = [each for each in arguments if isinstance(each, Tensor)]
            assert tensors and all(isinstance(each, FakeTensor) and each.is_contiguous() for each in tensors), self.name
            self.gpu.launches[f"Triton {self.name}"] += 1

        return launch


class _Stream:
    def __init__(self, gpu: FakeGPU) -> None:
        self.synchronize = gpu.wait


def to_gpu(model: nn.Module) -> dict[nn.Parameter, nn.Parameter]:
    """Do what `model.to("cuda")` does to parameters and buffers; return the new parameters by the old ones.

    `to` itself would part those that layers share: a fake cannot take the place of a parameter on the CPU.
    """
    moved: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if weight not in moved:
                    moved[weight] = nn.Parameter(weight.detach().to("cuda"), weight.requires_grad)
                module._parameters[name] = moved[weight]
        for name, values in module._buffers.items():
            module._buffers[name] = None if values is None else values.to("cuda")
    return moved


def backward(loss: Tensor, *_: Any) -> None:
    """Do what `Tensor.backward` does; PyTorch's engine would look for the GPU's streams."""
    root = loss.grad_fn
    assert root is not None
    edges: dict[Any, int] = defaultdict(int)  # into each node
    reached, found = {root}, [root]
    while found:
        for node, _ in found.pop().next_functions:
            if node is not None:
                edges[node] += 1
                if node not in reached:
                    reached.add(node)
                    found.append(node)
    inputs: dict[Any, list[Tensor | None]] = {node: [None] * len(node._input_metadata) for node in reached}
    inputs[root] = [torch.ones_like(loss)]
    ready = [root]
    while ready:
        node = ready.pop()
        for (following, number), gradient in _gradients(node, inputs.pop(node)):
            if gradient is not None:
                expected, sums = following._input_metadata[number], inputs[following]
                gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
                sums[number] = gradient if sums[number] is None else sums[number] + gradient
            edges[following] -= 1
            if not edges[following]:
                ready.append(following)


def _gradients(node: Any, gradients: list[Tensor | None]) -> list[tuple[tuple[Any, int], Tensor | None]]:
    """Pair the edges that leave a node with the gradients that go along them."""
    following = [edge for edge in node.next_functions if edge[0] is not None]
    if hasattr(node, "variable"):
        weight = node.variable
        weight.grad = gradients[0] if weight.grad is None else weight.grad + gradients[0]
        return []
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # also called without any gradient
        known = zip(gradients, node._input_metadata, strict=True)
        results = node.apply(
            *(torch.zeros(m.shape, dtype=m.dtype, device="cuda") if g is None else g for g, m in known)
        )
        results = results if isinstance(results, tuple) else (results,)
        results = [each for each, needed in zip(results, node.needs_input_grad, strict=True) if needed]
    elif all(gradient is None for gradient in gradients):
        return [(edge, None) for edge in following]
    else:
        results = node(*gradients)
        results = results if isinstance(results, tuple) else (results,)
        results = [each for each, edge in zip(results, node.next_functions, strict=True) if edge[0] is not None]
    return list(zip(following, results, strict=True))


@contextlib.contextmanager
def fake_gpu(patch: pytest.MonkeyPatch) -> Iterator[FakeGPU]:
    """Pretend until exit that there is a GPU."""
    gpu = FakeGPU()

    def pin(values: Tensor) -> Tensor:
        pinned = values.clone()
        pinned.is_pinned_here = True
        return pinned

    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    patch.setattr(torch.cuda, "current_stream", lambda device=None: _Stream(gpu))
    patch.setattr(torch.cuda, "synchronize", lambda device=None: gpu.wait())
    patch.setattr(Tensor, "pin_memory", pin)
    patch.setattr(Tensor, "is_pinned", lambda values: getattr(values, "is_pinned_here", False))
    patch.setattr(FakeTensor, "tolist", lambda values: values.cpu().tolist())
    patch.setattr(Tensor, "backward", torch.no_grad()(backward))
    patch.setattr(triton, "works", lambda device, *_: device.type == "cuda")
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import KernelInterface

    from caption.ops import triton_kernels

    patch.setattr(triton_kernels, "multiprocessors", lambda device: 132)
    for name, kernel in vars(triton_kernels).copy().items():
        if isinstance(kernel, KernelInterface | InterpretedFunction):
            patch.setattr(triton_kernels, name, _Kernel(name, gpu))
    with FakeTensorMode(allow_non_fake_inputs=True), gpu:
        try:
            torch.empty(2, device="cuda")[:1]
        except RuntimeError:
            pytest.skip(f"PyTorch {torch.__version__} slices tensors on a GPU only where there is one")
        yield gpu
