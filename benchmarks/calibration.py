"""Calibration of a model of the `shapes` set: is what it says with probability p right in a fraction p of cases?

    python -m benchmarks.calibration [--checkpoint pretrained/shapes] [--data data/shapes.h5]
        [--instances data/shapes_instances.json] [--split test] [--figure docs/calibration.png]

Of the words for colour, shape, size and relation, and of whole captions, three questions:

    said        does a person say it? The most probable word after a reference's own words before it, and whether the
                reference goes on with it; the greedy caption, and whether a reference is that caption. Of a relation of
                several words, the first.
    true        is it true? The probability of what the greedy caption says, and whether that holds in the image
                (`caption.evaluation.scene_truth`).
    meaning     the same, for the probability of all words that mean the same, or of all captions of that meaning.

The temperature minimises the negative log-likelihood of val's references under teacher forcing. The greedy caption is
the same at any temperature.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import measure
from caption import ops
from caption.attention import Memory
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.config.cli import run
from caption.data.dataset import Batch, CaptionDataset, build_loader, pad_captions
from caption.data.sampler import sequential_batches
from caption.data.vocabulary import END, Vocabulary
from caption.device import choose_device, to_cpu, to_device
from caption.evaluation.bootstrap import intervals
from caption.evaluation.calibration import (
    Forecasts,
    calibration_error,
    error_if_calibrated,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    scale,
)
from caption.evaluation.grounding import Instances, read_scenes
from caption.evaluation.scene_truth import Slot, find_slots, judge_slots, reword
from caption.evaluation.subject import open_model
from caption.search import search
from caption.visualise.figures import save_figure

BATCH = 32
MIN_EVENTS = 20  # of a bin that is drawn
KINDS = ("colour", "shape", "size", "relation", "caption")
QUESTIONS = {
    "said": "the words, against what a reference says",
    "true": "the words, against the truth",
    "meaning": "all words of that meaning, against the truth",
}


class Event(NamedTuple):
    """A forecast of the model."""

    question: str  # one of QUESTIONS
    kind: str  # one of KINDS
    image: int
    probability: NDArray[np.float64]  # at each temperature
    happened: bool


class Span(NamedTuple):
    """The words of a caption from `start` on, after those before it."""

    tokens: list[int]
    start: int = 0


class Forced(NamedTuple):
    """The result of teacher forcing: N words in all, without padding."""

    logits: NDArray[np.float64]  # [N, V]
    targets: NDArray[np.int64]  # [N]
    positions: NDArray[np.int64]  # [N], in an array [B, Q, T]
    shape: tuple[int, int, int]  # B, Q, T

    def log_probabilities(self, words: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
        """Return log p of words [N] in place of the targets, 0 where there is no word [B, Q, T]."""
        return self.unpack(np.take_along_axis(scale(self.logits, temperature), words[:, None], -1)[:, 0])

    def unpack(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        result = np.zeros(self.shape)
        result.flat[self.positions] = values
        return result


def force(captioner: Captioner, memory: Memory, captions: Tensor, lengths: Tensor) -> Forced:
    """Return the logits of captions [B, Q, T], whose words are given."""
    output = captioner.decoder(memory, to_device(captions, memory.values.device), lengths)
    shape = output.weights.shape[:3]  # T is padded where steps are replayed
    logits, targets, positions = to_cpu(output.logits.double(), output.targets, output.positions)
    return Forced(logits.numpy(), targets.numpy(), positions.numpy(), shape)


def span_probabilities(
    captioner: Captioner, memory: Memory, spans: Sequence[Sequence[Span]], temperatures: Sequence[float]
) -> list[list[NDArray[np.float64]]]:
    """Return the probability of every span of each image at each temperature."""
    forced = force(captioner, memory, *pad_captions([[span.tokens for span in image] for image in spans]))
    logs = np.stack([forced.log_probabilities(forced.targets, temperature) for temperature in temperatures])
    return [
        [np.exp(logs[:, b, q, span.start :].sum(-1)) for q, span in enumerate(image)] for b, image in enumerate(spans)
    ]


@torch.inference_mode()
def reference_words(captioner: Captioner, data: CaptionDataset) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the logits [N, V] of all words of a split's references, and the words [N]."""
    device = next(captioner.parameters()).device
    loader = build_loader(data, sequential_batches(len(data), BATCH))
    found = [force(captioner, captioner.encode(to_device(b.images, device)), b.captions, b.lengths) for b in loader]
    return np.concatenate([forced.logits for forced in found]), np.concatenate([forced.targets for forced in found])


