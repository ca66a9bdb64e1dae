"""Captions from a decoder: greedy, sampling and beam search, for all images of a batch at once.

A search knows of a decoder only `start` and `step`. It decides which rows survive; the state alone knows what that
moves. Log-probabilities are the model's own: forbidding a word does not renormalise the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from caption.attention import AttentionOutput, Memory
from caption.config import HardAttentionMode, SearchConfig
from caption.data.vocabulary import END, PAD, START, UNKNOWN
from caption.device import upcast_float32
from caption.ops.recurrent_linear import unrolled


class Stepper(Protocol):
    """What a search needs of a decoder; of its state only `select(rows)`."""

    def start(self, memory: Memory, rows: int) -> Any: ...

    def step(self, words: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, AttentionOutput]: ...


class Hypothesis(NamedTuple):
    """One caption: its T words without <end>, and what the model thought of it."""

    words: list[int]
    log_probability: float  # natural logarithm, of <end>, too, if finished
    finished: bool  # ended with <end>, not at the length limit
    weights: Tensor  # [T, L], or [T + 1, L] if finished: where the model looked
    locations: list[int] | None = None  # as many, the locations that hard attention chose; None: the expectation
    gates: list[float] | None = None  # as many, beta of each word: how much of what was seen went into it
    heads: Tensor | None = None  # [T, M, L] or [T + 1, M, L], of several heads each one's weights


@torch.inference_mode()
def search(decoder: Stepper, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """For each image its captions, the best first: `beam_size` of them, or fewer where no more are possible.

    With `heads`, hypotheses keep the weights of every head, if there are several: many times the memory.
    """
    memory = _attend(memory, config)
    found = sample if config.method == "sample" else greedy if config.beam_size == 1 else beam
    with unrolled(decoder):
        return found(decoder, memory, config, heads)


def greedy(decoder: Stepper, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """The most probable word at every step."""
    return _roll_out(decoder, memory, 1, config, heads, lambda log_probabilities: log_probabilities.argmax(-1))


def sample(decoder: Stepper, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """`beam_size` independent draws an image at `temperature`; the log-probability told is that at temperature 1."""

    def draw(log_probabilities: Tensor) -> Tensor:
        chances = (log_probabilities / config.temperature).softmax(-1)
        return torch.multinomial(chances.flatten(0, 1), 1).view(chances.shape[:2])

    return _roll_out(decoder, memory, config.beam_size, config, heads, draw)


@torch.inference_mode()
def follow(
    decoder: Stepper, memory: Memory, words: list[int], attend: HardAttentionMode, heads: bool = False
) -> list[Hypothesis]:
    """A given caption, without <end>, as every image's hypothesis: how probable it is, where the model looks at it."""
    config = SearchConfig(1, len(words) + 1, 0, suppress_unknown=False, hard_attention=attend)
    steps = iter([*words, END])

    def given(log_probabilities: Tensor) -> Tensor:
        return torch.full(log_probabilities.shape[:2], next(steps), device=log_probabilities.device)

    return [hypotheses[0] for hypotheses in _roll_out(decoder, _attend(memory, config), 1, config, heads, given)]


def _attend(memory: Memory, config: SearchConfig) -> Memory:
    """The memory for hard attention that looks as `config.hard_attention` says."""
    if config.hard_attention == "expectation":
        return memory
    drawn = torch.ones(len(memory.values), config.beam_size, dtype=torch.bool, device=memory.values.device)
    return memory._replace(drawn=drawn, most_probable=config.hard_attention == "argmax")


def _roll_out(
    decoder: Stepper, memory: Memory, rows: int, config: SearchConfig, heads: bool, choose: Callable[[Tensor], Tensor]
) -> list[list[Hypothesis]]:
    """Independent rows, one chosen word after the other: log-probabilities [B, Q, V] -> words [B, Q]."""
    images, device = len(memory.values), memory.values.device
    state = decoder.start(memory, rows)
    history = torch.empty(images, rows, 0, dtype=torch.long, device=device)
    words = torch.full((images, rows), START, device=device)
    totals = torch.zeros(images, rows, device=device)
    finished = torch.zeros(images, rows, dtype=torch.bool, device=device)
    looks = []
    for t in range(config.max_length):
        logits, state, attended = decoder.step(words, state, memory)
        allowed = _forbid(upcast_float32(logits).log_softmax(-1), history, config)
        words = choose(allowed).masked_fill(finished, PAD)
        gained = allowed.gather(-1, words.unsqueeze(-1)).squeeze(-1)
        totals = totals + gained.masked_fill(finished, 0)
        history = torch.cat([history, words.unsqueeze(-1)], -1)
        looks.append(_look(attended, heads))
        finished = finished | (words == END)
        if _all(finished, t):
            break
    return _collect(history, totals, torch.stack(looks, 2), memory.values.shape[-2], config)


