"""Find the images to caption, and name the figures of them. Imports neither PyTorch nor matplotlib."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from caption.data.images import readable_formats
from caption.errors import UserError
from caption.files import check_replaceable

FIGURE_ENDINGS = (".png", ".pdf", ".svg", ".jpg", ".gif")


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the files among the names and the images in the folders among them. Raises UserError without any."""
    formats = readable_formats()
    readable = {ending for ending, kind in Image.registered_extensions().items() if kind in formats}
    paths: list[Path] = []
    for path in map(Path, names):
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in readable and file.is_file())
            files = [file for file in files if not file.name.startswith("._")]  # macOS keeps a file's attributes there
            if not files:
                raise UserError(f"--image {path}: no image in this folder")
        paths += files
    if not paths:
        raise UserError("--image names no image; give some, or a folder")
    return list(dict.fromkeys(paths))


def figure_paths(output: Path, images: Sequence[Path], figure_format: str) -> dict[Path, Path]:
    """Return the path of each image's figure: `output` itself, or a file in the folder `output`, which is made.

    Raises UserError for an unknown ending, for several images in one figure, and rather than replace a file that is no
    figure of ours.
    """
    if output.suffix.lower() in FIGURE_ENDINGS and not output.is_dir():
        if len(images) > 1:
            raise UserError(
                f"--output {output}: one figure for {len(images)} images; give a folder, or a page's name (.html)"
            )
        figures = {images[0]: output}
    elif output.suffix and not output.is_dir():
        endings = ", ".join((*FIGURE_ENDINGS, ".html"))
        raise UserError(f"--output {output}: unknown kind of file; its name must end with {endings}, or be a folder's")
    else:
        taken: dict[str, Path] = {}  # name of a figure -> its image
        for path in images:  # images of the same name in several folders are numbered
            names = (f"{path.stem}{f'_{n}' if n > 1 else ''}.{figure_format}" for n in itertools.count(1))
            taken[next(name for name in names if name not in taken)] = path
        figures = {path: output / name for name, path in taken.items()}
    originals = {path.resolve() for path in images}
    for figure in figures.values():
        if figure.resolve() in originals:
            raise UserError(f"--output {output}: {figure} is one of the images; give another folder or name")
        check_replaceable(figure)
    for figure in figures.values():
        figure.parent.mkdir(parents=True, exist_ok=True)
    return figures
