"""Exported models: the same to the bit, whole or absent, from a folder or from the Hub."""

import dataclasses
import json
import sys
import types
from pathlib import Path

import pytest
import torch

import caption_image
import evaluate
from caption import checkpoint, export, exported
from caption.captioner import Captioner
from caption.config.presets import parse_preset
from caption.errors import UserError
from caption.files import run_folder
from caption.training import setup


@pytest.fixture
def run(tmp_path: Path, captioner: Captioner) -> Path:
    """The folder of a run with a best.pt."""
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "best.pt", {**captioner.to_checkpoint(), "epoch": 3, "scores": {"BLEU-4": 1.5}})
    return tmp_path / "run"


def test_an_exported_model_is_the_same_to_the_bit(run: Path, tmp_path: Path, captioner: Captioner) -> None:
    export.main(["--checkpoint", str(run / "best.pt"), "--output", str(tmp_path / "model")])
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(exported.FILES)
    loaded = Captioner.load(tmp_path / "model")
    assert loaded.configs == captioner.configs and loaded.vocabulary.words == captioner.vocabulary.words
    for name, value in captioner.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    content = checkpoint.load(tmp_path / "model")
    assert (content["epoch"], content["scores"]) == (3, {"BLEU-4": 1.5})


def test_half_precision_is_half_as_large_and_loads_as_float32(run: Path, tmp_path: Path, captioner: Captioner) -> None:
    for name, flags in (("full", []), ("half", ["--half"])):
        export.main(["--checkpoint", str(run / "best.pt"), "--output", str(tmp_path / name), *flags])
    full, half = (tmp_path / name / "model.safetensors" for name in ("full", "half"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    cards = [(tmp_path / name / "README.md").read_text() for name in ("full", "half")]
    assert ["rounded to float16" in card for card in cards] == [False, True]
    loaded = Captioner.load(tmp_path / "half").state_dict()
    for name, value in captioner.state_dict().items():
        assert loaded[name].dtype == value.dtype
        torch.testing.assert_close(loaded[name], value.half().to(value.dtype) if value.is_floating_point() else value)
    with torch.no_grad():
        captioner.decoder.output.bias[0] = 70000
    with pytest.raises(UserError, match="decoder.output.bias has a value of 7e.04, too large for float16"):
        exported.save(tmp_path / "large", captioner.to_checkpoint(), half=True, card="")
    assert not (tmp_path / "large").exists() and not [*tmp_path.glob("*.part")]


def test_an_export_does_not_say_where_files_lay(tmp_path: Path, captioner: Captioner) -> None:
    content = captioner.to_checkpoint()
    content["configs"]["encoder"] |= {"weights": "/home/someone/weights.pth"}
    exported.save(tmp_path / "model", content, half=False, card="")
    assert checkpoint.load(tmp_path / "model")["configs"]["encoder"]["weights"] == "weights.pth"
    assert "someone" not in (tmp_path / "model" / "config.json").read_text()


def test_an_export_is_taken_wherever_a_checkpoint_is(
    run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    export.main(["--checkpoint", str(run / "best.pt"), "--output", str(model)])
    image = ["--image", str(shapes.with_name("shapes_test_000003.png")), "--max-length", "4"]
    capsys.readouterr()
    caption_image.main(["--checkpoint", str(run / "best.pt"), *image])
    caption_image.main(["--checkpoint", str(model), *image])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]
    evaluate.main(["--checkpoint", str(model), "--data", str(shapes), "--max-length", "4", "--no-java"])
    assert (model / "scores_test.json").is_file()  # in the folder itself, not beside it
    export.main(["--checkpoint", str(model), "--output", str(tmp_path / "again")])
    card = (tmp_path / "again" / "README.md").read_text()
    assert "## Scores, split `test`" in card and "| BLEU-4 |" in card and " to " in card


def test_notes_come_into_the_model_card(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("## Limits\n\nIt knows shapes alone.\n")
    arguments = ["--checkpoint", str(run / "best.pt"), "--output", str(tmp_path / "model")]
    export.main([*arguments, "--notes", str(tmp_path / "notes.md")])
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\n") and "# model" in card and card.endswith("It knows shapes alone.\n")


def test_nothing_is_replaced_unasked(run: Path, tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(run / "best.pt"), "--output"]
    (tmp_path / "other").mkdir()
    for flags in ([], ["--overwrite"]):
        with pytest.raises(UserError, match="other: exists already; give the name of a new folder"):
            export.main([*arguments, str(tmp_path / "other"), *flags])
    export.main([*arguments, str(tmp_path / "model")])
    with pytest.raises(UserError, match="model: exists already; give --overwrite to replace it"):
        export.main([*arguments, str(tmp_path / "model")])
    export.main([*arguments, str(tmp_path / "model"), "--overwrite", "--half"])
    assert Captioner.load(tmp_path / "model")


def test_a_damaged_export_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    export.main(["--checkpoint", str(run / "best.pt"), "--output", str(model)])
    whole = {path: path.read_bytes() for path in model.iterdir()}
    weights = model / "model.safetensors"
    flipped = bytearray(whole[weights])
    flipped[len(flipped) // 2] ^= 1
    config = json.loads(whole[model / "config.json"])
    for path, content, message in (
        (weights, bytes(flipped), "is damaged.*the weights are not those that config.json names"),
        (weights, whole[weights][:-5], "is damaged"),
        (model / "config.json", b"{", "is damaged"),
        (model / "config.json", json.dumps(config | {"format": "x"}).encode(), "not of this program's export"),
        (model / "config.json", json.dumps(config | {"configs": {}}).encode(), "is damaged"),
        (model / "vocabulary.json", b"[1]", "is damaged"),
        (model / "vocabulary.json", None, "vocabulary.json is missing"),
    ):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            Captioner.load(model)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole[path])
    weights.unlink()
    with pytest.raises(UserError, match="is a folder; there is no checkpoint in it"):
        Captioner.load(model)


def test_a_model_comes_from_the_hub_by_its_name_and_revision(
    run: Path, tmp_path: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.main(["--checkpoint", str(run / "best.pt"), "--output", str(tmp_path / "model")])
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        if repository == "no/body":
            raise OSError("404 Client Error.\nRepository Not Found")
        return str(tmp_path / "model")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    for name in ("hf://owner/name", "hf://owner/name@v1"):
        assert torch.equal(Captioner.load(name).decoder.output.bias, captioner.decoder.output.bias)
    assert asked == [("owner/name", None), ("owner/name", "v1")]
    assert run_folder("hf://owner/name").name == "name"  # the title of its row in a figure of two models
    with pytest.raises(
        UserError, match="hf://no/body: cannot be downloaded .OSError: 404 Client Error. Repository Not"
    ):
        Captioner.load("hf://no/body")
    for name in ("hf://owner", "hf://a/b/c", "hf:///b"):
        with pytest.raises(UserError, match="must be hf://owner/name"):
            Captioner.load(name)
    with pytest.raises(UserError, match="has no folder here: give --output"):
        evaluate.main(["--checkpoint", "hf://owner/name", "--data", "x.h5"])


def test_without_huggingface_hub_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="hf://owner/name: needs huggingface_hub; pip install huggingface_hub"):
        Captioner.load("hf://owner/name")


def test_a_new_run_begins_from_an_export(run: Path, shapes: Path, tmp_path: Path, captioner: Captioner) -> None:
    export.main(["--checkpoint", str(run / "best.pt"), "--output", str(tmp_path / "model")])
    flags = ["--data", str(shapes), "--output", str(tmp_path / "new"), "--init-from", str(tmp_path / "model")]
    widths = ["--decoder.embedding-dim", "16", "--decoder.hidden-dim", "24", "--decoder.attention-dim", "16"]
    for image in (captioner.image, dataclasses.replace(captioner.image, interpolation="bicubic")):
        other = Captioner(image, captioner.configs["encoder"], captioner.configs["decoder"], captioner.vocabulary)
        line = setup.load_weights(other, parse_preset(["shapes-soft", *flags, *widths], "train.py", ""))
        assert torch.equal(other.decoder.output.bias, captioner.decoder.output.bias)
        assert ("its images had" in line) == (image != captioner.image)
