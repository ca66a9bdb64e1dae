"""Caption images: `python caption_image.py --image photo.jpg --output photo.png`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caption.config.cli import parse, print_error, run
from caption.config.inference import CaptioningConfig
from caption.data.images import BadImage
from caption.errors import UserError
from caption.files import check_replaceable, locked, run_folder
from caption.visualise.paths import figure_paths, find_images

if TYPE_CHECKING:
    from caption.describe import Caption

BATCH = 16  # images captioned at a time
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
    with locked(Path(args.output)) if args.output else contextlib.nullcontext():
        caption_images(args, paths, figures)


def caption_images(args: CaptioningConfig, paths: list[Path], figures: dict[Path, Path]) -> None:
    """Caption the images, some at a time; print the captions, and draw the figures or write the page."""
    import torch  # takes seconds, for which --help and mistakes in the arguments need not wait

    from caption.captioner import Captioner
    from caption.data.photos import load_photos
    from caption.device import choose_device, set_tf32
    from caption.explore import explorable, regions_entry
    from caption.visualise.explorer import buttons
    from caption.visualise.figures import draw_attention
    from caption.visualise.html import write_page

    device = choose_device(args.device)
    set_tf32(device, allowed=False)
    models = [Captioner.load(path).to(device) for path in (args.checkpoint, args.compare_with) if path]
    max(models, key=lambda model: model.decoder.stochastic).check_search(args.search)
    vocabularies = [model.vocabulary for model in models]
    if args.caption and not 1 <= (count := len(vocabularies[0].tokenise(args.caption))) <= MAX_WORDS:
        raise UserError(f"--caption has {count} words, but must have 1 to {MAX_WORDS}")
    if len({vocabulary.word_kind for vocabulary in vocabularies}) > 1:
        ours, theirs = (vocabulary.word_kind for vocabulary in vocabularies)
        raise UserError(
            f"--compare-with {args.compare_with}: its words are {theirs}, those of --checkpoint are {ours}; give two "
            "models with the same --words of preprocess"
        )
    if args.heads and (not figures or args.compare_with or not models[0].head_names):
        raise UserError(
            "--heads draws figures of a model with several heads (--decoder.score multi_head, --decoder.name "
            "transformer): give --output with a figure's name or a folder, and no --compare-with"
        )
    more = buttons(explorable(models[0])) if args.explore else {}
    torch.manual_seed(args.seed)
    searches = [args.search.for_attention(model.decoder.stochastic) for model in models]
    names = [run_folder(path).name for path in (args.checkpoint, args.compare_with)] if models[1:] else [""]
    entries: list[dict[str, Any]] = []
    errors: list[BadImage] = []
    for batch in (paths[start : start + BATCH] for start in range(0, len(paths), BATCH)):
        opened = {}
        for path in batch:
            try:
                opened[path] = load_photos(path, [model.image for model in models], show=bool(args.output))
            except BadImage as error:  # the other images are captioned all the same
                errors.append(error)
        captions = models[0].caption([photos[0] for photos in opened.values()], searches[0], text=args.caption)
        for (path, photos), caption in zip(opened.items(), captions, strict=True):
            print_caption(caption, path if args.json or len(paths) > 1 else None, args.json)
            if args.output and not figures:
                regions = regions_entry(models[0], photos[0]) if args.explore else {}
                entries.append(caption.page_entry(str(path)) | regions)
            if path in figures:
                maps = [caption.maps("all heads"), *caption.head_maps()] if args.heads else [caption.maps(names[0])]
                for model, search, photo, name in zip(models[1:], searches[1:], photos[1:], names[1:], strict=True):
                    maps.append(model.caption(photo, search, text=caption.words).maps(name))
                draw_attention(np.asarray(photos[0].shown), caption.words, maps, figures[path], caption.separator)
    if entries:
        write_page(Path(args.output), "Attention for each word", models[0].encoder.feature_grid, entries, **more)
    if len(errors) == len(paths) == 1:
        raise errors[0]
    if errors:
        for bad in errors:
            print_error(bad)
        raise UserError(f"{len(errors)} of {len(paths)} images could not be read")


def print_caption(caption: "Caption", path: Path | None, as_json: bool) -> None:
    """Print a caption, and the path of its image before it, if it is given."""
    if as_json:
        print(json.dumps({"image": str(path), "caption": caption.text, **caption.to_json()}))
        return
    name = f"{path}\n" if path else ""
    print(f"{name}{caption.text}{'' if caption.finished else ' ...'}\nlog-probability {caption.log_probability:.3f}")


if __name__ == "__main__":
    run(main)
