"""Damage files in thousands of ways and read them as the programs do: `python tests/fuzz/fuzz.py all --cases 2000`.

A damaged file may be refused, in one line, or read as what it was; anything else is a fault: another exception, a
message of several lines, a case that takes too long, or content that changed although a digest is kept of it. Each kind
of file is a generator of cases from a seed. The last line says how many were refused and how many were harmless.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
import numpy as np
import torch
from PIL import Image

import evaluate
from caption import checkpoint
from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig
from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import SPLITS, read_image_config, read_vocabulary
from caption.data.images import open_image
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation import results
from caption.evaluation.grounding import read_instances
from caption.training import run_dir
from preprocess.__main__ import main as preprocess
from preprocess.verify import Verify

SECONDS = 10.0  # that a case may take
NUMBERS = (b"-1", b"0", b"1e400", b"NaN", b"99999999999999999999", b"1e30", b"null", b'"x"', b"[]", b"{}", b"true")
LETTERS = ("\x00", "\u200b", "\u0301", "\U0001f600", "\ufeff", "\n", "\r", '"', ",", "\\", "<script>", "\udcff")

Case = tuple[str, Callable[[], Any], Any]  # what was done, how it is read, and what was there (None: anything goes)


def damage(content: bytes, random: Random) -> tuple[str, bytes]:
    """Damage bytes in one of the ways that disks, transfers and editors have."""
    at, length = random.randrange(len(content)), min(len(content), 1 << random.randrange(13))
    kind = random.choice(["flip", "byte", "zeros", "noise", "cut", "delete", "repeat", "swap", "empty", "append"])
    changed = bytearray(content)
    if kind == "flip":
        changed[at] ^= 1 << random.randrange(8)
    elif kind == "byte":
        changed[at] = random.randrange(256)
    elif kind == "zeros":
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    elif kind == "noise":
        changed[at : at + length] = random.randbytes(len(changed[at : at + length]))
    elif kind == "cut":
        del changed[at:]
    elif kind == "delete":
        del changed[at : at + length]
    elif kind == "repeat":
        changed[at:at] = changed[at : at + length]
    elif kind == "swap":
        changed = changed[at:] + changed[:at]
    elif kind == "empty":
        changed.clear()
    else:
        changed += random.randbytes(length)
    return f"{kind} at {at} of {len(content)}", bytes(changed)


def damage_text(content: bytes, random: Random) -> tuple[str, bytes]:
    """Damage a text as bytes, or put a value where another was expected."""
    kind = random.choice(["bytes", "number", "letter", "name", "nest"])
    if kind == "bytes":
        return damage(content, random)
    at = random.randrange(len(content))
    if kind == "number":
        digits = [i for i, byte in enumerate(content) if 48 <= byte < 58 and not 48 <= content[i - 1] < 58]
        start = random.choice(digits or [at])
        end = start
        while end < len(content) and content[end] in b"0123456789.-+eE":
            end += 1
        return f"number at {start}", content[:start] + random.choice(NUMBERS) + content[max(end, start + 1) :]
    if kind == "letter":
        letter = random.choice(LETTERS)
        return f"{letter!r} at {at}", content[:at] + letter.encode("utf-8", "surrogatepass") + content[at:]
    if kind == "name":  # of a key, a field or a word
        words = [word for word in content.replace(b'"', b" ").replace(b",", b" ").split() if len(word) > 2]
        word = random.choice(words or [b"x"])
        return f"{word[:20]!r} renamed", content.replace(word, word[::-1], random.choice([1, -1]))
    return f"nested at {at}", content[:at] + b"[" * random.choice([3, 50_000]) + content[at:]


def plain(value: Any) -> Any:
    """Bring what was read into a form that `==` compares."""
    if isinstance(value, torch.Tensor):
        return plain(value.numpy())
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def make_captioner(data: Path) -> Captioner:
    torch.manual_seed(0)
    encoder = EncoderConfig(name="small_cnn", finetune_from="all")
    decoder = DecoderConfig(embedding_dim=8, hidden_dim=8, attention_dim=8)
    return Captioner(read_image_config(data), encoder, decoder, read_vocabulary(data))


def make_data(folder: Path) -> Path:
    """A data file of drawn shapes with its images beside it."""
    arguments = ["--output", str(folder / "data.h5"), "--save-images", str(folder), "--size", "32"]
    preprocess(["shapes", *arguments, "--count", "12", "5", "5", "--min-count", "1", "--workers", "0"])
    return folder / "data.h5"


def checkpoints(random: Random, folder: Path) -> Iterator[Case]:
    """best.pt, as a captioner and as a dict."""
    path, damaged = folder / "best.pt", folder / "damaged.pt"
    checkpoint.save(path, make_captioner(make_data(folder)).to_checkpoint())
    whole = plain(checkpoint.load(path))

    def read() -> Any:
        Captioner.load(damaged)
        return plain(checkpoint.load(damaged))

    while True:
        what, content = damage(path.read_bytes(), random)
        damaged.write_bytes(content)
        yield what, read, whole


def data_files(random: Random, folder: Path) -> Iterator[Case]:
    """Data files of each store, all that training and evaluation read of them; image records by `verify` at the
    latest."""
    pixels = make_data(folder)
    rows = [f"{path.name},a small red circle,train" for path in sorted(folder.glob("*.png"))]
    (folder / "captions.csv").write_text("\n".join(["file_name,caption,split", *rows]))
    (folder / "images").mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder / "images" / path.name)
    common = ["folder", "--images", str(folder / "images"), "--captions", str(folder / "captions.csv"), "--size", "32"]
    preprocess([*common, "--output", str(folder / "jpeg.h5"), "--store", "jpeg", "--min-count", "1", "--workers", "0"])
    damaged = folder / "damaged.h5"

    def read(path: Path, names: Sequence[str]) -> Any:
        content: list[Any] = [read_vocabulary(path).words, read_image_config(path)]
        for split in (CaptionDataset(path, name) for name in names):
            words = [split.captions(index) for index in range(len(split))]
            images = split.read_images(range(len(split)))
            content.append([split.image_ids, split.file_names, split.references(), words, images])
        return plain(content)

    def read_damaged(whole: Any, names: Sequence[str]) -> Any:
        found = read(damaged, names)
        if found != whole:
            Verify(str(damaged)).run()  # raises, or the change is a fault
        return found

    files = {pixels: SPLITS, folder / "jpeg.h5": ("train",)}
    contents = {path: read(path, names) for path, names in files.items()}
    while True:
        path = random.choice([*files])
        whole, names = contents[path], files[path]
        what, content = damage(path.read_bytes(), random)
        damaged.write_bytes(content)
        yield f"{path.name}: {what}", lambda whole=whole, names=names: read_damaged(whole, names), whole


def lists(random: Random, folder: Path) -> Iterator[Case]:
    """Lists of captions in every format that is read, and instance files."""
    data = make_data(folder)
    images = sorted(path.name for path in folder.glob("*.png"))
    (folder / "images").mkdir()
    for name in images:
        (folder / name).rename(folder / "images" / name)
    texts = [(name, f"a small {word} circle") for name in images for word in ("red", "blue")]
    rows = [f'{name},"{text}",{"train" if i < 6 else "val"}' for i, (name, text) in enumerate(texts)]
    coco = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(images)],
        "annotations": [{"id": i, "image_id": i // 2, "caption": text} for i, (_, text) in enumerate(texts)],
    }
    sentences = [{"tokens": text.split(), "raw": text} for _, text in texts[:2]]
    karpathy = {
        "dataset": "coco",
        "images": [
            {"filename": n, "split": "train", "sentences": sentences, "cocoid": i} for i, n in enumerate(images)
        ],
    }
    written = {
        "list.csv": "\n".join(["file_name,caption,split", *rows]),
        "list.jsonl": "\n".join(json.dumps({"file_name": name, "caption": text}) for name, text in texts),
        "list.token": "\n".join(f"{name}#{i % 2}\t{text}" for i, (name, text) in enumerate(texts)),
        "coco.json": json.dumps(coco),
        "karpathy.json": json.dumps(karpathy),
        "instances.json": (folder / "data_instances.json").read_text(),
    }
    split = CaptionDataset(data, "test")
    while True:
        name, text = random.choice([*written.items()])
        what, content = damage_text(text.encode(), random)
        path = folder / f"damaged-{name}"
        path.write_bytes(content)
        flags = {
            "coco.json": ["coco", "--captions", str(path), "--split", "train"],
            "karpathy.json": ["karpathy", "--json", str(path)],
        }.get(name, ["folder", "--captions", str(path), "--val", "0.2", "--test", "0"])
        common = ["--images", str(folder / "images"), "--size", "8", "--min-count", "1", "--workers", "0"]
        flags += [
            *common,
            "--output",
            str(folder / "out.h5"),
            "--overwrite",
            "--on-error",
            random.choice(["stop", "skip"]),
        ]

        def read(name: str = name, path: Path = path, flags: list[str] = flags) -> Any:
            if name == "instances.json":
                instances = read_instances(str(path), split)
                assert instances is not None
                grid, even = FeatureGrid.even(2, 2, 32), np.full((3, 4), 0.25)
                return [instances.count(["small", "red", "circle"], even, image, grid) for image in split.image_ids]
            return preprocess(flags)

        yield f"{name}: {what}", read, None


def images(random: Random, folder: Path) -> Iterator[Case]:
    """Image files of every kind that is read."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8))
    for ending in ("jpg", "png", "gif", "bmp", "tif", "webp"):
        image.save(folder / f"whole.{ending}")
    image.save(folder / "progressive.jpg", progressive=True)
    image.convert("L").save(folder / "grey.png")
    Image.fromarray(generator.integers(0, 65536, (40, 50), np.uint16)).save(folder / "deep.png")
    files = sorted(folder.iterdir())

    def read(path: Path) -> Any:
        found = open_image(path, 24)
        assert found.mode == "RGB" and min(found.size) >= 1
        return None

    while True:
        source = random.choice(files)
        what, content = damage(source.read_bytes(), random)
        path = folder / f"damaged{source.suffix}"
        path.write_bytes(content)
        yield f"{source.name}: {what}", lambda path=path: read(path), None


