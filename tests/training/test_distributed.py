"""Several processes and micro-batches give the losses, weights and captions of one process and whole batches."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import read_log

import evaluate
import train
from caption import checkpoint, distributed
from caption.attention import hard
from caption.captioner import Captioner
from caption.config import DecoderConfig, TrainingConfig
from caption.config.cli import run
from caption.data.dataset import CaptionDataset, build_loader, training_batches
from caption.errors import UserError
from caption.training import loop, objective

ROOT = Path(__file__).parents[2]
# A small trained encoder without batch statistics; batches that cannot be divided evenly; no dropout.
SMALL = [
    "--encoder.name", "recurrent_cnn", "--encoder.recurrence-steps", "2",
    "--decoder.embedding-dim", "16", "--decoder.hidden-dim", "16",
    "--decoder.attention-dim", "16", "--decoder.dropout", "0", "--decoder.state-dropout", "0", "--training.epochs", "2",
    "--training.batch-size", "13", "--training.warmup-steps", "0", "--search.max-length", "8", "--device", "cpu",
    "--training.precision", "fp32", "--training.max-grad-norm", "0.1", "--training.encoder-learning-rate", "2e-4",
]  # fmt: skip
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_processes(count: int, work: Callable[[], None]) -> list[int]:
    """Run a function in `count` forked processes, as torchrun would start them, and return their exit codes."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": store.port}
                os.environ.update(
                    {
                        "MASTER_ADDR": "127.0.0.1",
                        "TORCHELASTIC_USE_AGENT_STORE": "True",
                        **{name: str(value) for name, value in variables.items()},
                    }
                )
                work()
                status = 0
            except SystemExit as stop:
                status = int(stop.code or 0)
            except BaseException as error:
                print(f"process {rank}: {error!r}", file=sys.stderr)
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def script(main: Callable[[list[str]], None], *arguments: str) -> Callable[[], None]:
    """Return a function that does what a script does with these arguments; its errors are lines and exit codes."""

    def work() -> None:
        sys.argv[1:] = arguments
        run(main)

    return work


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    """Start two processes of train.py by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def descendants(number: int) -> list[int]:
    """Return the children of a process, and theirs, parents first."""
    children = [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    return children + [each for child in children for each in descendants(child)]


def at_call(monkeypatch: pytest.MonkeyPatch, number: int, rank: int, action: Callable[[], None]) -> None:
    """Let the process with this rank do something in its forward pass of this number, from 1."""
    forward, calls = objective.Objective.forward, []

    def acting(*inputs):
        calls.append(1)
        if len(calls) == number and os.environ.get("RANK") == str(rank):
            action()
        return forward(*inputs)

    monkeypatch.setattr(objective.Objective, "forward", acting)


def assert_same(one: Path, other: Path) -> None:
    """Assert that two runs are equal but for the order of sums.

    Adam scales every gradient to the same size, also one whose true value is zero; double precision has room for both.
    """
    a, b = (checkpoint.load(folder / "last.pt")["model"] for folder in (one, other))
    log_a, log_b = read_log(one), read_log(other)
    close = 1e-6 if a["decoder.embedding.weight"].dtype == torch.double else 2e-5
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=close, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    assert len(log_a) == len(log_b) == 2
    for record, also in zip(log_a, log_b, strict=True):
        for part in ("train", "val", "scores"):
            assert record[part] == pytest.approx(also[part], abs=close), part
        assert record["examples"] == also["examples"]


@forks
@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(
    "flags",
    [
        [],
        pytest.param(
            ["--training.accumulation-steps", "2", "--training.label-smoothing", "0.1"], marks=pytest.mark.slow
        ),
        ["--training.batch-by", "lengths"],
        pytest.param(["--decoder.name", "transformer", "--decoder.embedding-dim", "16"], marks=pytest.mark.slow),
        "--decoder.attention hard --training.reinforce.soft-probability 0 --training.reinforce.entropy 0.1".split(),
    ],
)
def test_two_processes_train_as_one(
    shapes: Path, tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Locations that are the same in all processes.
    monkeypatch.setattr(hard, "sample_location", lambda log_weights, argmax: log_weights.argmax(-1))

    def trained(folder: str) -> Callable[[], None]:
        arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / folder), *SMALL, *flags]
        return lambda: train.main(arguments)

    trained("one")()
    assert in_processes(2, trained("two")) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.usefixtures("_double")
def test_micro_batches_train_as_the_whole_batch(shapes: Path, tmp_path: Path) -> None:
    arguments = ["shapes-soft", "--data", str(shapes), *SMALL, "--output"]
    train.main([*arguments, str(tmp_path / "whole")])
    train.main([*arguments, str(tmp_path / "parts"), "--training.accumulation-steps", "3"])
    assert_same(tmp_path / "whole", tmp_path / "parts")


@forks
@pytest.mark.usefixtures("_double")
def test_a_run_resumes_with_another_number_of_processes(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two processes gets a signal in the middle of the second epoch: both save and exit; three resume and end as
    a single one would have."""
    arguments = ["shapes-soft", "--data", str(shapes), *SMALL, "--training.accumulation-steps", "2", "--output"]
    train.main([*arguments, str(tmp_path / "one")])
    at_call(monkeypatch, 12, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))  # in its sixth batch
    assert in_processes(2, lambda: train.main([*arguments, str(tmp_path / "more")])) == [130, 130]
    progress = checkpoint.load(tmp_path / "more" / "last.pt")["train_state"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (2, 2, 6)
    monkeypatch.undo()
    assert in_processes(3, lambda: train.main(["--resume", str(tmp_path / "more")])) == [0, 0, 0]
    assert_same(tmp_path / "one", tmp_path / "more")


@forks
def test_two_processes_evaluate_as_one(shapes: Path, tmp_path: Path) -> None:
    """The same scores and captions, with images divided unevenly; only rank 0 writes and prints."""
    train.main(["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL])
    arguments = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes), "--batch-size", "4", "--no-java"]
    arguments += ["--instances", str(shapes.with_name("shapes_instances.json"))]
    evaluate.main(arguments)
    one = json.loads((tmp_path / "scores_test.json").read_text())
    (tmp_path / "scores_test.json").unlink()
    assert in_processes(2, lambda: evaluate.main(arguments)) == [0, 0]
    two = json.loads((tmp_path / "scores_test.json").read_text())
    for part in ("scores", "intervals"):
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            assert two[part][name] == (value if value is None else pytest.approx(value, rel=1e-5)), name
    assert [each["caption"] for each in one["images"]] == [each["caption"] for each in two["images"]]


@pytest.mark.slow
def test_torchrun_trains_as_one_process(shapes: Path, tmp_path: Path) -> None:
    """The README's command."""
    arguments = ["shapes-soft", "--data", str(shapes), "--output"]
    train.main([*arguments, str(tmp_path / "one"), *SMALL])
    process = torchrun(*arguments, str(tmp_path / "two"), *SMALL)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.count("epoch 1:") == 1
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to find the processes")
@pytest.mark.parametrize("everyone", [False, True])
def test_a_run_under_torchrun_saves_when_a_scheduler_stops_it(shapes: Path, tmp_path: Path, everyone: bool) -> None:
    """SIGTERM comes while workers start, to torchrun, which forwards it, or also to every process, as from SLURM."""
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL, "--training.workers", "1"]
    process, last = torchrun(*arguments, "--training.epochs", "500"), tmp_path / "last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.1)
    before, start = last.stat().st_mtime_ns, time.monotonic()
    for number in descendants(process.pid) if everyone else []:
        os.kill(number, signal.SIGTERM)
    time.sleep(0.2)  # two signals at once would count as one
    process.terminate()
    errors = process.communicate()[1]
    assert time.monotonic() - start < 28, errors  # after 30 s, torchrun kills
    assert errors.count("stopped and saved; resume with") == 1 and "[rank" not in errors, errors
    assert last.stat().st_mtime_ns > before and checkpoint.load(last)["train_state"]["step"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to find the processes")
def test_a_process_killed_under_torchrun_is_named(shapes: Path, tmp_path: Path) -> None:
    """With workers, which hold its connections open for some seconds."""
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL, "--training.workers", "1"]
    process, last = torchrun(*arguments, "--training.epochs", "500"), tmp_path / "last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.1)
    start = time.monotonic()
    variables = {child: Path(f"/proc/{child}/environ").read_text().split("\0") for child in descendants(process.pid)}
    os.kill(next(child for child, each in variables.items() if "RANK=1" in each), signal.SIGKILL)  # not its workers
    errors = process.communicate()[1]
    assert time.monotonic() - start < 28, errors
    assert process.returncode and errors.count("error: no answer from process 1 of 2") == 1, errors
    assert "[rank" not in errors and checkpoint.load(last)["train_state"]["step"] > 0


