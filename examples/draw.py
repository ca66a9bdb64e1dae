"""DRAW: a generative model that writes an image in steps, by attention to read and to write.

    python examples/draw.py --output runs/draw

Gregor et al., 2015, "DRAW: a recurrent neural network for image generation", equations by their numbers. An encoder
reads the image x and what the canvas still lacks of it, a decoder writes to the canvas; between them are latent
variables z_t. Both see the image through the library's N x N Gaussian filters (`attention.filterbank`). The same model
without attention (eq. 17-18) reads and writes all pixels at every step. Both are trained on the same digits, and the
bound on -log p(x) of held-out digits is compared image by image.
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
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from caption.attention.filterbank import Filterbank, FilterbankLayer
from caption.config.cli import parse, run
from caption.config.validation import check
from caption.device import tune
from caption.evaluation.bootstrap import Score, compare, intervals, ratio
from caption.files import locked_folder, write_text
from caption.visualise.figures import save_figure
from preprocess.strings import draw_white

SIZE = 28  # of an image in pixels
HEIGHTS = (0.4, 0.65)  # of the digits' font, as fractions of SIZE
Nats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """Train DRAW with and without attention on digits, and compare their bounds."""

    output: str = "runs/draw"
    """Folder of draw.png and bounds.json."""
    images: Annotated[int, "at least 1"] = 20_000
    """Digits to train on."""
    test_images: Annotated[int, "at least 1"] = 2_000
    """Digits to compare the bounds on."""
    epochs: Annotated[int, "at least 1"] = 8
    """Passes over the digits."""
    steps: Annotated[int, "at least 1"] = 8
    """T: how often the image is read and the canvas written to."""
    width: Annotated[int, "at least 1"] = 128
    """H, width of both LSTMs."""
    latent: Annotated[int, "at least 1"] = 10
    """Width of z_t."""
    patch: Annotated[int, "at least 1"] = 5
    """N: the image is read, and the canvas written to, by N x N filters."""
    batch_size: Annotated[int, "at least 1"] = 50
    """Images in a step of training."""
    learning_rate: Annotated[float, "positive"] = 2e-3
    """Peak learning rate of Adam, which falls to zero as a cosine."""
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of the digits, the weights and z."""

    def __post_init__(self) -> None:
        check(self)


def draw_digits(split: str, count: int, seed: int) -> Tensor:
    """Return digits of any font and size, anywhere in the image, 0 or 1 [count, SIZE, SIZE]. Splits are disjoint."""
    rng = random.Random(f"draw {split} {seed}")
    images = [draw_white(str(rng.randrange(10)), SIZE, rng, HEIGHTS) for _ in range(count)]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).gt(127).float()


class State(NamedTuple):
    """The decoder's state, the canvas and the window after a step."""

    hidden: Tensor  # h_dec [B, H]
    cell: Tensor  # [B, H]
    canvas: Tensor  # c_t [B, SIZE, SIZE], log-odds of each pixel
    window: Filterbank | None = None  # through which it has just written


class Draw(nn.Module):
    """T steps of reading, sampling and writing; without attention, all of the image is read and written."""

    def __init__(self, config: DrawConfig, attention: bool) -> None:
        super().__init__()
        self.steps, self.size, self.attention = config.steps, config.patch, attention
        size, width = config.patch, config.width
        self.canvas = nn.Parameter(torch.full((SIZE, SIZE), -3.0))  # c_0
        self.encoder = nn.LSTMCell(2 * (size if attention else SIZE) ** 2 + width, width)
        self.posterior = nn.Linear(width, 2 * config.latent)
        self.decoder = nn.LSTMCell(config.latent, width)
        if attention:
            self.read_window, self.write_window = (FilterbankLayer(width, (SIZE, SIZE), size) for _ in range(2))
            self.patch = nn.Linear(width, size**2)  # W of eq. 28
        else:
            self.pixels_written = nn.Linear(width, SIZE**2)  # W of eq. 18

    def start(self, images: int) -> State:
        """Return the state before the first step."""
        zeros = self.canvas.new_zeros(images, self.decoder.hidden_size)
        return State(zeros, zeros, self.canvas.expand(images, -1, -1))

    def read(self, image: Tensor, error: Tensor, hidden: Tensor) -> Tensor:
        """Return what the encoder reads of the image and of its error [B, SIZE, SIZE], a row for each image."""
        if not self.attention:
            return torch.cat([image, error], 1).flatten(1)  # eq. 17
        window = self.read_window.filterbank(hidden)
        return torch.cat([window.read(image), window.read(error)], 1).flatten(1)  # eq. 27

    def write(self, latent: Tensor, state: State) -> State:
        """Return the state after z_t [B, latent] has been decoded and written, eq. 7-8."""
        hidden, cell = self.decoder(latent, (state.hidden, state.cell))
        if not self.attention:
            return State(hidden, cell, state.canvas + self.pixels_written(hidden).view(-1, SIZE, SIZE))  # eq. 18
        window = self.write_window.filterbank(hidden)
        patch = self.patch(hidden).view(len(hidden), self.size, self.size)  # w_t [B, N, N], eq. 28
        return State(hidden, cell, state.canvas + window.write(patch), window)  # eq. 29

    def forward(self, image: Tensor) -> Tensor:
        """Return L^x of images [B, SIZE, SIZE], and the term of L^z of every step, in nats [1 + T, B]. Their sum is
        the bound on -log p(x)."""
        state = self.start(len(image))
        hidden = cell = torch.zeros_like(state.hidden)  # of the encoder
        latent_losses = []
        for _ in range(self.steps):
            error = image - state.canvas.sigmoid()  # eq. 3
            read = self.read(image, error, state.hidden)  # eq. 4
            hidden, cell = self.encoder(torch.cat([read, state.hidden], 1), (hidden, cell))  # eq. 5
            mean, log_sigma = self.posterior(hidden).chunk(2, 1)  # eq. 1-2
            latent = mean + log_sigma.exp() * torch.randn_like(mean)  # eq. 6
            latent_losses.append(divergence(mean, log_sigma))
            state = self.write(latent, state)
        return torch.stack([image_loss(state.canvas, image), *latent_losses])

    @torch.no_grad()
    def generate(self, count: int) -> list[State]:
        """Return the states after each step of z_t sampled from the prior, eq. 13-16."""
        states = [self.start(count)]
        for _ in range(self.steps):
            states.append(self.write(torch.randn(count, self.decoder.input_size), states[-1]))
        return states[1:]


def divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Return KL(Q(z_t) || P(z_t)) in nats [B], eq. 11, of a Gaussian [B, latent] from the standard one."""
    return (mean**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum(1) / 2


def image_loss(canvas: Tensor, image: Tensor) -> Tensor:
    """Return -log p(x | c_T) in nats [B], eq. 9: every pixel is a coin with the canvas's log-odds."""
    return F.binary_cross_entropy_with_logits(canvas, image, reduction="none").sum((1, 2))


def train(model: Draw, images: Tensor, config: DrawConfig) -> None:
    """Minimise the bound, eq. 12."""
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    batches = -(-len(images) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * batches)
    for epoch in range(config.epochs):
        total = 0.0
        for batch in torch.split(images[torch.randperm(len(images))], config.batch_size):
            bound = model(batch).sum(0)  # [B]
            optimizer.zero_grad()
            bound.mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            total += bound.sum().item()
        print(f"epoch {epoch + 1}: bound {total / len(images):.2f} nats", flush=True)


@torch.no_grad()
def bounds(model: Draw, images: Tensor, samples: int = 4) -> Nats:
    """Return L^x of N images and the term of L^z of every step, in nats [1 + T, N], means over samples of z."""
    values = [torch.cat([model(batch) for batch in torch.split(images, 500)], 1) for _ in range(samples)]
    return torch.stack(values).mean(0).double().numpy()


def show(model: Draw, path: Path, count: int = 8) -> None:
    """Draw generated digits, a row each: the canvas after every step, and where it was written to, outlined."""
    states = model.generate(count)
    figure = Figure(figsize=(0.75 * model.steps, 0.75 * count + 0.3))
    axes = figure.subplots(count, model.steps, squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.3 / (0.75 * count + 0.3), 0.04, 0.04)
    cells = torch.arange(SIZE, dtype=torch.float)
    for t, state in enumerate(states):
        axes[0, t].set_title(f"{t + 1}", fontsize=9)
        for axis, canvas in zip(axes[:, t], state.canvas.sigmoid(), strict=True):
            axis.imshow(canvas, cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        if state.window is not None:  # from the centre of the first filter to that of the last, [B, N] each
            tops, lefts = (state.window.rows @ cells).tolist(), (state.window.columns @ cells).tolist()
            for axis, y, x in zip(axes[:, t], tops, lefts, strict=True):
                axis.add_patch(Rectangle((x[0], y[0]), x[-1] - x[0], y[-1] - y[0], fill=False, color="C3"))
    save_figure(figure, path)


def main(arguments: list[str]) -> None:
    config = parse(DrawConfig, arguments, "draw.py")
    tune(torch.device("cpu"))
    output = Path(config.output)
    with locked_folder(output):
        images = draw_digits("train", config.images, config.seed)
        held_out = draw_digits("test", config.test_images, config.seed)
        scores = []
        for name in ("without attention", "with attention"):
            torch.manual_seed(config.seed)
            model, start = Draw(config, attention=name == "with attention"), time.monotonic()
            print(f"{name}: {sum(weights.numel() for weights in model.parameters())} weights")
            train(model, images, config)
            pixels, *divergences = bounds(model, held_out)
            values = pixels + sum(divergences)
            scores.append(Score(name, np.stack([values, np.ones_like(values)], 1), ratio))
            print(f"trained for {time.monotonic() - start:.0f} s; KL in nats, step by step:", end=" ")
            print(*(f"{term.mean():.2f}" for term in divergences))
        show(model, output / "draw.png")
        for score, (low, high) in zip(scores, intervals(scores), strict=True):
            print(f"{score.name}: bound {score.value:.2f} ({low:.2f} to {high:.2f}) nats on {len(held_out)} digits")
        difference = compare(scores[:1], scores[1:])[0]
        print(f"attention changes it by {difference.value:.2f} ({difference.low:.2f} to {difference.high:.2f}) nats")
        write_text(output / "bounds.json", json.dumps({score.name: score.value for score in scores}) + "\n")


if __name__ == "__main__":
    run(main)
