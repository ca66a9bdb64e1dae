"""Official readers and the writer: data is kept, and every mistake is reported in one line."""

import csv
import json
import random
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from caption import checkpoint
from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_image_config, read_manifest, read_vocabulary
from caption.data.vocabulary import UNKNOWN
from caption.data.words import tokenise
from caption.errors import UserError
from preprocess.__main__ import main as preprocess
from preprocess.records import Example, Listing

NAMES = [f"{number}.jpg" for number in range(6)]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder of six images of one gray each."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (30, 20), (40 * number,) * 3).save(folder / name)
    return folder


def flickr(tmp_path: Path, **lists: list[str]) -> Path:
    """A Flickr8k_text folder; captions of image n are 'dog n a.' and 'Dog n b !'."""
    text = tmp_path / "text"
    text.mkdir()
    lines = [f"{name}#{i}\tDog {name[0]} {'ab'[i]} ." for name in reversed(NAMES) for i in (0, 1)]
    (text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, names in lists.items():
        (text / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
    return text


def build(tmp_path: Path, *args: str) -> Path:
    path = tmp_path / "out.h5"
    preprocess([*args, "--output", str(path), "--size", "16", "--min-count", "1"])
    return path


def test_flickr8k_has_its_images_captions_and_vocabulary(tmp_path: Path, image_folder: Path) -> None:
    text = flickr(tmp_path, train=NAMES[:3], dev=[NAMES[4], NAMES[3]])
    path = build(tmp_path, "flickr8k", "--images", str(image_folder), "--text", str(text))
    with h5py.File(path) as file:
        assert {"train", "val"} < set(file) and "test" not in file  # a missing list is a missing split
    val = CaptionDataset(path, "val")
    assert val.file_names == ["4.jpg", "3.jpg"] and val.image_ids == [4, 3]
    assert val.references() == [["Dog 4 a .", "Dog 4 b ."], ["Dog 3 a .", "Dog 3 b ."]]
    assert val.read_images([0]).shape == (1, 3, 16, 16) and abs(float(val.read_images([0]).float().mean()) - 160) <= 1
    vocabulary = read_vocabulary(path)
    assert vocabulary.words[4:] == ["dog", "a", "b", "0", "1", "2"]  # of the train split alone
    assert val.caption(0).tolist() == vocabulary.encode(["dog", "4", "a"]) and UNKNOWN in val.caption(0)
    assert read_image_config(path).fit == "crop"


def karpathy(tmp_path: Path) -> Path:
    images = [
        {
            "filename": name,
            "filepath": "images",
            "cocoid": 100 + number,
            "imgid": number,
            "split": ("train", "restval", "val", "test")[min(number, 3)],
            "sentences": [{"raw": f"A cat, number {number}.", "tokens": []}],
        }
        for number, name in enumerate(NAMES)
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def test_karpathy_restval_trains(tmp_path: Path, image_folder: Path) -> None:
    path = build(tmp_path, "karpathy", "--images", str(tmp_path), "--json", str(karpathy(tmp_path)))
    assert CaptionDataset(path, "train").image_ids == [100, 101]
    assert CaptionDataset(path, "val").file_names == ["images/2.jpg"]
    assert CaptionDataset(path, "test").references() == [[f"A cat, number {n}."] for n in (3, 4, 5)]


def test_rsicd_is_read_as_karpathys_json(tmp_path: Path) -> None:
    """Its images have neither `filepath` nor `cocoid`; those of UCM-Captions are TIFF."""
    names, texts = ["airport_1.jpg", "beach_2.tif", "100.tif"], ["Many planes are parked .", "a runway ."]
    images = []
    for number, (name, split) in enumerate(zip(names, ("train", "val", "test"), strict=True)):
        Image.new("RGB", (256, 256), (40 * number,) * 3).save(tmp_path / name)
        sentids = [2 * number, 2 * number + 1]
        sentences = [
            {"tokens": text.split()[:-1], "raw": text, "imgid": number, "sentid": sentid}
            for text, sentid in zip(texts, sentids, strict=True)
        ]
        entry = {"filename": name, "imgid": number, "sentids": sentids, "split": split, "sentences": sentences}
        images.append(entry)
    path = tmp_path / "dataset_rsicd.json"
    path.write_text(json.dumps({"images": images, "dataset": "rsicd"}))
    path = build(tmp_path, "karpathy", "--images", str(tmp_path), "--json", str(path))
    for number, split in enumerate(("train", "val", "test")):
        data = CaptionDataset(path, split)
        assert (data.file_names, data.image_ids, data.references()) == ([names[number]], [number], [texts])
        assert abs(float(data.read_images([0]).float().mean()) - 40 * number) <= 1


def coco(tmp_path: Path, name: str, numbers: range) -> Path:
    path = tmp_path / name
    images = [{"id": 10 * n, "file_name": NAMES[n]} for n in numbers]
    annotations = [{"id": 5 * n + i, "image_id": 10 * n, "caption": f"a bird {i}"} for n in numbers for i in range(5)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


@pytest.mark.parametrize("repeated", [False, True])
def test_coco_with_several_files(tmp_path: Path, image_folder: Path, repeated: bool) -> None:
    first, second = coco(tmp_path, "a.json", range(3)), coco(tmp_path, "b.json", range(3, 6))
    folder = str(image_folder)
    if repeated:
        args = ["--images", folder, "--captions", str(first), "--split", "train"]
        args += ["--images", folder, "--captions", str(second), "--split", "val"]
    else:
        args = ["--images", folder, folder, "--captions", str(first), str(second), "--split", "train", "val"]
    path = build(tmp_path, "coco", *args)
    assert CaptionDataset(path, "train").image_ids == [0, 10, 20]
    assert CaptionDataset(path, "val").references() == [[f"a bird {i}" for i in range(5)]] * 3


def test_the_vocabulary_of_another_file_can_be_used(tmp_path: Path, image_folder: Path, shapes: Path) -> None:
    """A data set with only a test split needs the vocabulary of another one."""
    text = flickr(tmp_path, test=NAMES)
    args = ["flickr8k", "--images", str(image_folder), "--text", str(text)]
    with pytest.raises(UserError, match="no train split to count words on; give --vocabulary"):
        build(tmp_path, *args)
    path = build(tmp_path, *args, "--vocabulary", str(shapes))
    assert read_vocabulary(path).digest == read_vocabulary(shapes).digest


def test_the_vocabulary_of_a_model_can_be_used(tmp_path: Path, image_folder: Path) -> None:
    """Whoever has a model, and not the data that it was trained on, can score and caption images of their own."""
    model = Path(__file__).parents[2] / "pretrained" / "shapes"
    args = ["flickr8k", "--images", str(image_folder), "--text", str(flickr(tmp_path, test=NAMES))]
    content = checkpoint.load(model)
    for source in (str(model), str(tmp_path / "best.pt")):
        if source != str(model):
            checkpoint.save(Path(source), content)
        own = read_vocabulary(build(tmp_path, *args, "--vocabulary", source, "--overwrite"))
        assert (own.words, own.word_kind) == (content["vocabulary"], content["words"])


def test_bad_images_stop_or_are_left_out_and_reported(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = flickr(tmp_path, train=NAMES)
    (image_folder / "1.jpg").write_bytes((image_folder / "1.jpg").read_bytes()[:200])
    (image_folder / "4.jpg").unlink()
    args = ["flickr8k", "--images", str(image_folder), "--text", str(text)]
    with pytest.raises(UserError, match=r"4\.jpg: not on disk; looked for \S+4\.jpg; all are listed.*--on-error skip"):
        build(tmp_path, *args)
    Image.new("RGB", (50, 30), (200,) * 3).save(image_folder / "4.jpg")
    with pytest.raises(UserError, match=r"1\.jpg: unreadable or truncated.*--on-error skip"):
        build(tmp_path, *args)
    assert not (tmp_path / "out.h5").exists()  # nothing half-written has the final name
    (image_folder / "4.jpg").unlink()
    path = build(tmp_path, *args, "--on-error", "skip", "--overwrite")
    train = CaptionDataset(path, "train")
    assert train.file_names == ["0.jpg", "2.jpg", "3.jpg", "5.jpg"]
    assert train.references()[1] == ["Dog 2 a .", "Dog 2 b ."] and train.read_images([3]).float().mean() == 200
    assert "left out: 1 bad images" in capsys.readouterr().out
    with (tmp_path / "out_report.csv").open() as file:
        report = {line["file_name"]: line["problem"] for line in csv.DictReader(file)}
    assert report.keys() == {"1.jpg", "4.jpg"}
    assert report["1.jpg"].startswith("unreadable") and report["4.jpg"].startswith("not on disk")
    assert read_manifest(path)["splits"]["train"]["bad_images"] == 1


def test_empty_and_long_captions_are_counted(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = flickr(tmp_path, train=NAMES[:3])
    lines = ["0.jpg#0\ta " + "very " * 60 + "long dog", "0.jpg#1\t ... ", "1.jpg#0\ta dog", "2.jpg#0\t!?"]
    (text / "Flickr8k.token.txt").write_text("\n".join(lines))
    path = build(tmp_path, "flickr8k", "--images", str(image_folder), "--text", str(text))
    train = CaptionDataset(path, "train")
    assert train.file_names == ["0.jpg", "1.jpg"] and train.lengths.tolist() == [51, 3]
    assert len(tokenise(train.references()[0][0])) == 63  # references are not cut
    output = capsys.readouterr().out
    assert "1 captions cut to 50 words" in output
    assert "left out: 2 captions without words" in output and "left out: 1 images without captions" in output


def test_a_second_run_needs_overwrite(tmp_path: Path, image_folder: Path) -> None:
    args = ["flickr8k", "--images", str(image_folder), "--text", str(flickr(tmp_path, train=NAMES))]
    path = build(tmp_path, *args)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"out\.h5: exists already; give --overwrite"):
        build(tmp_path, *args)
    assert path.read_bytes() == before
    build(tmp_path, *args, "--overwrite")


def test_a_full_disk_is_noticed_before_the_first_write(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.writer.shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match="will take .* MB, but only 0.00 MB are free"):
        build(tmp_path, "flickr8k", "--images", str(image_folder), "--text", str(flickr(tmp_path, train=NAMES)))
    assert not list(tmp_path.glob("out*"))


def test_malformed_sources_are_refused(tmp_path: Path, image_folder: Path) -> None:
    text = flickr(tmp_path, train=["9.jpg"])
    cut = tmp_path / "cut.json"
    cut.write_text(karpathy(tmp_path).read_text()[:100])
    other = tmp_path / "other.json"
    other.write_text("[1, 2]")
    folder = str(image_folder)
    flickr8k = ("flickr8k", "--images", folder, "--text")
    cases = [
        ((*flickr8k, str(text)), "9.jpg has no caption in Flickr8k.token.txt"),
        ((*flickr8k, str(tmp_path / "none")), "Flickr8k.token.txt: no such file"),
        (("flickr8k", "--images", "nowhere", "--text", str(text)), "nowhere: no such folder"),
        (("karpathy", "--images", folder, "--json", str(cut)), "cut.json: not JSON, or cut off"),
        (("karpathy", "--images", folder, "--json", str(other)), "has no list 'images'"),
        (("coco", "--images", folder, "--captions", str(other), "--split", "train"), "not a COCO caption file"),
        (("coco", "--images", folder, "--captions", str(cut), "--split", "train", "val"), "go together"),
        ((*flickr8k, str(text), "--max-length", "0"), "--max-length is 0"),
    ]
    for args, message in cases:
        with pytest.raises(UserError, match=message):
            build(tmp_path, *args)
    (text / "Flickr_8k.trainImages.txt").unlink()
    with pytest.raises(UserError, match="none of the split lists"):
        build(tmp_path, *flickr8k, str(text))
    (text / "Flickr8k.token.txt").write_text("no tab here")
    with pytest.raises(UserError, match="line 1 is not"):
        build(tmp_path, *flickr8k, str(text))


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        preprocess(["shapes", "--output", str(tmp_path / name), "--count", "5", "3", "3", "--size", "32"])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.ptp(file["train/images"][:]) > 0


def test_a_listing_takes_little_memory() -> None:
    """COCO's 616,767 captions must not take a gigabyte: letters, four bytes per word, offsets."""
    words = [f"word{n}" for n in range(500)]
    chance = random.Random(1)
    texts = [" ".join(chance.choices(words, k=10)) for _ in range(200)]
    tracemalloc.start()
    listing = Listing()
    for number in range(4000):
        listing.add(Example("train", number, f"{number:012d}.jpg", f"folder/{number:012d}.jpg", texts[:5]))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    letters = sum(map(len, texts[:5]))
    assert len(listing.texts) == 20_000 and listing.texts[7] == texts[2]
    assert taken < 4000 * (letters + 5 * (10 * 4 + 16) + 400), taken / 4000
