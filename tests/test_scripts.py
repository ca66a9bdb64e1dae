"""The commands that a user types: preprocess, train, evaluate, caption; and what they say to mistakes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import copy_file
from PIL import Image

import caption_image
import evaluate
import train
from caption import checkpoint
from caption.captioner import Captioner
from caption.command import parse
from caption.config import SearchConfig
from caption.data import CaptionData
from caption.errors import UserError
from preprocess.__main__ import main as preprocess

ROOT = Path(__file__).parents[1]


@pytest.fixture
def model(captioner: Captioner, tmp_path: Path) -> Path:
    """An untrained model as a checkpoint, alone in its folder."""
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "best.pt", captioner.eval().content())
    return tmp_path / "run" / "best.pt"


def test_evaluate(shapes: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every picture once, in the file's order, whatever the batches; scores and captions beside the checkpoint."""
    instances = shapes.with_name("shapes_instances.json")
    captions = []
    for size in ("3", "32"):
        more = ["--batch-size", size, "--max-length", "8", "--grounding", str(instances)]
        evaluate.main(["--checkpoint", str(model), "--data", str(shapes), "--split", "test", "--beam-size", "2", *more])
        captions.append(json.loads((model.parent / "captions_test.json").read_text()))
    assert captions[0] == captions[1]
    assert [entry["image_id"] for entry in captions[0]] == CaptionData(shapes, "test").image_ids
    told = json.loads((model.parent / "scores_test.json").read_text())
    assert {"BLEU-1", "BLEU-4", "BLEU-4 without BP", "length ratio", "pointing"} <= set(told["scores"])
    assert told["search"]["beam_size"] == 2
    output = capsys.readouterr().out
    assert "test: 10 pictures, beam 2" in output and "BLEU-1  BLEU-2  BLEU-3  BLEU-4" in output
    assert "attention's maximum inside the named object:" in output
    assert 0 < told["scores"]["attention entropy"] < np.log(16) + 1e-4
    assert f"attention's entropy: {told['scores']['attention entropy']:.2f} nats a word" in output


