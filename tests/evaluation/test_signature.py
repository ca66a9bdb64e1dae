"""A signature names all that a score depends on, and the same for the same evaluation."""

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import copy_file

from caption import __version__
from caption.config import SearchConfig
from caption.data.dataset import CaptionDataset
from caption.evaluation import signature as module
from caption.evaluation.signature import signature, version


def of(data: Path, split: str = "test", precision: str = "fp32", **search: object) -> str:
    config = dataclasses.asdict(SearchConfig(**search))  # type: ignore[arg-type]
    return signature(data, split, CaptionDataset(data, split).references(), config, precision)


def test_it_changes_with_whatever_the_scores_depend_on(shapes: Path, tmp_path: Path) -> None:
    first = of(shapes)
    others = [of(shapes, "val"), of(shapes, precision="bf16"), of(shapes, beam_size=5), of(shapes, length_penalty=0.7)]
    assert len({first, *others}) == 5
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
