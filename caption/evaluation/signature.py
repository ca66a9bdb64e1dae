"""Describe in one line everything but the model that a score depends on, to quote beside it, as sacreBLEU does (Post,
2018)."""

import hashlib
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

import caption
from caption.data.hdf5 import read_manifest

PTB = "PTB as in CoreNLP 3.4.1"  # caption.evaluation.ptb


def signature(
    data: str | Path,
    split: str,
    references: Sequence[Sequence[str]],
    search: str,
    instances: str | Path = "",
    programs: Sequence[str] = (),
) -> str:
    """Return the number of images and of references for each, the tokens, the search in the words of `describe_search`,
    the digests of the split and of the file of instances, pycocoevalcap's version where its `programs`, such as METEOR,
    scored, and the versions of this program and of PyTorch.

    Equal signatures of equal models mean equal scores, but for the rounding of another device.
    """
    counts = sorted({len(each) for each in references})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0]) if counts else "0"
    return " | ".join(
        [
            f"images {len(references)}",
            f"references {number}",
            f"tokens {tokens(read_manifest(data)['words'])}",
            search,
            f"data {split} {split_digest(data, split)}",
            *([f"instances {file_digest(instances)}"] if instances else []),
            *([f"{' and '.join(programs)} of pycocoevalcap {metadata.version('pycocoevalcap')}"] if programs else []),
            f"show-attend-and-tell {version()}",
            f"torch {torch.__version__}",
        ]
    )


def tokens(word_kind: str) -> str:
    """Return what the scores' tokens are; those of Unicode follow the version of it that the package regex knows."""
    return PTB if word_kind == "ptb" else f"{word_kind} by UAX 29 in regex {metadata.version('regex')}"


def split_digest(data: str | Path, split: str) -> str:
    """Return eight digits that differ between splits of other images or captions."""
    digests = sorted(item for item in read_manifest(data)["digests"].items() if item[0].startswith(f"{split}/"))
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:8]


def file_digest(path: str | Path) -> str:
    """Return eight digits of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def version() -> str:
    """Return the version and, in a checkout, the commit; a plus sign says that files were changed since."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed; the commit of a repository around it would be another project's
        return caption.__version__
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return caption.__version__
    return f"{caption.__version__} ({commit})"
