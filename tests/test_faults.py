"""Faults of the machine: a full disk, a reader that is gone, too little memory, Ctrl-C, characters that are missing."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import evaluate
import train
from caption import checkpoint
from caption.captioner import Captioner
from caption.config.cli import run
from caption.data.dataset import build_loader
from caption.errors import UserError

ROOT = Path(__file__).parents[1]
SMALL = ["--decoder.embedding-dim", "16", "--decoder.hidden-dim", "16", "--decoder.attention-dim", "16"]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writing more than `size` bytes to a file fail, as on a full disk."""
    resource = pytest.importorskip("resource", reason="needs limits on processes")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def start(code: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a script whose `main(arguments)` has this body."""
    lines = ["import os, sys", "from caption.config.cli import run", "def main(arguments):", *code.splitlines()]
    script = "\n".join([*lines[:3], *("    " + line for line in lines[3:]), "run(main)"])
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, check=False, **options)


@pytest.fixture
def message(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[Callable[[], Any]], str]:
    """Return what `run` prints about the error that a function raises; its exit code is 2."""

    def get(work: Callable[[], Any]) -> str:
        for owner, name in ((sys, "stdout"), (sys, "stderr"), (threading, "excepthook")):
            monkeypatch.setattr(owner, name, getattr(owner, name))  # to have it back
        with pytest.raises(SystemExit) as stop:
            run(lambda arguments: work())
        error = capfd.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("error: ")
        return error

    return get


def test_training_on_a_full_disk_names_the_file_and_resumes(shapes: Path, tmp_path: Path, message: Any) -> None:
    """PyTorch's error would be a RuntimeError about a position."""
    command = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / "run"), *SMALL, "--training.epochs"]
    train.main([*command, "1"])
    saved = (tmp_path / "run/last.pt").read_bytes()
    content = checkpoint.load(tmp_path / "run/last.pt")

    def again() -> None:
        with largest_file(len(saved) // 2):
            checkpoint.save(tmp_path / "run/last.pt", content)

    assert f"{tmp_path}/run/last.pt: File too large; what was finished is whole; make room and" in message(again)
    assert (tmp_path / "run/last.pt").read_bytes() == saved and not list(tmp_path.glob("run/*.part"))
    train.main(["--resume", str(tmp_path / "run")])

    def whole_run() -> None:
        with largest_file(100_000):
            train.main([*command[:3], "--output", str(tmp_path / "new"), *SMALL, "--training.epochs", "1"])

    assert f"{tmp_path}/new/last.pt: File too large" in message(whole_run)
    train.main([*command[:3], "--output", str(tmp_path / "new"), *SMALL, "--training.epochs", "1"])
    assert checkpoint.load(tmp_path / "new/last.pt")["model"].keys() == content["model"].keys()


def test_an_append_to_a_full_disk_names_the_log(tmp_path: Path, message: Any) -> None:
    from caption.training.run_dir import RunLog

    log = RunLog(tmp_path, 1)

    def write() -> None:
        with largest_file(0):
            log._write_events({"epoch": 1, "train": {"loss": 1.0}})

    assert f"{tmp_path / 'tensorboard'}: File too large" in message(write)


@needs_fork
def test_training_goes_on_without_a_reader_of_its_output(shapes: Path, tmp_path: Path) -> None:
    """`train.py | head -1`: the pipe is closed before the first line."""
    command = ["train.py", "shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, *command, "--training.epochs", "1"], cwd=ROOT, stdout=writer, stderr=writer, check=False
    )
    os.close(writer)
    assert done.returncode == 0
    assert (tmp_path / "best.pt").exists() and (tmp_path / "log.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("way", ["pipe", "closed", "full"])
def test_printing_outlives_its_reader(tmp_path: Path, way: str) -> None:
    """More lines than any buffer holds, on both streams, and what comes after them."""
    code = f"""for i in range(3000):
    print('line', i)
    print('line', i, file=sys.stderr)
sys.stderr.isatty()
open({str(tmp_path / "reached")!r}, 'w').close()"""
    if way == "closed":  # as `>&- 2>&-` in a shell
        done = start(code, preexec_fn=lambda: (os.close(1), os.close(2)))
    else:
        reader, target = os.pipe() if way == "pipe" else (None, os.open("/dev/full", os.O_WRONLY))
        if reader is not None:
            os.close(reader)
        done = start(code, stdout=target, stderr=target)
        os.close(target)
    assert done.returncode == 0 and (tmp_path / "reached").exists()


def test_lines_are_flushed_as_they_are_printed() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = start("print('epoch 1'); os._exit(0)", stdout=subprocess.PIPE, env=environment)
    assert done.stdout == "epoch 1\n"


def test_scores_are_written_before_they_are_printed(
    shapes: Path, captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path / "best.pt", captioner.eval().to_checkpoint())

    def fail(*scores: object) -> str:
        raise UserError("printed")

    monkeypatch.setattr(evaluate, "score_table", fail)
    with pytest.raises(UserError, match="printed"):
        evaluate.main(["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes), "--no-java"])
    assert (tmp_path / "scores_test.json").exists() and (tmp_path / "captions_test.json").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_nothing_printed_raises(shapes: Path, encoding: str) -> None:
    """Neither characters that the terminal lacks nor file names that are not UTF-8."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    options: dict[str, Any] = {"env": environment, "capture_output": True}
    done = start("print('█', os.fsdecode(b'caf\\xe9')); print('after')", encoding=encoding, **options)
    block = "█" if encoding == "utf-8" else "\\u2588"
    assert done.stdout == f"{block} caf\\udce9\nafter\n" and done.returncode == 0
    info = subprocess.run(
        [sys.executable, "-m", "preprocess", "info", str(shapes)], cwd=ROOT, encoding=encoding, check=False, **options
    )
    assert info.returncode == 0 and "#####" in info.stdout and "\\u" not in info.stdout


def test_a_name_that_is_not_utf8_is_written_or_refused_in_one_line(
    shapes: Path, captioner: Captioner, tmp_path: Path, message: Any
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has only UTF-8")
    checkpoint.save(folder / "best.pt", captioner.eval().to_checkpoint())
    evaluate.main(["--checkpoint", str(folder / "best.pt"), "--data", str(shapes), "--no-java"])
    assert (folder / "scores_test.json").exists()
    command = ["shapes-soft", "--data", str(shapes), "--output", str(folder / "run"), *SMALL]
    assert "holds bytes that are not UTF-8" in message(lambda: train.main(command))  # TensorBoard writes none


def test_errors_of_the_machine_are_one_line_with_the_remedy(message: Any) -> None:
    def fail(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    assert message(fail(UserError("first\n  second\n\nthird"))) == "error: first second third\n"
    assert "out of memory" in message(fail(MemoryError())) and "smaller batch" in message(fail(MemoryError()))
    assert "can't allocate memory" in message(lambda: torch.empty(2**50))
    assert message(lambda: torch.empty(2**50)).endswith("give a smaller batch size\n")
    full = OSError(errno.ENOSPC, "No space left on device", "x.pt")
    assert message(fail(full)).startswith("error: x.pt: No space left on device; what was finished is whole")
    with pytest.raises(RuntimeError, match="fault of the program"):
        run(lambda arguments: fail(RuntimeError("fault of the program"))())


class Failing(torch.utils.data.Dataset):
    """Data whose workers are killed, or raise an error of the user's."""

    def __init__(self, killed: bool) -> None:
        self.killed = killed

    def __getitems__(self, items: list[int]) -> Any:
        if self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("data.h5: is cut off")


@needs_fork
@pytest.mark.parametrize("killed", [True, False])
def test_an_error_of_a_data_worker_is_one_line(message: Any, killed: bool) -> None:
    line = message(lambda: list(build_loader(Failing(killed), [[0], [1]], workers=1)))
    if killed:
        assert "DataLoader worker (pid" in line and line.endswith("killed for lack of memory; give fewer workers\n")
    else:
        assert line == "error: data.h5: is cut off\n"


@needs_fork
@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "caption_image.py", "-m preprocess"])
def test_ctrl_c_during_the_imports_leaves_no_traceback(tmp_path: Path, script: str) -> None:
    """Nor does a module that catches it go on; where Ctrl-C is ignored, it still is."""
    catching = (
        "try: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt as error: raise ImportError from error"
    )
    (tmp_path / "numpy.py").write_text(f"import os, signal\n{catching}\nprint('went on')\nsys.exit(3)")
    (tmp_path / "torch.py").write_text((tmp_path / "numpy.py").read_text())
    for handler, code in ((signal.SIG_DFL, -signal.SIGINT), (signal.SIG_IGN, 1)):
        done = subprocess.run(
            [sys.executable, *script.split()], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            preexec_fn=lambda handler=handler: signal.signal(signal.SIGINT, handler),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code and ("went on" in done.stdout) == (handler == signal.SIG_IGN)
        assert handler == signal.SIG_IGN or done.stderr == ""
