"""Merged shards equal a single run; info and verify show and check the contents of a file."""

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_manifest
from caption.errors import UserError
from preprocess.__main__ import main as preprocess

COUNT = 70


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    lines = ["file_name,caption"]
    for number in range(COUNT):
        path = folder / f"images/{number}.png"
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        lines += [f"{number}.png,a dog number {number % 5} {word}" for word in "abc"[: 1 + number % 3]]
    (folder / "images/40.png").write_bytes(b"")  # left out in one of the shards
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def build(source: Path, output: Path, *more: str) -> Path:
    args = ["folder", "--images", str(source / "images"), "--captions", str(source / "captions.csv"), "--size", "16"]
    args += ["--min-count", "1", "--workers", "0", "--on-error", "skip", "--output", str(output)]
    preprocess([*args, *more])
    return output


def contents(path: Path) -> dict[str, object]:
    """Return every data set as any HDF5 tool reads it."""
    data_sets: dict[str, object] = {"manifest": read_manifest(path)}
    with h5py.File(path) as file:
        for split in (None, "train", "val", "test"):
            for name, data in (file[split] if split else {"vocabulary": file["vocabulary"]}).items():
                data_sets[f"{split}/{name}"] = data[:].tolist()
    return data_sets


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
@pytest.mark.parametrize("copy", [False, True])
def test_merged_shards_equal_a_single_run(
    source: Path, tmp_path: Path, store: str, copy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    complete = build(source, tmp_path / "complete.h5", "--store", store)
    (tmp_path / "shards").mkdir()
    shards = [build(source, tmp_path / f"shards/{n}.h5", "--store", store, "--shard", f"{n}/16") for n in range(1, 17)]
    joined = tmp_path / "joined.h5"
    preprocess(["merge", *map(str, shards[::-1]), "--output", str(joined), *(["--copy"] if copy else [])])
    assert contents(joined) == contents(complete)
    for split in ("train", "val", "test"):
        one, two = CaptionDataset(complete, split), CaptionDataset(joined, split)
        everything = range(len(one))
        assert bool((one.read_images(everything) == two.read_images(everything)).all())
    preprocess(["verify", str(joined)])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    joined.replace(moved / "joined.h5")
    (tmp_path / "shards").replace(moved / "shards")  # both together
    assert len(CaptionDataset(moved / "joined.h5", "train").read_images([0])) == 1
    if not copy:
        (moved / "shards/3.h5").unlink()
        with pytest.raises(UserError, match=r"3\.h5: no such data file"):
            CaptionDataset(moved / "joined.h5", "train")


def test_shards_that_do_not_belong_together_are_refused(source: Path, tmp_path: Path) -> None:
    one, two = (build(source, tmp_path / f"{n}.h5", "--shard", f"{n}/2") for n in (1, 2))
    other = build(source, tmp_path / "other.h5", "--shard", "2/2", "--size", "8")
    complete = build(source, tmp_path / "complete.h5")
    for files, message in (
        ([one], "shard 2/2 is missing; give all 2"),
        ([one, two, two], "a shard is given twice"),
        ([one, other], "other options, than"),
        ([one, complete], "is a complete data set, not a shard"),
    ):
        with pytest.raises(UserError, match=message):
            preprocess(["merge", *map(str, files), "--output", str(tmp_path / "no.h5")])
    assert not list(tmp_path.glob("no.h5*"))
    with pytest.raises(UserError, match="--shard is '3/2', but must be like 3/16"):
        build(source, tmp_path / "no.h5", "--shard", "3/2")
    with pytest.raises(UserError, match="exists already"):
        preprocess(["merge", str(one), str(two), "--output", str(complete)])


def test_a_shard_with_bad_images_only_can_be_merged(source: Path, tmp_path: Path) -> None:
    complete = build(source, tmp_path / "complete.h5")
    shards = [build(source, tmp_path / f"{n}.h5", "--shard", f"{n}/{COUNT}") for n in range(1, COUNT + 1)]
    assert sum(sum(counts["images"] for counts in read_manifest(s)["splits"].values()) == 0 for s in shards) == 1
    preprocess(["merge", *map(str, shards), "--output", str(tmp_path / "joined.h5")])
    assert contents(tmp_path / "joined.h5") == contents(complete)


def test_merge_and_info_refuse_invalid_arguments(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = [str(build(source, tmp_path / f"{n}.h5", "--shard", f"{n}/2")) for n in (1, 2)]
    with pytest.raises(UserError, match=r"1\.h5: is one of the shards"):
        preprocess(["merge", *shards, "--output", shards[0], "--overwrite"])
    preprocess(["verify", shards[0]])
    preprocess(["info", shards[0]])  # without images of val
    assert "val: 0 images" in capsys.readouterr().out
    for more in (["--count", "0"], ["--seed", "-1"], ["--montage", "montage.docx"]):
        with pytest.raises(UserError, match="must"):
            preprocess(["info", shards[0], *more])
    preprocess(["merge", *shards, "--output", str(tmp_path / "joined.h5")])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link.h5").symlink_to(tmp_path / "joined.h5")
    preprocess(["verify", str(tmp_path / "elsewhere/link.h5")])


def test_a_virtual_data_set_does_not_store_the_time(source: Path, tmp_path: Path) -> None:
    """HDF5 would by default write the time into the virtual data set that skips left-out images."""
    one = build(source, tmp_path / "one.h5")
    time.sleep(1.1)
    assert one.read_bytes() == build(source, tmp_path / "two.h5").read_bytes()


def test_verify_reports_damage_in_one_line(source: Path, tmp_path: Path) -> None:
    path = build(source, tmp_path / "out.h5")
    with h5py.File(path, "r+") as file:
        del file["val/words"]
    with pytest.raises(UserError, match="val/words"):
        preprocess(["verify", str(path)])
    with h5py.File(path, "r+") as file:
        del file["manifest"]
    with pytest.raises(UserError, match="is damaged"):
        preprocess(["verify", str(path)])


def test_info_prints_counts_and_draws_a_montage(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(source, tmp_path / "out.h5")
    capsys.readouterr()
    preprocess(["info", str(path), "--montage", str(tmp_path / "montage.png"), "--count", "5"])
    output = capsys.readouterr().out
    counts = read_manifest(path)["splits"]["train"]
    assert f"train: {counts['images']} images, {counts['captions']} captions" in output
    assert "words in the vocabulary: 100.00 %" in output
    assert "words per caption: mean 5.0, median 5, longest 5" in output
    assert "size: 16" in output and "a dog number" in output
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"mine\.png: exists already, and is not written by"):
        preprocess(["info", str(path), "--montage", str(tmp_path / "mine.png")])
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    preprocess(["info", str(path), "--montage", str(tmp_path / "montage.png"), "--count", "5"])  # draws it again
    with Image.open(tmp_path / "montage.png") as montage:
        assert montage.width > 1000 and np.asarray(montage.convert("L")).std() > 20