def run_folders(random: Random, folder: Path) -> Iterator[Case]:
    """Damage the files of a run: its configuration and log, to resume from, and its scores, to compare."""
    data, run = make_data(folder), folder / "run"
    import train

    flags = ["--data", str(data), "--output", str(run), "--training.epochs", "1", "--decoder.hidden-dim", "8"]
    train.main(["shapes-soft", *flags, "--decoder.embedding-dim", "8", "--decoder.attention-dim", "8"])
    command = ["--checkpoint", str(run / "best.pt"), "--data", str(data), "--split", "test", "--no-java"]
    evaluate.main([*command, "--max-length", "4"])
    damaged, split = folder / "damaged", CaptionDataset(data, "test")
    names = ("config.json", "log.jsonl", "scores_test.json")

    def read(name: str) -> Any:
        if name == "scores_test.json":
            results.arrange_captions(results.read_scores(str(damaged), "test"), split)
        else:
            run_dir.read_config(damaged)
            run_dir.RunLog(damaged, 2).events.close()

    while True:
        name = random.choice(names)
        shutil.rmtree(damaged, ignore_errors=True)
        damaged.mkdir()
        for each in names:
            (damaged / each).write_bytes((run / each).read_bytes())
        what, content = damage_text((run / name).read_bytes(), random)
        (damaged / name).write_bytes(content)
        yield f"{name}: {what}", lambda name=name: read(name), None


