"""The commands that a user types, and their messages about mistakes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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
from caption.config import DecoderConfig, SearchConfig
from caption.config.cli import parse
from caption.config.inference import EvaluationConfig
from caption.config.model import Fit, ImageConfig
from caption.config.presets import parse_preset
from caption.data import photos
from caption.data.dataset import CaptionDataset
from caption.data.images import BadImage, CropBox, open_image
from caption.errors import UserError
from caption.evaluation import metrics
from caption.evaluation.gates import gate_scores
from caption.training import setup
from caption.training.run_dir import coco_results
from caption.visualise import figures
from caption.visualise.paths import find_images
from preprocess.__main__ import main as preprocess

ROOT = Path(__file__).parents[1]


@pytest.fixture
def model(captioner: Captioner, tmp_path: Path) -> Path:
    """An untrained model as a checkpoint, alone in its folder."""
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "best.pt", captioner.eval().to_checkpoint())
    return tmp_path / "run" / "best.pt"


def score(shapes: Path, model: Path, *more: str) -> dict[str, Any]:
    """Run evaluate.py on the tiny test split and return what it wrote."""
    arguments = ["--checkpoint", str(model), "--data", str(shapes), "--max-length", "8", "--no-java", *more]
    evaluate.main(arguments)
    return json.loads((model.parent / "scores_test.json").read_text())


def test_evaluate_scores_every_image_once_in_the_order_of_the_file(
    shapes: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the batches; scores and captions are written beside the checkpoint."""
    instances, captions = str(shapes.with_name("shapes_instances.json")), []
    for size in ("3", "32"):
        results = score(shapes, model, "--batch-size", size, "--instances", instances, "--beam-size", "2")
        captions.append(json.loads((model.parent / "captions_test.json").read_text()))
    assert captions[0] == captions[1]
    assert [entry["image_id"] for entry in captions[0]] == CaptionDataset(shapes, "test").image_ids
    scores, output = results["scores"], capsys.readouterr().out
    names = {"BLEU-4", "BLEU-4, without BP", "ROUGE-L", "CIDEr-D", "truthful, unseen", "pointing", "distinct captions"}
    names |= {"CHAIRs"}
    assert names <= set(scores) and {"CHAIRi", "CHAIRs"} <= set(results["images"][0]["scores"])
    assert results["search"]["beam_size"] == 2 and "test: 10 images, beam 2" in output
    assert 0 < scores["attention entropy"] < np.log(16) + 1e-4 and "uniform attention has 2.77" in output
    for name in names:
        line = next(line for line in output.splitlines() if line.startswith(name.split(",")[0] + " "))
        assert f"{scores[name]:.2f}" in line
    for name, (low, high) in results["intervals"].items():
        assert low <= scores[name] <= high or scores[name] == 0, name
    assert [image["caption"] for image in results["images"]] == [entry["caption"] for entry in captions[0]]
    cider = [image["scores"]["CIDEr-D"] for image in results["images"]]
    assert np.mean(cider) == pytest.approx(scores["CIDEr-D"])


