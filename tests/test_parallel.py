"""Two processes against one: the same losses, weights and captions; and parts of a batch against the whole."""

import json
import os
import signal
import socket
import subprocess
import sys
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
from caption.data.dataset import CaptionData, make_loader, training_batches
from caption.errors import UserError
from caption.training import objective

ROOT = Path(__file__).parents[1]
# A small encoder that trains, with no statistics of its batches; batches that do not share out evenly; no dropout.
GIVEN = [
    "--encoder.name", "recurrent_cnn", "--encoder.passes", "2", "--decoder.embedding", "16", "--decoder.hidden", "16",
    "--decoder.attention", "16", "--decoder.dropout", "0", "--decoder.state-dropout", "0", "--training.epochs", "2",
    "--training.batch-size", "13", "--training.warmup-steps", "0", "--search.max-length", "8", "--device", "cpu",
    "--training.precision", "fp32", "--training.clip-norm", "0.1", "--training.encoder-learning-rate", "2e-4",
]  # fmt: skip
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def in_processes(count: int, work: Callable[[], None]) -> list[int]:
    """The work in so many forked processes, as torchrun would start them; their exit codes."""
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
                os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in given.items()}})
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


def same(one: Path, other: Path) -> None:
    """The same run, but for the order of sums. Adam gives every gradient the same size, that of a weight whose true
    gradient is zero, too; in double precision these are at home."""
    a, b = (checkpoint.load(folder / "last.pt")["model"] for folder in (one, other))
    told_a, told_b = read_log(one), read_log(other)
    close = 1e-6 if a["decoder.embedding.weight"].dtype == torch.double else 2e-5
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=close, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    assert len(told_a) == len(told_b) == 2
    for record, also in zip(told_a, told_b, strict=True):
        for part in ("train", "val", "scores"):
            assert record[part] == pytest.approx(also[part], abs=close), part
        assert record["examples"] == also["examples"]


@forks
@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--training.accumulate", "2", "--training.label-smoothing", "0.1"],
        ["--training.batching", "lengths"],
        ["--decoder.kind", "transformer", "--decoder.embedding", "16"],
        ["--decoder.selection", "hard", "--training.reinforce.expectation", "0", "--training.reinforce.entropy", "0.1"],
    ],
)
def test_two_processes_are_one(shapes: Path, tmp_path: Path, more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Draws that are the same in all processes.
    monkeypatch.setattr(hard, "choose", lambda log_weights, most_probable: log_weights.argmax(-1))

    def run(folder: str) -> Callable[[], None]:
        given = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / folder), *GIVEN, *more]
        return lambda: train.main(given)

    run("one")()
    assert in_processes(2, run("two")) == [0, 0]
    same(tmp_path / "one", tmp_path / "two")


@pytest.mark.usefixtures("_double")
def test_parts_are_the_whole_batch(shapes: Path, tmp_path: Path) -> None:
    """The gradient of a batch in three parts is that of the batch."""
    given = ["shapes-soft", "--data", str(shapes), *GIVEN, "--output"]
    train.main([*given, str(tmp_path / "whole")])
    train.main([*given, str(tmp_path / "parts"), "--training.accumulate", "3"])
    same(tmp_path / "whole", tmp_path / "parts")


