"""A disk that is full ends preprocessing with one error that names the file, and what was done is kept.

A limit on the size of a file stands for the disk; it needs no rights, and HDF5 sees the same failing calls.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.__main__ import main as preprocess
from preprocess.merge import Merge

resource = pytest.importorskip("resource", reason="needs limits on processes")
REASONS = ("File too large", "No space left on device")  # the second one where a part was written
ENDED = 7  # exit code of a child that met the error it should


def command(folder: Path, output: Path, store: str) -> list[str]:
    args = ["folder", "--images", str(folder), "--captions", str(folder / "captions.csv"), "--output", str(output)]
    return [*args, "--size", "32", "--min-count", "1", "--store", store, "--workers", "0"]


def run_limited(args: list[str], size: int, log: Path) -> int:
    """Run a command in a forked child that cannot write files of more than `size` bytes; return its exit code."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
            preprocess(args)
            status = 0
        except OSError as error:
            log.write_text(f"{error.filename}: {error.strerror}")
            status = ENDED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some images and their many captions, which are written last."""
    folder, generator, lines = tmp_path_factory.mktemp("images"), np.random.default_rng(0), ["file_name,caption"]
    for number in range(20):
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number}.png")
        for caption in range(40):
            words = " ".join(f"word{n}" for n in generator.integers(0, 3000, 12))
            lines.append(f"{number}.png,a dog {caption} {words}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_a_full_disk_is_an_error_that_names_the_file_and_the_work_resumes(
    source: Path, tmp_path: Path, store: str
) -> None:
    """HDF5 crashes where its own writes fail."""
    complete, output, log = tmp_path / "complete.h5", tmp_path / "out.h5", tmp_path / "log"
    preprocess(command(source, complete, store))
    size = complete.stat().st_size
    for limit in np.linspace(size // 20, size - 1, 8).astype(int).tolist():
        assert run_limited(command(source, output, store), limit, log) == ENDED, limit
        name, reason = log.read_text().rsplit(": ", 1)
        assert Path(name).parent == Path(f"{output}.part") and reason in REASONS
        assert not output.exists()
    preprocess(command(source, output, store))
    assert output.read_bytes() == complete.read_bytes()


def test_merging_onto_a_full_disk_is_an_error_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    shards = [str(tmp_path / f"{number}.h5") for number in (1, 2)]
    for number, shard in enumerate(shards, 1):
        preprocess([*command(source, Path(shard), "pixels"), "--shard", f"{number}/2"])
    Merge(tuple(shards), str(tmp_path / "whole.h5"), copy=True).run()
    size = (tmp_path / "whole.h5").stat().st_size
    for limit in np.linspace(1000, size - 1, 6).astype(int).tolist():
        args = ["merge", *shards, "--output", str(tmp_path / "all.h5"), "--copy"]
        assert run_limited(args, limit, tmp_path / "log") == ENDED, limit
        assert (tmp_path / "log").read_text() == f"{tmp_path / 'all.h5'}: File too large"
    assert sorted(path.name for path in tmp_path.glob("all*")) == []


def test_a_montage_on_a_full_disk_leaves_no_half_file(source: Path, tmp_path: Path) -> None:
    preprocess(command(source, tmp_path / "data.h5", "pixels"))
    args = ["info", str(tmp_path / "data.h5"), "--montage", str(tmp_path / "montage.png")]
    assert run_limited(args, 1000, tmp_path / "log") == ENDED
    assert (tmp_path / "log").read_text() == f"{tmp_path / 'montage.png'}: File too large"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.h5", "log"]
