"""Caption pictures: `python caption_image.py --checkpoint RUN/best.pt --image photo.jpg --output photo.png`."""

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from PIL import Image

from caption.config import SearchConfig
from caption.config.cli import parse, run
from caption.data.images import BadImage, open_image, window
from caption.data.vocabulary import tokenise
from caption.errors import UserError

SHOWN = 448  # longer side of a picture in figures and pages, in pixels


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Caption pictures and show, word by word, where the model looked."""

    checkpoint: str
    """A run's best.pt."""
    image: tuple[str, ...]
    """Pictures, or folders of pictures."""
    output: str = ""
    """A figure (.png, .pdf, .svg, .jpg; .gif shows one word after the other), a page for a browser with all the
    pictures (.html), or a folder for a figure of each; empty: neither."""
    format: Literal["png", "pdf", "svg", "jpg", "gif"] = "png"
    """Of the figures in a folder."""
    caption: str = ""
    """Words to look at the pictures with, instead of the model's own."""
    against: str = ""
    """Another model's best.pt, to be drawn beside this one, looking at the pictures with the same words."""
    heads: bool = False
    """Of attention with several heads, draw each head's in the figures, below their mean. A page has them all."""
    json: bool = False
    """Print words, log-probability and attention weights as JSON, one object a picture, instead of the caption."""
    device: str = "auto"
    seed: int = 1
    """Of `--method sample` and `--attend draw`."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SearchConfig)


def main(arguments: list[str]) -> None:
    args = parse(Arguments, arguments, "caption_image.py")
    paths = find_pictures(args.image)
    import torch  # takes seconds, for which --help, and a slip of the pen, need not wait

    from caption.captioner import Captioner
    from caption.describe import as_json, describe, look, looks_of_heads
    from caption.device import choose_device
    from caption.visualise.figures import draw_attention
    from caption.visualise.html import image_entry, write_page

    page = args.output.lower().endswith(".html")
    figures = figure_paths(args, paths) if args.output and not page else {}
    if args.against and not figures:
        raise UserError("--against draws figures, so it needs --output with a figure's name or a folder")
    device = choose_device(args.device)
    captioner = Captioner.load(args.checkpoint).to(device)
    models = [captioner, Captioner.load(args.against).to(device)] if args.against else [captioner]
    max(models, key=lambda model: model.decoder.stochastic).check_search(args.search)
    if args.heads and (not figures or args.against or not captioner.head_names):
        raise UserError(
            "--heads draws figures of a model with several heads (--decoder.score multi_head, --decoder.kind "
            "transformer): give --output with a figure's name or a folder, and no --against"
        )
    given = tokenise(args.caption)
    if args.caption and not given:
        raise UserError(f"--caption {args.caption!r} holds no word")

    torch.manual_seed(args.seed)
    entries, bad = [], []
    for path in paths:
        try:
            hypotheses = describe(captioner, path, args.search, given)
        except BadImage as error:  # the others are captioned all the same
            bad.append(error)
            continue
        best, words = hypotheses[0], captioner.vocabulary.decode(hypotheses[0].words)
        caption = " ".join(words)
        if args.json:
            print(json.dumps({"image": str(path), "caption": caption, **as_json(best, words, captioner)}))
        else:
            before = f"{path}\n" if len(paths) > 1 else ""
            print(f"{before}{caption}{'' if best.finished else ' ...'}\nlog-probability {best.log_probability:.3f}")
        if not args.output:
            continue
        picture = open_image(path)
        seen = window(picture.size, captioner.image.fit)
        picture.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
        if page:
            told = [(captioner.vocabulary.decode(hypothesis.words), hypothesis) for hypothesis in hypotheses]
            entries.append(image_entry(picture, seen, str(path), told, captioner.head_names))
            continue
        looks = [look(captioner, best, words, Path(args.checkpoint).parent.name if args.against else "")]
        if args.against:
            same = describe(models[1], path, args.search, words)[0]
            looks.append(look(models[1], same, words, Path(args.against).parent.name))
        if args.heads:
            looks = [looks[0]._replace(name="all heads"), *looks_of_heads(captioner, best, words)]
        draw_attention(np.asarray(picture), words, looks, caption, figures[path], seen)
    if entries:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_page(Path(args.output), "Where the model looked", captioner.encoder.cells, entries)
    if len(bad) == len(paths) == 1:
        raise bad[0]
    if bad:
        print("".join(f"error: {one}\n" for one in bad), end="", file=sys.stderr)
        raise UserError(f"{len(bad)} of {len(paths)} pictures could not be read")


def find_pictures(given: tuple[str, ...]) -> list[Path]:
    """The pictures given, and those in the folders given, by name. Raises UserError when there are none."""
    Image.init()
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    paths: list[Path] = []
    for path in map(Path, given):
        found = [path]
        if path.is_dir():
            found = sorted(each for each in path.iterdir() if each.suffix.lower() in known and each.is_file())
            if not found:
                raise UserError(f"--image {path}: no picture in this folder")
        paths += found
    if not paths:
        raise UserError("--image names no picture; give some, or a folder")
    return list(dict.fromkeys(paths))


def figure_paths(args: Arguments, paths: list[Path]) -> dict[Path, Path]:
    """Where each picture's figure goes; its folder is made. Raises UserError rather than write over a picture."""
    from caption.visualise.figures import KINDS

    output = Path(args.output)
    if output.suffix.lower() in KINDS and not output.is_dir():
        if len(paths) > 1:
            raise UserError(
                f"--output {output}: one figure for {len(paths)} pictures; give a folder, or a page's name (.html)"
            )
        figures = {paths[0]: output}
    elif output.suffix and not output.is_dir():
        kinds = ", ".join((*KINDS, ".html"))
        raise UserError(f"--output {output}: unknown kind of file; its name must end with {kinds}, or be a folder's")
    else:
        figures, taken = {}, set[str]()
        for path in paths:  # pictures of one name, from several folders, are numbered
            names = (f"{path.stem}{f'_{n}' if n > 1 else ''}.{args.format}" for n in itertools.count(1))
            name = next(name for name in names if name not in taken)
            taken.add(name)
            figures[path] = output / name
    originals = {path.resolve() for path in paths}
    for figure in figures.values():
        if figure.resolve() in originals:
            raise UserError(f"--output {output}: {figure} is one of the pictures; give another folder or name")
    for figure in figures.values():
        figure.parent.mkdir(parents=True, exist_ok=True)
    return figures


if __name__ == "__main__":
    run(main)
