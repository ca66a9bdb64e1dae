"""Real data: every kind of bad image, name, caption or list has a defined outcome."""

import csv
import json
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_manifest
from caption.errors import UserError
from preprocess.__main__ import main as preprocess
from preprocess.captions import read_captions

GRAY = 150


def bomb() -> bytes:
    """Return a PNG whose header claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def save_image(path: Path, kind: str) -> None:
    """Save a gray image of the given kind, good or bad."""
    plain = Image.new("RGB", (90, 60), (GRAY,) * 3)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    if kind == "truncated":
        noise.save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "png cut off":
        noise.save(path, "PNG")
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "zero bytes":
        path.touch()
    elif kind == "html":
        path.write_text("\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>")
    elif kind == "not an image":
        path.write_bytes(os.urandom(500))
    elif kind == "bomb":
        path.write_bytes(bomb())
    elif kind == "CMYK":
        plain.convert("CMYK").save(path, "JPEG", quality=95)
    elif kind == "16 bits":
        Image.fromarray(np.full((60, 90), GRAY * 257, np.uint16)).save(path, "PNG")
    elif kind == "palette with transparency":
        image = Image.new("P", (90, 60), 1)
        image.putpalette([255, 0, 0, GRAY, GRAY, GRAY, *[0] * 762])
        image.info["transparency"] = 0
        image.save(path, "PNG")
    elif kind == "animated":
        frames = [Image.new("RGB", (90, 60), (shade,) * 3) for shade in (GRAY, 0, 255)]
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    elif kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        plain.save(path, "JPEG", exif=exif, quality=95)
    elif kind == "one pixel":
        Image.new("RGB", (1, 1), (GRAY,) * 3).save(path, "PNG")
    else:
        plain.save(path, "JPEG", quality=95)


def build(folder: Path, images: list[dict[str, Any]] | str, *more: str) -> Path:
    """Preprocess a list of images in Karpathy's format; `images` may be the JSON's text."""
    text = images if isinstance(images, str) else json.dumps({"images": images})
    (folder / "list.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    path = folder / "out.h5"
    args = ["karpathy", "--images", str(folder / "images"), "--json", str(folder / "list.json")]
    preprocess([*args, "--output", str(path), "--size", "16", "--min-count", "1", "--workers", "0", *more])
    return path


def entry(name: str, *captions: Any, split: str = "train", **more: Any) -> dict[str, Any]:
    return {"filename": name, "split": split, "sentences": [{"raw": c} for c in captions or ("a dog",)], **more}


def report(folder: Path) -> list[tuple[str, str]]:
    path = folder / "out_report.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(line["file_name"], line["problem"]) for line in csv.DictReader(file)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three good images, 0.jpg to 2.jpg."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        save_image(tmp_path / f"images/{number}.jpg", "good")
    return tmp_path


BAD = {
    "truncated": "unreadable or truncated",
    "png cut off": "unreadable or truncated",
    "zero bytes": "an empty file",
    "html": "a page of HTML",
    "not an image": "of unknown kind, not an image",
    "bomb": "too large, 50000 x 50000 pixels",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_stops_or_is_left_out_and_never_becomes_black(folder: Path, kind: str) -> None:
    save_image(folder / "images/bad.jpg", kind)
    images = [entry("0.jpg"), entry("bad.jpg"), entry("1.jpg")]
    with pytest.raises(UserError, match=f"bad.jpg: .*{BAD[kind]}.*--on-error skip") as caught:
        build(folder, images)
    assert "\n" not in str(caught.value) and not (folder / "out.h5").exists()
    assert [name for name, problem in report(folder) if BAD[kind] in problem] == ["bad.jpg"]
    data = CaptionDataset(build(folder, images, "--on-error", "skip"), "train")
    assert data.file_names == ["0.jpg", "1.jpg"] and len(data) == 2
    assert (data.read_images([0, 1]).float() - GRAY).abs().max() <= 2
    assert data.references() == [["a dog"], ["a dog"]]


@pytest.mark.parametrize(
    "kind", ["CMYK", "16 bits", "palette with transparency", "animated", "rotated", "one pixel", "good"]
)
@pytest.mark.parametrize("name", ["odd.jpg", "a b  c.jpg", "Größe 猫.jpg", 'it\'s #1, "x".jpg'])
def test_unusual_images_and_names_are_read(folder: Path, kind: str, name: str) -> None:
    save_image(folder / "images" / name, kind)
    data = CaptionDataset(build(folder, [entry("0.jpg"), entry(name)]), "train")
    assert data.file_names == ["0.jpg", name]
    assert (data.read_images([1]).float() - GRAY).abs().max() <= 4


def test_all_bad_images_are_named_at_once(folder: Path) -> None:
    for kind in BAD:
        save_image(folder / f"images/{kind}.jpg", kind)
    with pytest.raises(UserError, match=r", and 5 more; all are listed in .*out_report\.csv"):
        build(folder, [entry("0.jpg"), *(entry(f"{kind}.jpg") for kind in BAD)])
    assert {name for name, problem in report(folder) if "no list" not in problem} == {f"{kind}.jpg" for kind in BAD}


def test_a_split_without_a_good_image_is_refused(folder: Path) -> None:
    save_image(folder / "images/bad.jpg", "zero bytes")
    with pytest.raises(UserError, match="split val: none of its 1 images can be read"):
        build(folder, [entry("0.jpg"), entry("bad.jpg", split="val")], "--on-error", "skip")


def test_missing_and_unlisted_images_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [entry("0.jpg"), entry("gone.jpg"), entry("1.jpg")]
    with pytest.raises(UserError, match=r"gone\.jpg: not on disk"):
        build(folder, images)
    assert "MB" not in capsys.readouterr().out  # the error comes before the first image is opened
    path = build(folder, images, "--on-error", "skip")
    assert CaptionDataset(path, "train").file_names == ["0.jpg", "1.jpg"]
    assert read_manifest(path)["dropped"]["images not on disk"] == 1
    problems = dict(report(folder))
    assert problems["gone.jpg"] == f"not on disk; looked for {folder / 'images/gone.jpg'}"
    assert problems[str(folder / "images/2.jpg")] == "on disk, but in no list"
    assert "out_report.csv lists what was left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (entry("1.jpg", cocoid=7), "duplicate id 7"),
        (entry("0.jpg", cocoid=8, split="test"), "duplicate image; in two splits"),
    ],
)
def test_duplicate_ids_and_images_are_refused_or_left_out(folder: Path, second: dict[str, Any], problem: str) -> None:
    images = [entry("0.jpg", cocoid=7), second, entry("2.jpg", cocoid=9)]
    with pytest.raises(UserError, match=problem):
        build(folder, images)
    path = build(folder, images, "--on-error", "skip")
    assert CaptionDataset(path, "train").file_names == ["0.jpg", "2.jpg"]
    assert read_manifest(path)["dropped"]["duplicate images"] == 1


def test_odd_exif_and_a_name_that_is_not_utf8_are_accepted(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0128] = 6, "inch"  # the unit of resolution should be a number
    Image.new("RGB", (90, 60), (GRAY,) * 3).save(folder / "images/odd.jpg", exif=exif)
    with open(os.fsencode(folder / "images") + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    data = CaptionDataset(build(folder, [entry("odd.jpg")]), "train")
    assert (data.read_images([0]).float() - GRAY).abs().max() <= 4
    assert any("no list" in problem and "caf" in name for name, problem in report(folder))


def test_captions_without_words_are_left_out(folder: Path) -> None:
    path = build(folder, [entry("0.jpg", "", " \n\t", "...?!", "🐕🐕", "a dog"), entry("1.jpg", "!"), entry("2.jpg")])
    data = CaptionDataset(path, "train")
    assert data.references() == [["a dog"], ["a dog"]] and data.file_names == ["0.jpg", "2.jpg"]
    dropped = read_manifest(path)["dropped"]
    assert dropped["captions without words"] == 5 and dropped["images without captions"] == 1
    assert len([problem for _, problem in report(folder) if "same image" not in problem]) == 6


@pytest.mark.parametrize("value", [None, 5, 1.5, ["a dog"], {"raw": "a dog"}, True])
def test_captions_that_are_not_text_are_refused_or_left_out(folder: Path, value: Any) -> None:
    images = [entry("0.jpg", "a cat", value), entry("1.jpg")]
    with pytest.raises(UserError, match=r"0\.jpg: caption 2 is \w+, not text"):
        build(folder, images)
    data = CaptionDataset(build(folder, images, "--on-error", "skip"), "train")
    assert data.references() == [["a cat"], ["a dog"]]


def test_odd_captions_are_kept_in_one_line(folder: Path) -> None:
    long = "word " * 2000  # 10,000 characters
    odd = {
        long: "word " * 1999 + "word",
        "a dog\nruns\r\n  fast\u2028today": "a dog runs fast today",
        "a 🐕 runs": "a 🐕 runs",
        "猫が座っている。 Кошка сидит": "猫が座っている。 Кошка сидит",
        "null \0 inside": "null inside",
        "half a pair \ud83d here": "half a pair ? here",
    }
    escaped = json.dumps({"images": [entry("0.jpg", *odd)]})
    path = build(folder, escaped)
    data = CaptionDataset(path, "train")
    assert data.references() == [list(odd.values())]
    assert data.lengths.tolist() == [51, 6, 3, 4, 3, 5]
    assert read_manifest(path)["splits"]["train"]["captions_cut"] == 1


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.98])
def test_truncated_json_is_refused(folder: Path, fraction: float) -> None:
    text = json.dumps({"images": [entry(f"{n}.jpg") for n in range(3)]})
    with pytest.raises(UserError, match=r"list\.json: (not JSON, or cut off|has no list 'images')") as caught:
        build(folder, text[: int(fraction * len(text))])
    assert "\n" not in str(caught.value) and not (folder / "out.h5").exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"split": "dev"}, "image 1 has the split 'dev'; known: train, val, test, restval"),
        ({"filename": None}, "image 1 lacks or garbles"),
        ({"sentences": 3}, "image 1 lacks or garbles"),
        ({"cocoid": "x7"}, "image 1 lacks or garbles"),
    ],
)
def test_malformed_entries_are_refused(folder: Path, broken: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(folder, [entry("0.jpg"), {**entry("1.jpg"), **broken}])


def test_coco_annotations_must_fit_their_images(folder: Path) -> None:
    def coco(images: list[Any], annotations: list[Any]) -> None:
        path = folder / "captions.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
        args = ["coco", "--images", str(folder / "images"), "--captions", str(path), "--split", "train"]
        preprocess([*args, "--output", str(folder / "out.h5"), "--size", "16", "--min-count", "1", "--workers", "0"])

    image, caption = {"id": 1, "file_name": "0.jpg"}, {"image_id": 1, "caption": "a dog"}
    with pytest.raises(UserError, match="annotation 1 is of image 2, which is not in its list"):
        coco([image], [caption, {"image_id": 2, "caption": "a cat"}])
    for number, broken in enumerate(({"image_id": 1, "bbox": [0, 0, 1, 1]}, {"image_id": None, "caption": "a"}, 7)):
        with pytest.raises(UserError, match=f"not a COCO caption file: annotation {number} lacks or garbles"):
            coco([image], [caption] * number + [broken])
    with pytest.raises(UserError, match="image 1 lacks or garbles 'id'"):
        coco([image, {"file_name": "1.jpg"}], [caption])
    with pytest.raises(UserError, match="duplicate id 1"):
        coco([image, {"id": 1, "file_name": "1.jpg"}], [caption])
    coco([image, {"id": 2, "file_name": "1.jpg"}], [caption])
    assert ("1.jpg", "no caption") in report(folder)


def test_an_image_under_two_spellings_is_a_duplicate(folder: Path) -> None:
    """It would be in two splits: by ./, by a folder and back, by a link to the file or to its folder."""
    (folder / "images/sub").mkdir()
    (folder / "images/link.jpg").symlink_to(folder / "images/0.jpg")
    (folder / "images/same").symlink_to(folder / "images", target_is_directory=True)
    for name in ("./0.jpg", "sub/../0.jpg", "link.jpg", "same/0.jpg"):
        with pytest.raises(UserError, match="duplicate image; in two splits"):
            build(folder, [entry("0.jpg"), entry(name, split="test")])
    (folder / "images/same").unlink()
    build(folder, [entry("sub/../0.jpg")])
    assert str(folder / "images/0.jpg") not in dict(report(folder))  # it is in the list


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_equal_images_under_two_names_are_reported(
    folder: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (90, 60), "red").save(folder / "images/1.jpg")
    build(folder, [entry("0.jpg"), entry("1.jpg"), entry("2.jpg", split="test")], "--store", store)
    assert report(folder) == [("2.jpg", "same image as 0.jpg of train")]
    assert "1 images are the same as another" in capsys.readouterr().out


def test_what_is_no_image_file_is_reported_before_the_first_is_opened(folder: Path) -> None:
    (folder / "images/dir.jpg").mkdir()
    os.mkfifo(folder / "images/pipe.jpg")  # to open it would wait for ever
    (folder / "images/._0.jpg").write_bytes(b"attributes of 0.jpg")  # macOS
    build(folder, [entry("0.jpg"), entry("dir.jpg"), entry("pipe.jpg")], "--on-error", "skip")
    problems = dict(report(folder))
    for name in ("dir.jpg", "pipe.jpg"):
        assert problems[name] == f"is no file; looked for {folder / 'images' / name}"
    assert not [name for name in problems if "._" in name]


def test_a_quoted_caption_may_follow_a_space(folder: Path) -> None:
    (folder / "list.csv").write_text('file_name, caption, split\n0.jpg, "A dog, running", train\n')
    args = ["folder", "--images", str(folder / "images"), "--captions", str(folder / "list.csv"), "--size", "16"]
    preprocess([*args, "--output", str(folder / "out.h5"), "--min-count", "1", "--workers", "0"])
    assert CaptionDataset(folder / "out.h5", "train").references() == [["A dog, running"]]


@pytest.mark.parametrize("level", ["[", '{"k":', '{"a\\\\":"]]","b":[0,'])
def test_deeply_nested_json_is_refused_in_little_memory(folder: Path, level: str) -> None:
    """A hundred kilobytes of it once took three gigabytes."""
    tracemalloc.start()
    with pytest.raises(UserError, match=r"nested more than 100 levels deep"):
        build(folder, '{"images": [' + level * (100_000 // len(level)))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    (folder / "list.jsonl").write_text('{"file_name": "0.jpg", "caption": ' + "[" * 100_000)
    with pytest.raises(UserError, match=r"line 1 is not a JSON object"):
        list(read_captions(folder / "list.jsonl"))


def test_brackets_and_escapes_inside_captions_are_no_nesting(folder: Path) -> None:
    odd = ['a " [[[', "b \\", 'c \\\\" {{{', "[" * 200 + "d", "é\\u005b"]
    captions = [f"{text} {'x' * number}" for number in range(700) for text in odd]  # cut into chunks at any byte
    assert len(CaptionDataset(build(folder, [entry("0.jpg", *captions)]), "train").references()[0]) == len(captions)