@torch.inference_mode()
def forecast(
    captioner: Captioner, data: CaptionDataset, instances: Instances, temperatures: Sequence[float]
) -> list[Event]:
    """Return all forecasts of a model on a split."""
    device, events = next(captioner.parameters()).device, []
    for batch in build_loader(data, sequential_batches(len(data), BATCH)):
        memory = captioner.encode(to_device(batch.images, device))
        events += said_words(captioner, memory, batch, temperatures)
        greedy = [found[0] for found in search(captioner.decoder, memory, SearchConfig(beam_size=1))]
        tokens = [h.words + [END] * h.finished for h in greedy]
        words = [captioner.vocabulary.decode(caption) for caption in tokens]
        slots = [find_slots(caption) or [] for caption in words]
        judged = [
            judge_slots(found, instances.scene(data.image_ids[index]))
            for index, found in zip(batch.indices, slots, strict=True)
        ]
        spans = [same_meaning(captioner.vocabulary, *each) for each in zip(tokens, words, slots, strict=True)]
        flat = [[span for group in image for span in group] for image in spans]
        results = span_probabilities(captioner, memory, flat, temperatures)
        for b, index in enumerate(batch.indices):
            found = iter(results[b])
            own, caption, *parts = [[next(found) for _ in group] for group in spans[b]]
            truth = dict(judged[b])
            for slot, each in zip(slots[b], parts, strict=True):
                if slot in truth:
                    written = each[slot.wordings.index(slot.words)]
                    events.append(Event("true", slot.kind, index, written, truth[slot]))
                    events.append(Event("meaning", slot.kind, index, np.sum(each, 0), truth[slot]))
            truthful = bool(slots[b]) and len(truth) == len(slots[b]) and all(truth.values())
            events.append(Event("true", "caption", index, own[0], truthful))
            events.append(Event("meaning", "caption", index, np.sum(caption, 0), truthful))
            for reference in data.captions(index):
                said = [*reference.tolist(), END] == tokens[b]
                events.append(Event("said", "caption", index, own[0], said))
    return events


def same_meaning(
    vocabulary: Vocabulary, tokens: list[int], words: list[str], slots: Sequence[Slot]
) -> list[list[Span]]:
    """Return the caption; all captions that mean the same; and, for each slot, all words that mean the same there."""
    own = [Span(tokens)]
    captions = [Span([*vocabulary.encode(each), END]) for each in reword(words, slots)] if slots else own
    parts = [
        [Span(vocabulary.encode([*words[: slot.start], *phrase]), slot.start) for phrase in slot.wordings]
        for slot in slots
    ]
    return [own, captions, *parts]


def said_words(captioner: Captioner, memory: Memory, batch: Batch, temperatures: Sequence[float]) -> list[Event]:
    """Return the forecasts of the words of references, where these are of one of the kinds."""
    forced = force(captioner, memory, batch.captions, batch.lengths)
    chosen = forced.logits.argmax(-1)
    logs = np.stack([forced.log_probabilities(chosen, temperature) for temperature in temperatures])
    right, events = forced.unpack(chosen == forced.targets), []
    for b, q in (batch.lengths > 0).nonzero().tolist():
        words = captioner.vocabulary.decode(batch.captions[b, q].tolist())
        for slot in find_slots(words) or []:
            place = b, q, slot.start
            probability = np.exp(logs[:, *place])
            events.append(Event("said", slot.kind, batch.indices[b], probability, bool(right[place])))
    return events


def gather(events: Sequence[Event], question: str, kind: str, temperature: int) -> Forecasts:
    """Return the forecasts of one question and kind at a temperature, by its number."""
    chosen = [event for event in events if (event.question, event.kind) == (question, kind)]
    return Forecasts(
        np.array([min(event.probability[temperature], 1.0) for event in chosen]),
        np.array([event.happened for event in chosen], np.float64),
        np.array([event.image for event in chosen], np.int64),
    )


