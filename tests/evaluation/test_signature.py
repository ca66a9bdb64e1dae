"""A signature names all that a score depends on, and the same for the same evaluation."""

import dataclasses
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_file

from caption import __version__
from caption.config import SearchConfig
from caption.data.dataset import CaptionDataset
from caption.evaluation import signature as module
from caption.evaluation.results import describe_search
from caption.evaluation.signature import signature, version

SAMPLE = {"method": "sample"}
# Another value of every field of the search, with those that it needs.
OTHERS: dict[str, dict[str, Any]] = {
    "beam_size": {"beam_size": 5},
    "max_length": {"max_length": 3},
    "min_length": {"min_length": 2},
    "length_penalty": {"length_penalty": 0.7},
    "no_repeat_ngram": {"no_repeat_ngram": 2},
    "suppress_unknown": {"suppress_unknown": False},
    "method": SAMPLE,
    "temperature": {"temperature": 0.5, **SAMPLE},
    "top_p": {"top_p": 0.9, **SAMPLE},
    "hard_attention": {"hard_attention": "argmax"},
}


def of(data: Path, split: str = "test", precision: str = "fp32", seed: int = 1, instances: str | Path = "",
       programs: Sequence[str] = (), **search: Any) -> str:  # fmt: skip
    described = describe_search(dataclasses.asdict(SearchConfig(**search)), precision, seed)
    return signature(data, split, CaptionDataset(data, split).references(), described, instances, programs)


def test_it_changes_with_whatever_the_scores_depend_on(shapes: Path, tmp_path: Path) -> None:
    assert set(OTHERS) == {field.name for field in dataclasses.fields(SearchConfig)}
    first, instances = of(shapes), tmp_path / "instances.json"
    others = [of(shapes, "val"), of(shapes, precision="bf16"), *(of(shapes, **search) for search in OTHERS.values())]
    for content in ("{}", "[]"):
        instances.write_text(content)
        others.append(of(shapes, instances=instances))
    others += [of(shapes, seed=2, **SAMPLE), of(shapes, seed=2, hard_attention="sample")]
    others.append(of(shapes, hard_attention="sample"))
    assert len({first, *others}) == 1 + len(others)
    assert first == of(shapes, seed=2) == of(shapes, temperature=0.5)  # of which a search without samples knows nothing
    if importlib.util.find_spec("pycocoevalcap"):
        assert of(shapes, programs=["METEOR"]) != first
    assert first == of(copy_file(shapes, tmp_path / "elsewhere.h5"))  # wherever the file lies
    images = len(CaptionDataset(shapes, "test"))
    assert first.startswith(f"images {images} | references 5 | tokens PTB") and " | beam 3 | data test " in first
    assert "\n" not in first


def test_it_names_the_commit_in_a_checkout_and_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version().startswith(__version__)
    if (Path(module.__file__).parents[2] / ".git").exists():
        assert re.fullmatch(rf"{re.escape(__version__)} \([0-9a-f]+\+?\)", version())
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("git")))
    assert version() == __version__
