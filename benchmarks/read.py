"""Images per second out of the data file, beside the speed at which memory is copied.

    python -m benchmarks.read [--batch 32]

2,000 images of 224x224 in each store; the features are MobileNetV2's, float16 [49, 1280]. The file's pages are in
memory, as they are after the first epoch where it fits. The limit copies the same rows, in the same shuffled batches,
from one array in memory into another. Measured in turn, medians of some rounds: reading alone (a batch in one call),
whole batches with their captions, the loader with two worker processes, and HDF5's own way, row by row.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import torch
import torchvision
from PIL import Image

from caption.data.dataset import CaptionDataset, build_loader
from caption.data.hdf5 import RECORDS

COUNT, SIZE = 2000, 224


def make_files(folder: Path) -> None:
    """The same images in the three stores."""
    (folder / "images").mkdir()
    generator = np.random.default_rng(1)
    lines = ["file_name,caption,split"]
    for number in range(COUNT):
        small = Image.fromarray(generator.integers(0, 256, (28, 28, 3), np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"images/{number}.jpg", quality=90)
        lines += [f"{number}.jpg,a dog runs over the green grass,train"] * 5
    (folder / "captions.csv").write_text("\n".join(lines))
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), folder / "weights.pth")
    for store in RECORDS:
        given = ["folder", "--images", f"{folder}/images", "--captions", f"{folder}/captions.csv", "--store", store]
        given += ["--encoder.name", "mobilenet_v2", "--encoder.weights", f"{folder}/weights.pth"]
        command = [sys.executable, "-m", "preprocess", *given, "--output", f"{folder}/{store}.h5"]
        subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        make_files(folder)
        print(f"torch {torch.__version__}; {COUNT} images, batches of {args.batch}")
        for store in RECORDS:
            measure(folder / f"{store}.h5", store, args.batch, args.rounds)


def use(batches: Iterable[object]) -> None:
    """Each as long as training would have it."""
    for _ in batches:
        pass


def measure(path: Path, store: str, batch: int, rounds: int) -> None:
    data = CaptionDataset(path, "train")
    order = np.random.default_rng(1).permutation(COUNT)
    batches = [order[i : i + batch].tolist() for i in range(0, COUNT, batch)]
    memory = data.read_images(range(COUNT)).numpy()
    target = np.empty((batch, *memory.shape[1:]), memory.dtype)
    row = memory[0].nbytes

    def copy() -> None:
        for indices in batches:
            for out, index in zip(target, indices, strict=False):
                out[...] = memory[index]

    def by_hdf5() -> None:
        with h5py.File(path) as file:
            records = file["train"][RECORDS[store]]
            for indices in batches:
                np.stack([records[index] for index in indices])

    work: dict[str, Callable[[], object]] = {
        "memory copy": copy,
        "CaptionDataset.read_images": lambda: use(data.read_images(indices) for indices in batches),
        "... as float32": lambda: use(data.read_images(indices).float() for indices in batches),
        "loader, 1 process": lambda: use(build_loader(data, batches)),
    }
    loaders = {}
    for start in ("fork", "spawn"):
        loader = loaders[start] = build_loader(data, batches, workers=2)
        loader.multiprocessing_context = start
        work[f"loader, 2 workers, {start}"] = lambda loader=loader: use(loader)  # type: ignore[misc]
    if store != "jpeg":
        work["by HDF5, row by row"] = by_hdf5
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds + 1):
        for name, function in work.items():
            begin = time.perf_counter()
            function()
            if round_:  # the first is a warm-up; it also starts the workers
                times[name].append(time.perf_counter() - begin)
    print(f"{store}: {row / 1e3:.0f} kB an image{' once it is decoded' if store == 'jpeg' else ''}")
    print(f"  {'':28}{'images/s (min-max)':>28}{'GB/s':>8}{'of memory copy':>16}")
    for name, values in times.items():
        rates = sorted(COUNT / value for value in values)
        shares = [100 * a / b for a, b in zip(times["memory copy"], values, strict=True)]
        told = f"{statistics.median(rates):.0f} ({rates[0]:.0f}-{rates[-1]:.0f})"
        speed = statistics.median(rates) * row / 1e9
        print(f"  {name:28}{told:>28}{speed:8.2f}{statistics.median(shares):14.0f} %")


if __name__ == "__main__":
    main()
