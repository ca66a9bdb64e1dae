"""Images per second of greedy and of beam search, beside the arithmetic bound of the same machine.

    python -m benchmarks.search [--beams 1 3 5] [--device cpu] [--keep]

Captions of 32 images from given features, L = 196, V = 9,490, all widths 512, twelve words each: random weights hardly
ever write <end>, so it is forbidden before and the length limit ends all. The bound is the least number of
floating-point operations (keys once an image, everything else once a row and step), over the rate of matrix products
measured in the same run, in fp32. A share of the time is told apart: what the decoder does not take. As in evaluation,
what is done once for all batches (`ops.reuse_weights`) is done before.
"""

import functools
import statistics
from collections.abc import Callable

import torch

from benchmarks import measure
from benchmarks.train_step import WIDTH, L, V, make_decoder
from caption import ops
from caption.config import SearchConfig
from caption.device import autocast
from caption.search import search

IMAGES, WORDS = 32, 12


def least_operations(width: int, beams: int) -> float:
    """FLOP of the search (2 a multiply-add)."""
    keys, start = 2 * L * width * WIDTH, 2 * width * 2 * WIDTH
    attention = 2 * WIDTH * WIDTH + 4 * L * WIDTH + 2 * L * width
    gates = 2 * (WIDTH + width + WIDTH) * 4 * WIDTH
    readout = 2 * (WIDTH + width) * WIDTH + 2 * WIDTH * V
    return IMAGES * (keys + start + WORDS * beams * (attention + gates + readout))


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--width", type=int, default=2048, help="D, width of the features")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5])
    args, device = measure.begin(parser)
    decoders = {precision: make_decoder(args.width, device).eval() for precision in measure.precisions(device)}
    features = torch.randn(IMAGES, L, args.width, device=device)

    @torch.inference_mode()
    def whole(precision: str, beams: int) -> None:
        config = SearchConfig(beam_size=beams, min_length=WORDS, max_length=WORDS)
        decoder = decoders[precision]
        with autocast(device, precision):
            search(decoder, decoder.prepare(features), config)

    @torch.inference_mode()
    def decoder_alone(precision: str, beams: int) -> None:
        decoder = decoders[precision]
        with autocast(device, precision):
            memory = decoder.prepare(features)
            state, words = decoder.start(memory, beams), torch.ones(IMAGES, beams, dtype=torch.long, device=device)
            for _ in range(WORDS):
                _, state, _ = decoder.step(words, state, memory)

    works: dict[str, Callable[[], object]] = {}
    modes = [(precision, beams) for beams in args.beams for precision in decoders]
    for mode in modes:
        works[f"{mode}"] = functools.partial(whole, *mode)
        works[f"{mode} decoder"] = functools.partial(decoder_alone, *mode)
    rates: list[float] = []
    works["rate"] = lambda: rates.append(measure.matrix_rate(device, torch.float32))
    with ops.reuse_weights(torch.nn.ModuleList(decoders.values())):
        times = measure.in_turn(works, device, args.rounds)
    rate = statistics.median(rates)
    print(measure.machine(device))
    print(f"D {args.width}, L {L}, V {V}, widths {WIDTH}, {IMAGES} images, {WORDS} words")
    print(f"matrix products: fp32 {rate / 1e9:.0f} GFLOP/s")
    print(
        f"{'':12}{'ms (min-max)':>20}{'images/s':>11}{'bound, images/s':>17}{'x fp32 bound':>14}{'not the decoder':>17}"
    )
    figures: dict[str, object] = {"width": args.width}
    for mode in modes:
        precision, beams = mode
        bound = least_operations(args.width, beams) / rate
        median = statistics.median(times[f"{mode}"])
        pairs = zip(times[f"{mode}"], times[f"{mode} decoder"], strict=True)
        other = statistics.median(1 - alone / all_ for all_, alone in pairs)
        name = f"{precision} k={beams}"
        print(
            f"{name:12}{measure.spread(times[f'{mode}']):>20}{IMAGES / median:11.1f}{IMAGES / bound:17.1f}"
            f"{median / bound:14.2f}{other:17.0%}"
        )
        figures[name] = {"ms": round(1e3 * median, 1), "x fp32 bound": round(median / bound, 3)}
    if args.keep:
        measure.keep("search", device, figures)


if __name__ == "__main__":
    main()
