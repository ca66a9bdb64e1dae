"""`pip install .` installs all that `from caption import Captioner` needs, wherever it is run."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_dependencies_are_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    assert "dependencies" in project["project"]["dynamic"] and "torch>=2.6" in requirements()


@pytest.mark.slow
def test_the_wheel_has_every_module_and_file_and_works_elsewhere(tmp_path: Path) -> None:
    """In an environment of its own, which borrows the dependencies and nothing else, far from the checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    source = tmp_path / "source"  # setuptools leaves its work where it builds
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        needed = archive.read(metadata).decode().splitlines()
    assert names >= {name for name in listed if name.startswith(("caption/", "preprocess/"))}
    assert {f"Requires-Dist: {requirement}" for requirement in requirements()} <= set(needed)
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    code = (
        f"import sys; sys.path.append({borrowed!r})\n"
        "import caption, preprocess.__main__; from caption import Captioner\n"
        "from caption.visualise.html import ASSETS; from caption.ops.cpu_library import SOURCE\n"
        "assert caption.__file__.startswith(sys.prefix) and ASSETS.is_dir() and SOURCE.is_file()"
    )
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path)
