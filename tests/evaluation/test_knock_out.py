"""Knock-outs change the weights of attention as they say and nothing else, and tell a dead attention from a working
one."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from conftest import KINDS, D, copy_file, make_kind

import evaluate
import train
from caption import checkpoint
from caption.attention import AttentionOutput, Memory, SoftAttention
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.config.inference import KnockOut
from caption.data import dataset
from caption.data.dataset import Batch
from caption.data.sampler import sequential_batches
from caption.data.vocabulary import END, PAD
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.bootstrap import Difference
from caption.evaluation.knock_out import (
    AS_TRAINED,
    KNOCK_OUTS,
    NEEDED,
    Weights,
    border_regions,
    judge,
    knock_out,
    teacher_force,
    used_weights,
    written_weights,
)
from caption.files import PRETRAINED
from caption.search import Hypothesis, search
from preprocess.__main__ import main as preprocess

CPU = torch.device("cpu")
GRID = FeatureGrid.even(2, 3, 6)
CAPTIONS = torch.tensor([[[4, 5, 6, END], [7, END, PAD, PAD]], [[8, 9, END, PAD], [PAD, PAD, PAD, PAD]]])
LENGTHS = torch.tensor([[4, 2], [3, 0]])
BATCH = Batch([0, 1], torch.empty(0), CAPTIONS, LENGTHS)
REAL = torch.arange(4) < LENGTHS[..., None]


def random_weights() -> Weights:
    """Of two images, two captions, four words, one head."""
    torch.manual_seed(0)
    return Weights(torch.rand(2, 2, 4, 1, 6).softmax(-1), REAL)


def changed(name: str, weights: Weights) -> torch.Tensor:
    return KNOCK_OUTS[name](weights, GRID).expand_as(weights.values)


def test_every_knock_out_can_be_asked_for() -> None:
    assert tuple(KNOCK_OUTS) == get_args(KnockOut)


def test_each_knock_out_makes_the_weights_that_it_says() -> None:
    own = random_weights()
    w = own.values
    assert torch.equal(changed("uniform", own), torch.full_like(w, 1 / 6))
    assert torch.equal(changed("shuffled", own), w[[1, 0]])
    assert torch.equal(changed("center", own)[1, 1, 3, 0], torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    assert torch.equal(changed("previous", own), w[:, :, [0, 0, 1, 2]])
    assert torch.equal(changed("first-word", own), w[:, :, [0, 0, 0, 0]])
    for b, q, length in ((0, 0, 4), (0, 1, 2), (1, 0, 3)):
        mean = w[b, q, :length].mean(0)
        torch.testing.assert_close(changed("image-mean", own)[b, q], mean.expand(4, 1, 6))


def test_weights_that_were_used_are_those_of_the_heads_or_of_the_chosen_location() -> None:
    weights, heads = torch.rand(3, 6), torch.rand(3, 2, 6)
    assert torch.equal(used_weights(weights, None, None), weights[:, None])
    assert torch.equal(used_weights(weights, heads, None), heads)
    used = used_weights(weights, None, torch.tensor([4, -1, 0]))  # -1: the expectation
    assert torch.equal(used[:, 0], torch.stack([torch.eye(6)[4], weights[1], torch.eye(6)[0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_forcing_by_steps_is_the_decoder_s_own(kind: str) -> None:
    """Likelihoods and weights; beyond its end, a caption keeps its last weights, and a row without one has those of
    its image's first."""
    decoder = make_kind(kind)
    torch.manual_seed(1)
    memory = decoder.prepare(torch.randn(2, 6, D, dtype=torch.double))
    decoded = decoder(memory, CAPTIONS, LENGTHS)
    nlls, weights = teacher_force(decoder, memory, BATCH, SearchConfig())
    torch.testing.assert_close(nlls[REAL].double(), F.cross_entropy(decoded.logits, decoded.targets, reduction="none"))
    assert not nlls[~REAL].any() and torch.equal(weights.is_word, REAL)
    torch.testing.assert_close(weights.values.mean(3)[REAL], decoded.weights[REAL])
    assert torch.equal(weights.values[0, 1, 3], weights.values[0, 1, 1])
    assert torch.equal(weights.values[1, 1], weights.values[1, 0])


def test_written_weights_are_those_of_each_image_s_caption() -> None:
    long, short = torch.rand(3, 6), torch.rand(2, 6)
    found = written_weights([Hypothesis([4, 5], 0.0, True, long), Hypothesis([4], 0.0, True, short)])
    assert torch.equal(found.values[0, 0, :, 0], long)
    assert torch.equal(found.values[1, 0, :, 0], short[[0, 1, 1]])
    assert found.is_word.tolist() == [[[True, True, True]], [[True, True, False]]]


