"""The fraction of a training step, or of a search, that each fast backend saves.

    python -m benchmarks.ops [--rounds 9] [--operations NAME ...]

For every operation, a step is timed with its fast backends and without them, in turn: the reference, or the next
backend, computes it instead. The row `nothing` compares a step with itself: it shows the noise. Steps are those of
benchmarks.train_step at D = 2,048 and 512, in fp32 and bfloat16, and of the decoder of `shapes-soft` (L = 64, D = 128,
H = 128, V = 34, 8 images x 5 captions); the searches have three and five beams at D = 2,048. A backend that saves less
than 3 % of all of them should be taken out, unless it saves memory.
"""

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor

from benchmarks import measure, train_step
from caption import ops
from caption.config import SearchConfig
from caption.config.presets import PRESETS
from caption.decoders import ShowAttendTellDecoder
from caption.device import autocast, set_tf32
from caption.ops import recurrent_linear
from caption.search import search

OPERATIONS = (
    "additive_scores: C", "additive_scores: exp", "weighted_sum", "lstm_cell", "token_nll", "dropout", "linear",
)  # fmt: skip


@contextlib.contextmanager
def without(operation: str) -> Iterator[None]:
    """Turn the fast backends of an operation off."""
    with contextlib.ExitStack() as stack:
        if operation == "linear":
            stack.enter_context(mock.patch.object(recurrent_linear, "MIN_WEIGHTS", 2**62))
        elif operation == "additive_scores: C":
            kept = ops.BACKENDS["additive_scores"][1:]
            stack.enter_context(mock.patch.dict(ops.BACKENDS, additive_scores=kept))
        elif operation == "additive_scores: exp":
            stack.enter_context(mock.patch.dict(ops.BACKENDS, additive_scores=(), prepare_keys=()))
        elif operation:
            stack.enter_context(mock.patch.dict(ops.BACKENDS, {operation: ()}))
        yield


def train_works(width: int, precision: str, device: torch.device) -> Callable[[], None]:
    """A step of benchmarks.train_step."""
    captions, lengths = train_step.make_batches(1)[0]
    features = torch.randn(train_step.IMAGES, train_step.L, width, device=device)
    return functools.partial(train_step.make_step(precision, width, device), features, captions, lengths)


def shapes_works(device: torch.device) -> Callable[[], None]:
    """A step of the decoder of `shapes-soft`."""
    config = PRESETS["shapes-soft"][1].decoder
    decoder = ShowAttendTellDecoder(config, 128, (8, 8), 34).to(device)
    optimizer = torch.optim.Adam(decoder.parameters(), fused=True)
    features, captions = torch.randn(8, 64, 128, device=device), torch.randint(4, 34, (8, 5, 12), device=device)
    lengths = torch.randint(8, 13, (8, 5)).sort(1, descending=True).values

    def step() -> None:
        output = decoder(decoder.prepare(features), captions, lengths)
        loss: Tensor = ops.token_nll(output.logits, output.targets).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def search_works(precision: str, beams: int, device: torch.device) -> Callable[[], None]:
    """A search for 32 images."""
    decoder = train_step.make_decoder(2048, device).eval()
    features = torch.randn(32, train_step.L, 2048, device=device)
    config = SearchConfig(beam_size=beams, min_length=12, max_length=12)

    @torch.inference_mode()
    def step() -> None:
        with autocast(device, precision):
            search(decoder, decoder.prepare(features), config)

    return step


def repeat(work: Callable[[], None], times: int) -> None:
    for _ in range(times):
        work()


def fraction_saved(work: Callable[[], None], operation: str, device: torch.device, rounds: int, repeats: int) -> float:
    """Return the fraction of the time that an operation's fast backends save: the median over pairs of steps."""
    seconds: dict[str, list[float]] = {"": [], operation: []}
    fractions = []
    for round_ in range(-2, rounds):
        for off in ("", operation) if round_ % 2 else (operation, ""):  # neither is always first
            with without(off):
                taken = measure.seconds(functools.partial(repeat, work, repeats), device)
            seconds[off].append(taken)
        if round_ >= 0:
            fractions.append(1 - seconds[""][-1] / seconds[operation][-1 if operation else -2])
    return statistics.median(fractions)


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--operations", nargs="+", default=OPERATIONS, choices=OPERATIONS)
    args, device = measure.begin(parser)
    set_tf32(device, allowed=True)
    print(measure.machine(device))
    precisions = measure.precisions(device)
    works = {
        **{
            f"step {width} {precision}": train_works(width, precision, device)
            for width in (2048, 512)
            for precision in precisions
        },
        "shapes-soft": shapes_works(device),
        **{f"search k=3 {precision}": search_works(precision, 3, device) for precision in precisions},
        "search k=5 fp32": search_works("fp32", 5, device),
    }

    savings: dict[str, dict[str, float]] = {operation: {} for operation in ("nothing", *args.operations)}
    for name, work in works.items():
        repeats = 10 if name == "shapes-soft" else 1
        for operation, fractions in savings.items():
            fractions[name] = fraction_saved(
                work, "" if operation == "nothing" else operation, device, args.rounds, repeats
            )
        print(name, flush=True)
    print(f"\n{'saved by':22}" + "".join(f"{name:>16}" for name in works))
    for operation, fractions in savings.items():
        print(f"{operation:22}" + "".join(f"{fractions[name]:16.1%}" for name in works))
    if args.keep:
        measure.keep("ops", device, savings)


if __name__ == "__main__":
    main()
