"""Training learns, resumes to the bit and stops when it should."""

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
from caption.device import choose_device
from caption.errors import UserError
from caption.search import search
from caption.training import loop, losses, objective, reinforce, run_dir, schedule, setup
from caption.training.state import TrainState

SMALL = [
    "--decoder.embedding-dim", "16", "--decoder.hidden-dim", "16", "--decoder.attention-dim", "16",
    "--decoder.dropout", "0.3", "--decoder.state-dropout", "0.2",
    "--training.epochs", "3", "--training.batch-size", "8", "--training.warmup-steps", "2", "--search.max-length", "8",
]  # fmt: skip


def run(shapes: Path, folder: Path, *flags: str) -> dict:
    train.main(["shapes-soft", "--data", str(shapes), "--output", str(folder), *SMALL, *flags])
    return checkpoint.load(folder / "last.pt")


def equal(a, b) -> bool:
    """Return whether nested values are equal, tensors to the bit, except for times."""
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
    ("step", "crash", "flags"),
    [
        (2, False, []),  # in the first epoch
        (5, False, []),  # at the very end of it
        (8, True, ["--training.checkpoint-steps", "3", "--training.workers", "1"]),  # killed, its last checkpoint older
        (
            7,
            False,
            ["--training.schedule", "plateau", "--training.optimizer", "rmsprop", "--training.batch-by", "lengths"],
        ),
        (7, False, ["--decoder.attention", "hard", "--training.reinforce.samples", "2"]),  # samples and baseline
        pytest.param(
            7,
            False,
            ["--decoder.attention", "hard", "--training.reinforce.estimator", "straight_through"],
            marks=pytest.mark.slow,
        ),
        (
            12,
            False,
            ["--training.self-critical.first-epoch", "3", "--training.scheduled-sampling", "0.5"],
        ),  # and sampled captions
        (7, True, ["--decoder.name", "transformer", "--training.checkpoint-steps", "3", "--training.horizontal-flip"]),
        pytest.param(
            7, False, ["--decoder.attention", "retina", "--training.reinforce.baseline", "none"], marks=pytest.mark.slow
        ),
        (14, False, ["--training.precision", "fp16", "--training.accumulation-steps", "2"]),  # and the loss scale
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, crash: bool, flags: list[str]
) -> None:
    """Weights, optimizer, random states, log, best score: everything, to the bit."""
    whole = run(shapes, tmp_path / "whole", *flags)
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
        run(shapes, tmp_path / "parts", *flags)
    assert len(calls) == step
    torch.manual_seed(99)  # whatever the new process starts with
    train.main(["--resume", str(tmp_path / "parts")])
    assert equal(checkpoint.load(tmp_path / "parts" / "last.pt"), whole)
    assert read_log(tmp_path / "parts") == read_log(tmp_path / "whole") and len(read_log(tmp_path / "whole")) == 3
    best = [checkpoint.load(tmp_path / name / "best.pt") for name in ("parts", "whole")]
    assert equal(*best)


