"""Caption a picture: `python caption_image.py --checkpoint RUN/best.pt --image photo.jpg --output photo.png`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import torch
import tyro

from caption import engine
from caption.captioner import Captioner
from caption.command import parse, run
from caption.config import SearchConfig
from caption.errors import UserError
from caption.images import fit_image, open_image, to_array
from caption.search import search
from caption.visualise import draw_attention, upsample

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
    json: bool = False
    """Print words, log-probability and attention weights as JSON instead of the caption."""
    device: str = "auto"
    seed: int = 1
    """Of `--method sample`."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SearchConfig)


def main(arguments: list[str]) -> None:
    args = parse(Arguments, arguments, "caption_image.py")
    if args.output and Path(args.output).suffix.lower() not in KINDS:
        raise UserError(f"--output {args.output}: unknown kind of file; its name must end with {', '.join(KINDS)}")
    device = engine.choose_device(args.device)
    picture = open_image(args.image)
    captioner = Captioner.load(args.checkpoint).to(device)
    image = to_array(fit_image(picture, captioner.image.size, captioner.image.fit))

    torch.manual_seed(args.seed)
    with torch.inference_mode():
        memory = captioner.remember(torch.from_numpy(image).unsqueeze(0).to(device))
        best = search(captioner.decoder, memory, args.search)[0][0]
    words = captioner.vocabulary.decode(best.words)
    weights = best.weights[: len(words)]  # <end> has none to show
    caption = " ".join(words)

    if args.json:
        rows, columns = captioner.encoder.grid
        steps = zip(words, weights.view(-1, rows, columns).tolist(), strict=True)
        result = {
            "image": args.image,
            "caption": caption,
            "log_probability": best.log_probability,
            "finished": best.finished,
            "grid": [rows, columns],
            "words": [{"word": word, "weights": cells} for word, cells in steps],
        }
        print(json.dumps(result))
    else:
        print(f"{caption}{'' if best.finished else ' ...'}\nlog-probability {best.log_probability:.3f}")
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        draw_attention(
            image, words, upsample(weights, captioner.encoder.grid, captioner.image.size), caption, args.output
        )


if __name__ == "__main__":
    run(main)
