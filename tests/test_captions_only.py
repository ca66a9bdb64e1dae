"""`evaluate.py --captions-only`: captions of images without references, as the servers of COCO's format take them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from pycocotools.coco import COCO

import evaluate
import train
from caption import checkpoint
from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig, ImageConfig
from caption.data.hdf5 import read_vocabulary
from caption.errors import UserError
from preprocess.__main__ import main as preprocess

IDS = [391895 + number for number in range(10)]


@pytest.fixture(scope="module")
def info(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """image_info_test2014.json of the tiny test images, which lie beside the shapes file."""
    images = [{"id": n, "file_name": f"shapes_test_{i:06d}.png", "coco_url": ""} for i, n in enumerate(IDS)]
    path = tmp_path_factory.mktemp("info") / "image_info_test2014.json"
    path.write_text(json.dumps({"info": {}, "images": images, "categories": []}))
    return path


def build(info: Path, shapes: Path, output: Path, split: str = "test", *more: str) -> Path:
    args = ["coco", "--images", str(shapes.parent), "--captions", str(info), "--split", split, "--keep-uncaptioned"]
    args += ["--vocabulary", str(shapes), "--size", "32", "--fit", "squash", "--workers", "0", *more]
    preprocess([*args, "--output", str(output)])
    return output


@pytest.fixture
def model(captioner: Captioner, tmp_path: Path) -> Path:
    """An untrained model as a checkpoint, alone in its folder."""
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "best.pt", captioner.eval().to_checkpoint())
    return tmp_path / "run" / "best.pt"


def caption(model: Path, data: Path, *more: str) -> Any:
    """Run evaluate.py and return the captions that it wrote."""
    evaluate.main(["--checkpoint", str(model), "--data", str(data), "--max-length", "8", *more])
    return json.loads((model.parent / "captions_test.json").read_text())


def test_captions_are_written_as_the_servers_take_them_and_nothing_else(
    shapes: Path, info: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The captions are those that are scored where the same images have references."""
    data = build(info, shapes, tmp_path / "test2014.h5")
    written = caption(model, data, "--captions-only")
    assert {path.name for path in model.parent.iterdir()} == {"best.pt", "captions_test.json"}
    assert all(entry.keys() == {"image_id", "caption"} for entry in written)
    assert [(entry["image_id"], type(entry["caption"])) for entry in written] == [(n, str) for n in IDS]
    output = capsys.readouterr().out
    assert f"{data}, test: 10 images, beam 3, at most 8 words\nwrote {model.parent / 'captions_test.json'}" in output
    assert "BLEU" not in output and "entropy" not in output
    listed = COCO()
    listed.dataset = json.loads(info.read_text())
    listed.createIndex()
    assert len(listed.loadRes(str(model.parent / "captions_test.json")).anns) == 10
    scored = caption(model, shapes, "--no-java")
    assert [entry["caption"] for entry in scored] == [entry["caption"] for entry in written]


def test_features_are_captioned_without_references(shapes: Path, info: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "weights.pth")
    encoder = EncoderConfig("mobilenet_v2", str(tmp_path / "weights.pth"), "features.6")
    decoder = DecoderConfig(embedding_dim=16, hidden_dim=24, attention_dim=16)
    model = Captioner(ImageConfig(32, "squash"), encoder, decoder, read_vocabulary(shapes))
    checkpoint.save(tmp_path / "best.pt", model.to_checkpoint())
    options = ["--store", "features", "--encoder.name", encoder.name, "--encoder.weights", encoder.weights]
    options += ["--encoder.layer", encoder.layer]
    data = build(info, shapes, tmp_path / "features.h5", "test", *options, "--device", "cpu")
    written = caption(tmp_path / "best.pt", data, "--captions-only")
    assert [entry["image_id"] for entry in written] == IDS


def test_images_without_captions_are_neither_scored_nor_learnt(
    shapes: Path, info: Path, model: Path, tmp_path: Path
) -> None:
    """One line says so, before any work and before anything is written."""
    data = build(info, shapes, tmp_path / "test2014.h5")
    line = r"test2014.h5, test: 10 of 10 images have no captions, the first is shapes_test_000000.png; "
    with pytest.raises(UserError, match=line + "caption them without scores, by --captions-only"):
        caption(model, data)
    assert {path.name for path in model.parent.iterdir()} == {"best.pt"}
    with pytest.raises(UserError, match="has no split 'train'"):
        train.main(["shapes-soft", "--data", str(data), "--output", str(tmp_path / "new")])
    both = tmp_path / "both.json"
    both.write_text(json.dumps({"images": [{"id": 1, "file_name": "shapes_test_000000.png"}]}))
    other = ["--images", str(shapes.parent), "--captions", str(both), "--split", "val", "--on-error", "skip"]
    images = json.loads(info.read_text())["images"][1:]
    (tmp_path / "rest.json").write_text(json.dumps({"images": images}))
    data = build(tmp_path / "rest.json", shapes, tmp_path / "train.h5", "train", *other)
    with pytest.raises(UserError, match="train: 9 of 9 images have no captions, .*without --keep-uncaptioned"):
        train.main(["shapes-soft", "--data", str(data), "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_runs_are_not_compared_on_images_without_captions(
    shapes: Path, info: Path, model: Path, tmp_path: Path
) -> None:
    caption(model, shapes, "--no-java")
    data, run = build(info, shapes, tmp_path / "test2014.h5"), str(model.parent)
    with pytest.raises(
        UserError, match="10 of 10 images have no captions, .*give a data file with captions, by --data"
    ):
        evaluate.main(["--compare", run, run, "--data", str(data)])


def test_captions_without_scores_replace_no_others(shapes: Path, info: Path, model: Path, tmp_path: Path) -> None:
    caption(model, shapes, "--no-java")
    kept = {path: path.read_bytes() for path in model.parent.iterdir()}
    data = build(info, shapes, tmp_path / "test2014.h5")
    with pytest.raises(
        UserError, match=r"captions_test\.json: exists already; give --overwrite .* or another --output"
    ):
        caption(model, data, "--captions-only")
    caption(model, data, "--captions-only", "--output", str(tmp_path / "server"))
    assert {path: path.read_bytes() for path in model.parent.iterdir()} == kept
    assert caption(model, data, "--captions-only", "--overwrite")[0]["image_id"] == IDS[0]


@pytest.mark.parametrize("flag", ["--instances", "--report"])
def test_what_needs_scores_is_refused_with_captions_only(shapes: Path, model: Path, flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag} x needs scores, but --captions-only computes none; leave out one"):
        caption(model, shapes, "--captions-only", flag, "x")
    with pytest.raises(UserError, match="--gates needs scores, but --captions-only computes none"):
        caption(model, shapes, "--captions-only", "--gates")
