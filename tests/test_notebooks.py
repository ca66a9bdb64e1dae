"""The notebooks run from top to bottom, and were stored with what they print."""

import ast
import re
import types
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
TUTORIAL = [path for path in NOTEBOOKS if path.parent.name == "tutorial"]
MAX_BYTES = 600_000
ABSOLUTE = re.compile(r"(?<![\w.:/-])(?:/(?:home|root|tmp|usr|opt|mnt|var|work|Users)/|[A-Z]:\\)")


@pytest.mark.slow  # `make tutorial` runs them
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_stored_with_its_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    stored = shown(notebook)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}})
    client.execute()  # raises what a cell raises
    assert shown(notebook) == stored


def shown(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Return the kinds of output of each cell, without warnings; words and digits may differ between processors."""
    return [
        sorted(
            kind
            for output in cell.outputs
            if output.get("name") != "stderr"
            for kind in output.get("data", {"text/plain": ""})
        )
        for cell in code_cells(notebook)
    ]


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_run_from_top_to_bottom_before_it_was_stored(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    texts = [cell.source for cell in cells] + [
        text for output in outputs for text in (output.get("text", ""), output.get("data", {}).get("text/plain", ""))
    ]
    assert not [found.group() for text in texts if (found := ABSOLUTE.search(text))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_names_that_a_notebook_imports_exist(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    lines = "\n".join(cell.source for cell in cells).splitlines()
    tree = ast.parse("\n".join(line for line in lines if not line.startswith("%")))
    imported: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), imported)  # raises ImportError
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):  # the attributes of modules, such as `runs.make_data`
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in assigned:
            owner = imported.get(node.value.id)
            assert not isinstance(owner, types.ModuleType) or hasattr(owner, node.attr), ast.unparse(node)


@pytest.mark.parametrize("path", [*NOTEBOOKS, ROOT / "docs/tutorial/README.md"], ids=lambda path: path.stem)
def test_the_files_that_a_notebook_links_to_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "markdown")
    targets = [target for target in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in target]
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_the_tutorial_lists_its_notebooks_and_they_are_small() -> None:
    text = (ROOT / "docs/tutorial/README.md").read_text(encoding="utf-8")
    assert [path.name for path in TUTORIAL] == re.findall(r"\((\d\S+\.ipynb)\)", text)
    assert all(path.stat().st_size < MAX_BYTES for path in TUTORIAL)
