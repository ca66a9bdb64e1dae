"""Kernels in C (kernels.c), compiled when first needed: on a CPU, the additive score and its exponentials, the context,
its gate, the LSTM's cell, the cross-entropy, their gradients, and the transpose of a matrix.

Nothing depends on them: where there is no C compiler that knows OpenMP, and for what is too little to pay for one,
additive.py, contexts.py, gate.py, lstm.py, surprise.py and stepwise.py do the same in PyTorch.
"""

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

LANES = 16  # numbers of a vector; widths must be a multiple
WORTH = 2**20  # least B Q L A, or B Q L D, for which it pays
FEW = 2**14  # numbers from which on it pays where nothing is learnt: not to compile for a single caption
FLAGS = ("-O2", "-ftree-vectorize", "-march=native", "-fopenmp", "-shared", "-fPIC", f"-DLANES={LANES}")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels; None: they cannot be had here. Takes about a second, once a process."""
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "kernels.so"
        command = [compiler, *FLAGS, str(Path(__file__).with_name("kernels.c")), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            return ctypes.CDLL(str(made))
        except (OSError, subprocess.SubprocessError) as error:
            told = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace").split("\n")[0]
            print(f"kernels.c is not for {compiler} here ({told}); all is done without, slower", file=sys.stderr)
            return None


def takes(rows: Tensor, regions: Tensor, *more: Tensor) -> bool:
    """Whether the kernels are for rows [B, Q, ...] that look at keys [B, L, A] or values [B, L, D]."""
    single = all(each.dtype == torch.float32 for each in (rows, regions, *more))
    alone = len(rows) == 1 and not torch.is_grad_enabled()  # one image's caption is there before the compiler is
    if rows.device.type != "cpu" or not single or alone or regions.shape[-1] % LANES:
        return False
    return rows.shape[1] * regions.numel() >= WORTH and library() is not None


def scores(asked: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """asked e^(2q) [B, Q, A], keys e^(2k) [B, L, A], v [A] -> scores [B, Q, L]."""
    found = asked.new_empty(*asked.shape[:2], keys.shape[1])
    _look("scores", asked, keys, vector, found)
    return found


def gradients(asked: Tensor, keys: Tensor, vector: Tensor, gradient: Tensor, of_keys: Tensor) -> tuple[Tensor, Tensor]:
    """From the scores' gradient [B, Q, L] those of asked and v; that of keys is added to `of_keys` [B, L, A]."""
    of_asked = asked.new_empty(asked.shape)
    of_vector = asked.new_empty(len(asked), asked.shape[-1])  # by each image
    _look("gradients", asked, keys, vector, gradient, of_asked, of_keys, of_vector)
    return of_asked, of_vector.sum(0)


def contexts(weights: Tensor, values: Tensor) -> Tensor:
    """weights [B, Q, L], values [B, L, D] -> contexts [B, Q, D]."""
    found = weights.new_empty(*weights.shape[:2], values.shape[-1])
    _look("contexts", weights, values, found)
    return found


def of_weights(gradient: Tensor, values: Tensor) -> Tensor:
    """From the contexts' gradient [B, Q, D] that of the weights [B, Q, L]."""
    found = gradient.new_empty(*gradient.shape[:2], values.shape[1])
    _look("of_weights", gradient, values, found)
    return found


def computes(tensor: Tensor, *also: torch.dtype) -> bool:
    """Whether the kernels are for numbers like these: single precision or what else some take, and where nothing is
    learnt not too few."""
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, *also):
        return False
    return (torch.is_grad_enabled() or tensor.numel() >= FEW) and library() is not None


def exponentials(values: Tensor, limit: int) -> Tensor:
    """values x [...], single or bfloat16 -> e^(2x), single, of x no further from 0 than the limit."""
    found = values.new_empty(values.shape, dtype=torch.float32)
    _run("exponentials", (values, found), (values.dtype == torch.bfloat16, limit, values.numel()))
    return found


def of_exponentials(found: Tensor, gradient: Tensor, limit: int, dtype: torch.dtype) -> Tensor:
    """From the gradient of what `exponentials` found that of the values, of type `dtype`."""
    of_values = found.new_empty(found.shape, dtype=dtype)
    _run("of_exponentials", (found, gradient, of_values), (dtype == torch.bfloat16, limit, found.numel()))
    return of_values


