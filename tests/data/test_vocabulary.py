"""The vocabulary."""

import pytest

from caption.data.vocabulary import END, PAD, START, UNKNOWN, Vocabulary


def test_the_special_words_have_different_indices() -> None:
    assert len({PAD, START, END, UNKNOWN}) == 4
    assert Vocabulary.from_counts({"a": 1}).words == ["<pad>", "<start>", "<end>", "<unknown>", "a"]


def test_rare_words_are_unknown() -> None:
    vocabulary = Vocabulary.from_counts({"b": 2, "c": 1, "a": 2}, min_count=2)
    assert vocabulary.words[4:] == ["a", "b"]
    assert vocabulary.encode(["b", "c"]) == [5, UNKNOWN]
    assert vocabulary.decode([START, 5, UNKNOWN, END, PAD]) == ["b", "<unknown>"]


def test_digest_depends_on_the_order() -> None:
    first, second = (Vocabulary([*Vocabulary.from_counts({}).words, *words]) for words in ("ab", "ba"))
    assert first.digest != second.digest == Vocabulary(second.words).digest


def test_a_list_without_specials_is_no_vocabulary() -> None:
    with pytest.raises(ValueError, match="begins with"):
        Vocabulary(["a", "b"])