def effects(captioner: Captioner, path: Path, names: list[str]) -> list[dict[str, Any]]:
    split = dataset.CaptionDataset(path, "test")
    loader = dataset.build_loader(split, sequential_batches(len(split), 5))
    found = dict(knock_out(captioner, loader, names, SearchConfig(2, max_length=8), CPU, "fp32"))
    return [found[number] for number in range(len(split))]


def test_even_attention_on_a_model_whose_attention_is_even_changes_nothing(shapes: Path, captioner: Captioner) -> None:
    torch.nn.init.zeros_(captioner.decoder.attention.score.vector.weight)
    for effect in effects(captioner, shapes, ["uniform", "shuffled", "image-mean"]):
        trained = effect[AS_TRAINED]
        for other in effect.values():
            assert other.nll == pytest.approx(trained.nll, rel=1e-5) and other.words == trained.words
            assert other.caption == trained.caption


def test_a_knock_out_leaves_the_captions_as_trained_as_they_are(shapes: Path, captioner: Captioner) -> None:
    """With attention far from even; and their search shows the weights that were forced."""
    torch.nn.init.normal_(captioner.decoder.attention.score.vector.weight, std=5)
    alone = effects(captioner, shapes, [])
    for one, effect in zip(alone, effects(captioner, shapes, ["uniform", "first-word"]), strict=True):
        assert one[AS_TRAINED] == effect[AS_TRAINED]
        assert effect["uniform"].nll != effect[AS_TRAINED].nll
    memory = captioner.encode(dataset.CaptionDataset(shapes, "test").read_images([0]))
    own = written_weights(search(captioner.decoder, memory, SearchConfig(2, max_length=8))[0][:1])
    forced = KNOCK_OUTS["first-word"](own, captioner.encoder.feature_grid)
    found = search(captioner.decoder, memory._replace(forced=forced), SearchConfig(2, max_length=8))[0][0].weights
    torch.testing.assert_close(found, own.values[0, 0, :1, 0].expand_as(found))


def difference(fall: float, spread: float = 1, p: float = 0.001) -> Difference:
    return Difference("CIDEr-D", 50.0, 50.0 - fall, -fall - spread, -fall + spread, p)


CLEAR = difference(10)
UNSURE = difference(10, 12, 0.2)  # from 2 less to 22 more than nothing


@pytest.mark.parametrize(
    ("even", "other", "mean", "border", "word"),
    [
        (CLEAR, CLEAR, CLEAR, 30, "working"),
        (difference(1), CLEAR, CLEAR, 30, "unused"),  # at most 2 of 50
        (difference(-3), CLEAR, CLEAR, 30, "unused"),  # even attention is better
        (difference(0, 0, 1.0), CLEAR, CLEAR, 95, "unused"),
        (UNSURE, CLEAR, CLEAR, 30, "undecided"),
        (CLEAR, difference(1), CLEAR, 30, "same for every image"),  # at most 2, a fifth of what attention is worth
        (CLEAR, UNSURE, CLEAR, 30, "undecided"),
        (CLEAR, CLEAR, difference(1), 30, "same for every word"),
        (CLEAR, CLEAR, UNSURE, 30, "undecided"),
        (CLEAR, CLEAR, CLEAR, 95, "stuck at the border"),
        (difference(math.nan), CLEAR, CLEAR, 30, "undecided"),
        (Difference("CIDEr-D", 0.0, 0.0, 0.0, 0.0, 1.0), CLEAR, CLEAR, 30, "undecided"),
    ],
)
def test_the_verdict_follows_its_rules(
    even: Difference, other: Difference, mean: Difference, border: float, word: str
) -> None:
    falls = {"uniform": even, "shuffled": other, "image-mean": mean}
    assert judge(falls, border, border_by_chance=44).word == word


