"""A model as a folder for others: configuration, weights, vocabulary and a model card, in formats that run no code.

    config.json          how the model is built, what it was scored at, and the digest of the weights
    model.safetensors    the weights, in float32 or float16
    vocabulary.json      its words; config.json says of which kind
    README.md            the model card, for people

`checkpoint.load` reads such a folder like a checkpoint, also from the Hugging Face Hub: hf://owner/name[@revision].
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from caption.errors import UserError, one_line, reading
from caption.files import HUB, atomic_folder

FORMAT = "show-attend-and-tell export 1"
FILES = ("config.json", "model.safetensors", "vocabulary.json", "README.md")
FILE_FIELDS = ("weights", "pretrained_embeddings")  # of the encoder and the decoder
KEPT = ("words", "epoch", "scores")  # of a checkpoint as they are, where it has them


def is_export(path: str | Path) -> bool:
    """Return whether the path is a folder that `save` wrote."""
    return (Path(path) / FILES[0]).is_file() and (Path(path) / FILES[1]).is_file()


def save(folder: Path, content: dict[str, Any], half: bool, card: str) -> None:
    """Write the content of a checkpoint as such a folder, which is complete or absent; an earlier export is replaced.

    With `half`, weights are rounded to float16. Raises UserError if one is too large for it.
    """
    from safetensors.torch import save as serialise

    # Copies, row by row: the format knows neither shared memory nor another order of the numbers.
    weights = {
        name: (_rounded(name, value) if half else value).contiguous().clone()
        for name, value in content["model"].items()
    }
    serialised = serialise(weights)
    # Of the files that training began with, others need to know the names, and not where they lay.
    configs = {
        section: {name: Path(value).name if name in FILE_FIELDS else value for name, value in fields.items()}
        for section, fields in content["configs"].items()
    }
    config = {"format": FORMAT, "configs": configs, "sha256": _digest(serialised)}
    config |= {name: content[name] for name in KEPT if name in content}
    texts = {FILES[0]: _to_json(config), FILES[2]: _to_json(content["vocabulary"]), FILES[3]: card}
    with atomic_folder(folder, replace=True) as part:
        (part / FILES[1]).write_bytes(serialised)
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8")


def _rounded(name: str, value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    rounded = value.half()
    if rounded.isinf().any():
        raise UserError(f"{name} has a value of {value.abs().max():.3g}, too large for float16; export without --half")
    return rounded


def _to_json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load(folder: Path) -> dict[str, Any]:
    """Return the content of the checkpoint that was exported, its weights in float32. Raises UserError for a folder
    that is incomplete, damaged or of another program."""
    from safetensors.torch import load as parse

    with reading(folder, "copy or export it again"):
        config = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise UserError(f"{folder}: config.json is not of this program's export ({FORMAT}); export the model again")
        missing = [name for name in FILES[:3] if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: {', '.join(missing)} is missing; copy or export it again")
        content = (folder / FILES[1]).read_bytes()
        if _digest(content) != config["sha256"]:
            raise ValueError("the weights are not those that config.json names")
        vocabulary = json.loads((folder / FILES[2]).read_text(encoding="utf-8"))
        weights = {name: _widened(value) for name, value in parse(content).items()}
        kept = {name: config[name] for name in KEPT if name in config}
        return {"configs": config["configs"], "vocabulary": vocabulary, "model": weights, **kept}


def _widened(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value


def fetch(name: str) -> Path:
    """Download hf://owner/name[@revision] from the Hugging Face Hub, unless it is in its cache, and return the folder.

    Raises UserError if the name is not of this form, if huggingface_hub is not installed, or if the download fails.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"{name}: must be hf://owner/name, or hf://owner/name@revision")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{name}: needs huggingface_hub; pip install huggingface_hub, or give a folder") from None
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*FILES]))
    except Exception as error:  # of the network, of HTTP, of the hub and of its files: it has no common ancestor
        raise UserError(
            f"{name}: cannot be downloaded ({type(error).__name__}: {one_line(error)}); download the repository "
            "elsewhere, and give its folder"
        ) from None
