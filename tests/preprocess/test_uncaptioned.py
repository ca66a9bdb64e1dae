"""Images without captions are left out, or kept where one asks for it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_vocabulary
from caption.errors import UserError
from preprocess.__main__ import main as preprocess

NAMES = ["10.png", "2.png", "a/beach.png", "b.png"]  # in the order of their names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images in `images`, and lists of them in several formats beside it."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "images" / name)
    lists = {
        "image_info.json": {"images": [{"id": 70 + n, "file_name": name} for n, name in enumerate(NAMES)]},
        "dataset.json": {"images": [{"filename": name, "split": "test", "sentences": []} for name in NAMES]},
        "mixed.json": {
            "images": [
                {"filename": name, "split": "train", "sentences": [{"raw": "a dog"}] * (n % 2)}
                for n, name in enumerate(NAMES)
            ]
        },
    }
    for file, content in lists.items():
        (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / "list.csv").write_text("file_name,caption,split\n" + "".join(f"{name},,test\n" for name in NAMES))
    return tmp_path


def build(folder: Path, reader: str, *more: str, output: str = "out.h5") -> Path:
    path = folder / output
    args = [reader, "--images", str(folder / "images"), "--output", str(path), "--size", "16", "--min-count", "1"]
    preprocess([*args, "--workers", "0", *(word.replace("FOLDER", str(folder)) for word in more)])
    return path


READERS = {
    "coco": ["--captions", "FOLDER/image_info.json", "--split", "test"],
    "karpathy": ["--json", "FOLDER/dataset.json"],
    "folder": ["--captions", "FOLDER/list.csv"],
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_keeps_uncaptioned_images_if_asked_to(
    folder: Path, shapes: Path, reader: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*READERS[reader], "--vocabulary", str(shapes)]
    with pytest.raises(UserError, match="no image has a caption; check the paths, or give --keep-uncaptioned"):
        build(folder, reader, *args)
    data = CaptionDataset(build(folder, reader, *args, "--keep-uncaptioned"), "test")
    assert data.file_names == NAMES and data.references() == [[]] * 4
    assert data.image_ids == ([70, 71, 72, 73] if reader == "coco" else [0, 1, 2, 3])
    assert read_vocabulary(folder / "out.h5").digest == read_vocabulary(shapes).digest
    output = capsys.readouterr().out
    assert "test: 4 images, 0 captions" in output and "images without captions" not in output


def test_a_folder_alone_is_a_test_split(folder: Path, shapes: Path) -> None:
    data = CaptionDataset(build(folder, "folder", "--keep-uncaptioned", "--vocabulary", str(shapes)), "test")
    assert data.file_names == NAMES and data.image_ids == [0, 1, 2, 3]
    first = np.asarray(Image.open(folder / "images" / NAMES[2])).transpose(2, 0, 1)
    assert np.array_equal(data.read_images([2])[0].numpy(), first)
    with pytest.raises(UserError, match="--captions is missing: give the caption file, or --keep-uncaptioned"):
        build(folder, "folder", output="other.h5")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="there is no image; check the paths"):
        build(folder, "folder", "--images", str(folder / "empty"), "--keep-uncaptioned", output="other.h5")


def test_without_captions_the_vocabulary_is_asked_for(folder: Path) -> None:
    with pytest.raises(UserError, match="there is no train split to count words on; give --vocabulary"):
        build(folder, "folder", "--keep-uncaptioned")
    coco = ["--captions", "FOLDER/image_info.json", "--split", "train", "--keep-uncaptioned"]
    with pytest.raises(UserError, match="the train split has no captions to count words on; give --vocabulary"):
        build(folder, "coco", *coco)


def test_an_id_that_is_no_integer_is_refused_in_one_line(folder: Path, shapes: Path) -> None:
    """A server could not take it."""
    (folder / "image_info.json").write_text(json.dumps({"images": [{"id": "beach", "file_name": NAMES[0]}]}))
    with pytest.raises(UserError, match="image_info.json: .*image 0 lacks or garbles .*'beach'; give") as caught:
        build(folder, "coco", *READERS["coco"], "--keep-uncaptioned", "--vocabulary", str(shapes))
    assert "\n" not in str(caught.value)


def test_captioned_images_keep_their_captions_beside_uncaptioned_ones(folder: Path) -> None:
    mixed = ["karpathy", "--json", "FOLDER/mixed.json"]
    data = CaptionDataset(build(folder, *mixed, "--keep-uncaptioned"), "train")
    assert data.references() == [[], ["a dog"], [], ["a dog"]]
    assert CaptionDataset(build(folder, *mixed, "--overwrite"), "train").file_names == [NAMES[1], NAMES[3]]


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_shards_without_captions_merge_and_are_described(
    folder: Path, shapes: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--keep-uncaptioned", "--vocabulary", str(shapes), "--store", store]
    complete = build(folder, "folder", *args, output="complete.h5")
    shards = [build(folder, "folder", *args, "--shard", f"{n}/3", output=f"{n}.h5") for n in (1, 2, 3)]
    preprocess(["merge", *map(str, shards), "--output", str(folder / "joined.h5")])
    capsys.readouterr()
    one, two = CaptionDataset(complete, "test"), CaptionDataset(folder / "joined.h5", "test")
    assert one.file_names == two.file_names == NAMES and one.image_ids == two.image_ids
    assert bool((one.read_images(range(4)) == two.read_images(range(4))).all())
    for path in (complete, folder / "joined.h5"):
        preprocess(["verify", str(path)])
        preprocess(["info", str(path), "--montage", str(path.with_suffix(".png"))])
        output = capsys.readouterr().out
        assert "4 images and" in output and "match their checksums" in output
        assert "test: 4 images, 0 captions (0 per image)" in output and "a/beach.png" in output


def test_unfinished_work_goes_on_with_the_same_flag_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = ["karpathy", "--json", "FOLDER/mixed.json"]
    good, bad = build(folder, *mixed, "--keep-uncaptioned"), folder / "images" / NAMES[0]
    content = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=r"10\.png: an empty file"):
        build(folder, *mixed, "--keep-uncaptioned", output="resumed.h5")
    bad.write_bytes(content)
    with pytest.raises(UserError, match="holds the unfinished work of another command"):
        build(folder, *mixed, output="resumed.h5")
    resumed = build(folder, *mixed, "--keep-uncaptioned", output="resumed.h5")
    assert "resuming after 4 of 4 images; retrying 1 bad images" in capsys.readouterr().out
    assert resumed.read_bytes() == good.read_bytes()
