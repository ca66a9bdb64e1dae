"""Captions per second of the decoder's training step, beside the arithmetic bound of the same machine.

    python -m benchmarks.train_step [--width 2048 512] [--device cpu] [--keep]

A step is forward, backward, clipping and Adam on given features: 13 images x 5 captions of COCO's lengths (mean 10.5
words and <end>), L = 196, V = 9,490, all widths 512; hard attention samples one location a caption and step.
`reference` is the same step by the equations alone (`CAPTION_OPS=reference`); on a GPU, `loop` is
`--training.no-cuda-graphs` and `compiled` `--training.compile`. The bound is the least number of floating-point
operations that the equations need, over the rate of matrix products measured in the same run, in fp32 (on a GPU, TF32).
Modes and bound are measured in turn. Memory is the most that a step holds beyond weights and optimizer.
"""

import functools
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from caption import ops
from caption.config import DecoderConfig, ReinforceConfig, TrainingConfig
from caption.data.dataset import collate
from caption.data.sampler import BucketSampler
from caption.decoders import ShowAttendTellDecoder
from caption.device import AUTOCAST_DTYPES, autocast, set_tf32
from caption.ops import torch_compile
from caption.training import losses, reinforce

L, V, WIDTH, IMAGES, CAPTIONS = 196, 9490, 512, 13, 5
MODES = tuple(
    f"{precision}{kind}" for precision in ("fp32", "bf16") for kind in (" reference", " loop", "", " hard", " compiled")
)
KINDS = ((" reference", ""), (" loop", ""), (" hard", ""), ("", " compiled"))
PAIRS = [(f"{precision}{a}", f"{precision}{b}") for precision in ("fp32", "bf16") for a, b in KINDS]
PAIRS.append(("fp32", "bf16"))


def coco_lengths(images: int, seed: int) -> np.ndarray:
    """Words of five captions an image [N, 5]: mean 10.5, standard deviation 2.4, at least 7, a long tail."""
    return 7 + np.random.default_rng(seed).negative_binomial(5.2, 0.6, (images, CAPTIONS))


def make_batches(count: int, seed: int = 1, images: int = IMAGES) -> list[tuple[Tensor, Tensor]]:
    """Captions and lengths of batches as the loader groups them."""
    words = coco_lengths(2600, seed)
    grouped = BucketSampler(-np.sort(-(words + 1), 1), images, seed)
    generator = np.random.default_rng(seed)
    batches = []
    for members in list(grouped)[:count]:
        captions = [[generator.integers(4, V, n, dtype=np.int32) for n in words[i]] for i in members]
        batch = collate(members, captions, lambda indices: torch.zeros(len(indices), 1))
        batches.append((batch.captions, batch.lengths))
    return batches


def least_operations(lengths: Tensor, width: int) -> float:
    """FLOP of one step (2 a multiply-add): keys once an image, everything else once a word, forward and backward.

    No gradient flows into the features: products with them count twice (result, weight gradient), others three times.
    """
    words, captions, images = int(lengths.sum()), int((lengths > 0).sum()), len(lengths)
    keys = images * 2 * 2 * L * width * WIDTH
    start = captions * 2 * 2 * width * 2 * WIDTH
    attention = 3 * 2 * WIDTH * WIDTH + 10 * L * WIDTH + 2 * 2 * L * width
    gates = 3 * 2 * (WIDTH + width + WIDTH) * 4 * WIDTH
    readout = 3 * 2 * (WIDTH + width) * WIDTH + 3 * 2 * WIDTH * V
    return keys + start + words * (attention + gates + readout)


def make_decoder(width: int, device: torch.device, selection: str = "soft") -> ShowAttendTellDecoder:
    """At the sizes measured."""
    config = DecoderConfig(embedding_dim=WIDTH, hidden_dim=WIDTH, attention_dim=WIDTH, attention=selection)  # type: ignore[arg-type]
    return ShowAttendTellDecoder(config, width, (14, 14), V).to(device)


def make_step(
    mode: str, width: int, device: torch.device, images: int = IMAGES
) -> Callable[[Tensor, Tensor, Tensor], None]:
    """A step of training by features [B, L, D], captions [B, Q, T] and their lengths [B, Q]."""
    precision, _, kind = mode.partition(" ")
    decoder = make_decoder(width, device, "hard" if kind == "hard" else "soft")
    training = TrainingConfig(doubly_stochastic=1.0, reinforce=ReinforceConfig(entropy=0.01))
    optimizer = torch.optim.Adam(decoder.parameters(), fused=True)
    sampled = torch.ones(images, CAPTIONS, dtype=torch.bool, device=device) if kind == "hard" else None
    moving: Tensor | None = None

    @ops.use("reference" if kind == "reference" else "auto")
    def step(features: Tensor, captions: Tensor, lengths: Tensor) -> None:
        nonlocal moving
        with autocast(device, precision):
            decoded = decoder(decoder.prepare(features)._replace(sample_rows=sampled), captions.to(device), lengths)
        earned, rewards = reinforce.location_advantages(decoded, training.reinforce, moving)
        if rewards is not None:
            moving = reinforce.update_baseline(moving, rewards)
        inputs = losses.LossInputs(decoded, decoded.sample, earned)
        loss = losses.total_loss(losses.compute_terms(inputs, training), training)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()

    return step


