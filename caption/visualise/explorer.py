"""The explorer: a page in which the reader steps through the equations of a caption and moves its light.

The page computes the decoder itself, in assets/decoder.js, from its weights and the image's annotation vectors. They
are named as in docs/paper.md.
"""

import base64
from typing import Any

import numpy as np
from torch import Tensor, nn

from caption.attention import Attention, ConcatScore
from caption.config import DecoderConfig, SearchConfig
from caption.data.vocabulary import Vocabulary
from caption.decoders import ShowAttendTellDecoder
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.visualise.html import as_script, grid_entry, html_document

# Of a decoder's configuration, the values that assets/decoder.js computes.
COMPUTED = {
    "name": ("show_attend_tell",),
    "attention": ("soft", "hard"),
    "score": ("additive", "concat", "dot", "general", "scaled_dot"),
    "window": ("global",),
}
ASSETS = ("viewer", "decoder", "equations", "charts", "explorer")


def check_computed(config: DecoderConfig) -> None:
    """Raise UserError for a decoder that the page cannot compute."""
    for field, values in COMPUTED.items():
        if (value := getattr(config, field)) not in values:
            raise UserError(
                f"decoder.{field} is {value}, but the explorer computes {' or '.join(values)} alone; give another "
                "model, or see where this one looks by caption_image.py with --output page.html"
            )


def model_entry(decoder: nn.Module, config: DecoderConfig, vocabulary: Vocabulary, grid: FeatureGrid) -> dict[str, Any]:
    """Return a decoder in plain values. Raises UserError for one that the page cannot compute."""
    check_computed(config)
    assert isinstance(decoder, ShowAttendTellDecoder)
    weights = {name: value.detach() for name, value in paper_weights(decoder, config.tie_embeddings).items()}
    return {
        "score": config.score,
        "stochastic": decoder.stochastic,
        "temperature": config.temperature,
        "tied": config.tie_embeddings,
        "words": vocabulary.words,
        "separator": vocabulary.separator,
        "maxLength": SearchConfig.max_length,
        "grid": grid_entry(grid),
        "weights": {name: tensor_entry(value) for name, value in weights.items()},
    }


def paper_weights(decoder: ShowAttendTellDecoder, tied: bool) -> dict[str, Tensor]:
    """Return the weights of a decoder by their names in docs/paper.md; b_x is the bias that is added to x."""
    layers = {
        "T_E": decoder.word_to_gates,
        "T_h": decoder.hidden_to_gates,
        "T_z": decoder.context_to_gates,
        "f_beta": decoder.gate,
        "f_init_h": decoder.initial_hidden,
        "f_init_c": decoder.initial_cell,
        "L_h": decoder.hidden_to_output,
        "L_z": decoder.context_to_output,
    }
    biases = {"b_T": "T_E", "b_beta": "f_beta", "b_init_h": "f_init_h", "b_init_c": "f_init_c"}
    return {
        "E": decoder.embedding.weight,
        **{name: layer.weight for name, layer in layers.items()},
        **{bias: layers[name].bias for bias, name in biases.items()},
        **({} if tied else {"L_o": decoder.output.weight}),
        "b_o": decoder.output.bias,
        **score_weights(decoder.attention),
    }


def score_weights(attention: Attention) -> dict[str, Tensor]:
    """Return the weights of f_att in eq. 4; W_a a_i + b_a makes the keys, and W_h h + b_h the query."""
    score: Any = attention.score
    if isinstance(score, ConcatScore):
        joint, width = score.joint, score.query_width
        return {"W_h": joint.weight[:, :width], "W_a": joint.weight[:, width:], "b_a": joint.bias, "v": vector(score)}
    weights = {}
    for name, layer in (("a", getattr(score, "key", None)), ("h", getattr(score, "query", None))):
        if layer is not None:
            weights[f"W_{name}"] = layer.weight
            weights |= {} if layer.bias is None else {f"b_{name}": layer.bias}
    return weights | ({"v": vector(score)} if hasattr(score, "vector") else {})


def vector(score: Any) -> Tensor:
    """Return v [A] of a score."""
    weights: Tensor = score.vector.weight
    return weights.view(-1)


def tensor_entry(tensor: Tensor) -> dict[str, Any]:
    """Return a matrix or vector in base64: in float16 where that changes none of its numbers, else in float32."""
    values = tensor.float().cpu().numpy()
    with np.errstate(over="ignore"):  # a number too large for float16 becomes infinite, and so is not equal
        half = np.array_equal(values.astype(np.float16).astype(np.float32), values)
    content = values.astype("<f2" if half else "<f4").tobytes()
    return {"shape": list(values.shape), "half": half, "data": base64.b64encode(content).decode()}


def buttons(model: dict[str, Any]) -> dict[str, Any]:
    """Return what `html.write_page` needs besides, to give every image a button that opens its explorer; the entries of
    the images have `regions`, a `tensor_entry`."""
    script = (
        f"const model = openModel({as_script(model)});\nviewers.forEach((viewer) => addExploreButton(viewer, model));\n"
    )
    return {"assets": ASSETS, "more": script}


def explorer_page(title: str, model: dict[str, Any], image: dict[str, Any]) -> str:
    """Return a page that explores the captions of one image, from the entries of `model_entry` and of `shown_entry`,
    with its annotation vectors [L, D] as `regions`, a `tensor_entry`."""
    script = (
        f"const model = openModel({as_script(model)});\n"
        f'const explorer = new Explorer(document.getElementById("explorer"), model, {as_script(image)});\n'
    )
    return html_document(title, '<main id="explorer"></main>', ASSETS, script)
