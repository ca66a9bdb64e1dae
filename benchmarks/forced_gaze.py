"""Move the gaze of a model of the `shapes` set to another object: does the caption name that one?

    python -m benchmarks.forced_gaze [--checkpoint pretrained/shapes] [--data data/shapes.h5]
        [--instances data/shapes_instances.json] [--split test] [--hard-attention expectation] [--pages 0]

Of every image with at least two objects the free greedy caption is written first. Then the weights of attention are
forced (`Memory.forced`) onto the mask of an object, and the caption is written again:

    another     from the first word on, onto each object that the free caption does not name first
    the first   from the first word on, onto the object that it does name first
    no object   from the first word on, evenly onto all regions without any object
    the third   from the second noun phrase on, in images of three objects, onto the one named neither first nor second
    again       from the second noun phrase on, onto the object named first

Counted are the words of that noun phrase: is the object that it names the forced one, by shape, colour and, where it
says one, size? Of "no object": is it the one that the free caption names first? An object's regions have weights in
proportion to the part of a region that its mask covers (mask), even ones where it covers at least half as much as of
the most covered region (even), or all on that region (one region), as a click on the page of
`python -m caption.explore` puts it.

--pages writes that page for so many images, drives it in Chromium, and compares its words with PyTorch's.
"""

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import measure
from caption import explore
from caption.attention import Memory
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.config.cli import run
from caption.data.dataset import CaptionDataset
from caption.data.photos import load_photo
from caption.data.scenes import COLOURS, SHAPES, SIZE_WORDS, SceneObject
from caption.data.vocabulary import END
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.calibration import wilson_interval
from caption.evaluation.grounding import Instances, read_scenes
from caption.evaluation.subject import open_model
from caption.search import Hypothesis, search

BATCH = 50
NAMES = ("another", "the first", "no object", "the third", "again")
WEIGHTS = ("mask", "even", "one region")
SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}
Values = NDArray[np.float64]


class Phrase(NamedTuple):
    """A noun phrase of a caption."""

    start: int  # its first word
    shape: str
    colour: str  # empty: not said
    size: str

    def names(self, item: SceneObject) -> bool:
        """Return whether all that the phrase says is true of an object, and its colour is said."""
        return (self.shape, self.colour) == (item.shape, item.colour) and self.size in ("", item.size)


def noun_phrases(words: Sequence[str]) -> list[Phrase]:
    """Return the noun phrases of a caption, also of an ungrammatical one: the words between two shapes say one."""
    phrases: list[Phrase] = []
    start, said = 0, {"colour": "", "size": ""}
    for number, word in enumerate(words):
        if word == "a":
            start = number
        if word in COLOURS:
            said["colour"] = word
        elif word in SIZES:
            said["size"] = SIZES[word]
        elif word in SHAPES:
            phrases.append(Phrase(start, word, **said))
            said = {"colour": "", "size": ""}
    return phrases


def coverage(mask: NDArray[np.bool_], grid: FeatureGrid) -> Values:
    """Return the fraction of each region [L] that a mask [S, S] covers; a pixel belongs to the nearest region."""
    pixels = np.arange(grid.size)
    row, column = (
        np.clip(np.rint((pixels - grid.first) / grid.step), 0, count - 1).astype(int)
        for count in (grid.rows, grid.columns)
    )
    region = (row[:, None] * grid.columns + column).ravel()
    counts = np.bincount(region, minlength=grid.rows * grid.columns)
    return np.bincount(region, mask.ravel(), grid.rows * grid.columns) / np.maximum(counts, 1)


def gaze(covered: Values, kind: str) -> Values:
    """Return the weights [L] of one of WEIGHTS from the fraction of each region that an object covers."""
    weights = {
        "mask": covered,
        "even": covered >= covered.max() / 2,
        "one region": np.arange(len(covered)) == covered.argmax(),
    }[kind].astype(np.float64)
    return np.asarray(weights / weights.sum())


class Case(NamedTuple):
    """A gaze to force on an image."""

    name: str  # as in the list above
    kind: str  # one of WEIGHTS; of "no object": even
    image: int
    start: int  # the first word that is written by it
    phrase: int  # the noun phrase that is counted
    weights: Values  # [L]
    target: SceneObject  # which that phrase is to name