def beam(decoder: Stepper, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """Beam search; finished and unfinished hypotheses compete in one pool, and all that are left are ranked."""
    images, beams, device = len(memory.values), config.beam_size, memory.values.device
    state = decoder.start(memory, beams)
    history = torch.empty(images, beams, 0, dtype=torch.long, device=device)
    words = torch.full((images, beams), START, device=device)
    totals = torch.full((images, beams), -torch.inf, device=device)
    totals[:, 0] = 0  # all beams begin alike: only one counts
    finished = torch.zeros(images, beams, dtype=torch.bool, device=device)
    lengths = torch.zeros(images, beams, device=device)
    looks, parents = [], []
    for t in range(config.max_length):
        logits, state, attended = decoder.step(words, state, memory)
        allowed = _forbid(upcast_float32(logits).log_softmax(-1), history, config)  # [B, K, V]
        vocabulary = allowed.shape[-1]
        lengths = lengths + ~finished
        candidates = allowed.add_(totals.masked_fill(finished, -torch.inf).unsqueeze(-1))  # [B, K, V]
        candidates[..., PAD] = totals.masked_fill(~finished, -torch.inf)  # a finished hypothesis stays as it is
        ranks = candidates / (lengths**config.length_penalty).unsqueeze(-1) if config.length_penalty else candidates
        best = ranks.flatten(1).topk(beams).indices  # [B, K]
        parent, words = best // vocabulary, best % vocabulary
        totals = candidates.flatten(1).gather(1, best)
        state, lengths = state.select(parent), lengths.gather(1, parent)
        history = torch.cat([_rows(history, parent), words.unsqueeze(-1)], -1)
        finished = finished.gather(1, parent) | (words == END)
        looks.append(_look(attended, heads))
        parents.append(parent)
        if _all(finished | totals.isinf(), t):
            break
    return _collect(history, totals, _trace(looks, parents), memory.values.shape[-2], config)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """values [B, K, N] of the rows [B, K]."""
    return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _look(attended: AttentionOutput, heads: bool) -> Tensor:
    """Where each row looked at one step: the location chosen (-1 if none), beta (-1 if the decoder has none), the
    weights and, if asked for, those of every head [B, K, 2 + L] or [B, K, 2 + (1 + M) L]."""
    none = torch.full_like(attended.weights[..., 0], -1)
    location = none if attended.draw is None else attended.draw.location.to(none.dtype)
    gate = none if attended.gate is None else attended.gate.to(none.dtype)
    each = [attended.heads.flatten(2)] if heads and attended.heads is not None else []
    return torch.cat([location.unsqueeze(-1), gate.unsqueeze(-1), attended.weights, *each], -1)


def _trace(looks: list[Tensor], parents: list[Tensor]) -> Tensor:
    """Looks [B, K, ...] of each step, followed back from the last rows to their ancestors -> [B, K, T, ...]."""
    row = torch.arange(parents[-1].shape[1], device=parents[-1].device).expand_as(parents[-1])
    traced = []
    for look, parent in zip(reversed(looks), reversed(parents), strict=True):
        row = parent.gather(1, row)
        traced.append(_rows(look, row))
    return torch.stack(traced[::-1], 2)


def _forbid(log_probabilities: Tensor, history: Tensor, config: SearchConfig) -> Tensor:
    """Log-probabilities [B, K, V], changed in place: minus infinity where a word may not follow history [B, K, t]."""
    log_probabilities[..., PAD] = log_probabilities[
        ..., START
    ] = -torch.inf  # one by one: a list would be sent to a GPU
    if config.suppress_unknown:
        log_probabilities[..., UNKNOWN] = -torch.inf
    if history.shape[-1] < config.min_length:
        log_probabilities[..., END] = -torch.inf
    n = config.no_repeat_ngram
    if 0 < n <= history.shape[-1]:
        windows = history.unfold(-1, n, 1)  # [B, K, t - n + 1, n]
        last = history[..., history.shape[-1] - n + 1 :].unsqueeze(-2)  # [B, K, 1, n - 1]
        again = (windows[..., :-1] == last).all(-1)  # its last word would repeat an n-gram
        repeats = (
            torch.zeros_like(log_probabilities).scatter_add_(-1, windows[..., -1], again.to(log_probabilities.dtype))
            > 0
        )
        repeats[..., END] = False
        blocked = log_probabilities.masked_fill(repeats, -torch.inf)
        stuck = blocked.isneginf().all(-1, keepdim=True)  # a caption too short to end, with every word used up
        log_probabilities = torch.where(stuck, log_probabilities, blocked)
    return log_probabilities


def _all(done: Tensor, step: int) -> bool:
    """Whether all rows are done; a GPU is asked only every eighth step, because asking waits for it."""
    return (not done.is_cuda or step % 8 == 7) and bool(done.all())


def _collect(
    history: Tensor, totals: Tensor, looks: Tensor, regions: int, config: SearchConfig
) -> list[list[Hypothesis]]:
    """history [B, K, T], totals [B, K], looks [B, K, T, ...] -> hypotheses of each image, ranked."""
    looks = looks.cpu()
    results = []
    for b, (rows, scores) in enumerate(zip(history.tolist(), totals.tolist(), strict=True)):
        hypotheses: list[tuple[float, Hypothesis]] = []
        for k, (row, total) in enumerate(zip(rows, scores, strict=True)):
            if total == -torch.inf:  # fewer captions exist than there are beams
                continue
            finished = END in row
            steps = row.index(END) + 1 if finished else len(row)
            words = row[: steps - finished]
            look = looks[b, k, :steps]
            locations = look[:, 0].int().tolist() if look[0, 0] >= 0 else None
            gates = look[:, 1].tolist() if look[0, 1] >= 0 else None
            weights = look[:, 2 : 2 + regions].clone()  # not the whole block
            heads = look[:, 2 + regions :].reshape(steps, -1, regions).clone() if look.shape[1] > 2 + regions else None
            hypothesis = Hypothesis(words, total, finished, weights, locations, gates, heads)
            hypotheses.append((total / steps**config.length_penalty, hypothesis))
        hypotheses.sort(key=lambda pair: -pair[0])
        results.append([hypothesis for _, hypothesis in hypotheses])
    return results