@pytest.mark.parametrize("batch_by", ["images", "mixed", "lengths"])
@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (3, 1), (2, 2)])
def test_every_caption_is_read_once_per_epoch(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, batch_by: str, processes: int, parts: int
) -> None:
    """By all processes together, without padding batches; and every process has as many micro-batches."""
    data = CaptionDataset(shapes, "train")
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    words: list[list[int]] = []
    lengths = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        rows, batches = training_batches(data, batch_by, 7, seed=1)
        loader = build_loader(distributed.PaddingBatches(rows), distributed.DistributedBatches(batches, parts))
        lengths.append(len([*loader]))
        assert lengths[-1] == len(loader) == len(batches) * parts
        for batch in loader:
            there = (batch.lengths > 0).nonzero().tolist()
            words += [batch.captions[b, q, : batch.lengths[b, q] - 1].tolist() for b, q in there]
    assert len(set(lengths)) == 1
    assert sorted(words) == sorted(data.caption(number).tolist() for number in range(len(data.lengths)))


@pytest.mark.parametrize("decoder", ["show_attend_tell", "transformer"])
@pytest.mark.parametrize("sample", [False, True])
def test_padding_batches_count_nowhere(captioner: Captioner, shapes: Path, decoder: str, sample: bool) -> None:
    """No words, captions or rewards, and gradients of zero, which exist because the other processes wait for them."""
    selection = "hard" if sample and decoder == "show_attend_tell" else "soft"
    config = DecoderConfig(name=decoder, embedding_dim=16, hidden_dim=16, attention_dim=16, attention=selection)
    captioner = Captioner(captioner.image, captioner.configs["encoder"], config, captioner.vocabulary)
    model = objective.Objective(captioner, TrainingConfig(precision="fp32", label_smoothing=0.1))
    result = model(
        distributed.PaddingBatches(CaptionDataset(shapes, "train")).__getitems__([~3]), sample_locations=sample
    )
    assert (result.words, result.captions) == (0, 0) and (
        result.reward_sum is None or result.reward_sum.tolist() == [0, 0]
    )
    assert all(term.item() == 0 for term in result.logged.values())
    result.total.backward()
    for name, weights in captioner.named_parameters():
        assert weights.grad is not None and not weights.grad.any(), name


