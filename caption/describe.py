"""One picture described: its captions, and where the model looked."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.data.images import read_square
from caption.search import Hypothesis, follow, search
from caption.visualise.figures import AttentionMaps


@torch.inference_mode()
def describe(captioner: Captioner, path: Path, config: SearchConfig, given: list[str]) -> list[Hypothesis]:
    """The model's captions of a picture, the best first; or the given words, if any, as it sees them."""
    image = read_square(path, captioner.image.size, captioner.image.fit)
    device = next(captioner.parameters()).device
    if not captioner.decoder.stochastic:
        config = dataclasses.replace(config, attend="expectation")
    memory = captioner.encode(torch.from_numpy(image).unsqueeze(0).to(device))
    if given:
        return follow(captioner.decoder, memory, captioner.vocabulary.encode(given), config.attend, heads=True)
    return search(captioner.decoder, memory, config, heads=True)[0]


def look(captioner: Captioner, hypothesis: Hypothesis, words: list[str], name: str) -> AttentionMaps:
    """Where the model looked at these words."""
    return AttentionMaps(hypothesis.weights[: len(words)].numpy(), captioner.encoder.cells, hypothesis.locations, name)


def looks_of_heads(captioner: Captioner, hypothesis: Hypothesis, words: list[str]) -> list[AttentionMaps]:
    """The same for each head alone."""
    assert hypothesis.heads is not None
    weights = hypothesis.heads[: len(words)].unbind(1)  # M times [T, L]
    cells = captioner.encoder.cells
    return [
        AttentionMaps(one.numpy(), cells, name=name) for one, name in zip(weights, captioner.head_names, strict=True)
    ]


def as_json(hypothesis: Hypothesis, words: list[str], captioner: Captioner) -> dict[str, Any]:
    """A hypothesis in plain values; `gate` is beta, `location` the row and column that hard attention chose, `heads`
    the weights of each head by its name."""
    grid = captioner.encoder.grid
    weights = hypothesis.weights[: len(words)].view(-1, *grid).tolist()
    steps = [{"word": word, "weights": cells} for word, cells in zip(words, weights, strict=True)]
    for step, gate in zip(steps, hypothesis.gates or [], strict=False):
        step["gate"] = gate
    for step, location in zip(steps, hypothesis.locations or [], strict=False):
        step["location"] = divmod(location, grid[1])
    if hypothesis.heads is not None:
        for step, heads in zip(steps, hypothesis.heads, strict=False):
            step["heads"] = dict(zip(captioner.head_names, heads.view(-1, *grid).tolist(), strict=True))
    return {
        "log_probability": hypothesis.log_probability,
        "finished": hypothesis.finished,
        "grid": grid,
        "words": steps,
    }
