"""Where the time of an evaluation goes: how much of it is neither the encoder nor the decoder.

    python -m benchmarks.evaluate --checkpoint runs/soft/best.pt --data data/flickr8k.h5 --split train [more]

Runs evaluate.py in this process, with whatever more is given, on the CPU, and a clock around encoder, decoder and
reading. "search" is what is left of writing the captions, "the rest" above all the scores and their intervals.
"""

import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch

import evaluate
from benchmarks import measure
from caption.data.dataset import CaptionDataset
from caption.decoders import RecurrentDecoder
from caption.decoders.transformer import TransformerDecoder
from caption.encoders.base import Encoder
from caption.evaluation.generate import Generated, generate

PARTS: dict[str, list[tuple[Any, str]]] = {
    "encoder": [(Encoder, "forward")],
    "decoder": [(kind, name) for kind in (RecurrentDecoder, TransformerDecoder)
                for name in ("prepare", "start", "step", "forward")],
    "reading": [(CaptionDataset, "read_images")],
}  # fmt: skip


def main(arguments: list[str]) -> None:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    spent: defaultdict[str, float] = defaultdict(float)
    for part, methods in PARTS.items():
        for kind, name in methods:
            setattr(kind, name, timed(spent, part, getattr(kind, name)))
    images = 0

    def timed_generate(*arguments: Any, **more: Any) -> Iterator[Generated]:
        nonlocal images
        start = time.perf_counter()
        found = [*generate(*arguments, **more)]
        spent["captions"] = time.perf_counter() - start
        spent["search"] = spent["captions"] - spent["encoder"] - spent["decoder"] - spent["reading"]
        images = len(found)
        yield from found

    evaluate.generate = timed_generate  # type: ignore[attr-defined]
    start = time.perf_counter()
    evaluate.main([*arguments, "--device", "cpu"])
    spent["whole"] = time.perf_counter() - start
    spent["the rest"] = spent["whole"] - spent["captions"]
    print(f"\n{measure.machine(torch.device('cpu'))}")
    print(f"{images} images in {spent['whole']:.1f} s")
    for part in ("encoder", "decoder", "reading", "search", "the rest"):
        print(f"{part:10}{spent[part]:8.1f} s{spent[part] / spent['whole']:6.1%}")


def timed(spent: dict[str, float], part: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, its seconds added to the part's: until the captions are there, and not those of a call within one."""

    @functools.wraps(method)
    def measured(*arguments: Any, **more: Any) -> Any:
        if "captions" in spent or spent["within"]:
            return method(*arguments, **more)
        spent["within"], start = 1, time.perf_counter()
        try:
            return method(*arguments, **more)
        finally:
            spent["within"] = 0
            spent[part] += time.perf_counter() - start

    return measured


if __name__ == "__main__":
    main(sys.argv[1:])
