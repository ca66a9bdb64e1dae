"""Training: it learns, it resumes to the bit, it stops when told; checkpoints hold no code."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import copy_file, read_log

import train
from caption import checkpoint, distributed
from caption.attention import Sample
from caption.captioner import Captioner, check_fits
from caption.config import ImageConfig, SearchConfig, TrainingConfig
from caption.data import dataset
from caption.data.dataset import CaptionDataset
from caption.decoders import DecoderOutput
from caption.device import allow_tf32, choose_device, choose_precision
from caption.errors import UserError
from caption.search import search
from caption.training import loop, losses, objective, reinforce, schedule, setup
from caption.training.state import TrainState

SMALL = [
    "--decoder.embedding-dim", "16", "--decoder.hidden-dim", "16", "--decoder.attention-dim", "16",
    "--decoder.dropout", "0.3", "--decoder.state-dropout", "0.2",
    "--training.epochs", "3", "--training.batch-size", "8", "--training.warmup-steps", "2", "--search.max-length", "8",
]  # fmt: skip


def run(shapes: Path, folder: Path, *more: str) -> dict:
    train.main(["shapes-soft", "--data", str(shapes), "--output", str(folder), *SMALL, *more])
    return checkpoint.load(folder / "last.pt")


def equal(a, b) -> bool:
    """Nested values, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(
            equal(a[key], b[key]) for key in a if key not in ("seconds", "data_seconds")
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize(
    ("step", "crash", "more"),
    [
        (2, False, []),  # in the first epoch
        (5, False, []),  # at the very end of it
        (8, True, ["--training.checkpoint-steps", "3", "--training.workers", "1"]),  # killed, its last checkpoint older
        (
            7,
            False,
            ["--training.schedule", "plateau", "--training.optimizer", "rmsprop", "--training.batch-by", "lengths"],
        ),
        (7, False, ["--decoder.attention", "hard", "--training.reinforce.samples", "2"]),  # draws and baseline, too
        (12, False, ["--training.self-critical.first-epoch", "3", "--training.scheduled-sampling", "0.5"]),  # and words
        (7, True, ["--decoder.kind", "transformer", "--training.checkpoint-steps", "3", "--training.horizontal-flip"]),
        (7, False, ["--decoder.attention", "retina", "--training.reinforce.baseline", "none"]),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, crash: bool, more: list[str]
) -> None:
    """Weights, optimizer, random states, log, best score: everything, to the bit."""
    whole = run(shapes, tmp_path / "whole", *more)
    calls = []

    def interrupting(function):
        def call(*arguments):
            if torch.is_grad_enabled():
                calls.append(1)
                if len(calls) == step and crash:
                    raise MemoryError
                if len(calls) == step:
                    os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments)

        return call

    monkeypatch.setattr(losses, "compute_terms", interrupting(losses.compute_terms))
    with pytest.raises(MemoryError if crash else SystemExit):
        run(shapes, tmp_path / "parts", *more)
    assert len(calls) == step
    torch.manual_seed(99)  # whatever the new process starts with
    train.main(["--resume", str(tmp_path / "parts")])
    assert equal(checkpoint.load(tmp_path / "parts" / "last.pt"), whole)
    assert read_log(tmp_path / "parts") == read_log(tmp_path / "whole") and len(read_log(tmp_path / "whole")) == 3
    best = [checkpoint.load(tmp_path / name / "best.pt") for name in ("parts", "whole")]
    assert equal(*best)


def test_every_other_picture_is_mirrored(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training alone, at random; each is whole: itself, or itself from right to left."""
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (400, 3, 2, 4), dtype=torch.uint8)
    found = objective.random_horizontal_flip(pictures)
    same = (found == pictures).flatten(1).all(1)
    turned = (found == pictures.flip(-1)).flatten(1).all(1)
    assert (same ^ turned).all() and 160 < turned.sum() < 240
    seen = []
    monkeypatch.setattr(objective, "random_horizontal_flip", lambda images: seen.append(len(images)) or images)
    run(shapes, tmp_path / "run", "--training.horizontal-flip", "--training.epochs", "2")
    assert sum(seen) == 2 * 40


def test_pictures_stay_where_they_fit(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing else changes; `free` bytes on a GPU are made believe."""
    size = sum(CaptionDataset(shapes, split).nbytes for split in ("train", "val"))
    runs = []
    for name, free, more in (("read", 4 * size, []), ("kept", 4 * size + 1, []), ("never", 1 << 60, ["never"])):
        monkeypatch.setattr(setup, "free_memory", lambda device, free=free: free)
        more = [
            "--training.epochs",
            "1",
            "--training.workers",
            "1",
            *(["--training.cache-on-device", *more] if more else []),
        ]
        runs.append(run(shapes, tmp_path / name, *more)["model"])
        told = f"all images cached on {choose_device('auto')}: 0.0 GB"
        assert (told in capsys.readouterr().out) == (name == "kept")
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])