def test_more_accumulation_steps_than_images_are_refused(shapes: Path, tmp_path: Path) -> None:
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL, "--training.batch-size", "4"]
    with pytest.raises(UserError, match=r"training.accumulation_steps is 5, but must be at most training.batch_size"):
        train.main([*arguments, "--training.accumulation-steps", "5"])


@forks
def test_more_processes_than_images_in_a_batch_are_refused(shapes: Path, tmp_path: Path, capfd) -> None:
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL, "--training.batch-size", "3"]
    assert in_processes(2, script(train.main, *arguments, "--training.accumulation-steps", "2")) == [2, 2]
    (line,) = capfd.readouterr().err.splitlines()
    assert "batch_size is 3, but 2 processes share a batch, each in 2 micro-batches; give at least 4" in line


@forks
@pytest.mark.parametrize(
    ("numbers", "code", "steps"),
    [
        ([signal.SIGTERM] * 4, 130, [2]),  # of a scheduler to all, and of torchrun
        ([signal.SIGINT, signal.SIGINT, signal.SIGTERM], 130, [2]),
        ([signal.SIGINT] * 3, -signal.SIGINT, []),
    ],
)
def test_repeated_signals_do_not_keep_a_run_from_saving(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int], code: int, steps: list[int]
) -> None:
    """But the third Ctrl-C ends it at once."""
    at_call(monkeypatch, 2, 0, lambda: [os.kill(os.getpid(), number) for number in numbers])
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL]
    assert in_processes(1, lambda: train.main(arguments)) == [code]
    assert [checkpoint.load(path)["train_state"]["step"] for path in tmp_path.glob("last.pt")] == steps


@forks
def test_a_killed_process_is_named_and_ends_the_others(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By one line, soon, with what the first epoch saved."""
    at_call(monkeypatch, 6, 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL]
    start = time.monotonic()
    assert in_processes(3, script(train.main, *arguments)) == [2, -signal.SIGKILL, 2]
    assert time.monotonic() - start < 20
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: no answer from process 1 of 3 (counted from 0): killed")
    assert checkpoint.load(tmp_path / "last.pt")["train_state"]["step"] == 4
    monkeypatch.undo()
    assert in_processes(2, lambda: train.main(["--resume", str(tmp_path)])) == [0, 0]


@forks
@pytest.mark.parametrize("ranks", ["1", "012"])
def test_the_error_of_one_process_or_of_all_is_shown_once(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ranks: str
) -> None:
    def fail() -> None:
        raise UserError("the loss is no longer finite")

    for rank in ranks:
        at_call(monkeypatch, 2, int(rank), fail)
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL]
    assert in_processes(3, script(train.main, *arguments)) == [2, 2, 2]
    assert capfd.readouterr().err == "error: the loss is no longer finite\n"


@forks
def test_processes_validate_with_the_statistics_that_are_saved(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of batch normalisation, which every process computes from its own images."""
    validate = loop.validate

    def recording(captioner, *inputs):
        torch.save(dict(captioner.named_buffers()), tmp_path / f"rank{os.environ['RANK']}.pt")
        return validate(captioner, *inputs)

    monkeypatch.setattr(loop, "validate", recording)
    arguments = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *SMALL, "--training.epochs", "1"]
    encoder = ["--encoder.name", "small_cnn", "--encoder.recurrence-steps", "3"]
    assert in_processes(2, lambda: train.main([*arguments, *encoder])) == [0, 0]
    saved = checkpoint.load(tmp_path / "last.pt")["model"]
    for rank in range(2):
        buffers = torch.load(tmp_path / f"rank{rank}.pt")
        assert any("running_var" in name for name in buffers)
        for name in buffers.keys() & saved.keys():
            assert torch.equal(buffers[name], saved[name]), (rank, name)
