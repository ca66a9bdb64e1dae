"""Images per second of preprocessing, beside the limit: the same images only decoded, by as many processes.

    python -m benchmarks.preprocess [--workers 2]

300 JPEGs of 640x480 (noise with the 1/f spectrum of photographs, about 150 kB each, COCO's mean is 160), each under 80
names. Measured in turn, in every round: decoding alone, in full, by Pillow and by torchvision; the whole of
`python -m preprocess`, for each store of images, in a process of its own, from its imports on; and the way of the
most popular tutorial: one process, full decode, resize to 256x256, one row after another into HDF5.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import PIL
from PIL import Image
from torchvision.io import decode_jpeg, read_file
from tqdm import tqdm

from preprocess.workers import available_cpus, parallel_map

TIMED = """
import sys, time
from preprocess.__main__ import main
start = time.perf_counter()
main(sys.argv[1:])
print(time.perf_counter() - start)
"""
DIFFERENT, NAMES, CHUNK = 300, 80, 32


def make_images(folder: Path, count: int, seed: int = 1) -> list[Path]:
    """So many JPEGs of 640x480 pixels."""
    generator = np.random.default_rng(seed)
    height, width = 480, 640
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        waves = generator.normal(size=(3, 2, height, width // 2 + 1)) / frequency
        waves[..., 0, 0] = 0
        planes = np.fft.irfft2(waves[:, 0] + 1j * waves[:, 1], (height, width))
        planes /= planes.std((1, 2), keepdims=True)
        pixels = 120 + 45 * (0.9 * planes[:1] + 0.3 * planes)  # the colours go mostly together
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(path, quality=86)
        paths.append(path)
    return paths


def decode_pillow(paths: list[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.load()


def decode_torchvision(paths: list[Path]) -> None:
    for path in paths:
        decode_jpeg(read_file(str(path)))


def tutorial(paths: list[Path], output: Path) -> float:
    """One process: decode, resize, transpose, write; seconds."""
    start = time.perf_counter()
    with h5py.File(output, "w") as file:
        images = file.create_dataset("images", (len(paths), 3, 256, 256), "uint8")
        for i, path in enumerate(paths):
            with Image.open(path) as image:
                resized = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
            images[i] = np.asarray(resized).transpose(2, 0, 1)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=available_cpus())
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        measure(Path(name), args.workers, args.size, args.rounds)


def measure(folder: Path, workers: int, size: int, rounds: int) -> None:
    different = make_images(folder / "different", DIFFERENT)
    (folder / "images").mkdir()
    paths = [folder / f"images/{n:06d}.jpg" for n in range(DIFFERENT * NAMES)]
    for n, path in enumerate(paths):
        os.link(different[n % DIFFERENT], path)
    lines = ["file_name,caption", *(f"{path.name},an image of noise" for path in paths)]
    (folder / "captions.csv").write_text("\n".join(lines))
    mean = statistics.mean(path.stat().st_size for path in different)
    print(
        f"Pillow {PIL.__version__}, {workers} workers; {len(paths)} JPEGs of 640x480, mean {mean / 1e3:.0f} kB, "
        f"to {size}x{size}"
    )

    jobs = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]

    def pool(function: Callable[[list[Path]], None]) -> float:
        start = time.perf_counter()
        for _ in parallel_map(function, jobs, workers):
            pass
        return time.perf_counter() - start

    def ours(store: str) -> float:
        given = ["folder", "--images", str(folder / "images"), "--captions", str(folder / "captions.csv")]
        given += ["--output", str(folder / "out.h5"), "--store", store, "--size", str(size), "--workers", str(workers)]
        told = subprocess.run([sys.executable, "-c", TIMED, *given], check=True, capture_output=True, text=True)
        (folder / "out.h5").unlink()
        return float(told.stdout.split()[-1])

    few = paths[: len(paths) // 8]  # it is slow
    work: dict[str, tuple[Callable[[], float], int]] = {
        "decode alone, Pillow": (lambda: pool(decode_pillow), len(paths)),
        "decode alone, torchvision": (lambda: pool(decode_torchvision), len(paths)),
        "python -m preprocess, pixels": (lambda: ours("pixels"), len(paths)),
        "python -m preprocess, jpeg": (lambda: ours("jpeg"), len(paths)),
        "the tutorial's way, 1 process": (lambda: tutorial(few, folder / "tutorial.h5"), len(few)),
    }
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in tqdm(range(rounds), disable=not sys.stderr.isatty()):
        for name, (function, count) in work.items():
            rates[name].append(count / function())
            os.sync()  # what one has written must not slow the next
    limit = "decode alone, Pillow"
    print(f"{'':32}{'images/s (min-max)':>26}{'of the limit (min-max)':>28}")
    for name, values in rates.items():
        shares = sorted(100 * value / most for value, most in zip(values, rates[limit], strict=True))
        told = f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"
        print(f"{name:32}{told:>26}{statistics.median(shares):17.0f} % ({shares[0]:.0f}-{shares[-1]:.0f})")


if __name__ == "__main__":
    main()
