"""RAM: recurrent attention that classifies digits among clutter by a few glimpses, and learns where to look.

    python examples/ram.py --output runs/ram

Mnih et al., 2014, "Recurrent models of visual attention". The library's retina reads g x g squares at S scales around a
place l_t, a recurrence gathers what it has read, and chooses the next place: l_t ~ N(tanh(W h_t-1), sigma^2 I). The
places are trained by the library's REINFORCE. Two departures are nearer to Show, Attend and Tell (README.md has all):
the core is an LSTM, and a glimpse is rewarded by the log-probability of the true digit from its step on, where the
paper gives 1 for a right answer at the end. With that reward the gradient is that of the expected cross-entropy.

The paper's fully connected and convolutional nets, and a net that pools, all of as many weights, see the same images
as often.
"""

import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # the library beside this folder, without installation

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from caption.attention import Retina
from caption.config import ReinforceConfig
from caption.config.cli import parse, run
from caption.config.validation import check, require
from caption.device import tune
from caption.evaluation.calibration import wilson_interval
from caption.files import locked_folder, write_text
from caption.training.reinforce import advantages
from caption.visualise.figures import save_figure
from preprocess.strings import draw_white

SIZE = 60  # of an image in pixels
DRAWN, HEIGHTS = 48, (0.5, 0.65)  # digits are drawn so large, in fonts of these fractions of it: 17 to 26 pixels high
PIECE = 8  # of the clutter, in pixels: at most so high and wide
COLOURS = colormaps["cool"]  # of glimpses, first to last: told apart on black and on white, and without red and green
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class RamConfig:
    """Train RAM and nets that see all pixels on cluttered digits, and compare their accuracy."""

    output: str = "runs/ram"
    """Folder of ram.png and accuracy.json."""
    images: Annotated[int, "at least 1"] = 20_000
    """Images to train on."""
    test_images: Annotated[int, "at least 1"] = 2_000
    """Images to test on."""
    pieces: Annotated[int, "0 or more"] = 6
    """Pieces of other digits in each image."""
    epochs: Annotated[int, "at least 1"] = 16
    """Passes over the images, of each net."""
    glimpses: Annotated[int, "at least 1"] = 6
    """T: glimpses of an image."""
    scales: Annotated[int, "at least 1"] = 3
    """S: patches of a glimpse, each twice as wide as the one before."""
    squares: Annotated[int, "at least 1"] = 12
    """g: a patch has g x g squares; those of the smallest are pixels."""
    width: Annotated[int, "at least 1"] = 128
    """A and H: width of the glimpse network and of the LSTM."""
    samples: Annotated[int, "at least 1"] = 2
    """Sequences of places sampled for an image; the baseline of one is the mean of the others."""
    batch_size: Annotated[int, "at least 1"] = 64
    """Images in a step of training."""
    learning_rate: Annotated[float, "positive"] = 1e-3
    """Peak learning rate of Adam, which falls to zero as a cosine."""
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of the images, the weights and the samples."""

    def __post_init__(self) -> None:
        check(self)
        require(self.samples > 1, "samples", self.samples, "at least 2: the baseline of one is the mean of the others")

    def reinforce(self) -> ReinforceConfig:
        """Return how places are rewarded: by what follows them, less the mean of the image's other samples."""
        return ReinforceConfig(samples=self.samples, reward="to_go", baseline="leave_one_out")


class Data(NamedTuple):
    """N images and their digits."""

    images: Tensor  # uint8 [N, SIZE, SIZE]
    labels: Tensor  # [N]


def make_data(split: str, count: int, pieces: int, seed: int) -> Data:
    """Return images of one digit each, wholly visible but for the pieces of others over it. Splits are disjoint."""
    rng = random.Random(f"ram {split} {seed}")
    labels = [rng.randrange(10) for _ in range(count)]
    drawn = [draw_white(str(label), DRAWN, rng, HEIGHTS) for label in labels]
    digits = [np.asarray(image.crop(image.getbbox())) for image in drawn]
    images = np.zeros((count, SIZE, SIZE), np.uint8)
    for image, digit in zip(images, digits, strict=True):
        for other in rng.choices(digits, k=pieces):
            row, column = (rng.randrange(max(1, side - PIECE + 1)) for side in other.shape)
            scatter(image, other[row : row + PIECE, column : column + PIECE], rng)
        scatter(image, digit, rng)
    return Data(torch.from_numpy(images), torch.tensor(labels))


