"""From images with captions in six languages to a model, its captions and its scores."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import copy_file
from PIL import Image

import caption_image
import evaluate
import train
from caption import checkpoint, export
from caption.captioner import Captioner, check_fits
from caption.data.hdf5 import manifest_of, read_image_config, read_manifest, read_vocabulary, write_manifest
from caption.data.vocabulary import Vocabulary
from caption.errors import UserError
from caption.evaluation.coco import tokenise_captions
from preprocess.__main__ import main as preprocess

# The kind of words, and captions of a bright image and of a dark one.
LANGUAGES = {
    "Arabic": ("unicode", "كلب بني يجري على العشب الأخضر.", "رجل يركب دراجة، والسماء مظلمة."),
    "Chinese": ("characters", "一只棕色的狗在绿色的草地上奔跑。", "天黑了，一个人骑着自行车。"),
    "Chinese, segmented": ("ptb", "一只 棕色 的 狗 在 草地 上 奔跑 。", "天 黑 了 ， 一个 人 骑 着 自行车 。"),
    "German": ("unicode", "Ein Mädchen läuft „schnell“ über die Straße.", "Im Dunkeln fährt's Kind 3,5 km Rad."),
    "Hindi": ("unicode", "एक आदमी लाल कुर्ते में सड़क पर साइकिल चला रहा है।", "अँधेरे में एक कुत्ता दौड़ रहा है।"),
    "Thai": ("characters", "สุนัขกำลังวิ่งอยู่บนสนามหญ้าสีเขียว", "ผู้ชายขี่จักรยานตอนกลางคืน"),
    "Vietnamese": ("unicode", "Một con chó đang chạy trên bãi cỏ xanh.", "Trời tối, một người đi xe đạp."),
}
TINY = (
    "--encoder.name small_cnn --encoder.finetune-from all --decoder.embedding-dim 12 --decoder.hidden-dim 16 "
    "--decoder.attention-dim 8 --training.epochs 1 --training.batch-size 4 --training.workers 0 --search.max-length 12 "
    "--training.self-critical.first-epoch 1 --training.precision fp32 --device cpu"
).split()


@dataclass
class Run:
    """A data file and a model that was trained on it."""

    kind: str
    texts: list[str]
    data: Path
    folder: Path
    image: Path


def write_images(folder: Path, texts: list[str]) -> list[str]:
    """Write eight images with these captions in turn; return the options that name them."""
    rows = [("file_name", "caption", "split")]
    for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        pixels = np.random.default_rng(number).integers(0, 100, (32, 32, 3)) + (150, 0)[number % 2]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append((f"{number}.png", texts[number % 2], split))
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return ["folder", "--images", str(folder), "--captions", str(folder / "captions.csv"), "--size", "32"]


@pytest.fixture(scope="module", params=LANGUAGES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    kind, *texts = LANGUAGES[request.param]
    folder = tmp_path_factory.mktemp("language")
    source = write_images(folder, texts)
    data, trained = folder / "data.h5", folder / "run"
    preprocess([*source, "--output", str(data), "--min-count", "1", "--words", kind, "--workers", "0"])
    train.main(["shapes-soft", "--data", str(data), "--output", str(trained), *TINY])
    return Run(kind, texts, data, trained, folder / "0.png")


def test_a_language_from_its_captions_to_a_model_and_its_scores(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A model's caption is a text of that language, and its own references score as the tokens of its words do."""
    vocabulary, best = read_vocabulary(run.data), str(run.folder / "best.pt")
    assert vocabulary.word_kind == run.kind and set(vocabulary.words[4:]) == {
        word for text in run.texts for word in vocabulary.tokenise(text)
    }
    caption_image.main(["--checkpoint", best, "--image", str(run.image), "--caption", run.texts[0], "--json"])
    content = json.loads(capsys.readouterr().out)
    words = [step["word"] for step in content["words"]]
    assert words == vocabulary.tokenise(run.texts[0]) and len(words) > 4
    assert content["caption"] == (" " if run.kind != "characters" else "").join(words)
    java = ["--no-java"] if run.kind == "ptb" else []  # it takes long
    evaluate.main(["--checkpoint", best, "--data", str(run.data), "--device", "cpu", *java])
    output = capsys.readouterr().out
    scores = json.loads((run.folder / "scores_test.json").read_text())
    assert ("tokens PTB" if run.kind == "ptb" else f"tokens {run.kind} by UAX 29 in regex 2") in scores["signature"]
    assert ("they know English alone" in output) == (run.kind != "ptb")
    assert ("ends badly" in scores["scores"]) == (run.kind == "ptb")
    for image in scores["images"]:
        assert (" " in image["caption"]) <= (run.kind != "characters")
        assert vocabulary.tokenise(image["caption"]) == image["caption"].split() or run.kind == "characters"


