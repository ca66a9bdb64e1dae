"""Readers of one's own data and of Flickr30k: one file in many spellings gives the same listing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from caption.data.dataset import CaptionDataset
from caption.errors import UserError
from preprocess.__main__ import main as preprocess
from preprocess.folder import assign_splits

COUNT = 20
ROWS = [(f"{n}.jpg", f'a dog, "{n}" of {c}') for c in "ab" for n in range(COUNT)]  # captions of one picture apart


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (8, 8), (10 * number,) * 3).save(folder / f"{number}.jpg")
    return folder


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


SPELLINGS: dict[str, Callable[[], str]] = {
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


def build(pictures: Path, name: str, text: str, *more: str, reader: str = "folder") -> Path:
    captions = pictures.parent / name
    captions.write_text(text, encoding="utf-8", newline="")
    path = pictures.parent / "out.h5"
    given = [reader, "--images", str(pictures), "--captions", str(captions), "--output", str(path), "--overwrite"]
    preprocess([*given, "--size", "8", "--min-count", "1", "--workers", "0", *more])
    return path


def contents(path: Path) -> dict[str, list[str]]:
    found = {}
    for split in ("train", "val", "test"):
        data = CaptionDataset(path, split)
        found |= {f"{split} {name}": texts for name, texts in zip(data.file_names, data.references(), strict=True)}
    return found


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_the_same_captions(pictures: Path, name: str) -> None:
    found = contents(build(pictures, name, SPELLINGS[name]()))
    assert sorted(found.values()) == sorted([f'a dog, "{n}" of a', f'a dog, "{n}" of b'] for n in range(COUNT))
    assert sorted(key.split()[0] for key in found) == ["test"] * 2 + ["train"] * 16 + ["val"] * 2
    assert found == contents(build(pictures, "a.csv", SPELLINGS["a.csv"]()))


def test_splits_as_given(pictures: Path) -> None:
    names = ["train", "Val", "test", "dev", "restval"]
    text = "file,text,split\n" + "\n".join(f"{n}.jpg,a dog {n},{names[n]}" for n in range(5))
    found = contents(build(pictures, "split.csv", text))
    assert list(found) == ["train 0.jpg", "train 4.jpg", "val 1.jpg", "val 3.jpg", "test 2.jpg"]


def test_splits_depend_on_names_alone() -> None:
    names = [f"{n}.jpg" for n in range(1000)]
    splits = assign_splits(names, 0.1, 0.05)
    assert splits == assign_splits(names[::-1], 0.1, 0.05)
    assert [list(splits.values()).count(split) for split in ("train", "val", "test")] == [850, 100, 50]
    more = assign_splits([*names, "new.jpg"], 0.1, 0.05)
    assert sum(splits[name] != more[name] for name in names) <= 2
    assert set(assign_splits(["a", "b", "c"], 0.1, 0.0).values()) == {"train", "val"}


def test_flickr30k(pictures: Path) -> None:
    lines = [f"{n}.jpg| {c}| A dog | number {n} ." for n in range(COUNT) for c in range(5)]
    lines = [line.replace("dog | number", "dog number") for line in lines]
    lines[7] = "1.jpg| 2   A dog runs across the grass ."  # as one line of the real file is
    text = "image_name| comment_number| comment\n" + "\n".join(lines)
    lists = pictures.parent / "lists"
    lists.mkdir()
    for split, numbers in (("train", range(2, COUNT)), ("val", [1]), ("test", [0])):
        (lists / f"{split}.txt").write_text("\n".join(str(n) for n in numbers))  # without .jpg, as entities has them
    path = build(pictures, "results.csv", text, "--lists", str(lists), reader="flickr30k")
    val = CaptionDataset(path, "val")
    assert val.file_names == ["1.jpg"] and val.references()[0][1:3] == [
        "A dog number 1 .",
        "A dog runs across the grass .",
    ]
    tokens = "\n".join(f"{n}.jpg#{c}\tA dog number {n} ." for n in range(COUNT) for c in range(5))
    path = build(pictures, "results_20130124.token", tokens, reader="flickr30k")
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
def test_files_of_captions_that_cannot_be_meant(pictures: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(pictures, name, text)
    assert "\n" not in str(caught.value)


def test_a_file_in_another_encoding_and_shares_that_make_no_sense(pictures: Path) -> None:
    (pictures.parent / "latin.csv").write_bytes("file_name,caption\n0.jpg,Größe\n".encode("latin-1"))
    given = ["folder", "--images", str(pictures), "--captions", str(pictures.parent / "latin.csv"), "--output", "x.h5"]
    with pytest.raises(UserError, match=r"latin\.csv: not UTF-8 text"):
        preprocess(given)
    with pytest.raises(UserError, match=r"--val is 0\.6 and --test 0\.5"):
        preprocess([*given, "--val", "0.6", "--test", "0.5"])
