"""Scores equal those of COCO's own programs, and hand calculations; result files are read by pycocotools."""

import contextlib
import io
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu
from pycocotools.coco import COCO

from caption.evaluation import meteor_spice
from caption.evaluation.bleu import bleu
from caption.evaluation.bootstrap import Score
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.cider import cider_d
from caption.evaluation.coco import tokenise_captions
from caption.evaluation.diversity import diversity
from caption.evaluation.meteor_spice import meteor as meteor_score
from caption.evaluation.metrics import Evaluation, score_captions
from caption.evaluation.ngrams import Words, count_ngrams
from caption.evaluation.rouge import rouge_l
from caption.training.run_dir import coco_results

FLICKR8K = Path(__file__).parents[3] / "shared/data/flickr8k/Flickr8k_text"


def scores_of(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, Score]:
    ngrams = list(count_ngrams(references, written))
    scores = [*bleu(references, written, ngrams), rouge_l(references, written), cider_d(references, written, ngrams)]
    return {score.name: score for score in scores}


def test_bleu_and_rouge_equal_a_hand_calculation() -> None:
    """Six words against seven: precisions 6/6, 4/5, 2/4 and 1/3 of 1- to 4-grams."""
    reference, caption = ["the", "cat", "sat", "on", "the", "red", "mat"], ["the", "cat", "on", "the", "red", "mat"]
    scores = scores_of([caption], [[reference]])
    precisions = [6 / 6, 4 / 5, 2 / 4, 1 / 3]
    penalty = math.exp(1 - 7 / 6)
    for n in (1, 2, 3, 4):
        plain = 100 * math.prod(precisions[:n]) ** (1 / n)
        assert scores[f"BLEU-{n}, without BP"].value == pytest.approx(plain)
        assert scores[f"BLEU-{n}"].value == pytest.approx(plain * penalty)
    assert scores["length ratio"].value == pytest.approx(6 / 7)
    common = 6  # "the cat on the red mat" is a subsequence: precision 1, recall 6/7
    rouge = (1 + 1.44) * 1 * (common / 7) / (common / 7 + 1.44 * 1)
    assert scores["ROUGE-L"].value == pytest.approx(100 * rouge)


