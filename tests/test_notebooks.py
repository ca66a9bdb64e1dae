"""The notebooks run from top to bottom, and were stored with what they print."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.ipynb")), ids=lambda path: path.stem)
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
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