KINDS: dict[str, Callable[[Random, Path], Iterator[Case]]] = {
    each.__name__: each for each in (checkpoints, data_files, lists, images, run_folders)
}


def run(kind: str, seed: int, cases: int) -> tuple[Counter[str], list[str]]:
    """Run so many cases; return how many had which outcome, and the faults."""
    outcomes: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        generator = KINDS[kind](Random(seed), Path(folder))
        for number in range(cases):
            what, read, whole = next(generator)
            print(f"{kind} {seed} {number}: {what}", file=sys.stderr, flush=True)  # the last line names a crash
            start, fault = time.monotonic(), ""
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    found = read()
                fault = "" if whole is None or found == whole else "changed, and nothing says so"
                outcomes["harmless"] += 1
            except (UserError, OSError) as error:  # caption.config.cli.run prints both in one line
                fault = f"several lines: {error}" if "\n" in str(error) else ""
                outcomes["refused"] += 1
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                fault = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:120]}"
            if time.monotonic() - start > SECONDS:
                fault = fault or f"took {time.monotonic() - start:.0f} s"
            if fault:
                faults.append(f"{kind} {seed} {number}: {what}: {fault}")
    return outcomes, faults


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["all", *KINDS])
    parser.add_argument("--cases", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    found = []
    for kind in KINDS if args.kind == "all" else [args.kind]:
        outcomes, faults = run(kind, args.seed, args.cases)
        found += faults
        print(*faults, sep="\n", end="\n" if faults else "")
        print(f"{kind}: {args.cases} cases, {outcomes['refused']} refused, {outcomes['harmless']} harmless, "
              f"{len(faults)} faults", flush=True)  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