def test_hard_attention_s_own_numbers_are_logged(shapes: Path, tmp_path: Path) -> None:
    """Reward and entropy of the draws in training; validation, which takes the expectation, has neither."""
    more = ["--decoder.attention", "hard", "--training.reinforce.entropy", "0.01", "--training.epochs", "1"]
    state = run(shapes, tmp_path / "hard", *more)
    (record,) = read_log(tmp_path / "hard")
    assert 0 < record["train"]["entropy"] < np.log(16) + 1e-4 and np.isfinite(record["train"]["reinforce"])
    assert "entropy" not in record["val"] and "reinforce" not in record["val"]
    assert -60 < record["train"]["baseline"] < -5  # a caption of a dozen words, hardly learnt yet
    assert state["train_state"]["baseline"].item() == pytest.approx(record["train"]["baseline"])


def test_hard_attention_can_begin_as_soft(shapes: Path, tmp_path: Path) -> None:
    """Before its first epoch of draws, hard attention trains to the bit as soft attention does."""
    more = ["--training.epochs", "1", "--training.doubly-stochastic", "0"]
    soft = run(shapes, tmp_path / "soft", *more)
    late = ["--decoder.attention", "hard", "--training.reinforce.first-epoch", "2"]
    hard = run(shapes, tmp_path / "hard", *more, *late)
    assert equal(soft["model"], hard["model"]) and hard["train_state"]["baseline"] is None
    drew = run(shapes, tmp_path / "drew", *more, "--decoder.attention", "hard")
    run(shapes, tmp_path / "best", *more, *late, "--training.epochs", "2")
    assert checkpoint.load(tmp_path / "best" / "best.pt")["epoch"] == 2  # the first that is hard attention's own
    assert not equal(soft["model"], drew["model"])


def average_of_two(rank: int, folder: str) -> None:
    """One of two processes: b of captions of its own."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    decoded = uneven(rank)
    torch.save(baseline_after(decoded), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def baseline_after(decoded: DecoderOutput) -> torch.Tensor:
    drawn = distributed.all_reduce(reinforce.reward_sum(reinforce.word_rewards(decoded), decoded))
    return reinforce.update_baseline(torch.tensor(-3.0), drawn)


def uneven(rank: int | None) -> DecoderOutput:
    """Hard attention's result for three captions: the first of process 0, the others of process 1; None: all."""
    logits = torch.linspace(-1, 2, 42).view(6, 7)
    rows = {0: [0], 1: [1, 2], None: [0, 1, 2]}[rank]
    words = torch.tensor([2 * row + t for row in rows for t in (0, 1)])
    ones = torch.ones(1, len(rows), 2)
    draw = Sample(ones.long(), -ones, ones)
    return DecoderOutput(logits[words], words % 7, torch.arange(len(words)), ones.unsqueeze(-1), draw)


def test_the_baseline_is_that_of_all_processes(tmp_path: Path) -> None:
    """Two processes with one and two captions: both keep the b that a single one with all three would."""
    torch.multiprocessing.spawn(average_of_two, (str(tmp_path),), nprocs=2)
    alone = baseline_after(uneven(None))
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone)
    assert alone != baseline_after(uneven(0))


def test_the_encoder_waits_for_its_epoch(shapes: Path, tmp_path: Path) -> None:
    """Before `finetune_epoch` only the decoder has been stepped; afterwards both, each at its rate."""
    more = ["--training.finetune-epoch", "2", "--training.encoder-learning-rate", "1e-4"]
    first = run(shapes, tmp_path / "first", *more, "--training.epochs", "1")["optimizer"]
    second = run(shapes, tmp_path / "second", *more, "--training.epochs", "2")["optimizer"]
    decoder, encoder = ([*group["params"]] for group in first["param_groups"])
    assert set(first["state"]) == set(decoder) and set(second["state"]) == {*decoder, *encoder}
    rates = [group["lr"] for group in second["param_groups"]]
    assert rates[0] / rates[1] == pytest.approx(2e-3 / 1e-4)


def test_start_from(shapes: Path, tmp_path: Path) -> None:
    """A new run begins with another's weights, and only with weights that fit."""
    first = run(shapes, tmp_path / "first", "--training.epochs", "1")
    start = ["--init-from", str(tmp_path / "first" / "last.pt"), "--training.epochs", "1"]
    still = ["--training.learning-rate", "1e-20", "--training.encoder-learning-rate", "1e-20"]
    second = run(shapes, tmp_path / "second", *start, *still)
    assert equal(second["model"]["decoder.output.weight"], first["model"]["decoder.output.weight"])
    with pytest.raises(UserError, match="a model of another shape"):
        run(shapes, tmp_path / "third", *start, "--decoder.hidden-dim", "8")