def cases(image: int, scene: dict[str, SceneObject], covered: dict[str, Values], free: list[Phrase]) -> Iterator[Case]:
    """Yield the gazes to force on an image, of which the free caption's noun phrases are given."""
    first = scene[free[0].shape]
    others = [item for item in scene.values() if item is not first]
    second = scene.get(free[1].shape) if len(free) > 1 else None
    third = [item for item in others if item is not second]
    for kind in WEIGHTS:
        for item in others:
            yield Case("another", kind, image, 0, 0, gaze(covered[item.shape], kind), item)
        yield Case("the first", kind, image, 0, 0, gaze(covered[first.shape], kind), first)
        if second and len(third) == 1:
            yield Case("the third", kind, image, free[1].start, 1, gaze(covered[third[0].shape], kind), third[0])
        if second and second is not first:
            yield Case("again", kind, image, free[1].start, 1, gaze(covered[first.shape], kind), first)
    empty = np.sum(list(covered.values()), 0) == 0
    yield Case("no object", "even", image, 0, 0, empty / empty.sum(), first)


class Outcome(NamedTuple):
    """A caption under a forced gaze, and whether it names what it should."""

    case: Case
    named: bool  # the noun phrase names the target
    unsized: bool  # it does, its size left aside
    as_free: bool  # it names what the free caption does there
    tokens: list[int]


def judge(case: Case, found: Hypothesis, words: list[str], free: list[Phrase]) -> Outcome:
    phrases = noun_phrases(words)
    tokens = found.words + [END] * found.finished
    if len(phrases) <= case.phrase:
        return Outcome(case, False, False, False, tokens)
    said = phrases[case.phrase]
    same = said[1:] == free[case.phrase][1:]
    return Outcome(case, said.names(case.target), said._replace(size="").names(case.target), same, tokens)


def force(
    captioner: Captioner, memory: Memory, found: list[Case], own: Sequence[Tensor], config: SearchConfig
) -> list[Hypothesis]:
    """Return the greedy caption of each case; `memory` is of the images, and `own` are the weights [T, L] with which
    the free caption of each case's image was written."""
    steps = max(case.start for case in found) + 1
    rows = [case.image for case in found]
    forced = torch.stack(
        [
            torch.cat([weights[: case.start], torch.from_numpy(case.weights).float().expand(steps - case.start, -1)])
            for case, weights in zip(found, own, strict=True)
        ]
    )
    chosen = memory._replace(keys=memory.keys[rows], values=memory.values[rows], mean=memory.mean[rows])
    chosen = chosen._replace(forced=forced[:, None, :, None].to(memory.values.device))
    return [hypotheses[0] for hypotheses in search(captioner.decoder, chosen, config)]