def test_evaluate_scores_when_the_model_looks(
    shapes: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate of each word that was written, and not that of <end>; a decoder without a gate is refused."""
    found = []
    monkeypatch.setattr(metrics, "gate_scores", lambda *given: found.extend(given) or gate_scores(*given))
    results = score(shapes, model, "--gates", "--instances", str(shapes.with_name("shapes_instances.json")))
    words, gates, kinds = found
    assert [len(caption) for caption in words] == [len(values) for values in gates] and kinds["red"] == "colours"
    mean = 100 * np.concatenate(gates).mean()
    assert results["scores"]["all words, gate"] == pytest.approx(mean)
    assert f"all words   {mean:.2f}" in re.sub(" {3,}", "   ", capsys.readouterr().out)
    assert "all words, gate" not in score(shapes, model, "--overwrite")["scores"]
    config = DecoderConfig("luong", embedding_dim=8, hidden_dim=8, attention_dim=8)
    loaded = Captioner.load(model)
    other = Captioner(loaded.image, loaded.configs["encoder"], config, loaded.vocabulary)
    checkpoint.save(model, other.eval().to_checkpoint())
    with pytest.raises(UserError, match=r"--gates: decoder luong of .*best\.pt has no gate; leave it out"):
        score(shapes, model, "--gates", "--overwrite")


def test_evaluate_equals_the_official_program(
    shapes: Path, model: Path, meteor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the Java program's tokens, from raw references and captions to every score, to four decimals."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    monkeypatch.setattr("pycocoevalcap.meteor.meteor.Meteor", lambda: meteor)
    evaluate.main(["--checkpoint", str(model), "--data", str(shapes), "--max-length", "8"])
    ours = json.loads((model.parent / "scores_test.json").read_text())["scores"]
    written = json.loads((model.parent / "captions_test.json").read_text())
    split = CaptionDataset(shapes, "test")
    tokenise = PTBTokenizer().tokenize
    known = tokenise({i: [{"caption": text} for text in texts] for i, texts in enumerate(split.references())})
    captions = tokenise({i: [{"caption": entry["caption"]}] for i, entry in enumerate(written)})
    for n, value in enumerate(Bleu(4).compute_score(known, captions, verbose=0)[0], 1):
        assert ours[f"BLEU-{n}"] == pytest.approx(100 * value, abs=1e-4)
    for name, scorer in {"ROUGE-L": Rouge(), "CIDEr-D": Cider(), "METEOR": meteor}.items():
        assert ours[name] == pytest.approx(100 * scorer.compute_score(known, captions)[0], abs=1e-4), name


def test_compare_tells_equal_runs_from_better_ones(
    shapes: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run equals itself and is much worse than true captions. Captions that were not scored, and those of other
    images, are refused."""
    results = score(shapes, model)
    folder, right = str(model.parent), tmp_path / "right"
    split = CaptionDataset(shapes, "test")
    right.mkdir()
    (right / "captions_test.json").write_text(coco_results(split.image_ids, ["a"] * 10))  # as training leaves them
    with pytest.raises(UserError, match="scores_test.json: no such file; score that run first"):
        evaluate.main(["--compare", folder, str(right)])
    for image, references in zip(results["images"], split.references(), strict=True):
        image["caption"] = references[0]
    results["search"]["beam_size"] = 5
    (right / "scores_test.json").write_text(json.dumps(results))
    capsys.readouterr()
    options = ["--instances", str(shapes.with_name("shapes_instances.json")), "--no-java"]
    evaluate.main(["--compare", folder, folder, *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{shapes}, test: 10 images" and lines[2] == f"B: {folder}, beam 3, at most 8 words"
    assert all(line.endswith(" 1.0000") for line in lines[4:])
    evaluate.main(["--compare", folder, str(right), *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == f"B: {right}, beam 5, at most 8 words"
    for name in ("CIDEr-D", "truthful "):
        line = next(line for line in lines if line.startswith(name))
        assert line.endswith("real") and "+" in line
    assert next(line for line in lines if line.startswith("truthful ")).split()[2] == "100.00"

    results["images"] = results["images"][1:]
    (right / "scores_test.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match="was scored on 9 images of .* not on the 10"):
        evaluate.main(["--compare", folder, str(right)])


def test_instances_of_other_images_are_refused(shapes: Path, model: Path, tmp_path: Path) -> None:
    """Those of another split and of another seed, before the first caption is generated."""
    instances = json.loads(shapes.with_name("shapes_instances.json").read_text())
    for change, message in (
        ({"images": instances["images"][:50]}, "has no image 2000000"),
        ({"info": {"seed": 7}}, "drawn with seed 7"),
    ):
        (tmp_path / "other.json").write_text(json.dumps({**instances, **change}))
        with pytest.raises(UserError, match=message):
            score(shapes, model, "--instances", str(tmp_path / "other.json"))
    assert {path.name for path in model.parent.iterdir()} == {"best.pt"}


def test_caption_image_prints_the_caption_that_evaluate_scores(
    shapes: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the image's PNG and from the data file; JSON agrees with the text."""
    image = shapes.with_name("shapes_test_000003.png")
    arguments = ["--checkpoint", str(model), "--image", str(image), "--max-length", "8"]
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

    score(shapes, model)
    written = json.loads((model.parent / "captions_test.json").read_text())
    assert written[3]["caption"] == result["caption"]


def test_a_caption_is_followed_by_two_models(
    shapes: Path, model: Path, tmp_path: Path, capsys, captioner: Captioner
) -> None:
    """It has the log-probability that search reports for it; the second model follows the same words."""
    image = str(shapes.with_name("shapes_test_000003.png"))
    arguments = ["--checkpoint", str(model), "--image", image, "--max-length", "8", "--json"]
    caption_image.main(arguments)
    own = json.loads(capsys.readouterr().out)
    caption_image.main([*arguments, "--caption", own["caption"].upper()])
    given = json.loads(capsys.readouterr().out)
    if own["finished"]:
        assert given["log_probability"] == pytest.approx(own["log_probability"], abs=1e-4)
    assert given["caption"] == own["caption"]
    for ours, theirs in zip(given["words"], own["words"], strict=True):
        assert np.allclose(ours["weights"], theirs["weights"], atol=1e-5)

    hard = dataclasses.replace(captioner.configs["decoder"], attention="hard")
    other = Captioner(captioner.image, captioner.configs["encoder"], hard, captioner.vocabulary)
    checkpoint.save(tmp_path / "hard.pt", other.to_checkpoint())
    figure = tmp_path / "two.png"
    two = ["--checkpoint", str(tmp_path / "hard.pt"), "--image", image, "--caption", "a red circle", "--json"]
    caption_image.main([*two, "--hard-attention", "argmax", "--compare-with", str(model), "--output", str(figure)])
    result = json.loads(capsys.readouterr().out)
    assert result["caption"] == "a red circle" and Image.open(figure).size[0] > 600
    for word in result["words"]:
        assert word["location"] == list(np.unravel_index(np.argmax(word["weights"]), (4, 4)))


def test_each_of_two_models_is_drawn_by_the_part_of_the_image_that_it_saw(
    model: Path, tmp_path: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One saw the middle of a wide image, the other all of it."""
    image = dataclasses.replace(captioner.image, fit="crop")
    other = Captioner(image, captioner.configs["encoder"], captioner.configs["decoder"], captioner.vocabulary)
    checkpoint.save(tmp_path / "crop.pt", other.to_checkpoint())
    Image.new("RGB", (80, 40)).save(tmp_path / "wide.png")
    found = []
    monkeypatch.setattr(figures, "draw_attention", lambda image, words, maps, path, separator: found.extend(maps))
    arguments = [
        "--image",
        str(tmp_path / "wide.png"),
        "--caption",
        "a red circle",
        "--output",
        str(tmp_path / "a.png"),
    ]
    caption_image.main(["--checkpoint", str(tmp_path / "crop.pt"), "--compare-with", str(model), *arguments])
    assert captioner.image.fit == "squash"
    assert [maps.window for maps in found] == [CropBox(0.25, 0, 0.5, 1), CropBox()]


def test_an_image_is_decoded_once_unless_a_large_jpeg_would_be_too_small_to_show(
    shapes: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is drawn of it, and by how many models; a JPEG may be decoded at reduced size for the model."""
    opened: list[str] = []
    monkeypatch.setattr(
        photos, "open_image", lambda path, size: opened.append(Path(path).name) or open_image(path, size)
    )
    Image.open(shapes.with_name("shapes_test_000003.png")).save(tmp_path / "small.png")
    Image.new("RGB", (1000, 800)).save(tmp_path / "large.jpg")
    arguments = ["--checkpoint", str(model), "--max-length", "3", "--output", str(tmp_path / "figures")]
    images = ["--image", str(tmp_path / "small.png"), str(tmp_path / "large.jpg")]
    caption_image.main([*arguments, *images, "--compare-with", str(model)])
    assert opened == ["small.png", "large.jpg", "large.jpg"]
    assert max(photos.load_photo(tmp_path / "large.jpg", ImageConfig(32, "crop")).shown.size) == 448


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_of_a_long_strip_the_figure_shows_what_the_model_saw(
    captioner: Captioner, tmp_path: Path, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an image 250 times as long as it is high, the whole would be a line of a pixel or two."""
    form = dataclasses.replace(captioner.image, fit=fit)
    other = Captioner(form, captioner.configs["encoder"], captioner.configs["decoder"], captioner.vocabulary)
    checkpoint.save(tmp_path / "model.pt", other.to_checkpoint())
    strip = Image.new("RGB", (4000, 16), "white")
    strip.paste("red", (1992, 0, 2008, 16))  # the middle square
    strip.save(tmp_path / "strip.png")
    drawn = []
    monkeypatch.setattr(
        figures, "draw_attention", lambda image, words, maps, path, separator: drawn.append((image, maps))
    )
    arguments = ["--image", str(tmp_path / "strip.png"), "--caption", "a red circle"]
    model = ["--checkpoint", str(tmp_path / "model.pt"), "--compare-with", str(tmp_path / "model.pt")]
    caption_image.main([*model, *arguments, "--output", str(tmp_path / "a.png")])
    image, maps = drawn[0]
    assert image.shape == (448, 448, 3) and [model.window for model in maps] == [CropBox(), CropBox()]
    assert (image[:, 40:-40] == (255, 0, 0)).all() == (fit == "crop")  # edges are interpolated
    checkpoint.save(tmp_path / "fit.pt", captioner.to_checkpoint())
    if captioner.image.fit != fit:  # there is no part that both models saw
        with pytest.raises(BadImage, match=r"strip.png: of an image this long the two models see different parts"):
            caption_image.main([*model[:3], str(tmp_path / "fit.pt"), *arguments, "--output", str(tmp_path / "b.png")])


def test_a_caption_of_thousands_of_words_is_refused_at_once(model: Path, shapes: Path) -> None:
    arguments = ["--checkpoint", str(model), "--image", str(shapes.with_name("shapes_test_000003.png"))]
    with pytest.raises(UserError, match="--caption has 2000 words, but must have 1 to 100"):
        caption_image.main([*arguments, "--caption", "red " * 2000])


def test_a_folder_is_searched_for_images_alone(shapes: Path, tmp_path: Path) -> None:
    """Neither for a folder with an image's name, nor for PostScript, nor for what macOS keeps beside an image."""
    for name in ("a.png", "._a.png", "b.eps", "c.txt"):
        (tmp_path / name).write_bytes(shapes.with_name("shapes_test_000003.png").read_bytes())
    (tmp_path / "dir.jpg").mkdir()
    assert find_images([str(tmp_path)]) == [tmp_path / "a.png"]


def test_heads_are_drawn_below_their_mean(shapes: Path, tmp_path: Path, capsys, captioner: Captioner) -> None:
    """The figure is as wide as without them; their weights are in the JSON."""
    form = dataclasses.replace(captioner.configs["decoder"], name="transformer", heads=2)
    other = Captioner(captioner.image, captioner.configs["encoder"], form, captioner.vocabulary)
    assert other.head_names == [f"layer {n}, head {m}" for n in (1, 2, 3) for m in (1, 2)]
    checkpoint.save(tmp_path / "heads.pt", other.to_checkpoint())
    image = str(shapes.with_name("shapes_test_000003.png"))
    arguments = ["--checkpoint", str(tmp_path / "heads.pt"), "--image", image, "--caption", "a red circle", "--json"]
    caption_image.main([*arguments, "--output", str(tmp_path / "mean.png")])
    capsys.readouterr()
    caption_image.main([*arguments, "--output", str(tmp_path / "heads.png"), "--heads"])
    mean, heads = (Image.open(tmp_path / f"{name}.png") for name in ("mean", "heads"))
    assert heads.height > 5 * mean.height and heads.width == mean.width
    for word in json.loads(capsys.readouterr().out)["words"]:
        weights = np.array([word["heads"][name] for name in other.head_names])
        assert np.allclose(weights.mean(0), word["weights"], atol=1e-6) and np.allclose(
            weights.sum((1, 2)), 1, atol=1e-5
        )
    caption_image.main([*arguments, "--output", str(tmp_path / "page.html")])
    assert all(f'"name":"{name}"' in (tmp_path / "page.html").read_text() for name in other.head_names)


def test_a_folder_gives_a_figure_for_each_image(
    shapes: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other files in it are ignored; a broken image is reported and stops no other."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for number in (1, 2):
        image = Image.open(shapes.with_name(f"shapes_test_00000{number}.png"))
        image.resize((90, 40)).save(images / f"{number}.png")
        image.save(images / "more" / f"{number}.png")
    (images / "notes.txt").write_text("no image")
    arguments = ["--checkpoint", str(model), "--max-length", "5", "--image", str(images), str(images / "more")]
    caption_image.main([*arguments, "--output", str(tmp_path / "figures"), "--format", "jpg"])
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"1.jpg", "2.jpg", "1_2.jpg", "2_2.jpg"}
    assert capsys.readouterr().out.splitlines()[::3] == [
        str(images / n) for n in ("1.png", "2.png", "more/1.png", "more/2.png")
    ]
    caption_image.main([*arguments, "--json"])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(objects) == 4 and all(0 < word["gate"] < 1 for image in objects for word in image["words"])

    (images / "1.png").write_bytes(b"broken")
    page = tmp_path / "page.html"
    with pytest.raises(UserError, match="1 of 4 images could not be read"):
        caption_image.main([*arguments, "--output", str(page)])
    assert "1.png" in capsys.readouterr().err and page.read_text().count('"image":"data:image') == 3


def test_images_are_never_overwritten(shapes: Path, model: Path, tmp_path: Path) -> None:
    """Neither by their own figures, nor one figure by another; a page holds images of odd names, too."""
    (tmp_path / "own").mkdir()
    image = Image.open(shapes.with_name("shapes_test_000001.png"))
    names = ["a.png", "a_2.png", "own/a.png", os.fsdecode(b"caf\xe9 $x_{$.png")]
    for name in names:
        image.save(tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    arguments = ["--checkpoint", str(model), "--max-length", "5", "--image"]
    for output in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(UserError, match="a.png is one of the images"):
            caption_image.main([*arguments, str(tmp_path / "a.png"), "--output", str(output)])
    assert (tmp_path / "a.png").read_bytes() == content
    paths = [str(tmp_path / name) for name in (*names, "a.png")]  # one of them twice
    caption_image.main([*arguments, *paths, "--output", str(tmp_path / "figures")])
    assert len(list((tmp_path / "figures").iterdir())) == 4
    caption_image.main([*arguments, *paths, "--output", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text().count('"image":"data:image') == 4
    odd = tmp_path / "$x_{$"
    odd.mkdir()
    (odd / "best.pt").write_bytes(model.read_bytes())
    caption_image.main(
        [*arguments, paths[0], "--compare-with", str(odd / "best.pt"), "--output", str(tmp_path / "2.png")]
    )
    (tmp_path / "own" / "b.pdf").write_bytes(b"%PDF")  # Pillow writes such, and reads none
    caption_image.main([*arguments, str(tmp_path / "own")])


@pytest.mark.parametrize("name", ["a.png", "a.pdf", "a.svg", "a.jpg", "a.gif", "a.html", "figures"])
def test_only_figures_and_pages_of_ours_are_replaced(shapes: Path, model: Path, tmp_path: Path, name: str) -> None:
    """A file of something else is kept, and said so before the model is loaded; a figure can be drawn again."""
    image, output = shapes.with_name("shapes_test_000001.png"), tmp_path / name
    written = output / f"{image.stem}.png" if name == "figures" else output
    arguments = ["--checkpoint", str(model), "--max-length", "3", "--image", str(image), "--output", str(output)]
    caption_image.main(arguments)
    first = written.read_bytes()
    caption_image.main([*arguments, "--caption", "a circle"])
    assert written.read_bytes() != first
    written.write_bytes(b"a figure of something else")
    with pytest.raises(UserError, match="is not written by show-attend-and-tell; give another name"):
        caption_image.main(arguments)
    assert written.read_bytes() == b"a figure of something else"


def test_scores_of_another_evaluation_are_kept(shapes: Path, model: Path, tmp_path: Path) -> None:
    """Those of another beam or checkpoint are replaced only if one says so; the same evaluation can be run again."""
    instances = str(shapes.with_name("shapes_instances.json"))
    score(shapes, model, "--beam-size", "2", "--instances", instances)
    kept = (model.parent / "scores_test.json").read_bytes()
    score(shapes, model, "--beam-size", "2", "--instances", instances, "--batch-size", "3", "--precision", "auto")
    model.with_name("last.pt").write_bytes(model.read_bytes())
    kept = (model.parent / "scores_test.json").read_bytes()
    cases = [
        (model, ["--beam-size", "1", "--instances", instances], "beam_size was 2, now 1"),
        (model.with_name("last.pt"), ["--beam-size", "2", "--instances", instances], "checkpoint was .*best.pt', now"),
        (model, ["--beam-size", "2"], "instances was .*json.*, now ''"),
    ]
    for path, flags, message in cases:
        with pytest.raises(UserError, match=f"results of another evaluation .*{message}.*give --overwrite .*--output"):
            score(shapes, path, *flags)
        assert (model.parent / "scores_test.json").read_bytes() == kept
    score(shapes, model, "--beam-size", "1", "--output", str(tmp_path / "beam1"))
    assert json.loads((tmp_path / "beam1" / "scores_test.json").read_text())["search"]["beam_size"] == 1
    assert (model.parent / "scores_test.json").read_bytes() == kept
    assert score(shapes, model, "--beam-size", "1", "--overwrite")["search"]["beam_size"] == 1
    (model.parent / "scores_test.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read; give --overwrite, or another --output"):
        score(shapes, model)


def test_a_report_is_refused_before_the_work(
    shapes: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate", lambda args: pytest.fail("it worked"))
    with pytest.raises(UserError, match="holds files, but no report"):
        score(shapes, model, "--report", str(model.parent))
    assert [*model.parent.iterdir()] == [model]


def test_a_second_process_is_refused(
    shapes: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two trainings, resumed ones, evaluations, reports, pages and figures, the first goes on."""
    trained, image = tmp_path / "trained", str(shapes.with_name("shapes_test_000001.png"))
    new = ["shapes-soft", "--data", str(shapes), "--output", str(trained)]
    scoring = ["--checkpoint", str(model), "--data", str(shapes)]
    elsewhere = [*scoring, "--output", str(tmp_path / "beam1"), "--report", str(tmp_path / "report")]
    showing = ["--checkpoint", str(model), "--image", image, "--output"]
    report = ["--report", str(tmp_path / "report")]
    cases: list[tuple[Any, str, list[str], list[str]]] = [
        (train, "train", new, new),
        (train, "train", ["--resume", str(trained)], ["--resume", str(trained)]),
        (evaluate, "evaluate", scoring, scoring),
        (evaluate, "evaluate", [*scoring, *report], elsewhere),
        *(
            (caption_image, "caption_images", [*showing, str(tmp_path / name)], [*showing, str(tmp_path / name)])
            for name in ("page.html", "figure.png", "figures")
        ),
    ]
    for script, work, first, second in cases:
        calls = []

        def work_beside_another(*arguments: Any, script=script, second=second, calls=calls) -> None:
            calls.append(arguments)
            if len(calls) == 1:
                with pytest.raises(UserError, match="another process is writing it; wait for that process, or stop it"):
                    script.main(second)

        monkeypatch.setattr(script, work, work_beside_another)
        script.main(first)
        assert len(calls) == 1
        if first is new:  # something to resume
            assert not trained.exists()  # nothing was written, and so no folder stays
            trained.mkdir()
            setup.run_dir.create_folder(parse_preset(new, "train.py", ""))
            checkpoint.save(trained / "last.pt", {"model": {}, **dict.fromkeys(setup.run_dir.RESUMED, 0)})
    assert not [*tmp_path.rglob("*.lock")]


def test_a_run_replaces_no_file_of_something_else(shapes: Path, tmp_path: Path) -> None:
    """Of a run that ended before its first checkpoint, it does."""
    config = parse_preset(["shapes-soft", "--data", str(shapes), "--output", str(tmp_path)], "train.py", "")
    for name in ("log.jsonl", "config.json", "curves.png"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(UserError, match=f"{name} is not that of a run, and would be replaced; give another"):
            setup.run_dir.create_folder(config)
        assert (tmp_path / name).read_text() == "{}"
        (tmp_path / name).unlink()
    for _ in range(2):
        setup.run_dir.create_folder(config)
        (tmp_path / "log.jsonl").touch()


def test_a_mistake_is_reported_in_one_line(shapes: Path, model: Path, tmp_path: Path) -> None:
    """It names the value, the rule and the remedy."""
    other = copy_file(shapes, tmp_path / "other.h5", drop_last_word=True)
    image, (data, out) = str(shapes.with_name("shapes_test_000003.png")), (str(shapes), str(tmp_path / "new"))
    torch.save({"x": 1}, tmp_path / "x.pt")
    start = ["--data", data, "--output", out]
    cases = [
        (train, ["shape-soft", *start], "unknown preset 'shape-soft'; known: shapes-soft, strings-soft"),
        (train, ["shapes-soft", *start, "--decoder.hiden", "3"], "--decoder.hiden.*--decoder.hidden-dim"),
        (train, ["shapes-soft", *start, "--decoder.hidden-dim", "x"], "--decoder.hidden.*'x'"),
        (train, ["shapes-soft", "--output", out], "Missing.*--data"),
        (train, ["shapes-soft", *start, "--encoder.name", "vgg99"], "unknown encoder 'vgg99'; known: small_cnn"),
        (train, ["shapes-soft", *start, "--decoder.hidden-dim", "0"], "decoder.hidden_dim is 0, but must be positive"),
        (train, ["shapes-soft", *start, "--device", "abacus"], "device 'abacus'"),
        (train, ["shapes-soft", *start, "--decoder.window-radius", "3"], "window is global; add --decoder.window"),
        (train, ["shapes-soft", "--data", str(tmp_path / "no.h5"), "--output", out], "no such data file"),
        (train, ["--resume", str(tmp_path)], "holds no run to resume"),
        (evaluate, ["--checkpoint", str(tmp_path / "x.pt"), "--data", data], "not a checkpoint of this program"),
        (evaluate, ["--checkpoint", str(model), "--data", str(other)], "is not the model's"),
        (evaluate, ["--checkpoint", str(model), "--data", data, "--beam-size", "0"], "beam_size is 0"),
        (evaluate, ["--checkpoint", str(model), "--data", data, "--instances", data], "give a COCO instance file"),
        (train, ["shapes-soft", *start, "--training.reinforce.samples", "2"], "reinforce is set, but .*attention hard"),
        (train, ["shapes-soft", *start, "--search.hard-attention", "sample"], "hard_attention is sample, but .*hard"),
        (
            evaluate,
            ["--checkpoint", str(model), "--data", data, "--hard-attention", "sample"],
            "this model's attention is soft",
        ),
        (caption_image, ["--checkpoint", str(model), "--image", image, "--compare-with", "x.pt"], "needs --output"),
        (caption_image, ["--checkpoint", str(model), "--image", image, "--caption", "?!"], "--caption has 0 words"),
        (caption_image, ["--checkpoint", str(model), "--image", image, "--output", "a.png", "--heads"], "several"),
        (caption_image, ["--checkpoint", str(model), "--image", str(tmp_path / "no.jpg")], "no such image"),
        (caption_image, ["--checkpoint", str(model), "--image", data], "shapes.h5: of unknown kind"),
        (caption_image, ["--checkpoint", str(model), "--image", image, "--output", "a.doc"], "unknown kind of file"),
        (caption_image, ["--checkpoint", str(model), "--image", image, data, "--output", "a.png"], "give a folder"),
        (caption_image, ["--checkpoint", str(model), "--image", str(tmp_path / "run")], "no image in this folder"),
        (caption_image, ["--checkpoint", str(model), "--image"], "names no image|Missing"),
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
def test_a_mistake_exits_with_code_2_and_one_line(command: list[str], tmp_path: Path) -> None:
    command = [str(ROOT / command[0]) if command[0].endswith(".py") else command[0], *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("main", [train.main, evaluate.main, caption_image.main, preprocess])
def test_help_lists_the_options(main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    output = capsys.readouterr().out
    assert stopped.value.code == 0 and "usage:" in output
    if main is train.main:  # presets and fields
        assert "flickr8k-soft" in output and "--training.learning-rate" in output and "--resume" in output


def test_options_of_the_search_have_no_prefix() -> None:
    arguments = ["--checkpoint", "c", "--data", "d", "--beam-size", "7", "--length-penalty", "0.5"]
    args = parse(EvaluationConfig, arguments, "evaluate.py")
    assert args.search == SearchConfig(beam_size=7, length_penalty=0.5)
