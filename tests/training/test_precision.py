"""fp16 with a loss scale, and the precision that a run is resumed in."""

import json
from pathlib import Path

import pytest
import torch
from conftest import KINDS, D, make_kind, read_log
from torch import Tensor

import evaluate
import train
from caption import checkpoint, ops
from caption.captioner import Captioner
from caption.config import Config, SearchConfig, TrainingConfig
from caption.data import dataset
from caption.device import AUTOCAST_DTYPES, autocast
from caption.errors import UserError
from caption.search import search
from caption.training import loop, precision, schedule
from caption.training.state import TrainState

CPU = torch.device("cpu")
SMALL = [
    "--decoder.embedding-dim", "16", "--decoder.hidden-dim", "16", "--decoder.attention-dim", "16", "--device", "cpu",
    "--training.epochs", "2", "--training.batch-size", "8", "--search.max-length", "8",
]  # fmt: skip


def run(shapes: Path, folder: Path, *flags: str) -> list[dict]:
    train.main(["shapes-soft", "--data", str(shapes), "--output", str(folder), *SMALL, *flags])
    return read_log(folder)


def test_half_precision_trains_and_evaluates_as_fp32_does(shapes: Path, tmp_path: Path) -> None:
    logs, scores = {}, {}
    for name in ("fp32", "fp16"):
        logs[name] = run(shapes, tmp_path / name, "--training.precision", name, "--training.accumulation-steps", "2")
        args = ["--checkpoint", str(tmp_path / "fp16" / "best.pt"), "--data", str(shapes), "--no-java"]
        if name == "fp16":
            for asked in ("fp32", "fp16"):
                evaluate.main([*args, "--precision", asked, "--overwrite"])
                scored = json.loads((tmp_path / "fp16" / "scores_test.json").read_text())
                assert scored["precision"] == asked
                scores[asked] = scored["scores"]["attention entropy"]
    for one, other in zip(logs["fp32"], logs["fp16"], strict=True):
        assert one["train"]["cross_entropy"] == pytest.approx(other["train"]["cross_entropy"], rel=2e-3)
        assert one["val"]["cross_entropy"] == pytest.approx(other["val"]["cross_entropy"], rel=1e-2)
        assert "skipped_steps" not in one["train"] and other["train"]["skipped_steps"] == 0
    assert scores["fp16"] == pytest.approx(scores["fp32"], rel=1e-2) and scores["fp16"] != scores["fp32"]


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_overflow_skips_the_step_and_lowers_the_scale(
    shapes: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Weights stay as they are, the batches count as steps, and the finite loss goes on."""
    monkeypatch.setattr(precision, "INITIAL_SCALE", 2.0**60)
    rows, batches = dataset.training_batches(dataset.CaptionDataset(shapes, "train"), "images", 8, 1)
    config, state = TrainingConfig(precision="fp16", optimizer=optimizer), TrainState()
    made, scaler = schedule.build_optimizer(captioner, config), precision.build_scaler("fp16", CPU, None)
    before = [weights.clone() for weights in captioner.parameters()]
    log = loop.train_epoch(
        captioner, dataset.build_loader(rows, batches), made, config, state, 5, lambda: None, None, scaler
    )
    assert log["skipped_steps"] == state.step == 5 and log["cross_entropy"] < 5
    assert scaler.get_scale() == 2.0**55
    assert all(map(torch.equal, before, captioner.parameters()))


def test_gradients_are_clipped_after_the_scale_is_undone(shapes: Path, captioner: Captioner) -> None:
    rows, batches = dataset.training_batches(dataset.CaptionDataset(shapes, "train"), "images", 8, 1)
    config = TrainingConfig(precision="fp16", max_grad_norm=0.1)
    optimizer, scaler = schedule.build_optimizer(captioner, config), precision.build_scaler("fp16", CPU, None)
    norms = []

    def note(*_: object) -> None:
        gradients = [weights.grad for weights in captioner.parameters()]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    optimizer.register_step_pre_hook(note)
    loader = dataset.build_loader(rows, batches)
    loop.train_epoch(captioner, loader, optimizer, config, TrainState(), 5, lambda: None, None, scaler)
    assert norms == [pytest.approx(0.1, rel=1e-4)] * 5


def test_gradients_that_overflow_at_every_scale_end_training(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is finite all the while."""
    monkeypatch.setattr(precision, "MIN_SCALE", 2.0**57)
    monkeypatch.setattr(precision, "INITIAL_SCALE", 2.0**60)
    with pytest.raises(UserError, match="gradients are not finite in fp16, even .* --training.precision fp32"):
        run(shapes, tmp_path / "run", "--training.precision", "fp16")


def config_of(asked: str) -> Config:
    return Config("d.h5", "run", training=TrainingConfig(precision=asked))


@pytest.mark.parametrize(
    ("asked", "saved_on", "expected", "line"),
    [
        ("auto", "cpu", "bf16", ""),  # as it was, though this time fp32 was faster: the run goes on to the bit
        ("auto", "Tesla T4", "fp32", "precision fp32 on cpu; before it was bf16 on Tesla T4\n"),
        ("bf16", "Tesla T4", "bf16", ""),  # named, and so kept
    ],
)
def test_another_device_chooses_its_precision_anew(
    asked: str,
    saved_on: str,
    expected: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(precision, "choose_precision", lambda name, device: "fp32" if name == "auto" else name)
    saved = {"precision": "bf16", "device": saved_on}
    resolved = precision.resolve_precision(config_of(asked), saved, CPU)
    assert resolved.training.precision == expected and capsys.readouterr().out == line


def test_a_run_keeps_auto_and_the_precision_it_chose(shapes: Path, tmp_path: Path) -> None:
    run(shapes, tmp_path / "run", "--training.epochs", "1", "--training.precision", "auto")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    saved = checkpoint.load(tmp_path / "run" / "last.pt")
    assert config["training"]["precision"] == "auto" and saved["device"] == "cpu"
    assert saved["precision"] in ("fp32", "bf16") and saved["scaler"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_every_decoder_trains_and_searches_in_half_precision(kind: str) -> None:
    """As in single precision, but for rounding, which is finer than bfloat16's: the loss, its gradient and the best
    caption's log-probability."""
    decoder = make_kind(kind).float()
    for weights in decoder.parameters():
        weights.data *= 0.3  # else DRAW's grid, of exponentials of large numbers, makes much of rounding
    torch.manual_seed(1)
    regions, captions = torch.randn(3, 6, D), torch.randint(4, 11, (3, 2, 4))

    def results(name: str) -> tuple[Tensor, Tensor, list[float]]:
        decoder.zero_grad()
        with autocast(CPU, name):
            decoded = decoder(decoder.prepare(regions), captions, torch.full((3, 2), 4))
        loss = ops.token_nll(decoded.logits, decoded.targets).sum() + decoded.weights.square().sum()
        loss.backward()
        with autocast(CPU, name), torch.inference_mode():
            found = search(decoder, decoder.prepare(regions), SearchConfig(beam_size=2, max_length=5))
        assert decoded.logits.dtype == AUTOCAST_DTYPES.get(name, torch.float32)
        gradient = torch.cat([weights.grad.flatten() for weights in decoder.parameters() if weights.grad is not None])
        return loss.detach(), gradient, [beams[0].log_probability for beams in found]

    (loss, gradient, scores), expected = results("fp16"), results("fp32")
    torch.testing.assert_close(loss, expected[0], rtol=1e-2, atol=0)
    assert (gradient - expected[1]).norm() < 0.4 * (results("bf16")[1] - expected[1]).norm()
    assert scores == pytest.approx(expected[2], rel=2e-2, abs=2e-2)


def test_an_odd_loss_scale_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"last\.pt: is damaged.*; start a new run") as caught:
        precision.build_scaler("fp16", torch.device("cpu"), {"scaler": {"scale": "x"}})
    assert "\n" not in str(caught.value)