def test_half_the_training_images_are_flipped(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random and in training only; an image is left as it is or flipped as a whole."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 2, 4), dtype=torch.uint8)
    found = objective.random_horizontal_flip(images)
    same = (found == images).flatten(1).all(1)
    flipped = (found == images.flip(-1)).flatten(1).all(1)
    assert (same ^ flipped).all() and 160 < flipped.sum() < 240
    seen = []
    monkeypatch.setattr(objective, "random_horizontal_flip", lambda images: seen.append(len(images)) or images)
    run(shapes, tmp_path / "run", "--training.horizontal-flip", "--training.epochs", "2")
    assert sum(seen) == 2 * 40


def test_a_random_crop_is_a_square_of_the_image_at_most_so_much_smaller() -> None:
    """The test image's values are its coordinates, so that a crop tells its own place, width and height."""
    torch.manual_seed(0)
    size = 200
    ramp = torch.arange(size, dtype=torch.uint8).expand(size, size)
    images = torch.stack([ramp, ramp.T, torch.full_like(ramp, 7)]).expand(300, 3, size, size)
    found = objective.random_crop(images, 0.25)
    assert found.dtype == torch.uint8 and found.shape == images.shape and (found[:, 2] == 7).all()
    found = found.float()
    width = (found[:, 0, 0, -1] - found[:, 0, 0, 0]) / (size - 1)
    height = (found[:, 1, -1, 0] - found[:, 1, 0, 0]) / (size - 1)
    torch.testing.assert_close(width, height, atol=0.02, rtol=0)
    assert width.min() > 0.48 and width.max() > 0.98 and (width**2).mean() == pytest.approx(0.625, abs=0.05)
    torch.testing.assert_close(found[:, 0, 100, 100], found[:, 0, 0, [0, -1]].mean(1), atol=2, rtol=0)
    assert found[:, 0, 0, 0].max() > 80 and found[:, 1, -1, 0].min() < 120  # anywhere
    assert torch.equal(objective.random_crop(images[:2], 1.0), images[:2])


def test_random_crops_reach_training_and_no_validation(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        objective, "random_crop", lambda images, smallest: seen.append((len(images), smallest)) or images
    )
    run(shapes, tmp_path / "run", "--training.random-crop", "0.5", "--training.epochs", "1")
    assert sum(count for count, _ in seen) == 40 and {smallest for _, smallest in seen} == {0.5}


def test_images_are_cached_on_the_device_exactly_if_they_fit(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trained weights do not change; the `free` bytes of a GPU are simulated."""
    size = sum(CaptionDataset(shapes, split).nbytes for split in ("train", "val"))
    runs = []
    for name, free, flags in (("read", 4 * size, []), ("kept", 4 * size + 1, []), ("never", 1 << 60, ["never"])):
        monkeypatch.setattr(setup, "free_memory", lambda device, free=free: free)
        flags = [
            "--training.epochs",
            "1",
            "--training.workers",
            "1",
            *(["--training.cache-on-device", *flags] if flags else []),
        ]
        runs.append(run(shapes, tmp_path / name, *flags)["model"])
        message = f"all images cached on {choose_device('auto')}: 0.0 GB"
        assert (message in capsys.readouterr().out) == (name == "kept")
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])


def test_hard_attention_logs_its_baseline_and_entropy(shapes: Path, tmp_path: Path) -> None:
    """In training; validation, which uses the expectation, has neither."""
    flags = ["--decoder.attention", "hard", "--training.reinforce.entropy", "0.01", "--training.epochs", "1"]
    state = run(shapes, tmp_path / "hard", *flags)
    (record,) = read_log(tmp_path / "hard")
    assert 0 < record["train"]["entropy"] < np.log(16) + 1e-4 and np.isfinite(record["train"]["reinforce"])
    assert "entropy" not in record["val"] and "reinforce" not in record["val"]
    assert -60 < record["train"]["baseline"] < -5  # a caption of a dozen words, hardly learned yet
    assert state["train_state"]["baseline"].item() == pytest.approx(record["train"]["baseline"])


def test_relaxed_samples_need_no_reward(shapes: Path, tmp_path: Path) -> None:
    """There is neither a REINFORCE term nor a baseline, but the entropy, and locations are learnt from epoch 2 on."""
    flags = ["--decoder.attention", "hard", "--training.reinforce.estimator", "gumbel_softmax"]
    flags += ["--training.reinforce.gumbel-temperature", "0.5", "--training.reinforce.entropy", "0.01"]
    flags += ["--training.reinforce.samples", "2", "--training.reinforce.first-epoch", "2"]
    state = run(shapes, tmp_path / "relaxed", *flags, "--training.epochs", "2")
    soft, relaxed = (record["train"] for record in read_log(tmp_path / "relaxed"))
    assert set(relaxed) - set(soft) == {"entropy"} and 0 < relaxed["entropy"] < np.log(16) + 1e-4
    assert state["train_state"]["baseline"] is None and not {"reinforce", "baseline"} & set(soft)


def test_hard_attention_trains_as_soft_before_its_first_epoch(shapes: Path, tmp_path: Path) -> None:
    """To the bit; and the best checkpoint is one of the epochs with hard attention."""
    flags = ["--training.epochs", "1", "--training.doubly-stochastic", "0"]
    soft = run(shapes, tmp_path / "soft", *flags)
    late = ["--decoder.attention", "hard", "--training.reinforce.first-epoch", "2"]
    hard = run(shapes, tmp_path / "hard", *flags, *late)
    assert equal(soft["model"], hard["model"]) and hard["train_state"]["baseline"] is None
    drew = run(shapes, tmp_path / "drew", *flags, "--decoder.attention", "hard")
    run(shapes, tmp_path / "best", *flags, *late, "--training.epochs", "2")
    assert checkpoint.load(tmp_path / "best" / "best.pt")["epoch"] == 2  # the first with hard attention
    assert not equal(soft["model"], drew["model"])


def save_baseline(rank: int, folder: str) -> None:
    """Save the baseline of one of two processes, each with captions of its own."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    decoded = uneven(rank)
    torch.save(baseline_after(decoded), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def baseline_after(decoded: DecoderOutput) -> torch.Tensor:
    total = distributed.all_reduce(reinforce.reward_sum(reinforce.word_rewards(decoded), decoded))
    return reinforce.update_baseline(torch.tensor(-3.0), total)


def uneven(rank: int | None) -> DecoderOutput:
    """Return hard attention's output for three captions: the first on rank 0, the others on rank 1; None: all."""
    logits = torch.linspace(-1, 2, 42).view(6, 7)
    rows = {0: [0], 1: [1, 2], None: [0, 1, 2]}[rank]
    words = torch.tensor([2 * row + t for row in rows for t in (0, 1)])
    ones = torch.ones(1, len(rows), 2)
    draw = Sample(ones.long(), -ones, ones)
    return DecoderOutput(logits[words], words % 7, torch.arange(len(words)), ones.unsqueeze(-1), draw)


def test_the_baseline_is_the_mean_over_all_processes(tmp_path: Path) -> None:
    """Two processes with one and two captions: both keep the b that a single one with all three would."""
    torch.multiprocessing.spawn(save_baseline, (str(tmp_path),), nprocs=2)
    alone = baseline_after(uneven(None))
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone)
    assert alone != baseline_after(uneven(0))


def test_the_encoder_trains_from_finetune_epoch_on(shapes: Path, tmp_path: Path) -> None:
    """Earlier only the decoder has optimizer state; later both, each at its learning rate."""
    rates = ["--training.learning-rate", "2e-3", "--training.encoder-learning-rate", "1e-4"]
    flags = ["--training.finetune-epoch", "2", *rates]
    first = run(shapes, tmp_path / "first", *flags, "--training.epochs", "1")["optimizer"]
    second = run(shapes, tmp_path / "second", *flags, "--training.epochs", "2")["optimizer"]
    decoder, encoder = ([*group["params"]] for group in first["param_groups"])
    assert set(first["state"]) == set(decoder) and set(second["state"]) == {*decoder, *encoder}
    found = [group["lr"] for group in second["param_groups"]]
    assert found[0] / found[1] == pytest.approx(2e-3 / 1e-4)


def test_init_from_loads_the_weights_of_another_run(shapes: Path, tmp_path: Path) -> None:
    """And only weights that fit."""
    first = run(shapes, tmp_path / "first", "--training.epochs", "1")
    start = ["--init-from", str(tmp_path / "first" / "last.pt"), "--training.epochs", "1"]
    still = ["--training.learning-rate", "1e-20", "--training.encoder-learning-rate", "1e-20"]
    second = run(shapes, tmp_path / "second", *start, *still)
    assert equal(second["model"]["decoder.output.weight"], first["model"]["decoder.output.weight"])
    with pytest.raises(UserError, match="init_from .*: its weights do not fit: has other shapes for decoder"):
        run(shapes, tmp_path / "third", *start, "--decoder.hidden-dim", "8")
    with pytest.raises(UserError, match="its encoder is small_cnn, but encoder.name is recurrent_cnn; give"):
        run(shapes, tmp_path / "third", *start, "--encoder.name", "recurrent_cnn")


@pytest.mark.parametrize("decoder", [[], ["--decoder.tie-embeddings"]], ids=["", "tied"])
def test_a_model_of_another_vocabulary_is_adopted_word_by_word(
    shapes: Path, tmp_path: Path, decoder: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows follow their words to other indices; a word that the model lacks gets a new row."""
    first = run(shapes, tmp_path / "first", "--training.epochs", "1", *decoder)
    words = first["vocabulary"]
    changed = [*words[:4], "zebra", *reversed(words[5:])]  # one word is lost, one is new, all others move
    other = copy_file(shapes, tmp_path / "other.h5", words=changed)
    still = ["--training.learning-rate", "1e-20", "--training.encoder-learning-rate", "1e-20", *decoder]
    start = ["--init-from", str(tmp_path / "first" / "last.pt"), "--training.epochs", "1"]
    capsys.readouterr()
    second = run(other, tmp_path / "second", *start, *still)
    assert f"{len(words) - 1} of {len(words)} words are its own; the other 1 begin anew" in capsys.readouterr().out
    for name in ("decoder.embedding.weight", "decoder.output.weight", "decoder.output.bias"):
        for index, word in enumerate(changed):
            if word != "zebra":
                assert equal(second["model"][name][index], first["model"][name][words.index(word)]), (name, word)
    assert equal(second["model"]["decoder.initial_cell.weight"], first["model"]["decoder.initial_cell.weight"])


def test_the_run_folder_holds_its_files_and_is_not_overwritten(shapes: Path, tmp_path: Path) -> None:
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


def test_the_configuration_of_an_older_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"data": "d", "output": "o", "start_from": ""}')
    with pytest.raises(UserError, match="config.json: not a configuration of this version .*'start_from'.*train again"):
        run_dir.read_config(tmp_path)


def test_patience_ends_a_run_that_does_not_improve(shapes: Path, tmp_path: Path) -> None:
    """A model that cannot move never gets better after its first epoch."""
    still = ["--training.learning-rate", "1e-12", "--training.encoder-learning-rate", "1e-12"]
    state = run(shapes, tmp_path / "run", *still, "--training.epochs", "9", "--training.patience", "1")
    assert state["train_state"]["epoch"] - 1 == state["train_state"]["best_epoch"] + 1 < 9


def test_eight_images_are_overfitted(shapes: Path, captioner: Captioner) -> None:
    split = dataset.CaptionDataset(shapes, "train")
    few = [[split.caption(5 * i)] for i in range(8)]
    batch = dataset.collate(range(8), few, split.read_images)
    optimizer = torch.optim.Adam(captioner.parameters(), 5e-3)
    captioner.train()
    for step in range(200):
        optimizer.param_groups[0]["lr"] = (
            5e-3 if step < 150 else 5e-4
        )  # smaller at the end, so that the last loss is stable
        loss = losses.cross_entropy(captioner(batch.images, batch.captions, batch.lengths))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(captioner.parameters(), 1.0)  # else a late spike of Adam decides the last loss
        optimizer.step()
    assert loss.item() < 0.02
    memory = captioner.encode(batch.images)  # in training mode, with the batch statistics of training
    found = search(captioner.decoder, memory, SearchConfig(beam_size=1))
    assert [hypotheses[0].words for hypotheses in found] == [split.caption(5 * i).tolist() for i in batch.indices]


def test_a_batch_of_three_images_equals_three_batches_of_one(shapes: Path, captioner: Captioner) -> None:
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


def test_a_saved_model_loads_as_the_same(captioner: Captioner, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model.pt", captioner.to_checkpoint())
    loaded = Captioner.load(tmp_path / "model.pt")
    assert loaded.vocabulary.words == captioner.vocabulary.words and loaded.configs == captioner.configs
    assert equal(loaded.state_dict(), captioner.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_loss_that_is_not_finite_stops_training_and_names_the_terms(shapes: Path, captioner: Captioner) -> None:
    rows, batches = dataset.training_batches(dataset.CaptionDataset(shapes, "train"), "images", 8, 1)
    with torch.no_grad():
        captioner.decoder.output.bias[5] = torch.nan
    config = TrainingConfig(precision="fp32")
    optimizer = schedule.build_optimizer(captioner, config)
    with pytest.raises(UserError, match=r"no longer finite \(cross_entropy nan, doubly_stochastic .*lower"):
        loop.train_epoch(captioner, dataset.build_loader(rows, batches), optimizer, config, TrainState(), 5)


def test_data_with_another_vocabulary_or_image_size_is_refused(
    shapes: Path, tmp_path: Path, captioner: Captioner
) -> None:
    other = copy_file(shapes, tmp_path / "other.h5", drop_last_word=True)
    check_fits(shapes, captioner.vocabulary, captioner.image)
    with pytest.raises(UserError, match="is not the model's.*make the file again with --vocabulary"):
        check_fits(other, captioner.vocabulary, captioner.image)
    message = (
        r"have 32 pixels \(squash, bilinear\), the model's 64 pixels \(crop, bicubic\).*--size 64 --fit crop --interp"
    )
    with pytest.raises(UserError, match=message):
        check_fits(shapes, captioner.vocabulary, ImageConfig(64, "crop", "bicubic"))
