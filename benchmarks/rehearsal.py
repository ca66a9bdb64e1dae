"""A rehearsal of COCO: 123,287 images, 616,767 captions, Karpathy's splits; time, memory, and the file's size.

    python -m benchmarks.rehearsal [--store jpeg] [--count 123287] [--folder /tmp]       (on Linux)

The images are 300 JPEGs of 640x480, about 150 kB each, under COCO's names (hard links). The JSON is like
dataset_coco.json: words sampled by Zipf's law, lengths like COCO's. Needs 19 GB of disk for pixels.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.preprocess import DIFFERENT, make_images

IMAGES, CAPTIONS = 123_287, 616_767
VAL = TEST = 5_000
WORDS = 30_000  # different ones
RUN = """
import resource, sys, time
from preprocess.__main__ import main
start = time.perf_counter()
main(sys.argv[2:])
taken = time.perf_counter() - start
# ru_maxrss of a process begins with that of the one that started it; Linux's VmHWM is its own.
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"{taken:.0f} s, {int(sys.argv[1]) / taken:.0f} images/s; "
      f"peak memory: main process {own / 1024:.0f} MB, largest worker {workers / 1024:.0f} MB")
"""


def make_coco(folder: Path, count: int) -> tuple[Path, Path]:
    """A folder of so many images, and Karpathy's JSON of them."""
    different = make_images(folder / "different", DIFFERENT)
    images = folder / "coco"
    for name in ("train2014", "val2014"):
        (images / name).mkdir(parents=True)
    generator = np.random.default_rng(1)
    words = np.array([f"w{n:x}" for n in range(WORDS)])
    chances = 1 / np.arange(1, WORDS + 1)
    extra = round(count * (CAPTIONS / IMAGES - 5))  # a few have six
    with (folder / "dataset_coco.json").open("w") as file:
        file.write('{"dataset": "coco", "images": [')
        for number in range(count):
            captions = 5 + (number < extra)
            lengths = 7 + generator.negative_binomial(5.2, 0.6, captions)
            sampled = words[generator.choice(WORDS, lengths.sum(), p=chances / chances.sum())]
            texts = [" ".join(part) for part in np.split(sampled, np.cumsum(lengths)[:-1])]
            place = number / count * IMAGES
            split = (
                "test" if place < TEST else "val" if place < VAL + TEST else "restval" if place < 40_504 else "train"
            )
            where = "train2014" if split == "train" else "val2014"
            name = f"COCO_{where}_{number:012d}.jpg"
            os.link(different[number % DIFFERENT], images / where / name)
            entry = {
                "filepath": where,
                "sentids": list(range(5 * number, 5 * number + captions)),
                "filename": name,
                "imgid": number,
                "split": split,
                "sentences": [
                    {"tokens": text.split(), "raw": f"{text.capitalize()}.", "imgid": number, "sentid": 5 * number + i}
                    for i, text in enumerate(texts)
                ],
                "cocoid": number,
            }
            file.write(("," if number else "") + json.dumps(entry))
        file.write("]}")
    return images, folder / "dataset_coco.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=IMAGES)
    parser.add_argument("--store", choices=("pixels", "jpeg"), default="pixels")
    parser.add_argument("--folder", default=".")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        images, path = make_coco(Path(name), args.count)
        print(f"{args.count} images; {path.name} has {path.stat().st_size / 1e6:.0f} MB", flush=True)
        given = ["karpathy", "--images", str(images), "--json", str(path), "--output", "coco.h5", "--store", args.store]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", RUN, str(args.count), *given]
        subprocess.run(command, check=True, cwd=name, env=environment)


if __name__ == "__main__":
    main()