def lstm(cell: Tensor, word: Tensor, state: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cell [N, H], three shares of the gates [N, 4H], single or bfloat16 -> gates after their nonlinearities, hidden
    state, as the shares, and next cell."""
    rows, width = cell.shape
    assert word.shape == state.shape == seen.shape == (rows, 4 * width)
    opened, following = cell.new_empty(rows, 4 * width), cell.new_empty(rows, width)
    hidden = word.new_empty(rows, width)
    sizes = (word.dtype == torch.bfloat16, rows, width)
    _run("lstm", (word, state, seen, cell, opened, hidden, following), sizes)
    return opened, hidden, following


def lstm_gradients(
    opened: Tensor, cell: Tensor, following: Tensor, of_hidden: Tensor, of_following: Tensor
) -> tuple[Tensor, Tensor]:
    """From the gradients of the hidden state and the next cell [N, H] those of the cell and of each share [N, 4H]."""
    of_cell, of_gates = cell.new_empty(cell.shape), of_hidden.new_empty(opened.shape)
    sizes = (of_hidden.dtype == torch.bfloat16, *cell.shape)
    _run("lstm_gradients", (opened, cell, following, of_hidden, of_following, of_gates, of_cell), sizes)
    return of_cell, of_gates


def gated(context: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """context z [N, C] and hidden state h [N, H], both single or bfloat16, weight w [1, H], bias b [1] -> beta z and
    beta = sigmoid(w h + b) [N]."""
    assert len(context) == len(hidden) and weight.shape == (1, hidden.shape[1])
    found, gate = context.new_empty(context.shape), weight.new_empty(len(context))
    _run("gated", (context, hidden, weight, bias, found, gate), _of_gated(context, hidden))
    return found, gate


def gated_gradients(
    context: Tensor, hidden: Tensor, weight: Tensor, gate: Tensor, of_found: Tensor, of_gate: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the gradients of what `gated` found those of what it was given."""
    of_context, of_hidden = context.new_empty(context.shape), hidden.new_empty(hidden.shape)
    of_weight, of_bias = weight.new_empty(weight.shape), gate.new_empty(gate.shape)  # of the bias by each row
    tensors = (context, hidden, weight, gate, of_found, of_gate, of_context, of_hidden, of_weight, of_bias)
    _run("gated_gradients", tensors, _of_gated(context, hidden))
    return of_context, of_hidden, of_weight, of_bias.sum(0, keepdim=True)


def _of_gated(context: Tensor, hidden: Tensor) -> tuple[int, ...]:
    return context.dtype == torch.bfloat16, *context.shape, hidden.shape[1]


def transposed(matrix: Tensor) -> Tensor:
    """[m, n] -> [n, m], copied."""
    found = matrix.new_empty(matrix.shape[::-1])
    _run("transposed", (matrix, found), matrix.shape)
    return found


def partition(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits [N, V], single or bfloat16 -> their maximum and log sum_v e^(x_v - maximum) [N]."""
    most, sums = logits.new_empty(2, len(logits), dtype=torch.float32)
    _run("partition", (logits, most, sums), (logits.dtype == torch.bfloat16, *logits.shape))
    return most, sums.log()


def of_logits(logits: Tensor, targets: Tensor, most: Tensor, beyond: Tensor, slopes: Tensor) -> Tensor:
    """From the gradients [N] of -log p_y, y the targets [N], that of the logits [N, V]; `most` and `beyond` are what
    `partition` gives."""
    found = logits.new_empty(logits.shape)
    sizes = (logits.dtype == torch.bfloat16, *logits.shape)
    _run("of_logits", (logits, targets, most, beyond, slopes, found), sizes)
    return found


def _look(name: str, rows: Tensor, regions: Tensor, *more: Tensor) -> None:
    """A kernel with these tensors and B, Q, L and A or D."""
    _run(name, (rows, regions, *more), (*rows.shape[:2], *regions.shape[1:]))


def _run(name: str, tensors: Iterable[Tensor], sizes: Iterable[int]) -> None:
    # Held until it returns. Results have to be so already (new_empty's are; empty_like's are as what they are like).
    there = [each.contiguous() for each in tensors]
    pointers = [ctypes.c_void_p(each.data_ptr()) for each in there]
    kernels = library()
    assert kernels is not None
    kernels.omp_set_num_threads(torch.get_num_threads())  # which may belong to another OpenMP than PyTorch's
    getattr(kernels, name)(*pointers, *map(ctypes.c_int64, sizes))
