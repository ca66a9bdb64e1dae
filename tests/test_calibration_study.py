"""Forecasts of the calibration study: their probabilities are the model's, and they happen where captions are true."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import calibration
from benchmarks.calibration import Event, Span, forecast, span_probabilities
from caption import checkpoint
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.data.dataset import CaptionDataset, build_loader
from caption.data.sampler import sequential_batches
from caption.data.vocabulary import END
from caption.errors import UserError
from caption.evaluation.grounding import read_instances
from caption.search import Hypothesis, search


@torch.inference_mode()
def test_the_probability_of_a_caption_is_that_of_the_search(shapes: Path, captioner: Captioner) -> None:
    """And a caption's is the product of its parts'."""
    captioner.eval()
    memory = captioner.encode(CaptionDataset(shapes, "val").read_images(range(3)))
    found = [hypotheses[0] for hypotheses in search(captioner.decoder, memory, SearchConfig(1, max_length=6))]
    tokens = [h.words + [END] * h.finished for h in found]
    spans = [[Span(words), Span(words[:2]), Span(words, 2)] for words in tokens]
    for hypothesis, (whole, begin, end) in zip(
        found, span_probabilities(captioner, memory, spans, (1.0, 2.0)), strict=True
    ):
        assert np.log(whole[0]) == pytest.approx(hypothesis.log_probability, abs=1e-4)
        assert begin * end == pytest.approx(whole) and whole[0] != whole[1]


def events_of(
    shapes: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch, swap: dict[str, str]
) -> tuple[CaptionDataset, list[Event]]:
    """The forecasts of a model that writes each image's first reference, some of its words exchanged."""
    data = CaptionDataset(shapes, "val")
    (batch,) = build_loader(data, sequential_batches(len(data), 32))
    vocabulary = captioner.vocabulary

    def write(*_: Any) -> list[list[Hypothesis]]:
        captions = [vocabulary.decode(data.captions(index)[0].tolist()) for index in batch.indices]
        tokens = [vocabulary.encode([swap.get(word, word) for word in words]) for words in captions]
        return [[Hypothesis(words, 0.0, True, torch.zeros(0))] for words in tokens]

    monkeypatch.setattr(calibration, "search", write)
    instances = read_instances(str(shapes.with_name("shapes_instances.json")), data)
    assert instances is not None
    return data, forecast(captioner.eval(), data, instances, (1.0, 3.0))


def select(events: list[Event], question: str, kind: str) -> list[Event]:
    return [event for event in events if (event.question, event.kind) == (question, kind)]


def test_true_captions_happen_and_a_meaning_is_as_probable_as_its_words_at_least(
    shapes: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, events = events_of(shapes, captioner, monkeypatch, {})
    for kind in calibration.KINDS:
        words, meanings = select(events, "true", kind), select(events, "meaning", kind)
        assert words and len(words) == len(meanings)
        assert all(event.happened for event in words + meanings)
        ratios = np.array([b.probability / a.probability for a, b in zip(words, meanings, strict=True)])
        assert (ratios > 1).all() if kind in ("size", "caption") else (ratios >= 1 - 1e-12).all()
    assert len(select(events, "said", "caption")) == sum(len(data.captions(index)) for index in range(len(data)))
    assert sum(event.happened for event in select(events, "said", "caption")) >= len(data)
    assert {event.image for event in events} == set(range(len(data)))


def test_a_wrong_colour_is_false_and_so_is_its_caption_but_not_its_shape(
    shapes: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, events = events_of(shapes, captioner, monkeypatch, {"red": "blue", "blue": "red"})
    wrong = {event.image for event in select(events, "true", "colour") if not event.happened}
    assert wrong and wrong == {event.image for event in select(events, "true", "caption") if not event.happened}
    assert all(event.happened for kind in ("shape", "size", "relation") for event in select(events, "true", kind))


def test_the_command_draws_and_prints_every_question(
    shapes: Path, captioner: Captioner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path / "best.pt", captioner.to_checkpoint())
    instances, figure = str(shapes.with_name("shapes_instances.json")), tmp_path / "new" / "figure.png"
    arguments = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes), "--figure", str(figure)]
    calibration.main([*arguments, "--instances", instances])
    output = capsys.readouterr().out
    assert all(f"{question}: " in output for question in calibration.QUESTIONS) and "test: 10 images" in output
    assert Image.open(figure).width > 1000
    with pytest.raises(UserError, match="lacks the scenes of drawn shapes"):
        calibration.main([*arguments, "--instances", ""])
