"""Imports go one way, and the leaves import nothing of ours."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What stands in `caption/`, in the order of imports: each may import what stands before it.
ORDER = (
    "errors", "files", "interrupt", "progress", "device", "exported", "checkpoint", "distributed", "config", "data",
    "ops", "attention", "encoders", "decoders", "search", "visualise", "describe", "captioner", "evaluation", "export",
    "explore", "training",
)  # fmt: skip


def modules() -> dict[str, Path]:
    package = ROOT / "caption"
    paths = {str(path.relative_to(package).with_suffix("")).replace("/", "."): path for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def imports(name: str) -> set[str]:
    """Modules of ours that a module imports, without the package's name; `preprocess` as it is."""
    known, names = modules(), set()
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            package = node.module.removeprefix("caption.")
            # `from caption.ops import cpu` imports a module, `from caption.ops import lstm_cell` a name of the package.
            submodules = {f"{package}.{alias.name}".removeprefix("caption.") for alias in node.names}
            names |= {module if module in known else package for module in submodules}
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("caption.") for alias in node.names}
    return {module for module in names if module in known or module.split(".")[0] == "preprocess"}


def room(name: str) -> str:
    """The package, or the module beside the packages, that a module is of."""
    return name.split(".")[0]


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__init__"}))
def test_a_package_imports_only_what_stands_above_it(name: str) -> None:
    assert room(name) in ORDER, f"{name}: give {room(name)} its place in ORDER"
    found = {room(other) for other in imports(name)} & {*ORDER, "preprocess"}
    assert found <= set(ORDER[: ORDER.index(room(name)) + 1])


def test_modules_of_a_package_import_one_another_one_way() -> None:
    known = modules()
    ours = {name: imports(name) - {name} for name in known}
    graphlib.TopologicalSorter(ours).prepare()  # raises CycleError


def test_search_knows_of_no_decoder() -> None:
    assert not {name for name in imports("search") if room(name) == "decoders"}


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
    for path in [
        *ROOT.glob("*.py"),
        *ROOT.glob("caption/**/*.py"),
        *ROOT.glob("preprocess/*.py"),
        *ROOT.glob("course/*.py"),
    ]:
        assert "util" not in path.stem
        assert len(path.read_text().splitlines()) <= 320, path
