"""Tables of scores for people."""

import math

from caption.evaluation.bootstrap import Difference
from caption.evaluation.table import blocks, comparison_table, score_table

VALUES = {"truthful": 50.0, "truthful, unseen": 12.345, "length ratio": 0.98765, "words": 7, "pointing": math.nan}
INTERVALS = {"truthful": (40.0, 60.0), "length ratio": (0.9, 1.1), "pointing": (math.nan, math.nan)}


def test_a_score_of_a_subset_stands_in_a_column_beside_that_of_all() -> None:
    assert [(block.columns, list(block.rows)) for block in blocks(VALUES, INTERVALS)] == [
        (["score", "unseen"], ["truthful"]),
        (["score"], ["length ratio", "words", "pointing"]),
    ]
    lines = score_table(VALUES, INTERVALS).splitlines()
    assert lines[1].split() == ["truthful", "50.00", "40.00", "to", "60.00", "12.35"] or "12.34" in lines[1]
    assert [line.split() for line in lines[4:]] == [
        ["length", "ratio", "0.988", "0.900", "to", "1.100"],
        ["words", "7"],
        ["pointing", "–"],
    ]
    assert all(line == line.rstrip() for line in lines)


def test_a_difference_is_real_below_a_p_of_one_in_twenty() -> None:
    differences = [Difference("a", 10.0, 12.0, 1, 3, 0.049), Difference("b", 10.0, 9.5, -2, 1, 0.05)]
    first, second = comparison_table(differences).splitlines()[1:]
    assert first.split() == ["a", "10.00", "12.00", "+2.00", "+1.00", "to", "+3.00", "0.0490", "real"]
    assert comparison_table([Difference("c", math.nan, 1.0, 0, 0, math.nan)]).splitlines()[1].split() == ["c", "–"]
    assert second.split() == ["b", "10.00", "9.50", "-0.50", "-2.00", "to", "+1.00", "0.0500"]
