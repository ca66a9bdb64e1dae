"""Imports go one way, and the leaves import nothing of ours."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = ("errors", "fields", "whole", "maps", "images", "vocabulary", "progress")
# Each layer may import the ones before it; scores, which know of no model, and figures only the leaves and each other.
METRICS = (
    "metrics.ptb", "metrics.score", "metrics.ngrams", "metrics.bleu", "metrics.rouge", "metrics.cider",
    "metrics.official", "metrics.reward", "metrics.java", "metrics.diversity", "metrics.truth", "metrics.reading",
    "metrics.nouns", "metrics.grounding",
)  # fmt: skip
ORDER = (
    *LEAVES, *METRICS, "visualise", "modelconfig", "config", "command", "machine", "dropout", "compiled", "graphs",
    "native", "stepwise", "lstm", "gate", "attention.base", "attention.contexts", "attention.additive",
    "attention.scores", "attention.windows", "attention.fused", "attention.soft", "attention.hard",
    "attention.multihead", "attention.glimpses", "attention", "surprise", "cnn", "padding", "encoder", "decoder",
    "transformer", "parallel", "losses", "search", "checkpoint", "captioner", "datafile", "data", "selfcritical",
    "vectors", "objective", "engine", "presets", "runlog", "evaluation", "page", "report", "described",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, without the package's name; `preprocess` as it is."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("caption.") for name in names if name.split(".")[0] in ("caption", "preprocess")}
    return found


def modules() -> dict[str, Path]:
    package = ROOT / "caption"
    paths = {str(path.relative_to(package).with_suffix("")).replace("/", "."): path for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__init__", "metrics"}))
def test_order(name: str) -> None:
    assert name in ORDER, f"{name}: give it its place in ORDER"
    known = {other for other in imports(modules()[name]) if other in ORDER or other == "preprocess"}
    assert known <= set(ORDER[: ORDER.index(name)])
    if name in METRICS or name == "visualise":
        assert known <= {*LEAVES, *METRICS}


def test_search_knows_of_no_decoder() -> None:
    assert not {name for name in imports(modules()["search"]) if name.startswith(("decoder", "transformer"))}


def test_preprocessing_does_without_pytorch() -> None:
    """Its import takes seconds, and more memory than all the rest."""
    code = "import sys, preprocess.__main__; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_does_not_wait_for_pytorch() -> None:
    """A caption's command line is read before PyTorch and matplotlib are."""
    code = (
        "import sys, contextlib, caption_image\n"
        "with contextlib.suppress(SystemExit): caption_image.main(['--help'])\n"
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "--checkpoint" in done.stdout


def test_no_long_files_and_no_utils() -> None:
    for path in [*ROOT.glob("*.py"), *ROOT.glob("caption/**/*.py"), *ROOT.glob("preprocess/*.py")]:
        assert "util" not in path.stem
        assert len(path.read_text().splitlines()) <= 320, path