def test_caption_image(shapes: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same caption from the file's PNG as from the data set; JSON agrees with the text."""
    picture = shapes.with_name("shapes_test_000003.png")
    arguments = ["--checkpoint", str(model), "--image", str(picture), "--max-length", "8"]
    caption_image.main([*arguments, "--output", str(tmp_path / "figures" / "out.png")])
    text, log_probability = capsys.readouterr().out.splitlines()
    assert Image.open(tmp_path / "figures" / "out.png").size[0] > 300
    caption_image.main([*arguments, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["caption"] == text.removesuffix(" ...")
    assert f"log-probability {result['log_probability']:.3f}" == log_probability
    assert [word["word"] for word in result["words"]] == result["caption"].split()
    weights = np.array([word["weights"] for word in result["words"]])
    assert weights.shape[1:] == tuple(result["grid"]) == (4, 4)
    assert np.allclose(weights.sum((1, 2)), 1, atol=1e-5)

    evaluate.main(["--checkpoint", str(model), "--data", str(shapes), "--max-length", "8"])
    written = json.loads((model.parent / "captions_test.json").read_text())
    assert written[3]["caption"] == result["caption"]


def test_given_words_and_two_models(shapes: Path, model: Path, tmp_path: Path, capsys, captioner: Captioner) -> None:
    """A given caption has the log-probability that search reports for it; the second model looks at the same words."""
    picture = str(shapes.with_name("shapes_test_000003.png"))
    arguments = ["--checkpoint", str(model), "--image", picture, "--max-length", "8", "--json"]
    caption_image.main(arguments)
    own = json.loads(capsys.readouterr().out)
    caption_image.main([*arguments, "--caption", own["caption"].upper()])
    given = json.loads(capsys.readouterr().out)
    if own["finished"]:
        assert given["log_probability"] == pytest.approx(own["log_probability"], abs=1e-4)
    assert given["caption"] == own["caption"]
    for ours, theirs in zip(given["words"], own["words"], strict=True):
        assert np.allclose(ours["weights"], theirs["weights"], atol=1e-5)

    hard = dataclasses.replace(captioner.configs["decoder"], selection="hard")
    other = Captioner(captioner.image, captioner.configs["encoder"], hard, captioner.vocabulary)
    checkpoint.save(tmp_path / "hard.pt", other.content())
    figure = tmp_path / "two.png"
    two = ["--checkpoint", str(tmp_path / "hard.pt"), "--image", picture, "--caption", "a red circle", "--json"]
    caption_image.main([*two, "--attend", "most_probable", "--against", str(model), "--output", str(figure)])
    told = json.loads(capsys.readouterr().out)
    assert told["caption"] == "a red circle" and Image.open(figure).size[0] > 600
    for word in told["words"]:
        assert word["location"] == list(np.unravel_index(np.argmax(word["weights"]), (4, 4)))


def test_mistakes(shapes: Path, model: Path, tmp_path: Path) -> None:
    """One line that names the value, the rule and the remedy."""
    other = copy_file(shapes, tmp_path / "other.h5", drop_last_word=True)
    picture, (data, out) = str(shapes.with_name("shapes_test_000003.png")), (str(shapes), str(tmp_path / "new"))
    torch.save({"x": 1}, tmp_path / "x.pt")
    start = ["--data", data, "--output", out]
    cases = [
        (train, ["shape-soft", *start], "unknown preset 'shape-soft'; known: shapes-soft, flickr8k"),
        (train, ["shapes-soft", *start, "--decoder.hiden", "3"], "--decoder.hiden.*--decoder.hidden"),
        (train, ["shapes-soft", *start, "--decoder.hidden", "x"], "--decoder.hidden.*'x'"),
        (train, ["shapes-soft", "--output", out], "Missing.*--data"),
        (train, ["shapes-soft", *start, "--encoder.name", "vgg99"], "unknown encoder 'vgg99'; known: small_cnn"),
        (train, ["shapes-soft", *start, "--decoder.hidden", "0"], "decoder.hidden is 0, but must be positive"),
        (train, ["shapes-soft", *start, "--device", "abacus"], "device 'abacus'"),
        (train, ["shapes-soft", "--data", str(tmp_path / "no.h5"), "--output", out], "no such data file"),
        (train, ["--resume", str(tmp_path)], "holds no run to resume"),
        (evaluate, ["--checkpoint", str(tmp_path / "x.pt"), "--data", data], "not a checkpoint of this program"),
        (evaluate, ["--checkpoint", str(model), "--data", str(other)], "is not the model's"),
        (evaluate, ["--checkpoint", str(model), "--data", data, "--beam-size", "0"], "beam_size is 0"),
        (evaluate, ["--checkpoint", str(model), "--data", data, "--grounding", data], "not a COCO instance file"),
        (train, ["shapes-soft", *start, "--training.reinforce.draws", "2"], "reinforce is set, but .*selection hard"),
        (train, ["shapes-soft", *start, "--search.attend", "draw"], "attend is draw, which needs .*hard"),
        (evaluate, ["--checkpoint", str(model), "--data", data, "--attend", "draw"], "this model's attention is soft"),
        (caption_image, ["--checkpoint", str(model), "--image", picture, "--against", str(model)], "needs --output"),
        (caption_image, ["--checkpoint", str(model), "--image", picture, "--caption", "?!"], "holds no word"),
        (caption_image, ["--checkpoint", str(model), "--image", str(tmp_path / "no.jpg")], "no such picture"),
        (caption_image, ["--checkpoint", str(model), "--image", data], "shapes.h5: unreadable or truncated picture"),
        (caption_image, ["--checkpoint", str(model), "--image", picture, "--output", "a.doc"], "unknown kind of file"),
    ]  # fmt: skip
    for script, arguments, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            script.main(arguments)
        assert "\n" not in str(caught.value) and "│" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "nonsense"],
        ["evaluate.py", "--checkpoint", "nowhere.pt", "--data", "nowhere.h5"],
        ["caption_image.py", "--checkpoint", "nowhere.pt", "--image", "nowhere.jpg"],
        ["-m", "preprocess", "flickr8k", "--images", "nowhere", "--text", "nowhere", "--output", "never.h5"],
    ],
)
def test_exit_code_two_and_one_line(command: list[str], tmp_path: Path) -> None:
    command = [str(ROOT / command[0]) if command[0].endswith(".py") else command[0], *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("main", [train.main, evaluate.main, caption_image.main, preprocess])
def test_help(main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    output = capsys.readouterr().out
    assert stopped.value.code == 0 and "usage:" in output
    if main is train.main:  # presets and fields
        assert "flickr8k-soft" in output and "--training.learning-rate" in output and "--resume" in output


def test_options_of_the_search_stand_alone() -> None:
    arguments = ["--checkpoint", "c", "--data", "d", "--beam-size", "7", "--length-penalty", "0.5"]
    found = parse(evaluate.Arguments, arguments, "evaluate.py")
    assert found.search == SearchConfig(beam_size=7, length_penalty=0.5)
