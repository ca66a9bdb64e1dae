"""The diffs of docs/extending.md apply to the tree as it is, and what they add works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
DIFFS = dict(re.findall(r"^## ([^\n]+)\n.*?^```diff\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))

# Beside these run the tests of every score and every decoder.
CHECKS = """
import math

import pytest
import torch
from conftest import make_kind

from caption.attention import SCORES
from caption.config import EncoderConfig, TrainingConfig
from caption.data.vocabulary import START
from caption.decoders import DecoderOutput
from caption.encoders.registry import build_encoder
from caption.errors import UserError
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.metrics import score_captions
from caption.training.losses import LossInputs, compute_terms, total_loss


def test_score():
    score, query, regions = SCORES["cosine"](5, 6, 4), torch.randn(2, 3, 5), torch.randn(2, 7, 6)
    q, k = score.query(query).unsqueeze(2), score.key(regions).unsqueeze(1)
    expected = 10 * torch.cosine_similarity(q, k, dim=-1)  # [2, 3, 7]
    torch.testing.assert_close(score(query, score.keys(regions)), expected)


def test_decoder():
    decoder, regions = make_kind("att2in"), torch.randn(1, 6, 6, dtype=torch.double)
    memory = decoder.prepare(regions)
    state = decoder.start(memory, 1)
    h, c = state.hidden, state.cell
    for word in (START, 4, 7):
        words = torch.tensor([[word]])
        logits, state, attended = decoder.step(words, state, memory)
        weights = decoder.attention.score(h, memory.keys).softmax(-1)
        gates = decoder.word_to_gates(decoder.embedding(words)) + decoder.hidden_to_gates(h)
        i, f, o = gates[..., :36].sigmoid().chunk(3, -1)
        units = gates[..., 36:] + decoder.context_to_modulator(weights @ regions)
        c = f * c + i * units.view(2, 12).amax(0)
        h = o * c.tanh()
        torch.testing.assert_close(attended.weights, weights)
        torch.testing.assert_close(logits, decoder.output(h))


def test_encoder():
    encoder = build_encoder(EncoderConfig(name="patches"), 64)
    assert encoder(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 16, 256)
    assert encoder.mean.flatten().tolist() == [0.5] * 3 and encoder.std.flatten().tolist() == [0.25] * 3
    with pytest.raises(UserError, match="patches has no weights, layers or padding"):
        build_encoder(EncoderConfig(name="patches", weights="DEFAULT"), 64)


def test_loss_term():
    logits = torch.zeros(2, 4)
    logits[1, 0] = 100  # one word says nothing, the other all
    words = torch.zeros(2, dtype=torch.long)
    inputs = LossInputs(DecoderOutput(logits, words, words, None))
    config = TrainingConfig(doubly_stochastic=0.0, confidence_penalty=0.1)
    terms = compute_terms(inputs, config)
    assert terms["confidence_penalty"].item() == pytest.approx(-math.log(4) / 2)
    assert total_loss(terms, config).item() == pytest.approx(0.9 * math.log(4) / 2)
    assert set(compute_terms(inputs, TrainingConfig(doubly_stochastic=0.0))) == {"cross_entropy"}


def test_metric():
    captions = CaptionSet(["a " * 21, "a " * 20], [["a"], ["a"]])
    assert score_captions(captions, ["long captions"]).values == {"long captions": 50}
"""


def apply(diff: str, tree: Path, *options: str) -> None:
    """Apply a diff to a tree, which git takes for a plain folder even inside a repository."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    command = ["git", "apply", *options, "-"]
    done = subprocess.run(command, input=diff, cwd=tree, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\nmake the change by hand and put its `git diff -U1` into the document"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the diffs change and their tests read."""
    if shutil.which("git") is None:
        pytest.skip("there is no git here")
    copy = tmp_path / "tree"
    for folder in ("caption", "preprocess", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / file, copy)
    return copy


def test_there_is_a_diff_for_each_kind_of_extension() -> None:
    assert list(DIFFS) == ["An attention score", "A decoder", "An encoder", "A loss term", "A metric"]
    assert TEXT.count("```") == 2 * len(DIFFS)


@pytest.mark.parametrize("kind", DIFFS)
def test_each_diff_applies_alone(kind: str, tree: Path) -> None:
    apply(DIFFS[kind], tree, "--check")


def test_what_the_diffs_add_passes_the_tests_that_the_document_names(tree: Path) -> None:
    for diff in DIFFS.values():
        apply(diff, tree)
    for path in re.findall(r"`((?:caption|tests)/[\w/]+\.py)`", TEXT):
        assert (tree / path).exists(), path
    (tree / "tests" / "test_added.py").write_text(CHECKS)
    files = ["attention/test_attention.py", "decoders/test_decoders.py", "config/test_config.py", "test_added.py"]
    selected = "cosine or att2in or every_decoder_and_score or test_added"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", selected]
    command += [f"tests/{file}" for file in files]
    done = subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