def choose(mode: str) -> None:
    """Switch graphs and compilation as the mode says."""
    ops.enable_graphs(not mode.endswith(" loop"))
    torch_compile.switch(mode.endswith(" compiled"))


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--width", type=int, nargs="+", default=[2048, 512], help="D, width of the features")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--profile", action="store_true", help="the ten operations that take longest, of the last mode")
    args, device = measure.begin(parser)
    set_tf32(device, allowed=True)
    print(measure.machine(device))
    precisions = measure.precisions(device)
    modes = [mode for mode in args.modes if device.type == "cuda" or not mode.endswith((" loop", " compiled"))]
    modes = [mode for mode in modes if mode.split()[0] in precisions]
    for width in args.width:
        figures = measure_width(width, modes, precisions, device, args.rounds, args.profile)
        if args.keep:
            measure.keep("train_step", device, figures)


def measure_width(
    width: int, modes: list[str], precisions: list[str], device: torch.device, rounds: int, profile: bool = False
) -> dict[str, object]:
    """All modes with features of one width; prints the table, and gives its figures."""
    batches = make_batches(4)
    features = torch.randn(IMAGES, L, width, device=device)
    operations = statistics.mean(least_operations(lengths, width) for _, lengths in batches)
    words = statistics.mean(int(lengths.sum()) for _, lengths in batches) / (IMAGES * CAPTIONS)
    steps = {mode: make_step(mode, width, device) for mode in modes}

    def through(mode: str) -> None:
        choose(mode)
        for captions, lengths in batches:
            steps[mode](features, captions, lengths)

    works: dict[str, Callable[[], object]] = {mode: functools.partial(through, mode) for mode in modes}
    rates: dict[str, list[float]] = {precision: [] for precision in precisions}

    def add_rate(precision: str) -> None:
        rates[precision].append(measure.matrix_rate(device, AUTOCAST_DTYPES.get(precision, torch.float32)))

    works |= {f"{precision} rate": functools.partial(add_rate, precision) for precision in precisions}
    times = measure.in_turn(works, device, rounds)
    rate = {name: statistics.median(values) for name, values in rates.items()}
    bound, count = operations / rate["fp32"], IMAGES * CAPTIONS
    print(f"\nD {width}, L {L}, V {V}, widths {WIDTH}, {IMAGES} images x {CAPTIONS} captions")
    print(f"matrix products: {', '.join(f'{name} {rate[name] / 1e9:.0f}' for name in rate)} GFLOP/s")
    print(f"least work: {operations / count / 1e9:.2f} GFLOP a caption of {words:.1f} steps")
    print(f"{'':14}{'ms a step (min-max)':>26}{'captions/s':>12}{'x fp32 bound':>14}{'memory, MB':>12}")
    print(f"{'fp32 bound':14}{1e3 * bound:26.0f}{count / bound:12.1f}{1:14.2f}")
    figures: dict[str, object] = {"width": width, "bound, ms": round(1e3 * bound, 1)}
    for mode in modes:
        each = [taken / len(batches) for taken in times[mode]]
        choose(mode)
        memory = measure.peak_memory(functools.partial(steps[mode], features, *batches[0]), device)
        median = statistics.median(each)
        print(f"{mode:14}{measure.spread(each):>26}{count / median:12.1f}{median / bound:14.2f}{memory:12.0f}")
        figures[mode] = {"ms": round(1e3 * median, 1), "x fp32 bound": round(median / bound, 3), "MB": round(memory)}
    for slow, fast in PAIRS:
        if slow in times and fast in times:
            pairs = sorted(a / b for a, b in zip(times[slow], times[fast], strict=True))
            print(
                f"{slow} takes {statistics.median(pairs):.2f} times ({pairs[0]:.2f}-{pairs[-1]:.2f}) as long as {fast}"
            )
    if profile:
        print(f"\n{modes[-1]}, {len(batches)} steps:\n{measure.top_ten(functools.partial(through, modes[-1]), device)}")
    return figures


if __name__ == "__main__":
    main()
