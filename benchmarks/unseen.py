"""Train small encoders to name an object's shape, and test them in colours that the shape never had in training.

    python -m benchmarks.unseen [--steps 500] [--seeds 2]

Each encoder learns with linear classifiers of shape and colour on the mean of its regions, from drawings of one object.
Printed is how many shapes are named right after half and after all of the steps: in colours that the shape had in
training, and in the colours that the shapes data set keeps for its test. One process a core, one thread each.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from caption.config import EncoderConfig
from caption.data.scenes import COLOURS, SHAPES, SceneObject
from caption.encoders.base import Backbone, Encoder
from caption.encoders.cnn import SmallCNN, add_coordinates, convolutions
from preprocess.shapes import UNSEEN_PAIRS, draw_scene, sample_seen_objects
from preprocess.workers import available_cpus

SIDE, TRAINING, TESTING, BATCH, RATE, WARMUP = 64, 4000, 300, 8, 1e-3, 50
LAYERS = ((48, 2), (64, 2), (64, 1), (64, 1), (128, 2))  # channels and stride; as small_cnn, in one path


class OnePath(nn.Module):
    """Map pixels [B, 3, S, S] to [B, D, S/8, S/8] by one path for shape and colour."""

    def __init__(self, *layers: tuple[int, int]) -> None:
        super().__init__()
        self.layers = convolutions(3 + 2, *layers)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(add_coordinates(pixels))
        return features


def jitter(images: Tensor) -> Tensor:
    """Multiply each channel of images [B, 3, S, S] by 0.8 to 1.2, which leaves colours what they are."""
    return (images * torch.empty(len(images), 3, 1, 1).uniform_(0.8, 1.2)).clamp(0, 255).byte()


def unchanged(images: Tensor) -> Tensor:
    return images


# The network, the dropout on the mean of its regions, and what is done to the images.
VARIANTS: dict[str, tuple[Callable[[], nn.Module], float, Callable[[Tensor], Tensor]]] = {
    "two paths (small_cnn)": (SmallCNN, 0, unchanged),
    "one path": (lambda: OnePath(*LAYERS), 0, unchanged),
    "one path, half as wide": (lambda: OnePath(*((width // 2, stride) for width, stride in LAYERS)), 0, unchanged),
    "one path, one and a half times as wide": (
        lambda: OnePath(*((width * 3 // 2, stride) for width, stride in LAYERS)), 0, unchanged
    ),
    "one path, field of 30 pixels": (lambda: OnePath(*LAYERS[:3], LAYERS[4]), 0, unchanged),
    "one path, field of 54 pixels": (lambda: OnePath(*LAYERS, (128, 1)), 0, unchanged),
    "one path, dropout 0.5": (lambda: OnePath(*LAYERS), 0.5, unchanged),
    "one path, colours jittered": (lambda: OnePath(*LAYERS), 0, jitter),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    print(f"{'shapes named right, %':40s} {'seen pairs':>16s} {'unseen pairs':>16s}    means of {args.seeds} seeds")
    print(f"{'':40s} {args.steps // 2:8d}{args.steps:8d} {args.steps // 2:8d}{args.steps:8d} steps")
    with ProcessPoolExecutor(available_cpus()) as pool:
        jobs = {name: [pool.submit(train, name, seed, args.steps) for seed in range(args.seeds)] for name in VARIANTS}
        for name, runs in jobs.items():
            means = [statistics.mean(values) for values in zip(*(run.result() for run in runs), strict=True)]
            print(f"{name:40s} " + " ".join(f"{a:8.0f}{b:8.0f}" for a, b in (means[:2], means[2:])), flush=True)


def train(name: str, seed: int, steps: int) -> list[float]:
    """Return the accuracies on seen pairs after half and all of the steps, then those on unseen pairs."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    build, dropout, augment = VARIANTS[name]
    encoder = Encoder(EncoderConfig(name, finetune_from="all"), Backbone(build(), frozen_statistics=False), SIDE)
    classifier = nn.Linear(encoder.width, len(SHAPES) + len(COLOURS))
    optimizer = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()])
    images, labels = drawings("train", TRAINING)
    accuracies: list[list[float]] = []
    for step in range(1, steps + 1):
        encoder.train()
        optimizer.param_groups[0]["lr"] = RATE * min(1, step / WARMUP)
        chosen = torch.randint(len(images), (BATCH,))
        mean = functional.dropout(encoder(augment(images[chosen])).mean(1), dropout)
        shape, colour = classifier(mean).split((len(SHAPES), len(COLOURS)), 1)
        loss = functional.cross_entropy(shape, labels[chosen, 0]) + functional.cross_entropy(colour, labels[chosen, 1])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in (steps // 2, steps):
            accuracies.append([accuracy(encoder, classifier, kind) for kind in ("seen", "unseen")])
    return [value for kind in zip(*accuracies, strict=True) for value in kind]


@torch.no_grad()
def accuracy(encoder: Encoder, classifier: nn.Module, kind: str) -> float:
    """Return the percentage of shapes that are named right, in drawings of one kind: seen or unseen."""
    images, labels = drawings(kind, TESTING)
    shapes = classifier(encoder.eval()(images).mean(1))[:, : len(SHAPES)]
    return 100 * float((shapes.argmax(1) == labels[:, 0]).float().mean())


@cache
def drawings(kind: str, count: int) -> tuple[Tensor, Tensor]:
    """Return drawings of one object, uint8 [N, 3, S, S], and the numbers of their shape and colour [N, 2]."""
    images, labels = [], []
    for number in range(count):
        rng = random.Random(f"{kind} {number}")
        (item,) = sample_seen_objects(rng, 1)
        if kind == "unseen":
            shape, colour = rng.choice(UNSEEN_PAIRS)
            item = SceneObject(shape, colour, item.size, item.x, item.y)
        images.append(np.asarray(draw_scene([item], SIDE, f"{kind} {number}")).transpose(2, 0, 1))
        labels.append((SHAPES.index(item.shape), list(COLOURS).index(item.colour)))
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


if __name__ == "__main__":
    main()