def test_bleu_uses_every_reference_and_is_a_corpus_score() -> None:
    references = [[["a", "b", "c", "d"], ["a", "b", "x", "y"]], [["e", "f", "g", "h"]]]
    whole = scores_of([["a", "b", "c", "d"], ["e", "f", "g", "h"]], references)["BLEU-4"]
    assert whole.value == pytest.approx(100)
    half = scores_of([["a", "b", "x", "y"], ["e", "f", "g", "z"]], references)["BLEU-4"]
    assert half.value == pytest.approx(100 * (7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25)  # counts pooled, not means


def test_bleu_clips_by_the_reference_that_has_an_ngram_most_often() -> None:
    """ "the the the the" against references with two and one "the": two of four count, not three, and none of another
    image's. The closest length is 3, so that there is no penalty; of two equally close ones, it is the shorter."""
    references = [[["the", "cat", "the"], ["the", "dog"]], [["the"] * 4]]
    scores = scores_of([["the"] * 4, ["a"] * 4], references)
    assert scores["BLEU-1"].per_image.tolist() == pytest.approx([50, 0], abs=1e-6)
    assert scores["BLEU-1, without BP"].value == pytest.approx(100 * 2 / 8)
    assert scores_of([["a"] * 3], [[["a"] * 2, ["a"] * 4]])["BLEU-1"].value == pytest.approx(100)


def test_empty_captions_score_0() -> None:
    scores = scores_of([[], ["a"]], [[["a", "b"]], [["a"]]])
    assert scores["BLEU-1"].per_image[0] == 0 and scores["ROUGE-L"].per_image.tolist() == [0, 100]
    assert all(math.isfinite(score.value) for score in scores.values())
    assert all(score.value == 0 for name, score in scores_of([[]], [[["a"]]]).items() if "BP" not in name)


def made_up(count: int, seed: int) -> tuple[list[Words], list[list[Words]]]:
    """Captions of few words, so that n-grams repeat; one to six references; some captions empty or very short."""
    chance = random.Random(seed)

    def text(most: int) -> Words:
        return [chance.choice("abcdefghij") for _ in range(chance.randint(1, most))]

    references = [[text(14) for _ in range(chance.randint(1, 6))] for _ in range(count)]
    written = [chance.choice([list(chance.choice(several)), text(14), text(3), []]) for several in references]
    return written, references


def flickr8k() -> tuple[list[Words], list[list[Words]]]:
    """The first reference of each dev image against the other four."""
    if not FLICKR8K.is_dir():
        pytest.skip(f"Flickr8k's captions are not at {FLICKR8K}")
    names = set((FLICKR8K / "Flickr_8k.devImages.txt").read_text().split())
    texts: dict[str, list[str]] = {}
    for line in (FLICKR8K / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, text = line.split("\t")
        if name.split("#")[0] in names:
            texts.setdefault(name.split("#")[0], []).append(text)
    tokens = tokenise_captions([several[1:] for several in texts.values()], [several[0] for several in texts.values()])
    return tokens.captions, tokens.references


def as_strings(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[dict, dict]:
    known = {i: [" ".join(reference) for reference in several] for i, several in enumerate(references)}
    return known, {i: [" ".join(caption)] for i, caption in enumerate(written)}


@pytest.mark.parametrize("source", ["made up", "flickr8k"])
def test_scores_equal_pycocoevalcap(source: str) -> None:
    """The scores of all images and of each, to more than four decimals."""
    pytest.importorskip("pycocoevalcap.bleu.bleu")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    written, references = flickr8k() if source == "flickr8k" else made_up(300, seed=0)
    ours, (known, captions) = scores_of(written, references), as_strings(written, references)
    corpus, per_image = Bleu(4).compute_score(known, captions, verbose=0)
    theirs = {f"BLEU-{n}": (corpus[n - 1], per_image[n - 1]) for n in (1, 2, 3, 4)}
    theirs["ROUGE-L"] = Rouge().compute_score(known, captions)
    theirs["CIDEr-D"] = Cider().compute_score(known, captions)
    for name, (value, values) in theirs.items():
        assert ours[name].value == pytest.approx(100 * value, abs=1e-6), name
        assert np.allclose(ours[name].per_image, 100 * np.array(values), atol=1e-6), name


def test_bleu_equals_nltk() -> None:
    """For captions of four words or more: nltk counts an n-gram too many in shorter ones."""
    written, references = made_up(300, seed=1)
    pairs = [(caption, several) for caption, several in zip(written, references, strict=True) if len(caption) > 3]
    written, references = [caption for caption, _ in pairs], [several for _, several in pairs]
    ours = scores_of(written, references)
    for n in (1, 2, 3, 4):
        theirs = corpus_bleu(references, written, weights=[1 / n] * n)
        assert ours[f"BLEU-{n}"].value == pytest.approx(100 * theirs, abs=1e-6)


def test_meteor_equals_its_program(meteor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is the program's formula on its own counts, so that it can be resampled."""
    monkeypatch.setattr("pycocoevalcap.meteor.meteor.Meteor", lambda: meteor)
    text = "a man riding wave surfboard the ocean dog runs through grass people stand near red bus quickly"
    words = text.split()
    chance = random.Random(0)
    references = [[chance.choices(words, k=chance.randint(3, 12)) for _ in range(3)] for _ in range(60)]
    written = [chance.choice([several[0], chance.choices(words, k=8), ["x"]]) for several in references]
    value, per_image = meteor.compute_score(*as_strings(written, references))
    score = meteor_score(references, written)
    assert score.name == "METEOR" and score.value == pytest.approx(100 * value, abs=1e-9)
    assert np.allclose(score.per_image, 100 * np.array(per_image), atol=1e-9)
    assert all(line.startswith("SPICE is left out") for line in meteor_and_spice([["a"]], ["a"]).missing)


def meteor_and_spice(references: list[list[str]], written: list[str]) -> Evaluation:
    return score_captions(CaptionSet(written, references, java=True), ["METEOR", "SPICE"])


def test_without_java_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor_spice.shutil, "which", lambda name: None)
    scores, _, missing = meteor_and_spice([["a"]], ["a"])
    assert scores == [] and len(missing) == 1
    assert "no java here" in missing[0] and "default-jre-headless" in missing[0] and "\n" not in missing[0]


def test_a_failing_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one image no pipe breaks before the end."""
    meteor = pytest.importorskip("pycocoevalcap.meteor.meteor")
    monkeypatch.setattr(meteor_spice.shutil, "which", lambda name: "/bin/java")

    class Silent:
        def _stat(self, caption: str, references: list[str]) -> str:
            return ""

    monkeypatch.setattr(meteor, "Meteor", Silent)
    scores, _, missing = meteor_and_spice([["a"]], ["a"])
    assert scores == [] and missing[0].startswith("METEOR is left out: its program failed")


def test_spice_runs_when_its_models_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a stand-in for its program: the models are 400 MB and cannot come with the tests."""
    spice = pytest.importorskip("pycocoevalcap.spice.spice")
    meteor = pytest.importorskip("pycocoevalcap.meteor.meteor")
    monkeypatch.setattr(meteor_spice.shutil, "which", lambda name: "/bin/java")
    monkeypatch.setattr(spice, "__file__", str(tmp_path / "spice.py"))
    monkeypatch.setattr(meteor, "Meteor", lambda: (_ for _ in ()).throw(OSError("no memory")))
    (tmp_path / "lib").mkdir()
    for part in ("", "-models"):
        (tmp_path / "lib" / f"stanford-corenlp-3.6.0{part}.jar").touch()

    class Program:
        def compute_score(self, known: dict, written: dict) -> tuple[float, list]:
            return 0.3, [{"All": {"f": 0.2 if written[i] == ["a"] else float("nan")}} for i in known]

    monkeypatch.setattr(spice, "Spice", Program)
    scores, _, missing = meteor_and_spice([["a"], ["b"]], ["a", "b"])
    assert [(score.name, score.value) for score in scores] == [("SPICE", 10.0)]
    assert len(missing) == 1 and "METEOR is left out: its program failed (no memory)" in missing[0]


def test_diversity_counts_words_and_captions() -> None:
    captions = [["a", "dog"], ["a", "dog"], ["a", "cat"], ["a", "small", "cat"]]
    assert diversity(captions, [["a", "dog"]]) == {
        "distinct captions": 75.0,
        "vocabulary used": 4,
        "mean length": 2.25,
        "ends badly": 0.0,
        "not in training": 50.0,
    }
    assert diversity([["a", "man", "with", "a"], ["a", "man"], [], ["looking", "to"]], None)["ends badly"] == 50
    assert "not in training" not in diversity(captions, None)


def test_result_files_are_read_by_pycocotools(tmp_path: Path) -> None:
    truth = COCO()
    truth.dataset = {"images": [{"id": 3}, {"id": 7}], "annotations": []}
    (tmp_path / "results.json").write_text(coco_results([3, 7], ["a dog", "a cät"]))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(str(tmp_path / "results.json"))
    assert [results.imgToAnns[i][0]["caption"] for i in (3, 7)] == ["a dog", "a cät"]
    assert json.loads((tmp_path / "results.json").read_text())[0]["image_id"] == 3