def test_a_grid_that_is_nearly_all_border_is_stuck_at_none() -> None:
    assert judge({"uniform": CLEAR, "shuffled": CLEAR, "image-mean": CLEAR}, 100, 100).word == "working"
    assert border_regions(FeatureGrid.even(3, 4, 12)).tolist() == [True] * 5 + [False] * 2 + [True] * 5


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings for the model that comes with the code, with its vocabulary; forty in the test split."""
    folder = tmp_path_factory.mktemp("drawings")
    path, own, named = (folder / name for name in ("shapes.h5", "own.h5", "named.h5"))
    preprocess(["shapes", "--output", str(own), "--count", "1", "1", "1"])
    copy_file(own, named, words=json.loads((PRETRAINED / "shapes" / "vocabulary.json").read_text()))
    preprocess(["shapes", "--output", str(path), "--count", "1", "1", "40", "--vocabulary", str(named)])
    return path


def verdict(model: Captioner, data: Path, folder: Path, *more: str) -> str:
    folder.mkdir()
    checkpoint.save(folder / "best.pt", model.to_checkpoint())
    args = ["--checkpoint", str(folder / "best.pt"), "--data", str(data), "--no-java", "--max-length", "24", *more]
    evaluate.main([*args, "--knock-out", "uniform"])
    return str(json.loads((folder / "knock_out_test.json").read_text())["verdict"]["word"])


def test_a_working_attention_is_told_from_one_that_is_even_by_construction(
    drawings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Captioner.load(PRETRAINED / "shapes")
    assert verdict(model, drawings, tmp_path / "working") == "working"
    output = capsys.readouterr().out
    assert "A: as trained, B: uniform attention" in output and "A: as trained, B: image-mean attention" in output
    assert "\nverdict: working; CIDEr-D" in output and "B: previous" not in output
    content = json.loads((tmp_path / "working" / "knock_out_test.json").read_text())
    assert content["captions"].keys() == {"as trained", *NEEDED}
    assert all(len(captions) == 40 for captions in content["captions"].values())
    assert not (tmp_path / "working" / "scores_test.json").exists()
    torch.nn.init.zeros_(model.decoder.attention.score.vector.weight)
    assert verdict(model, drawings, tmp_path / "even") == "unused"


@pytest.mark.slow
def test_attention_trained_without_gradient_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient passes through the weights, neither to what scores the regions nor to the regions and the state."""
    data = tmp_path / "shapes.h5"
    preprocess(["shapes", "--output", str(data), "--count", "8000", "100", "200"])

    def attend(self: SoftAttention, query: torch.Tensor, memory: Memory, step: int) -> AttentionOutput:
        weights = self.normalise(*self.logits(query, memory, step)).detach()
        return AttentionOutput(self.read(query, weights.unsqueeze(2), memory), weights)

    monkeypatch.setattr(SoftAttention, "attend", attend)
    train.main(["shapes-soft", "--data", str(data), "--output", str(tmp_path / "dead")])
    model = Captioner.load(tmp_path / "dead" / "best.pt")
    assert verdict(model, data, tmp_path / "verdict") in ("unused", "same for every word")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--captions-only"], "--captions-only and --knock-out are two evaluations; leave out one"),
        (["--report", "x"], "--report x needs scores, but --knock-out computes none; leave out one"),
        (["--batch-size", "1"], "--knock-out exchanges the images of a batch: --batch-size must be at least 2"),
    ],
)
def test_what_does_not_go_with_knock_outs_is_refused(shapes: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate.main(["--checkpoint", "x.pt", "--data", str(shapes), "--knock-out", "all", *flags])


def test_the_last_image_is_not_left_alone_in_its_batch(shapes: Path, captioner: Captioner, tmp_path: Path) -> None:
    """Nine images to a batch leave one of ten: shuffled, it has the attention of another."""
    captioner.eval()
    assert verdict(captioner, shapes, tmp_path / "run", "--batch-size", "9", "--overwrite")


def test_a_knock_out_without_a_name_is_refused(shapes: Path) -> None:
    with pytest.raises(UserError, match="--knock-out needs a name: uniform, .*, or all"):
        evaluate.main(["--checkpoint", "x.pt", "--data", str(shapes), "--knock-out"])


def test_results_of_other_settings_are_neither_replaced_nor_in_the_way(
    shapes: Path, captioner: Captioner, tmp_path: Path
) -> None:
    """Each kind of result is compared with its own file; numbers that JSON does not have are null."""
    checkpoint.save(tmp_path / "best.pt", captioner.eval().to_checkpoint())
    args = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes), "--no-java", "--max-length", "4"]
    args += ["--instances", str(shapes.with_name("shapes_instances.json"))]
    evaluate.main([*args, "--beam-size", "2"])
    evaluate.main([*args, "--knock-out", "uniform"])
    text = (tmp_path / "knock_out_test.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["verdict"]["word"] in ("unused", "undecided")
    with pytest.raises(UserError, match=r"knock_out_test.json: holds the results of another evaluation \(beam_size"):
        evaluate.main([*args, "--knock-out", "uniform", "--beam-size", "1"])
    with pytest.raises(UserError, match=r"holds the results of another evaluation \(knock_out"):
        evaluate.main([*args, "--knock-out", "center"])
    evaluate.main([*args, "--knock-out", "uniform"])
    assert (tmp_path / "knock_out_test.json").read_text() == text
