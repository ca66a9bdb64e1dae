"""Pretrained word vectors, in GloVe's text format: a word and its numbers a line (Pennington et al., 2014)."""

from pathlib import Path

import torch
from torch import Tensor

from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.errors import UserError


@torch.no_grad()
def load_embeddings(embedding: Tensor, vocabulary: Vocabulary, path: str) -> str:
    """Put the file's vectors into rows of embedding [V, E]; words that it lacks keep theirs. Returns the coverage.

    All vectors are scaled to the root mean square that the embedding had, which its model was made for. Raises
    UserError for a file that is no such text, or whose vectors are not E wide.
    """
    width, size = embedding.shape[1], embedding[len(SPECIALS) :].square().mean().sqrt()
    found: dict[int, Tensor] = {}
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                parts = line.rstrip().split(" ")
                if number == 1 and len(parts) == 2:  # word2vec's text format: how many, how wide
                    continue
                if number <= 2 and len(parts) != 1 + width:
                    raise UserError(
                        f"{path}: its vectors have {len(parts) - 1} numbers, but decoder.embedding is {width}; give "
                        f"--decoder.embedding {len(parts) - 1}"
                    )
                word = vocabulary.word_to_index.get(" ".join(parts[:-width]))  # a word of GloVe's may hold a space
                if word is not None and word >= len(SPECIALS):
                    found[word] = torch.tensor([float(part) for part in parts[-width:]])
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"line {number}: {error}"
        raise UserError(f"{path}: no word vectors can be read from it ({reason})") from None
    total = len(vocabulary) - len(SPECIALS)
    if not found:
        raise UserError(f"{path}: has no vector for any of the {total} words; is it of another language or format?")
    rows = torch.stack(list(found.values()))
    embedding[list(found)] = (rows * (size / rows.square().mean().sqrt())).to(embedding)
    missing = [word for word in vocabulary.words[len(SPECIALS) :] if vocabulary.word_to_index[word] not in found]
    told = f"; without: {', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}" if missing else ""
    return f"{path}: vectors for {len(found)} of {total} words ({len(found) / total:.1%}){told}"
