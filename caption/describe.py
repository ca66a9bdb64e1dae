"""Caption a single image and return the attention for each word."""

import dataclasses
from typing import Any

import torch
from PIL import Image

from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.data.images import CropBox, fit_image, to_array
from caption.search import Hypothesis, force_decode, search
from caption.visualise.figures import AttentionMaps


@torch.inference_mode()
def describe(captioner: Captioner, image: Image.Image, config: SearchConfig, words: list[str]) -> list[Hypothesis]:
    """Return the model's captions of an RGB image, best first; or, if there are any, `words` as the only caption."""
    square = to_array(fit_image(image, captioner.image.size, captioner.image.fit))
    device = next(captioner.parameters()).device
    if not captioner.decoder.stochastic:
        config = dataclasses.replace(config, hard_attention="expectation")
    memory = captioner.encode(torch.from_numpy(square).unsqueeze(0).to(device))
    if words:
        tokens = captioner.vocabulary.encode(words)
        return force_decode(captioner.decoder, memory, tokens, config.hard_attention, heads=True)
    return search(captioner.decoder, memory, config, heads=True)[0]


def attention_maps(
    captioner: Captioner, hypothesis: Hypothesis, words: list[str], window: CropBox, name: str
) -> AttentionMaps:
    """Return the attention for these words of a caption, all heads together; the model saw `window` of the image."""
    weights = hypothesis.weights[: len(words)].numpy()
    locations = None if hypothesis.locations is None else hypothesis.locations.tolist()
    return AttentionMaps(weights, captioner.encoder.feature_grid, locations, name, window)


def head_maps(captioner: Captioner, hypothesis: Hypothesis, words: list[str], window: CropBox) -> list[AttentionMaps]:
    """Return the attention of each head for these words of a caption."""
    assert hypothesis.heads is not None
    heads = zip(hypothesis.heads[: len(words)].unbind(1), captioner.head_names, strict=True)  # M times [T, L]
    grid = captioner.encoder.feature_grid
    return [AttentionMaps(weights.numpy(), grid, name=name, window=window) for weights, name in heads]


def to_json(hypothesis: Hypothesis, words: list[str], captioner: Captioner) -> dict[str, Any]:
    """Return a caption in plain values: for each word its attention weights as rows and columns of the grid, the `gate`
    beta, the `location` (row, column) that hard attention chose, and the weights of each head by its name."""
    grid = captioner.encoder.grid
    weights = hypothesis.weights[: len(words)].view(-1, *grid).tolist()
    steps = [{"word": word, "weights": rows} for word, rows in zip(words, weights, strict=True)]
    for t, step in enumerate(steps):
        if hypothesis.gates is not None:
            step["gate"] = hypothesis.gates[t].item()
        if hypothesis.locations is not None:
            step["location"] = divmod(int(hypothesis.locations[t]), grid[1])
        if hypothesis.heads is not None:
            heads = hypothesis.heads[t].view(-1, *grid).tolist()
            step["heads"] = dict(zip(captioner.head_names, heads, strict=True))
    return {
        "log_probability": hypothesis.log_probability,
        "finished": hypothesis.finished,
        "grid": grid,
        "words": steps,
    }
