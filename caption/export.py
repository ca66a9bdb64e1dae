"""Export a model for others: `python -m caption.export --checkpoint RUN/best.pt --output FOLDER [--half]`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

import json
from pathlib import Path
from typing import Any

from caption import checkpoint, exported
from caption.captioner import Captioner
from caption.config.cli import parse, run
from caption.config.inference import ExportConfig
from caption.errors import UserError, reading
from caption.evaluation.results import describe_search
from caption.files import run_folder

HIDDEN = ("without BP", "references", "of the centre", "chance of both", "words that name")  # in names of scores


def main(arguments: list[str]) -> None:
    args = parse(ExportConfig, arguments, "caption.export", __doc__)
    folder = Path(args.output)
    if folder.exists() and not (exported.is_export(folder) and args.overwrite):
        remedy = "give --overwrite to replace it" if exported.is_export(folder) else "give the name of a new folder"
        raise UserError(f"--output {folder}: exists already; {remedy}")
    content = checkpoint.load(args.checkpoint)
    captioner = Captioner.from_checkpoint(content, args.checkpoint)
    notes = ""
    if args.notes:
        with reading(args.notes, "give a text file in Markdown"):
            notes = Path(args.notes).read_text(encoding="utf-8")
    rounded = "The weights are rounded to float16; scores are of the model before.\n\n" if args.half else ""
    card = model_card(folder.name, captioner, run_folder(args.checkpoint), rounded + notes)
    exported.save(folder, content, args.half, card)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"wrote {folder} ({size / 1e6:.1f} MB, {'float16' if args.half else 'float32'})")


def model_card(name: str, captioner: Captioner, folder: Path, notes: str = "") -> str:
    """Return the model card in Markdown: what the model is, how to use it, and the scores that lie in `folder`."""
    image, encoder, decoder = (captioner.configs[key] for key in ("image", "encoder", "decoder"))
    weights = sum(parameter.numel() for parameter in captioner.parameters())
    rows, columns = captioner.encoder.grid
    vocabulary = captioner.vocabulary
    about = (
        f"An image captioner: {encoder.name} ({rows} x {columns} regions of width {captioner.encoder.width}, images of "
        f"{image}), {decoder.name} with {decoder.attention} attention, "
        f"{len(vocabulary):,} words ({vocabulary.word_kind}), {weights / 1e6:.1f} M weights. Trained with Show, Attend "
        "and Tell (Xu et al., 2015) in PyTorch."
    )
    lines = [
        "---", "pipeline_tag: image-to-text", "library_name: show-attend-and-tell", "---", "",
        f"# {name}", "", about, "",
        "```python", "from caption import Captioner", "", f'captioner = Captioner.load("{name}")  # this folder',
        'print(captioner.caption("photo.jpg", beam_size=5))', "```", "",
    ]  # fmt: skip
    for path in sorted(folder.glob("scores_*.json")):
        with reading(path, "score the model again, by evaluate.py"):
            lines += _score_lines(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines) + (f"\n{notes.strip()}\n" if notes else "")


def _score_lines(content: dict[str, Any]) -> list[str]:
    """Return the table of what evaluate.py wrote."""
    search = describe_search(content["search"], content["precision"], content["seed"])
    lines = [
        f"## Scores, split `{content['split']}` of `{Path(content['data']).name}`",
        "",
        f"{content['image_count']:,} images, {search}.",
        "",
        "| | score | 95 % interval |",
        "|---|---|---|",
    ]
    for name, value in content["scores"].items():
        if value is not None and not any(part in name for part in HIDDEN):
            low, high = content["intervals"].get(name) or (None, None)
            interval = "" if low is None else f"{low:.2f} to {high:.2f}"
            lines.append(f"| {name} | {value:.2f} | {interval} |")
    return [*lines, ""]


if __name__ == "__main__":
    run(main)
