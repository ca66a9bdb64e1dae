"""Captions per second of the decoder's training step, beside the arithmetic bound of the same machine.

    python -m benchmarks.train_step [--width 2048] [--device cpu]

A step is forward, backward, clipping and Adam on given features: 13 images x 5 captions of COCO's lengths (mean 10.5
words and <end>), L = 196, V = 9,490, all widths 512; hard attention draws one location a caption and step. The bound is
the least number of floating-point operations that the equations need, over the rate of matrix products measured in the
same run, in fp32. Modes and bound are measured in turn, so that a machine that slows down slows them all.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from caption import losses, machine
from caption.attention import SELECTIONS, AdditiveScore
from caption.config import DecoderConfig, ReinforceConfig, TrainingConfig
from caption.data import GroupedBatches, collate
from caption.decoder import Decoder

L, V, WIDTH, IMAGES, CAPTIONS = 196, 9490, 512, 13, 5


def coco_lengths(images: int, seed: int) -> np.ndarray:
    """Words of five captions an image [N, 5]: mean 10.5, standard deviation 2.4, at least 7, a long tail."""
    return 7 + np.random.default_rng(seed).negative_binomial(5.2, 0.6, (images, CAPTIONS))


def make_batches(count: int, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Captions and lengths of batches as the loader groups them."""
    words = coco_lengths(2600, seed)
    grouped = GroupedBatches(-np.sort(-(words + 1), 1), IMAGES, seed)
    generator = np.random.default_rng(seed)
    batches = []
    for members in list(grouped)[:count]:
        captions = [[generator.integers(4, V, n, dtype=np.int32) for n in words[i]] for i in members]
        batch = collate(members, captions, lambda indices: torch.zeros(len(indices), 1))
        batches.append((batch.captions, batch.lengths))
    return batches


def least_operations(lengths: torch.Tensor, width: int) -> float:
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


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of four shapes of matrix products."""
    best = 0.0
    for m, n, k in ((2048, 2048, 2048), (4096, 4096, 4096), (6272, 512, 2048), (12544, 512, 2048)):
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        product = functools.partial(torch.matmul, a, b)
        times = [seconds(product, device) for _ in range(5)]
        best = max(best, 2 * m * n * k / statistics.median(times))
    return best


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048, help="D, width of the features")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    device = machine.choose_device(args.device)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; D {args.width}, L {L}, V {V}, "
        f"widths {WIDTH}, {IMAGES} images x {CAPTIONS} captions"
    )
    batches = make_batches(4)
    features = torch.randn(IMAGES, L, args.width, device=device)
    operations = statistics.mean(least_operations(lengths, args.width) for _, lengths in batches)
    words = statistics.mean(int(lengths.sum()) for _, lengths in batches) / (IMAGES * CAPTIONS)

    def make_step(precision: str, selection: str) -> Callable[[], None]:
        attention = SELECTIONS[selection](AdditiveScore(WIDTH, args.width, WIDTH), args.width)
        decoder = Decoder(DecoderConfig(embedding=WIDTH, hidden=WIDTH, attention=WIDTH), attention, args.width, V).to(
            device
        )
        drawn = torch.ones(IMAGES, CAPTIONS, dtype=torch.bool, device=device) if attention.stochastic else None
        moving: torch.Tensor | None = None
        optimizer = torch.optim.Adam(decoder.parameters(), fused=True)

        def step() -> None:
            nonlocal moving
            for captions, lengths in batches:
                with machine.autocast(device, precision):
                    memory = decoder.attention.prepare(features)._replace(drawn=drawn)
                    decoded = decoder(memory, captions.to(device), lengths)
                earned, drawn_rewards = losses.earnings(decoded, training.reinforce, moving)
                if drawn_rewards is not None:
                    moving = losses.next_baseline(moving, drawn_rewards)
                loss = losses.total(losses.terms(decoded, training, earned), training)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
                optimizer.step()

        return step

    training = TrainingConfig(doubly_stochastic=1.0, reinforce=ReinforceConfig(entropy=0.01))
    steps = {f"{p}{h}": make_step(p, h.strip() or "soft") for p in ("fp32", "bf16") for h in ("", " hard")}
    times: dict[str, list[float]] = {name: [] for name in steps}
    rates: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for round_ in range(args.rounds + 1):
        for name, step in steps.items():
            taken = seconds(step, device) / len(batches)
            if round_:  # the first is a warm-up
                times[name].append(taken)
        rates["fp32"].append(matrix_rate(device, torch.float32))
        rates["bf16"].append(matrix_rate(device, torch.bfloat16))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    bound = operations / rate["fp32"]
    captions = IMAGES * CAPTIONS
    print(f"matrix products: fp32 {rate['fp32'] / 1e9:.0f}, bf16 {rate['bf16'] / 1e9:.0f} GFLOP/s")
    print(f"least work: {operations / captions / 1e9:.2f} GFLOP a caption of {words:.1f} steps")
    print(f"{'':12}{'ms a step (min-max)':>26}{'captions/s':>12}{'x fp32 bound':>14}")
    print(f"{'fp32 bound':12}{1e3 * bound:26.0f}{captions / bound:12.1f}{1:14.2f}")
    for name, values in times.items():
        median = statistics.median(values)
        spread = f"{1e3 * median:.0f} ({1e3 * min(values):.0f}-{1e3 * max(values):.0f})"
        print(f"{name:12}{spread:>26}{captions / median:12.1f}{median / bound:14.2f}")
    for slow, fast in (("fp32", "bf16"), ("fp32 hard", "fp32"), ("bf16 hard", "bf16")):
        pairs = sorted(a / b for a, b in zip(times[slow], times[fast], strict=True))
        print(f"{slow} takes {statistics.median(pairs):.2f} times ({pairs[0]:.2f}-{pairs[-1]:.2f}) as long as {fast}")


if __name__ == "__main__":
    main()