def test_a_run_s_folder(shapes: Path, tmp_path: Path) -> None:
    run(shapes, tmp_path / "run", "--training.checkpoint-steps", "2")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json", "log.jsonl", "curves.png", "captions_val.json", "examples.txt", "best.pt", "last.pt",
        "tensorboard",
    }  # fmt: skip
    assert len(json.loads((tmp_path / "run" / "captions_val.json").read_text())) == 10
    examples = (tmp_path / "run" / "examples.txt").read_text()
    assert examples.count(".png") == 10 and examples.count("\n      3  ") == 10
    with pytest.raises(UserError, match="holds a run already; resume it with train.py --resume"):
        run(shapes, tmp_path / "run")


def test_patience(shapes: Path, tmp_path: Path) -> None:
    """A model that cannot move never gets better after its first epoch."""
    still = ["--training.learning-rate", "1e-12", "--training.encoder-learning-rate", "1e-12"]
    state = run(shapes, tmp_path / "run", *still, "--training.epochs", "9", "--training.patience", "1")
    assert state["train_state"]["epoch"] - 1 == state["train_state"]["best_epoch"] + 1 < 9


def test_eight_pictures_are_overfitted(shapes: Path, captioner: Captioner) -> None:
    split = dataset.CaptionDataset(shapes, "train")
    few = [[split.caption(5 * i)] for i in range(8)]
    batch = dataset.collate(range(8), few, split.read_images)
    optimizer = torch.optim.Adam(captioner.parameters(), 5e-3)
    captioner.train()
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 5e-3 if step < 150 else 5e-4  # or the last loss may be of a step that jumped
        loss = losses.cross_entropy(captioner(batch.images, batch.captions, batch.lengths))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    memory = captioner.encode(batch.images)  # still with the batch's own statistics, as it learned
    found = search(captioner.decoder, memory, SearchConfig(beam_size=1))
    assert [hypotheses[0].words for hypotheses in found] == [split.caption(5 * i).tolist() for i in batch.indices]


def test_a_batch_of_three_is_three_of_one(shapes: Path, captioner: Captioner) -> None:
    split = dataset.CaptionDataset(shapes, "test")
    images = split.read_images(range(3))
    captioner.eval()
    config = SearchConfig(max_length=6)
    with torch.inference_mode():
        together = search(captioner.decoder, captioner.encode(images), config)
        for i in range(3):
            (alone,) = search(captioner.decoder, captioner.encode(images[i : i + 1]), config)
            assert [h.words for h in alone] == [h.words for h in together[i]]
            torch.testing.assert_close(alone[0].weights, together[i][0].weights, atol=1e-5, rtol=1e-4)


def test_saved_and_loaded_is_the_same_model(captioner: Captioner, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model.pt", captioner.to_checkpoint())
    loaded = Captioner.load(tmp_path / "model.pt")
    assert loaded.vocabulary.words == captioner.vocabulary.words and loaded.configs == captioner.configs
    assert equal(loaded.state_dict(), captioner.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_not_finite_stops_with_the_terms(shapes: Path, captioner: Captioner) -> None:
    rows, batches = dataset.training_batches(dataset.CaptionDataset(shapes, "train"), "images", 8, 1)
    with torch.no_grad():
        captioner.decoder.output.bias[5] = torch.nan
    config = TrainingConfig(precision="fp32")
    optimizer = schedule.build_optimizer(captioner, config)
    with pytest.raises(UserError, match=r"no longer finite \(cross_entropy nan, doubly_stochastic .*lower"):
        loop.train_epoch(captioner, dataset.build_loader(rows, batches), optimizer, config, TrainState(), 5)


class Code:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_checkpoints_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Code()}, tmp_path / "code.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").touch()
    for name, message in (
        ("code", "holds pickled code, which is refused"),
        ("module", "holds pickled code, which is refused"),
        ("other", "not a checkpoint of this program"),
        ("text", "not a checkpoint of this program"),
        ("empty", "not a checkpoint of this program"),
        ("absent", "no such checkpoint"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            checkpoint.load(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    assert "never" not in capsys.readouterr().out


def test_another_vocabulary_is_refused(shapes: Path, tmp_path: Path, captioner: Captioner) -> None:
    other = copy_file(shapes, tmp_path / "other.h5", drop_last_word=True)
    check_fits(shapes, captioner.vocabulary, captioner.image)
    with pytest.raises(UserError, match="is not the model's.*make the file again with --vocabulary"):
        check_fits(other, captioner.vocabulary, captioner.image)
    with pytest.raises(UserError, match=r"have size 32 \(squash\), the model's 64 \(crop\).*--size 64 --fit crop"):
        check_fits(shapes, captioner.vocabulary, ImageConfig(64, "crop"))


def test_tf32_only_on_a_gpu() -> None:
    allow_tf32(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"
    allow_tf32(torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == "high"


def test_auto_precision_is_one_of_the_two() -> None:
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    with pytest.raises(UserError, match="device 'abacus' is not available"):
        choose_device("abacus")
