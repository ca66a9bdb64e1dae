"""The examples on text: what they generate is right and apart, padding counts for nothing, and a short run ends."""

import json
import random
import re
from datetime import date
from pathlib import Path

import pytest
import torch
from conftest import far_from_uniform

from caption.config import SearchConfig
from caption.data.vocabulary import UNKNOWN
from caption.errors import UserError
from caption.search import beam, greedy
from examples import intent, translation

# Spelt out here, so that the example's own rules are checked against them.
ORDINALS = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
fifteenth sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth
twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first""".split()
NUMBERS = dict(zip("one two three four five six seven eight nine ten eleven twelve".split(), range(1, 13), strict=True))
NUMBERS |= dict(
    zip("thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(), range(13, 20), strict=True)
)
NUMBERS |= {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80}
NUMBERS |= {"ninety": 90}
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()


def number(words: str) -> int:
    return sum(NUMBERS[word] for word in words.split("-"))


def read_date(text: str) -> date:
    """Read a date of any format, by looking for its parts one after the other."""
    text = re.sub("^(mon|tues?|wed(nes)?|thu(rs)?|fri|sat(ur)?|sun)(day)?\\b", "", text.lower())
    if found := re.fullmatch(r"(\d+)[./](\d+)[./](\d+)", text):
        day, month, year = map(int, found.groups())
    else:
        words = re.findall(r"[a-z]+(?:-[a-z]+)*|\d+", re.sub(r"(\d)-|-(?=\d)", r"\1 ", text))
        month_word = next(word for word in words if word[:3] in MONTHS)
        month = MONTHS.index(month_word[:3]) + 1
        after = words[words.index(month_word) + 1 :]
        if any(word in ORDINALS for word in words):
            day = next(ORDINALS.index(word) + 1 for word in words if word in ORDINALS)
        else:
            day = next(int(word) for word in words if word.isdigit() and len(word) < 3)
        if after[-1].isdigit() and (len(after[-1]) == 4 or after[-1] != str(day)):
            year = int(after[-1])
        elif words[0].isdigit() and len(words[0]) == 4:
            year = int(words[0])
        elif "thousand" in words:
            year = 2000 + (number(after[-1]) if after[-1] != "thousand" else 0)
        else:
            year = 100 * number(after[-2]) + number(after[-1]) if not after[-1].isdigit() else int(after[-1])
    return date(year if year > 99 else 1900 + year if year >= 50 else 2000 + year, month, day)


def test_every_format_reads_back_as_its_date() -> None:
    known, unknown = translation.split_dates(seed=1, test=300)
    vocabulary = translation.read_vocabulary(known[:2000])
    days = [min(known + unknown), max(known + unknown), *unknown]
    days += [date(1999 + n // 28, n % 12 + 1, n) for n in range(1, 29)] + [date(2000 + n, 3, 31) for n in range(15)]
    for day in days:
        for form in translation.FORMATS:
            source = translation.write_date(day, form)
            assert read_date(source) == day, source
            assert UNKNOWN not in vocabulary.encode(translation.tokenise(source))
            if "weekday" in form or "{wd}" in form:
                assert source.startswith(day.strftime("%a").lower())


def test_sources_are_dates_in_turn() -> None:
    days = translation.split_dates(seed=1, test=100)[1]
    rng = random.Random(0)
    for count in (1, 2, 3):
        source, wanted = translation.write_pair(days, count, rng)
        read = [read_date(part) for part in source.split(" then ")]
        assert len(read) == count and set(read) <= {*days} and "/".join(map(str, read)) == wanted


def test_training_sees_no_date_of_the_test() -> None:
    known, unknown = translation.split_dates(seed=3, test=500)
    assert len(unknown) == 500 and len(known) + len(unknown) == len({*known, *unknown}) == 36525
    assert (min(known + unknown), max(known + unknown)) == (translation.FIRST, date(2049, 12, 31))
    assert translation.split_dates(4, 500)[1] != unknown


@pytest.mark.parametrize(
    ("order", "score"), [("luong", "dot"), ("luong", "none"), ("bahdanau", "concat"), ("bahdanau", "none")]
)
def test_a_source_alone_is_translated_as_in_a_batch(order: str, score: str) -> None:
    """Padding changes nothing, nor does a beam of one; with a beam of three, the other sources do not either."""
    torch.manual_seed(0)
    days = [date(1987, 3, n) for n in range(1, 32)]
    model = far_from_uniform(translation.Translator(order, score, 8, translation.read_vocabulary(days)))
    rng = random.Random(0)
    sources = [translation.write_pair(days, count, rng)[0] for count in (1, 3, 2, 1)]
    for source, (text, weights) in zip(sources, model.translate(sources, 3), strict=True):
        (alone, own), length = (
            model.translate([source], 3)[0],
            1 if score == "none" else len(translation.tokenise(source)) + 1,
        )
        assert text == alone and own.shape[1] == length
        torch.testing.assert_close(weights[:, :length], own)
        assert not weights[:, length:].any()
    memory, config = model.encode(sources), SearchConfig(1, 33)
    for one, other in zip(beam(model.decoder, memory, config), greedy(model.decoder, memory, config), strict=True):
        assert one[0].words == other[0].words


def test_a_short_run_of_translation_ends_and_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--order", "bahdanau", "--scores", "general", "none", "--hidden-dim", "8", "--batch-size", "4"]
    translation.main([*arguments, "--steps", "2", "--test-dates", "26", "--output", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "exact_match.json").read_text()).keys() == {
        f"{score}, {count}" for score in ("general", "none") for count in ("1 date", "2 dates", "3 dates")
    }
    assert (tmp_path / "run" / "translation.png").stat().st_size > 5000
    assert "3 dates" in capsys.readouterr().out


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    for main, arguments, message in (
        (
            translation.main,
            ["--scores", "dot", "cosine"],
            "decoder.score is 'cosine', but must be one of additive, concat",
        ),
        (translation.main, ["--scores", "--seed", "1"], "scores is empty, but must be one or several"),
        (translation.main, ["--hidden-dim", "9"], "hidden_dim is 9, but must be even"),
        (translation.main, ["--test-dates", "40000"], "test_dates is 40000, but must be below 36525"),
        (intent.main, ["--score", "cosine"], "decoder.score is 'cosine', but must be one of additive, concat"),
    ):
        with pytest.raises(UserError, match=message):
            main([*arguments, "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_intents_are_tested_on_other_templates_and_other_words() -> None:
    for split in intent.DATA["intents"].values():
        assert len(split["train"]) == 8 and len(split["test"]) == 4 and not {*split["train"]} & {*split["test"]}
    for split in intent.DATA["slots"].values():
        assert not {*split["train"]} & {*split["test"]} - {""}
    examples = intent.write_examples("test", 3, seed=1)
    assert len(examples) == 3 * 4 * len(intent.INTENTS) and examples == intent.write_examples("test", 3, seed=1)
    assert not any("{" in word for words, _ in examples for word in words)


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "additive"])
def test_a_sentence_alone_is_read_as_in_a_batch(score: str) -> None:
    torch.manual_seed(0)
    model = far_from_uniform(intent.Classifier(9, 8, 2, score, even=False))
    words = torch.tensor([[4, 5, 6, 7, 8], [8, 4, 0, 0, 0]])
    logits, weights = model(words)
    alone, own = model(words[1:, :2])
    torch.testing.assert_close(logits[1:], alone)
    torch.testing.assert_close(weights[1:, :, :2], own)
    assert not weights[1, :, 2:].any() and not torch.allclose(own, own.new_tensor(0.5))
    even, halves = model(words, even=True)
    torch.testing.assert_close(halves[1], halves.new_tensor([[0.5, 0.5, 0, 0, 0]] * 2))
    mean = model.embedding(words[1, :2]).mean(0)
    torch.testing.assert_close(even[1], model.output(torch.cat([mean, mean])))


def test_a_short_run_of_intent_ends_and_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    intent.main(["--steps", "2", "--runs", "1", "--width", "8", "--hops", "2", "--output", str(tmp_path / "run")])
    assert len(json.loads((tmp_path / "run" / "accuracy.json").read_text())) == 3
    assert (tmp_path / "run" / "intent.png").stat().st_size > 5000
    assert "trained with even weights" in capsys.readouterr().out