@forks
@pytest.mark.usefixtures("_double")
def test_another_number_goes_on(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, one of which is told to stop in the middle of the second epoch: both save and leave; three go on,
    and end as one would have."""
    given = ["shapes-soft", "--data", str(shapes), *GIVEN, "--training.accumulate", "2", "--output"]
    train.main([*given, str(tmp_path / "one")])
    forward, calls = objective.Objective.forward, []

    def stopping(*arguments):  # the second process, in its sixth batch
        calls.append(1)
        if len(calls) == 12 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*arguments)

    monkeypatch.setattr(objective.Objective, "forward", stopping)
    assert in_processes(2, lambda: train.main([*given, str(tmp_path / "more")])) == [130, 130]
    progress = checkpoint.load(tmp_path / "more" / "last.pt")["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (2, 2, 6)
    monkeypatch.undo()
    assert in_processes(3, lambda: train.main(["--resume", str(tmp_path / "more")])) == [0, 0, 0]
    same(tmp_path / "one", tmp_path / "more")


@forks
def test_evaluation_by_two_is_that_of_one(shapes: Path, tmp_path: Path) -> None:
    """The same scores and captions, pictures shared unevenly; only the first process writes and prints."""
    train.main(["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *GIVEN])
    given = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes), "--batch-size", "4", "--no-java"]
    given += ["--instances", str(shapes.with_name("shapes_instances.json"))]
    evaluate.main(given)
    one = json.loads((tmp_path / "scores_test.json").read_text())
    (tmp_path / "scores_test.json").unlink()
    assert in_processes(2, lambda: evaluate.main(given)) == [0, 0]
    two = json.loads((tmp_path / "scores_test.json").read_text())
    for part in ("scores", "intervals"):
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            assert two[part][name] == (value if value is None else pytest.approx(value, rel=1e-5)), name
    assert [each["caption"] for each in one["images"]] == [each["caption"] for each in two["images"]]


@pytest.mark.slow
def test_torchrun(shapes: Path, tmp_path: Path) -> None:
    """The README's command."""
    given = ["shapes-soft", "--data", str(shapes), "--output"]
    train.main([*given, str(tmp_path / "one"), *GIVEN])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *given, str(tmp_path / "two"), *GIVEN], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    assert done.stdout.decode().count("epoch 1:") == 1
    same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("batching", ["images", "lengths"])
@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (3, 1), (2, 2)])
def test_every_caption_once_an_epoch(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, batching: str, processes: int, parts: int
) -> None:
    """Of all processes' parts together, whatever stands in left out; and each takes as many parts."""
    data = CaptionData(shapes, "train")
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    words: list[list[int]] = []
    lengths = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        rows, batches = training_batches(data, batching, 7, seed=1)
        loader = make_loader(distributed.PaddingBatches(rows), distributed.DistributedBatches(batches, parts))
        lengths.append(len([*loader]))
        assert lengths[-1] == len(loader) == len(batches) * parts
        for batch in loader:
            there = (batch.lengths > 0).nonzero().tolist()
            words += [batch.captions[b, q, : batch.lengths[b, q] - 1].tolist() for b, q in there]
    assert len(set(lengths)) == 1
    assert sorted(words) == sorted(data.caption(number).tolist() for number in range(len(data.lengths)))


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
@pytest.mark.parametrize("draw", [False, True])
def test_what_stands_in_counts_nowhere(captioner: Captioner, shapes: Path, decoder: str, draw: bool) -> None:
    """No words, no captions, no draws, and a gradient of zero, which is there: the other processes wait for it."""
    selection = "hard" if draw and decoder == "lstm" else "soft"
    config = DecoderConfig(kind=decoder, embedding=16, hidden=16, attention=16, selection=selection)
    captioner = Captioner(captioner.image, captioner.configs["encoder"], config, captioner.vocabulary)
    model = objective.Objective(captioner, TrainingConfig(precision="fp32", label_smoothing=0.1))
    lost = model(distributed.PaddingBatches(CaptionData(shapes, "train"))[~3], draw=draw)
    assert (lost.words, lost.captions) == (0, 0) and (lost.drawn is None or lost.drawn.tolist() == [0, 0])
    assert all(term.item() == 0 for term in lost.terms.values())
    lost.total.backward()
    for name, weights in captioner.named_parameters():
        assert weights.grad is not None and not weights.grad.any(), name


def test_a_batch_too_small_to_share(shapes: Path, tmp_path: Path) -> None:
    given = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *GIVEN, "--training.batch-size", "4"]
    with pytest.raises(UserError, match=r"training.accumulate is 5, but must be at most training.batch_size"):
        train.main([*given, "--training.accumulate", "5"])


@forks
def test_more_processes_than_a_batch_has_images(shapes: Path, tmp_path: Path, capfd) -> None:
    given = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path), *GIVEN, "--training.batch-size", "3"]
    assert in_processes(2, lambda: train.main([*given, "--training.accumulate", "2"])) == [1, 1]
    assert "batch_size is 3, but 2 processes share a batch, each in 2 parts; give at least 4" in capfd.readouterr().err