@torch.inference_mode()
def move_gaze(captioner: Captioner, data: CaptionDataset, instances: Instances, config: SearchConfig) -> list[Outcome]:
    """Return the outcomes of all cases on a split's images with at least two objects, whose free caption begins with
    one of them."""
    grid, device, outcomes = captioner.encoder.feature_grid, next(captioner.parameters()).device, []
    categories = {category["name"]: number for number, category in instances.coco.cats.items()}
    numbers = [n for n, image_id in enumerate(data.image_ids) if len(instances.scene(image_id)) > 1]
    for part in (numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)):
        memory = captioner.encode(data.read_images(part).to(device))
        free = [hypotheses[0] for hypotheses in search(captioner.decoder, memory, config)]
        phrases = [noun_phrases(captioner.vocabulary.decode(hypothesis.words)) for hypothesis in free]
        todo: list[Case] = []
        for b, number in enumerate(part):
            image_id = data.image_ids[number]
            scene = {item.shape: item for item in instances.scene(image_id)}
            if phrases[b] and phrases[b][0].shape in scene:
                masks = {name: instances.find(image_id, categories[name], grid) for name in scene}
                covered = {name: coverage(mask[0], grid) for name, mask in masks.items() if mask}
                todo += cases(b, scene, covered, phrases[b])
        used = [free[case.image].weights for case in todo]
        for case, found in zip(todo, force(captioner, memory, todo, used, config), strict=True):
            words = captioner.vocabulary.decode(found.words)
            outcome = judge(case, found, words, phrases[case.image])
            outcomes.append(outcome._replace(case=case._replace(image=part[case.image])))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for every kind of case. The cases of an image count as one trial of the interval, since they are
    not independent of each other."""
    lines = [
        f"{'forced onto':14}{'weights':12}{'images':>8}{'cases':>7}{'named %':>9}{'95 % interval':>16}"
        f"{'without size %':>16}{'as free %':>11}"
    ]
    found = {(outcome.case.name, outcome.case.kind) for outcome in outcomes}
    for name, kind in ((name, kind) for name in NAMES for kind in WEIGHTS if (name, kind) in found):
        chosen = [outcome for outcome in outcomes if (outcome.case.name, outcome.case.kind) == (name, kind)]
        images = len({outcome.case.image for outcome in chosen})
        named, unsized, as_free = (100 * float(np.mean([outcome[n] for outcome in chosen])) for n in (1, 2, 3))
        low, high = (100 * bound for bound in wilson_interval(named / 100 * images, images))
        lines.append(
            f"{name:14}{kind:12}{images:8}{len(chosen):7}{named:9.1f}{f'{low:.1f} to {high:.1f}':>16}{unsized:16.1f}"
            f"{as_free:11.1f}"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Open a headless browser. Raises UserError without Chromium or playwright."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        raise UserError("--pages needs Chromium and playwright: apt-get install chromium, pip install playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def agreement(
    browser: Any, captioner: Captioner, data: CaptionDataset, outcomes: Sequence[Outcome], images: int
) -> str:
    """Return in how many captions the explorer's page writes PyTorch's words, of the cases that are forced from the
    first word on in the first images."""
    numbers = list(dict.fromkeys(outcome.case.image for outcome in outcomes))[:images]
    chosen = [outcome for outcome in outcomes if outcome.case.image in numbers and outcome.case.start == 0]
    equal, page = 0, browser.new_page()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "explorer.html"
        for number in numbers:
            photo = load_photo(data.read_images([number])[0], captioner.image)
            path.write_text(explore.page(captioner, photo, data.file_names[number]), encoding="utf-8")
            page.goto(path.as_uri())
            for outcome in (outcome for outcome in chosen if outcome.case.image == number):
                words = page.evaluate(
                    """(weights) => {
                        explorer.lights.fill({ kind: "cell", weights: Float64Array.from(weights) });
                        explorer.writeAgain(0);
                        return explorer.steps.map((taken) => taken.next);
                    }""",
                    outcome.case.weights.tolist(),
                )
                equal += words == outcome.tokens
    page.close()
    return f"the page writes PyTorch's words in {equal} of {len(chosen)} captions, of {len(numbers)} images"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="pretrained/shapes")
    parser.add_argument("--data", default="data/shapes.h5")
    parser.add_argument("--instances", default="data/shapes_instances.json")
    parser.add_argument("--split", default="test")
    parser.add_argument("--hard-attention", default="expectation", choices=("expectation", "argmax"))
    parser.add_argument("--pages", type=int, default=0, help="images whose page is compared with PyTorch")
    args = parser.parse_args(arguments)
    device = torch.device("cpu")
    captioner = open_model(args.checkpoint, args.data, device)
    config = SearchConfig(beam_size=1, hard_attention=args.hard_attention)
    captioner.check_search(config)
    explore.explorable(captioner)
    data = CaptionDataset(args.data, args.split)
    instances = read_scenes(args.instances, data)
    outcomes = move_gaze(captioner, data, instances, config)
    images = len({outcome.case.image for outcome in outcomes})
    print(measure.machine(device))
    print(f"{args.checkpoint} on {args.data}, {args.split}: {images} of {len(data)} images have two objects or three")
    print(table(outcomes))
    if args.pages:
        with chromium() as browser:
            print(agreement(browser, captioner, data, outcomes, args.pages))


if __name__ == "__main__":
    run(main)
