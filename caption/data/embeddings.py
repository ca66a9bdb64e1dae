"""Pretrained word vectors in GloVe's text format: a word and its numbers per line (Pennington et al., 2014)."""

from pathlib import Path

import torch
from torch import Tensor

from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.data.words import normalise
from caption.errors import UserError


@torch.no_grad()
def load_embeddings(embedding: Tensor, vocabulary: Vocabulary, path: str) -> str:
    """Copy the file's vectors into the rows of `embedding` [V, E] and return a sentence about the coverage.

    Words that the file lacks keep their rows. The vectors are scaled to the root mean square of the embedding, which
    the model was initialised for. Raises UserError if the file is not in this format or its vectors are not E wide.
    """
    vectors = _read_vectors(vocabulary, path, embedding.shape[1])
    total = len(vocabulary) - len(SPECIALS)
    if not vectors:
        raise UserError(f"{path}: has no vector for any of the {total} words; is it of another language or format?")
    scale = embedding[len(SPECIALS) :].square().mean().sqrt()
    rows = torch.stack(list(vectors.values()))
    if not rows.isfinite().all() or not rows.any():
        raise UserError(f"{path}: its vectors hold NaN or infinity, or nothing but 0; give another file")
    embedding[list(vectors)] = (rows * (scale / rows.square().mean().sqrt())).to(embedding)
    missing = [word for index, word in enumerate(vocabulary.words) if index >= len(SPECIALS) and index not in vectors]
    note = f"; without: {', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}" if missing else ""
    return f"{path}: vectors for {len(vectors)} of {total} words ({len(vectors) / total:.1%}){note}"


def _read_vectors(vocabulary: Vocabulary, path: str, width: int) -> dict[int, Tensor]:
    """Return the vectors [E] of the file by the index of their word, for the words of the vocabulary."""
    vectors: dict[int, Tensor] = {}
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                fields = line.rstrip().replace("\t", " ").split(" ")
                if number == 1 and len(fields) == 2:  # the header of word2vec's text format
                    continue
                if number <= 2 and len(fields) != 1 + width:
                    if len(fields) == 1:
                        raise ValueError("a word without numbers behind it")
                    raise UserError(
                        f"{path}: its vectors have {len(fields) - 1} numbers, but decoder.embedding_dim is {width}; "
                        f"give --decoder.embedding-dim {len(fields) - 1}"
                    )
                index = vocabulary.word_to_index.get(
                    normalise(" ".join(fields[:-width]))
                )  # some of GloVe's words hold a space
                if index is not None and index >= len(SPECIALS):
                    vectors[index] = torch.tensor([float(field) for field in fields[-width:]])
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"line {number}: {error}"
        raise UserError(f"{path}: no word vectors can be read from it ({reason})") from None
    return vectors