def scatter(image: Pixels, piece: Pixels, rng: random.Random) -> None:
    """Add a piece to an image, at a random place wholly inside; the brighter of two pixels stays."""
    row, column = (rng.randrange(SIZE - side + 1) for side in piece.shape)
    part = image[row : row + piece.shape[0], column : column + piece.shape[1]]
    np.maximum(part, piece, out=part)


class Ram(nn.Module):
    """Glimpse sensor and location network (the retina), glimpse network, core and classifier; section 3.1."""

    def __init__(self, config: RamConfig) -> None:
        super().__init__()
        self.glimpses, width = config.glimpses, config.width
        self.retina = Retina(width, 1, width, (SIZE, SIZE), config.scales, config.squares)
        self.glimpse = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.core = nn.LSTMCell(width, width)
        self.classifier = nn.Linear(width, 10)

    def forward(self, images: Tensor, rows: int = 1, sample: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [B, Q, T, 10] after each glimpse of images [B, SIZE, SIZE], log p of the places [B, Q, T], and
        the places [B, Q, T, 2]. Each of Q rows samples its own places; without `sample`, they are the likeliest."""
        sampling = torch.ones(len(images), rows, dtype=torch.bool)
        memory = self.retina.prepare(images.flatten(1).unsqueeze(2))  # L = SIZE SIZE pixels, D = 1
        memory = memory._replace(sample_rows=sampling, argmax=not sample)
        hidden = cell = images.new_zeros(len(images) * rows, self.core.hidden_size)
        steps = []
        for _ in range(self.glimpses):
            place, chosen = self.retina.choose(hidden.view(len(images), rows, -1), memory)  # l_t [B, Q, 2]
            assert chosen is not None
            glimpse = self.glimpse(self.retina.glimpse(place.detach(), memory))  # g_t [B, Q, A]
            hidden, cell = self.core(glimpse.flatten(0, 1), (hidden, cell))  # h_t [B Q, H]
            logits = self.classifier(hidden).view(len(images), rows, 10)
            steps.append((logits, chosen.log_probability, place.detach()))
        logits, log_probability, places = (torch.stack(values, 2) for values in zip(*steps, strict=True))
        return logits, log_probability, places


def ram_loss(model: Ram, images: Tensor, labels: Tensor, config: ReinforceConfig) -> Tensor:
    """Return a term whose gradient is that of the expected cross-entropy, mean over the glimpses, in nats []."""
    logits, log_probability, _ = model(images, config.samples, sample=True)
    targets = labels.view(-1, 1, 1).expand(logits.shape[:3])
    nll = F.cross_entropy(logits.movedim(-1, 1), targets, reduction="none") / model.glimpses  # [B, Q, T]
    earned = advantages(-nll.detach(), torch.ones_like(nll), config)
    return (nll - earned * log_probability).sum(-1).mean()


def build_baselines(weights: int) -> dict[str, nn.Module]:
    """Return nets of about so many weights: the two of section 4.1, a fully connected one of two layers and a
    convolutional one of 8 filters, 10 x 10 pixels at every fifth; and one that pools, as nets of today do."""
    full, strided = max(1, weights // (SIZE**2 + 64)), max(1, weights // (8 * 11**2 + 11))
    pooled = max(1, (weights - 5000) // (32 * 7**2 + 11))
    return {
        "fully connected": nn.Sequential(
            nn.Flatten(), nn.Linear(SIZE**2, full), nn.ReLU(), nn.Linear(full, full), nn.ReLU(), nn.Linear(full, 10)
        ),
        "convolutional": nn.Sequential(
            nn.Unflatten(1, (1, SIZE)), nn.Conv2d(1, 8, 10, 5), nn.ReLU(), nn.Flatten(),  # [B, 8 11 11]
            nn.Linear(8 * 11**2, strided), nn.ReLU(), nn.Linear(strided, 10),
        ),
        "convolutional with pooling": nn.Sequential(
            nn.Unflatten(1, (1, SIZE)), nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(2),  # [B, 16, 15, 15]
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),  # [B, 32 7 7]
            nn.Linear(32 * 7**2, pooled), nn.ReLU(), nn.Linear(pooled, 10),
        ),
    }  # fmt: skip


def count_weights(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


def scale(images: Tensor) -> Tensor:
    """Return images of bytes with a standard deviation of about 1."""
    return images.float() / 64


def train(model: nn.Module, data: Data, config: RamConfig) -> None:
    """Minimise the cross-entropy, RAM's in expectation."""
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
    batches, reinforce = -(-len(data.labels) // config.batch_size), config.reinforce()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * batches)
    for _ in range(config.epochs):
        for batch in torch.split(torch.randperm(len(data.labels)), config.batch_size):
            images, labels = scale(data.images[batch]), data.labels[batch]
            if isinstance(model, Ram):
                loss = ram_loss(model, images, labels, reinforce)
            else:
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


@torch.no_grad()
def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Return the likeliest digit of each image [N]: RAM's after its last glimpse."""
    found = [model(scale(batch)) for batch in torch.split(images, 500)]
    return torch.cat([part[0][:, 0, -1] if isinstance(part, tuple) else part for part in found]).argmax(-1)


def show(model: Ram, data: Data, path: Path, each: int = 6) -> None:
    """Draw images, the smallest patch of each glimpse outlined and numbered: right answers above wrong ones."""
    answers, side = classify(model, data.images), model.retina.squares
    right = answers == data.labels
    figure = Figure(figsize=(1.9 * each, 4.3), layout="constrained")
    axes = figure.subplots(2, each, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for row, kind in zip(axes, (right, ~right), strict=True):
        for axis, number in zip(row, kind.nonzero().flatten().tolist(), strict=False):
            with torch.no_grad():
                places = model(scale(data.images[number : number + 1]))[2][0, 0]
            rows, columns = ((places + 1) / 2 * SIZE - 0.5).T.tolist()
            axis.imshow(data.images[number], cmap="gray")
            axis.plot(columns, rows, color="0.6", linewidth=0.8)
            for t, (y, x) in enumerate(zip(rows, columns, strict=True)):
                left, top, colour = x - side / 2, y - side / 2, COLOURS(t / max(1, model.glimpses - 1))
                axis.add_patch(Rectangle((left, top), side, side, fill=False, color=colour, linewidth=1.2))
                corner = (left + side * (t % 2), top + side * (t // 2 % 2))  # in turn, so that neighbours stay apart
                axis.text(*corner, str(t + 1), color=colour, ha="center", va="center", weight="bold", clip_on=True)
            axis.set(xlim=(-0.5, SIZE - 0.5), ylim=(SIZE - 0.5, -0.5))
            axis.set_title(f"{data.labels[number]}, answer {answers[number]}", fontsize=10)
    save_figure(figure, path)


def main(arguments: list[str]) -> None:
    config = parse(RamConfig, arguments, "ram.py")
    tune(torch.device("cpu"))
    output, results = Path(config.output), {}
    with locked_folder(output):
        data = make_data("train", config.images, config.pieces, config.seed)
        test = make_data("test", config.test_images, config.pieces, config.seed)
        torch.manual_seed(config.seed)
        ram = Ram(config)
        for name, model in {"RAM": ram, **build_baselines(count_weights(ram))}.items():
            start = time.monotonic()
            train(model, data, config)
            seconds, hits = time.monotonic() - start, int((classify(model, test.images) == test.labels).sum())
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(scale(test.images[:1]))
            low, high = wilson_interval(hits, len(test.labels))
            results[name] = hits / len(test.labels)
            print(
                f"{name}: {results[name]:.1%} ({low:.1%} to {high:.1%}) of {len(test.labels)} images right; "
                f"{count_weights(model):,} weights, {counter.get_total_flops() // 2:,} multiply-adds an image; "
                f"trained for {seconds:.0f} s"
            )
        show(ram, test, output / "ram.png")
        write_text(output / "accuracy.json", json.dumps(results) + "\n")


if __name__ == "__main__":
    run(main)