def table(events: Sequence[Event], seed: int) -> str:
    """Return a line for every question and kind: before scaling by temperature, the error after it, and how many events
    with a probability below 0.5, and with another, did not happen."""
    heads = (
        "events, mean p %, happen %, ECE, 95 % interval, if calibrated, ECE at T, 95 % interval, no: p<.5, no: p>=.5"
    )
    widths = (8, 11, 11, 8, 16, 15, 10, 16, 14, 14)
    lines = [f"{'':10}" + "".join(f"{head:>{width}}" for head, width in zip(heads.split(", "), widths, strict=True))]
    for question, meaning in QUESTIONS.items():
        lines.append(f"{question}: {meaning}")
        for kind in KINDS:
            before, after = (gather(events, question, kind, number) for number in (0, 1))
            if not len(before.image):
                lines.append(f"  {kind:8}{0:8}")
                continue
            errors = [calibration_error(forecasts) for forecasts in (before, after)]
            spans = [f"{low:.1f} to {high:.1f}" for low, high in intervals(errors, seed)]
            low, high = error_if_calibrated(before.probability, seed)
            means = [f"{100 * values.mean():.1f}" for values in before[:2]]
            cells = [len(before.image), *means, f"{errors[0].value:.1f}", spans[0], f"{low:.1f} to {high:.1f}"]
            cells += [f"{errors[1].value:.1f}", spans[1]]
            below = before.probability < 0.5
            cells += [f"{(1 - y).sum():.0f} of {len(y)}" for y in (before.happened[below], before.happened[~below])]
            lines.append(f"  {kind:8}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def draw(events: Sequence[Event], path: Path) -> None:
    """Draw reliability curves at temperature 1, a panel for each kind and a curve for each question."""
    figure = Figure(figsize=(15, 4), layout="constrained")
    axes = figure.subplots(1, len(KINDS), sharey=True)
    for axis, kind in zip(axes, KINDS, strict=True):
        axis.plot((0, 1), (0, 1), color="grey", linewidth=1, linestyle="--", label="calibrated")
        for (question, meaning), marker in zip(QUESTIONS.items(), ("o", "s", "d"), strict=True):
            points = [p for p in reliability(gather(events, question, kind, 0)) if p.size >= MIN_EVENTS]
            fractions = np.array([point.fraction for point in points])
            ends = np.array([point.interval for point in points]).reshape(-1, 2).T
            axis.errorbar(
                [point.probability for point in points],
                fractions,
                np.abs(ends - fractions),
                marker=marker,
                markersize=8 if marker == "s" else 5,  # where two curves meet, both are seen
                markerfacecolor="none" if marker == "s" else None,
                linewidth=1.2,
                capsize=2,
                label=f"{question}: {meaning}",
            )
        axis.set(title=kind, xlabel="probability", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="fraction that happens")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    save_figure(figure, path)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="pretrained/shapes")
    parser.add_argument("--data", default="data/shapes.h5")
    parser.add_argument("--instances", default="data/shapes_instances.json")
    parser.add_argument("--split", default="test")
    parser.add_argument("--figure", default="runs/calibration.png")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=1, help="of the intervals")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    captioner = open_model(args.checkpoint, args.data, device)
    data = CaptionDataset(args.data, args.split)
    instances = read_scenes(args.instances, data)
    with ops.reuse_weights(captioner.decoder):
        val = reference_words(captioner, CaptionDataset(args.data, "val"))
        temperature = fit_temperature(*val)
        events = forecast(captioner, data, instances, (1.0, temperature))
        words = {"val": val, args.split: reference_words(captioner, data)}
    print(measure.machine(device))
    print(f"{args.checkpoint} on {args.data}, {args.split}: {len(data)} images; temperature T {temperature:.3f}")
    for split, each in words.items():
        before, after = (negative_log_likelihood(*each, t) for t in (1.0, temperature))
        print(f"negative log-likelihood of {split}: {before:.4f} nats per word, at T {after:.4f}")
    print(table(events, args.seed))
    Path(args.figure).parent.mkdir(parents=True, exist_ok=True)
    draw(events, Path(args.figure))
    print(f"wrote {args.figure}")


if __name__ == "__main__":
    run(main)