def test_a_comparison_scores_the_same_words(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """References, written as a model writes them, score 100 against themselves."""
    arguments = ["--checkpoint", str(run.folder / "best.pt"), "--data", str(run.data), "--no-java", "--device", "cpu"]
    evaluate.main([*arguments, "--output", str(tmp_path)])
    scores, vocabulary = json.loads((tmp_path / "scores_test.json").read_text()), read_vocabulary(run.data)
    for image, text in zip(scores["images"], run.texts, strict=True):
        image["caption"] = vocabulary.separator.join(vocabulary.tokenise(text))
    (tmp_path / "right").mkdir()
    (tmp_path / "right" / "scores_test.json").write_text(json.dumps(scores))
    capsys.readouterr()
    evaluate.main(["--compare", str(tmp_path), str(tmp_path / "right"), "--no-java"])
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert lines["BLEU-4"][2] == lines["ROUGE-L"][2] == "100.00" != lines["BLEU-4"][1]


def test_a_model_keeps_its_kind_of_words(run: Run, tmp_path: Path) -> None:
    """In its checkpoint and in an export; older ones, and older data files, name none and have ptb."""
    best = run.folder / "best.pt"
    export.main(["--checkpoint", str(best), "--output", str(tmp_path / "model")])
    for path in (best, run.folder / "last.pt", tmp_path / "model"):
        assert Captioner.load(path).vocabulary.word_kind == run.kind
    content: dict[str, Any] = checkpoint.load(best)
    del content["words"]
    assert Captioner.from_checkpoint(content, best).vocabulary.word_kind == "ptb"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["words"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert Captioner.load(tmp_path / "model").vocabulary.word_kind == "ptb"
    old = copy_file(run.data, tmp_path / "old.h5")
    with h5py.File(old, "r+") as file:
        manifest = manifest_of(file)
        write_manifest(file, {name: value for name, value in manifest.items() if name != "words"})
    assert read_vocabulary(old).word_kind == read_manifest(old)["words"] == "ptb"


def test_data_and_models_of_other_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with the remedy; a vocabulary brings its own kind."""
    source = write_images(tmp_path, list(LANGUAGES["Chinese"][1:]))
    first, options = tmp_path / "first.h5", ["--min-count", "1", "--workers", "0"]
    preprocess([*source, *options, "--output", str(first), "--words", "characters"])
    assert "lack spaces" not in capsys.readouterr().out
    preprocess(["info", str(first)])
    assert "  words: characters\n" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"--words is unicode, but the words of --vocabulary .*first.h5 are characters;"
    ):
        preprocess(
            [*source, *options, "--output", str(tmp_path / "x.h5"), "--vocabulary", str(first), "--words", "unicode"]
        )
    again = tmp_path / "again.h5"
    preprocess([*source, *options, "--output", str(again), "--vocabulary", str(first)])
    assert read_vocabulary(again).word_kind == "characters"
    words = read_vocabulary(first).words
    image = read_image_config(first)
    check_fits(again, Vocabulary(words, "characters"), image)
    with pytest.raises(
        UserError, match="its words are characters, the model's ptb; make the file again with --words ptb"
    ):
        check_fits(again, Vocabulary(words), image)
    with pytest.raises(ValueError, match="words are one of ptb, unicode, characters, not 'letters'"):
        Vocabulary(words, "letters")
    damaged = copy_file(first, tmp_path / "damaged.h5")
    with h5py.File(damaged, "r+") as file:
        write_manifest(file, {**manifest_of(file), "words": "letters"})
    with pytest.raises(UserError, match="its manifest has .*words 'letters'.*make it again"):
        read_vocabulary(damaged)


def test_shards_keep_their_kind_of_words(tmp_path: Path) -> None:
    """And those of two kinds are not of one data set."""
    source = [*write_images(tmp_path, list(LANGUAGES["Thai"][1:])), "--min-count", "1", "--workers", "0"]
    for shard, kind in (("1/2", "characters"), ("2/2", "characters"), ("2/2", "unicode")):
        name = f"{kind}{shard[0]}.h5"
        preprocess([*source, "--shard", shard, "--words", kind, "--output", str(tmp_path / name)])
    shards = [str(tmp_path / f"characters{n}.h5") for n in (1, 2)]
    preprocess(["merge", *shards, "--output", str(tmp_path / "merged.h5")])
    assert read_vocabulary(tmp_path / "merged.h5").word_kind == "characters"
    with pytest.raises(UserError, match="unicode2.h5: is a shard of another data set, or made with other options"):
        preprocess(["merge", shards[0], str(tmp_path / "unicode2.h5"), "--output", str(tmp_path / "other.h5")])


def test_an_unknown_word_is_one_token_of_every_kind() -> None:
    """It is one token, as it is to COCO's server, and not the seven letters of its name."""
    for kind, text, tokens in (
        ("ptb", "a <unknown> dog", ["a", "<unknown>", "dog"]),
        ("unicode", "ein <unknown> hund", ["ein", "<unknown>", "hund"]),
        ("characters", "一<unknown>狗", ["一", "<unknown>", "狗"]),
    ):
        assert tokenise_captions([], [text], kind).captions == [tokens]


def test_models_of_two_kinds_of_words_are_not_compared(tmp_path: Path, captioner: Captioner) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    words, paths = captioner.vocabulary.words, []
    for kind in ("ptb", "characters"):
        captioner.vocabulary = Vocabulary(words, kind)
        paths.append(str(tmp_path / f"{kind}.pt"))
        checkpoint.save(Path(paths[-1]), captioner.to_checkpoint())
    options = ["--image", str(tmp_path / "image.png"), "--output", str(tmp_path / "figure.png")]
    with pytest.raises(UserError, match="its words are characters, those of --checkpoint are ptb; give two models"):
        caption_image.main(["--checkpoint", paths[0], "--compare-with", paths[1], *options])
    with pytest.raises(UserError, match="--caption has 101 words, but must have 1 to 100"):
        caption_image.main(["--checkpoint", paths[1], "--caption", "狗" * 101, *options])
