"""Caption images: `python caption_image.py --checkpoint RUN/best.pt --image photo.jpg --output photo.png`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

import contextlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from caption.config.cli import parse, print_error, run
from caption.config.inference import CaptioningConfig
from caption.config.model import Fit
from caption.data.images import BadImage, CropBox, crop_box, fit_image, open_image, readable_formats
from caption.data.vocabulary import tokenise
from caption.errors import UserError
from caption.files import check_replaceable, locked
from caption.visualise.paths import figure_paths, find_images

SHOWN = 448  # longer side of an image in figures and pages, in pixels
MAX_ASPECT = 8  # of the longer side to the shorter; of a longer image, figures and pages show what the model saw
MAX_WORDS = 100  # of --caption; a figure has a panel for each, and takes seconds for a hundred


def main(arguments: list[str]) -> None:
    args = parse(CaptioningConfig, arguments, "caption_image.py")
    paths = find_images(args.image)
    page = args.output.lower().endswith(".html")
    figures = figure_paths(Path(args.output), paths, args.format) if args.output and not page else {}
    if page:
        check_replaceable(Path(args.output))
    if args.compare_with and not figures:
        raise UserError("--compare-with draws figures, so it needs --output with a figure's name or a folder")
    if args.caption and not 1 <= (count := len(tokenise(args.caption))) <= MAX_WORDS:
        raise UserError(f"--caption has {count} words, but must have 1 to {MAX_WORDS}")
    with locked(Path(args.output)) if args.output else contextlib.nullcontext():
        caption_images(args, paths, figures)


def caption_images(args: CaptioningConfig, paths: list[Path], figures: dict[Path, Path]) -> None:
    """Caption the images one by one; print the captions, and draw the figures or write the page."""
    import torch  # takes seconds, for which --help and mistakes in the arguments need not wait

    from caption.captioner import Captioner
    from caption.describe import attention_maps, describe, head_maps, to_json
    from caption.device import choose_device, set_tf32
    from caption.visualise.figures import draw_attention
    from caption.visualise.html import image_entry, write_page

    device = choose_device(args.device)
    set_tf32(device, allowed=False)
    models = [Captioner.load(path).to(device) for path in (args.checkpoint, args.compare_with) if path]
    max(models, key=lambda model: model.decoder.stochastic).check_search(args.search)
    if args.heads and (not figures or args.compare_with or not models[0].head_names):
        raise UserError(
            "--heads draws figures of a model with several heads (--decoder.score multi_head, --decoder.name "
            "transformer): give --output with a figure's name or a folder, and no --compare-with"
        )
    torch.manual_seed(args.seed)
    captioner, entries, errors = models[0], [], []
    fits = [model.image.fit for model in models]
    for path in paths:
        open_once = lru_cache(open_image)  # for models of the same image size
        try:
            image = open_once(path, captioner.image.size)
            shown, windows = image_to_show(path, image, fits) if args.output else (image, [])
        except BadImage as error:  # the other images are captioned all the same
            errors.append(error)
            continue
        hypotheses = describe(captioner, image, args.search, tokenise(args.caption))
        best, words = hypotheses[0], captioner.vocabulary.decode(hypotheses[0].words)
        caption = " ".join(words)
        if args.json:
            print(json.dumps({"image": str(path), "caption": caption, **to_json(best, words, captioner)}))
        else:
            name = f"{path}\n" if len(paths) > 1 else ""
            print(f"{name}{caption}{'' if best.finished else ' ...'}\nlog-probability {best.log_probability:.3f}")
        if args.output and not figures:
            captions = [(captioner.vocabulary.decode(hypothesis.words), hypothesis) for hypothesis in hypotheses]
            entries.append(image_entry(shown, windows[0], str(path), captions, captioner.head_names))
        if path in figures:
            name = Path(args.checkpoint).parent.name if models[1:] else ""
            maps = [attention_maps(captioner, best, words, windows[0], name)]
            for other, window in zip(models[1:], windows[1:], strict=True):
                image = open_once(path, other.image.size)
                followed = describe(other, image, args.search, words)[0]
                maps.append(attention_maps(other, followed, words, window, Path(args.compare_with).parent.name))
            if args.heads:
                maps = [maps[0]._replace(name="all heads"), *head_maps(captioner, best, words, windows[0])]
            draw_attention(np.asarray(shown), words, maps, figures[path])
    if entries:
        write_page(Path(args.output), "Attention for each word", captioner.encoder.feature_grid, entries)
    if len(errors) == len(paths) == 1:
        raise errors[0]
    if errors:
        for bad in errors:
            print_error(bad)
        raise UserError(f"{len(errors)} of {len(paths)} images could not be read")


def image_to_show(path: Path, image: Image.Image, fits: list[Fit]) -> tuple[Image.Image, list[CropBox]]:
    """Return the image at the size of figures and pages, and the part of it that a model of each fit saw.

    A large JPEG that was decoded smaller is decoded again. Of an image too long to be seen whole, the model's square is
    shown. Raises BadImage for such an image if the fits differ, so that there is no such square.
    """
    if max(image.size) < SHOWN:
        with Image.open(path, formats=readable_formats()) as original:  # reads the header alone
            reduced = max(original.size) > max(image.size)
        image = open_image(path, SHOWN) if reduced else image
    if max(image.size) > MAX_ASPECT * min(image.size):
        if len(set(fits)) > 1:
            raise BadImage(f"{path}: of an image this long the two models see different parts; compare on another one")
        return fit_image(image, SHOWN, fits[0]), [CropBox()] * len(fits)
    shown = image.copy()
    shown.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return shown, [crop_box(image.size, fit) for fit in fits]


if __name__ == "__main__":
    run(main)
