"""Each habit of scoring changes BLEU as it says, and the command runs on any model."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bleu_habits
from benchmarks.bleu_habits import HABITS, Search, Study, table
from caption import checkpoint
from caption.captioner import Captioner
from caption.data.dataset import CaptionDataset
from caption.evaluation.bootstrap import Score

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:nltk")  # of captions without a 4-gram that matches


def study(captioner: Captioner, references: list[str], caption: str) -> Study:
    """A model that writes one caption for each of 40 images with these references, and after each reference's words."""
    search = Search([caption.split()] * 40, [[caption.split()]] * 40)
    searches = dict.fromkeys(("beam", "greedy", "no length penalty", "<unknown> allowed"), search)
    forced = [[[*caption.split(), "<end>"] for _ in references]] * 40
    return Study(captioner, [references] * 40, searches, forced, ([references] * 40, search.best))


def score(study: Study, n: int) -> dict[str, float]:
    """BLEU-n under every habit."""
    values = {habit.name.strip(): habit.scores(study)[n - 1] for habit in HABITS}
    return {name: value.value if isinstance(value, Score) else value for name, value in values.items()}


def test_a_caption_that_is_its_reference_has_100_under_every_habit(captioner: Captioner) -> None:
    """But for NLTK's smoothing 7, which gives more."""
    perfect = study(
        captioner,
        ["a small red circle above a large blue star", "a red circle"],
        "a small red circle above a large blue star",
    )
    for n in (1, 2, 3, 4):
        for name, value in score(perfect, n).items():
            assert value > 100 if "smoothing 7" in name else value == pytest.approx(100), name


def test_each_habit_counts_what_it_says(captioner: Captioner) -> None:
    """BLEU-1 of a caption of five words, of which three are right: "a", "small" and "circle"."""
    references = ["A small red circle above . . .", "a small red circle"]
    bleu = score(study(captioner, references, "a small star circle circle"), 1)
    for name in ("this project", "corpus by NLTK", "mean of sentences", "mean of batches of 32"):
        assert bleu[name] == pytest.approx(60), name
    assert bleu["<end> counted"] == pytest.approx(100 * 4 / 6)
    assert bleu["<start> and <end> counted"] == pytest.approx(100 * 5 / 7)
    assert bleu["words of one letter dropped"] == pytest.approx(50)
    assert bleu["split at spaces, lower case"] == pytest.approx(60)
    assert bleu["also vocabulary's words, <unknown>, <end> counted"] == pytest.approx(100 * 4 / 6)
    short = score(study(captioner, references[:1], "a small circle"), 1)  # of 5 words and of 8 with the full stops
    assert short["no brevity penalty"] == pytest.approx(100)
    assert short["this project"] == pytest.approx(100 * np.exp(1 - 5 / 3))
    assert short["split at spaces, lower case"] == pytest.approx(100 * np.exp(1 - 8 / 3))
    assert short["split at spaces"] < short["split at spaces, lower case"]
    second = score(study(captioner, ["a star", "a small red circle"], "a small red circle"), 1)
    assert second["this project"] == pytest.approx(100) and second["one reference, the first"] == pytest.approx(25)


def test_words_that_the_vocabulary_lacks_match_where_it_is_the_measure(captioner: Captioner) -> None:
    found = study(captioner, ["a small green zebra"], "a small green <unknown>")
    bleu = score(found, 1)
    assert bleu["this project"] == pytest.approx(75) and bleu["<unknown> counted as a match"] == pytest.approx(100)


def test_the_oracle_takes_the_best_beam(captioner: Captioner) -> None:
    found = study(captioner, ["a small red circle above a star"], "a star")
    beams = [["a", "star"], "a small red circle above a star".split(), ["circle"]]
    found.searches["beam"] = Search([["a", "star"]] * 40, [beams] * 40)
    assert score(found, 4)["oracle: the best of all beams"] == pytest.approx(100)


def test_a_difference_that_is_the_same_for_all_images_has_no_width(captioner: Captioner) -> None:
    lines = table(study(captioner, ["a small red circle"], "a small blue star"), 1).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("differences"))
    line = next(line for line in lines[start:] if line.startswith("<end> counted"))
    assert line.split()[2:6] == ["+10.00", "+10.0", "to", "+10.0"]
    row = next(line for line in lines[start:] if line.startswith("corpus by NLTK "))
    assert row.split()[-8:] == ["+0.00", "-"] * 4  # and not -0.00


def test_the_command_scores_an_untrained_model(
    shapes: Path, captioner: Captioner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every habit once in each table; the words written after a reference's own are as many as it has."""
    checkpoint.save(tmp_path / "best.pt", captioner.eval().to_checkpoint())
    arguments = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes), "--beam-size", "2"]
    bleu_habits.main([*arguments, "--training-images", "5"])
    output = capsys.readouterr().out
    assert (
        "val: 10 images, beam 2, length penalty 0.7; 5 images of train" in output and "signature: images 10" in output
    )
    lines = output.splitlines()
    for habit in HABITS:
        assert sum(line.startswith(f"{habit.name}  ") for line in lines) == 1 + (habit is not HABITS[0]), habit.name
    data = CaptionDataset(shapes, "val")
    forced = bleu_habits.force(captioner, data, next(captioner.parameters()).device, "fp32")
    for index, rows in enumerate(forced):
        lengths = sorted((len(words) + 1 for words in data.captions(index)), reverse=True)
        assert [len(row) for row in rows] == lengths
