"""Readers of custom data and of Flickr30k: all caption formats give the same data."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from caption.data.dataset import CaptionDataset
from caption.errors import UserError
from preprocess.__main__ import main as preprocess
from preprocess.folder import assign_splits

COUNT = 20
# The captions of an image are not adjacent.
ROWS = [(f"{n}.jpg", f'a dog, "{n}" of {c}') for c in "ab" for n in range(COUNT)]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (8, 8), (10 * number,) * 3).save(folder / f"{number}.jpg")
    return folder


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


FORMATS: dict[str, Callable[[], str]] = {
    "a.csv": lambda: "file_name,caption\n" + "\n".join(f"{p},{quoted(c)}" for p, c in ROWS),
    "b.csv": lambda: "\ufeffcaption;Image\r\n" + "\r\n".join(f"{quoted(c)};{p}" for p, c in ROWS),
    "c.tsv": lambda: "image\tx\tcomment\n" + "\n".join(f"{p}\t1\t{c}" for p, c in ROWS),
    "kaggle.csv": lambda: "image_name| comment_number| comment\n" + "\n".join(f"{p}| 0| {c}" for p, c in ROWS),
    "d.token": lambda: "\n".join(f"{p}#0\t{c}" for p, c in ROWS) + "\n\n",
    "e.jsonl": lambda: "\n".join(f'{{"file_name": "{p}", "caption": {quoted(c)!s}}}' for p, c in ROWS).replace(
        '""', '\\"'
    ),
    "f.jsonl": lambda: "\n".join(
        f'{{"image": "{n}.jpg", "captions": ["a dog, \\"{n}\\" of a", "a dog, \\"{n}\\" of b"]}}' for n in range(COUNT)
    ),
}


def build(image_folder: Path, name: str, text: str, *more: str, reader: str = "folder") -> Path:
    captions = image_folder.parent / name
    captions.write_text(text, encoding="utf-8", newline="")
    path = image_folder.parent / "out.h5"
    args = [reader, "--images", str(image_folder), "--captions", str(captions), "--output", str(path), "--overwrite"]
    preprocess([*args, "--size", "8", "--min-count", "1", "--workers", "0", *more])
    return path


def contents(path: Path) -> dict[str, list[str]]:
    result = {}
    for split in ("train", "val", "test"):
        data = CaptionDataset(path, split)
        result |= {f"{split} {name}": texts for name, texts in zip(data.file_names, data.references(), strict=True)}
    return result


@pytest.mark.parametrize("name", FORMATS)
def test_all_caption_formats_give_the_same_data(image_folder: Path, name: str) -> None:
    result = contents(build(image_folder, name, FORMATS[name]()))
    assert sorted(result.values()) == sorted([f'a dog, "{n}" of a', f'a dog, "{n}" of b'] for n in range(COUNT))
    assert sorted(key.split()[0] for key in result) == ["test"] * 2 + ["train"] * 16 + ["val"] * 2
    assert result == contents(build(image_folder, "a.csv", FORMATS["a.csv"]()))


def test_splits_of_the_file_are_used(image_folder: Path) -> None:
    names = ["train", "Val", "test", "dev", "restval"]
    text = "file,text,split\n" + "\n".join(f"{n}.jpg,a dog {n},{names[n]}" for n in range(5))
    result = contents(build(image_folder, "split.csv", text))
    assert list(result) == ["train 0.jpg", "train 4.jpg", "val 1.jpg", "val 3.jpg", "test 2.jpg"]


def test_splits_depend_on_names_alone() -> None:
    names = [f"{n}.jpg" for n in range(1000)]
    splits = assign_splits(names, 0.1, 0.05)
    assert splits == assign_splits(names[::-1], 0.1, 0.05)
    assert [list(splits.values()).count(split) for split in ("train", "val", "test")] == [850, 100, 50]
    more = assign_splits([*names, "new.jpg"], 0.1, 0.05)
    assert sum(splits[name] != more[name] for name in names) <= 2
    assert set(assign_splits(["a", "b", "c"], 0.1, 0.0).values()) == {"train", "val"}


def test_flickr30k_with_and_without_split_lists(image_folder: Path) -> None:
    lines = [f"{n}.jpg| {c}| A dog | number {n} ." for n in range(COUNT) for c in range(5)]
    lines = [line.replace("dog | number", "dog number") for line in lines]
    lines[7] = "1.jpg| 2   A dog runs across the grass ."  # as one line of the real file is
    text = "image_name| comment_number| comment\n" + "\n".join(lines)
    lists = image_folder.parent / "lists"
    lists.mkdir()
    for split, numbers in (("train", range(2, COUNT)), ("val", [1]), ("test", [0])):
        (lists / f"{split}.txt").write_text("\n".join(str(n) for n in numbers))  # without .jpg, as entities has them
    path = build(image_folder, "results.csv", text, "--lists", str(lists), reader="flickr30k")
    val = CaptionDataset(path, "val")
    assert val.file_names == ["1.jpg"] and val.references()[0][1:3] == [
        "A dog number 1 .",
        "A dog runs across the grass .",
    ]
    tokens = "\n".join(f"{n}.jpg#{c}\tA dog number {n} ." for n in range(COUNT) for c in range(5))
    path = build(image_folder, "results_20130124.token", tokens, reader="flickr30k")
    assert len(CaptionDataset(path, "train")) == COUNT - 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "0.jpg,a dog\n1.jpg,a cat", "its first line is '0.jpg,a dog', but must name the columns"),
        ("a.csv", "file_name,caption\n0.jpg,a dog, a cat", "line 2 has 3 columns, the first 2.*quotation marks"),
        (
            "a.csv",
            'file_name,caption\n0.jpg,"a dog, big\n1.jpg,a cat\n2.jpg,a cow',
            "is not valid CSV .unexpected end of data",
        ),
        ("a.csv", "file_name,caption\n", "contains no captions"),
        ("a.csv", "", "must name the columns"),
        ("a.csv", "file_name,caption,split\n0.jpg,a dog,training set", "0.jpg has the split 'training set'; known"),
        ("a.csv", "file_name,caption,split\n0.jpg,a dog,val\n0.jpg,a cat,test", "has the splits 'val' and 'test'"),
        ("a.csv", "file_name,caption,split\n0.jpg,a dog,val\n1.jpg,a cat,", "1.jpg has no split, but others have"),
        ("a.jsonl", '{"file_name": "0.jpg", "caption": "a d', "line 1 is not a JSON object, or cut off"),
        ("a.jsonl", '{"caption": "a dog"}', "line 1 must have one of file_name"),
        ("a.jsonl", '{"file_name": "0.jpg", "caption": 5}', "caption 1 is int, not text"),
        ("a.jsonl", '{"file_name": "0.jpg"}', "caption 1 is NoneType, not text"),
        ("a.token", "0.jpg#0\ta dog\nno tab", "line 2 is not"),
    ],
)
def test_malformed_caption_files_are_refused(image_folder: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(image_folder, name, text)
    assert "\n" not in str(caught.value)


def test_other_encodings_and_invalid_fractions_are_refused(image_folder: Path) -> None:
    captions = image_folder.parent / "latin.csv"
    captions.write_bytes("file_name,caption\n0.jpg,Größe\n".encode("latin-1"))
    args = ["folder", "--images", str(image_folder), "--captions", str(captions), "--output", "x.h5"]
    with pytest.raises(UserError, match=r"latin\.csv: not UTF-8 text"):
        preprocess(args)
    with pytest.raises(UserError, match=r"--val is 0\.6 and --test 0\.5"):
        preprocess([*args, "--val", "0.6", "--test", "0.5"])
