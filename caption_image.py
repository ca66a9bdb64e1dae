"""Caption a picture: `python caption_image.py --checkpoint RUN/best.pt --image photo.jpg --output photo.png`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from caption import engine
from caption.captioner import Captioner
from caption.command import parse, run
from caption.config import SearchConfig
from caption.errors import UserError
from caption.images import read_square
from caption.search import Hypothesis, follow, search
from caption.visualise import Look, draw_attention, upsample
from caption.vocabulary import tokenise

KINDS = (".png", ".pdf", ".svg", ".jpg")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Caption a picture and draw, word by word, where the model looked."""

    checkpoint: str
    """A run's best.pt."""
    image: str
    """The picture."""
    output: str = ""
    """The figure to write (.png, .pdf, .svg, .jpg); empty: none."""
    caption: str = ""
    """Words to look at the picture with, instead of the model's own."""
    against: str = ""
    """Another model's best.pt, to be drawn below this one, looking at the picture with the same words."""
    json: bool = False
    """Print words, log-probability and attention weights as JSON instead of the caption."""
    device: str = "auto"
    seed: int = 1
    """Of `--method sample` and `--attend draw`."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SearchConfig)


def main(arguments: list[str]) -> None:
    args = parse(Arguments, arguments, "caption_image.py")
    if args.output and Path(args.output).suffix.lower() not in KINDS:
        raise UserError(f"--output {args.output}: unknown kind of file; its name must end with {', '.join(KINDS)}")
    device = engine.choose_device(args.device)
    captioner = Captioner.load(args.checkpoint).to(device)
    models = [captioner, Captioner.load(args.against).to(device)] if args.against else [captioner]
    max(models, key=lambda model: model.decoder.attention.stochastic).check_search(args.search)
    if args.against and not args.output:
        raise UserError("--against draws, so it needs --output")

    given = tokenise(args.caption)
    if args.caption and not given:
        raise UserError(f"--caption {args.caption!r} holds no word")

    torch.manual_seed(args.seed)
    best = caption_one(captioner, args.image, args.search, given)
    words = captioner.vocabulary.decode(best.words)
    caption = " ".join(words)
    if args.json:
        print(json.dumps({"image": args.image, "caption": caption, **as_json(best, words, captioner.encoder.grid)}))
    else:
        print(f"{caption}{'' if best.finished else ' ...'}\nlog-probability {best.log_probability:.3f}")
    if not args.output:
        return

    shown = read_square(args.image, captioner.image.size, captioner.image.fit)
    hypotheses = [best, *(caption_one(model, args.image, args.search, words) for model in models[1:])]
    names = [Path(path).parent.name for path in (args.checkpoint, args.against)] if args.against else [""]
    looks = [
        Look(
            upsample(found.weights[: len(words)], model.encoder.grid, len(shown[0])),
            model.encoder.grid,
            found.locations,
            name,
        )
        for model, found, name in zip(models, hypotheses, names, strict=True)
    ]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw_attention(shown, words, looks, caption, args.output)


@torch.inference_mode()
def caption_one(captioner: Captioner, path: str, config: SearchConfig, given: list[str]) -> Hypothesis:
    """The model's best caption of a picture; or the given words, if any, as it sees them."""
    image = read_square(path, captioner.image.size, captioner.image.fit)
    device = next(captioner.parameters()).device
    if not captioner.decoder.attention.stochastic:
        config = dataclasses.replace(config, attend="expectation")
    memory = captioner.remember(torch.from_numpy(image).unsqueeze(0).to(device))
    if given:
        return follow(captioner.decoder, memory, captioner.vocabulary.encode(given), config.attend)[0]
    return search(captioner.decoder, memory, config)[0][0]


def as_json(hypothesis: Hypothesis, words: list[str], grid: tuple[int, int]) -> dict[str, Any]:
    """A hypothesis in plain values; `location` is the row and column that hard attention chose."""
    weights = hypothesis.weights[: len(words)].view(-1, *grid).tolist()
    steps = [{"word": word, "weights": cells} for word, cells in zip(words, weights, strict=True)]
    for step, location in zip(steps, hypothesis.locations or [], strict=False):
        step["location"] = divmod(location, grid[1])
    return {
        "log_probability": hypothesis.log_probability,
        "finished": hypothesis.finished,
        "grid": grid,
        "words": steps,
    }


if __name__ == "__main__":
    run(main)
