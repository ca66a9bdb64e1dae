"""Captions from a decoder: greedy, sampling and beam search, for all images of a batch at once.

A search knows of a decoder only `start` and `step`. It decides which rows survive; the state alone knows what that
moves. Log-probabilities are the model's own: masking a word does not renormalise the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from caption import ops
from caption.attention import AttentionOutput, Memory
from caption.config import HardAttentionMode, SearchConfig
from caption.data.vocabulary import END, PAD, START, UNKNOWN
from caption.device import to_cpu, upcast_float32

Trace = dict[str, Tensor]  # of every step, by the name of a field of Hypothesis


class StepDecoder(Protocol):
    """The part of a decoder that a search calls; of its state it uses only `select(rows)`."""

    def start(self, memory: Memory, rows: int) -> Any: ...

    def step(self, words: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, AttentionOutput]: ...


class Hypothesis(NamedTuple):
    """A caption of T words without <end>, its log-probability, and where the model attended.

    The tensors have T rows, or T + 1 if the caption is finished: the last is that of <end>.
    """

    words: list[int]
    log_probability: float  # natural logarithm, with that of <end> if finished
    finished: bool  # ended with <end>, not at the length limit
    weights: Tensor  # [T, L]
    locations: Tensor | None = None  # int64 [T], sampled by hard attention; None: the expectation
    gates: Tensor | None = None  # [T], of each word, by which the context was multiplied: how much the image counts
    heads: Tensor | None = None  # [T, M, L], the weights of each of several heads
    word_log_probabilities: Tensor | None = None  # [T], of each word after those before it


@torch.inference_mode()
def search(decoder: StepDecoder, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """Return for each image its captions, the best first: `beam_size` of them, or fewer where no more are possible.

    With `heads`, hypotheses keep the weights of every head, if there are several: many times the memory.
    """
    memory = with_hard_attention(memory, config.hard_attention, config.beam_size)
    method = sample if config.method == "sample" else greedy if config.beam_size == 1 else beam
    with ops.reuse_weights(decoder):
        return method(decoder, memory, config, heads)


def greedy(decoder: StepDecoder, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """Return for each image the caption of the most probable word at every step; `beam_size` must be 1."""
    return _roll_out(decoder, memory, config, heads, lambda log_probabilities: log_probabilities.argmax(-1))


def sample(decoder: StepDecoder, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """Return for each image `beam_size` samples at `temperature`; their log-probabilities are at temperature 1."""

    def sample_words(log_probabilities: Tensor) -> Tensor:
        return ops.sample_categorical(keep_nucleus(log_probabilities / config.temperature, config.top_p))

    return _roll_out(decoder, memory, config, heads, sample_words)


def keep_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return logits [..., V] with minus infinity for all but the fewest words that together have the probability
    `top_p` (Holtzman et al., 2020)."""
    if top_p == 1:
        return logits
    ranked, words = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    outside = ranked.cumsum(-1) - ranked >= top_p  # the words before already have it; the first is always inside
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, words, outside), -torch.inf)


@torch.inference_mode()
def force_decode(
    decoder: StepDecoder, memory: Memory, words: list[int], hard_attention: HardAttentionMode, heads: bool = False
) -> list[Hypothesis]:
    """Return a given caption, without <end>, as every image's hypothesis: its log-probability and its attention."""
    config = SearchConfig(1, len(words) + 1, 0, suppress_unknown=False, hard_attention=hard_attention)
    steps = iter([*words, END])

    def next_word(log_probabilities: Tensor) -> Tensor:
        return torch.full(log_probabilities.shape[:2], next(steps), device=log_probabilities.device)

    memory = with_hard_attention(memory, hard_attention, 1)
    return [hypotheses[0] for hypotheses in _roll_out(decoder, memory, config, heads, next_word)]


def with_hard_attention(memory: Memory, mode: HardAttentionMode, rows: int) -> Memory:
    """Return the memory with which `rows` rows of each image choose locations as SearchConfig.hard_attention says."""
    if mode == "expectation":
        return memory
    sample_rows = torch.ones(len(memory.values), rows, dtype=torch.bool, device=memory.values.device)
    return memory._replace(sample_rows=sample_rows, argmax=mode == "argmax")


def _start(memory: Memory, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for `rows` rows of each image, <start> [B, Q], no history yet [B, Q, 0], and none finished [B, Q]."""
    words = torch.full((len(memory.values), rows), START, device=memory.values.device)
    return words, words.new_empty(*words.shape, 0), torch.zeros_like(words, dtype=torch.bool)


def _roll_out(
    decoder: StepDecoder, memory: Memory, config: SearchConfig, heads: bool, choose: Callable[[Tensor], Tensor]
) -> list[list[Hypothesis]]:
    """Return `beam_size` independent rows, one chosen word after the other: `choose` maps log-probabilities [B, Q, V]
    to words [B, Q]."""
    words, history, finished = _start(memory, config.beam_size)
    state = decoder.start(memory, config.beam_size)
    totals = torch.zeros(words.shape, device=words.device)
    traces = []
    for t in range(config.max_length):
        logits, state, attended = decoder.step(words, state, memory)
        log_probabilities = mask_log_probabilities(upcast_float32(logits).log_softmax(-1), history, config)
        words = choose(log_probabilities).masked_fill(finished, PAD)
        gains = log_probabilities.gather(-1, words.unsqueeze(-1)).squeeze(-1)
        totals = totals + gains.masked_fill(finished, 0)
        history = torch.cat([history, words.unsqueeze(-1)], -1)
        traces.append({**_trace(attended, heads), "word_log_probabilities": gains})
        finished = finished | (words == END)
        if _all(finished, t):
            break
    trace = {name: torch.stack([step[name] for step in traces], 2) for name in traces[0]}
    return _collect(history, totals, trace, config)


def beam(decoder: StepDecoder, memory: Memory, config: SearchConfig, heads: bool = False) -> list[list[Hypothesis]]:
    """Return the hypotheses of beam search: finished and unfinished ones compete, and all that remain are ranked."""
    words, history, finished = _start(memory, config.beam_size)
    state = decoder.start(memory, config.beam_size)
    totals = torch.full(words.shape, -torch.inf, device=words.device)
    totals[:, 0] = 0  # all beams begin alike: only one counts
    lengths = torch.zeros_like(totals)
    traces, parents, gains = [], [], []
    for t in range(config.max_length):
        logits, state, attended = decoder.step(words, state, memory)
        log_probabilities = mask_log_probabilities(upcast_float32(logits).log_softmax(-1), history, config)
        lengths = lengths + ~finished
        before = totals
        parent, words, totals = best_continuations(log_probabilities, totals, lengths, finished, config.length_penalty)
        state, lengths = state.select(parent), lengths.gather(1, parent)
        history = torch.cat([_select_rows(history, parent), words.unsqueeze(-1)], -1)
        finished = finished.gather(1, parent) | (words == END)
        traces.append(_trace(attended, heads))
        parents.append(parent)
        gains.append(totals - before.gather(1, parent))
        if _all(finished | totals.isinf(), t):
            break
    return _collect(history, totals, _follow_back(traces, parents, gains), config)


def best_continuations(
    log_probabilities: Tensor, totals: Tensor, lengths: Tensor, finished: Tensor, length_penalty: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the K best continuations of all K hypotheses of an image: the hypothesis that each continues, its word,
    and its log-probability, each [B, K].

    A hypothesis with the log-probability `totals` [B, K] continues with each word of `log_probabilities` [B, K, V]; one
    that is `finished`, bool [B, K], stays as it is, with PAD for a word. The best have the largest log-probability /
    length^`length_penalty`, where `lengths` [B, K] count the word that is added. `log_probabilities` is changed in
    place.
    """
    candidates = log_probabilities.add_(totals.masked_fill(finished, -torch.inf).unsqueeze(-1))  # [B, K, V]
    candidates[..., PAD] = totals.masked_fill(~finished, -torch.inf)  # a finished hypothesis stays as it is
    ranks = candidates / (lengths**length_penalty).unsqueeze(-1) if length_penalty else candidates
    best = ranks.flatten(1).topk(totals.shape[1]).indices  # [B, K]
    parent = best // candidates.shape[-1]
    return parent, best % candidates.shape[-1], candidates.flatten(1).gather(1, best)


def _select_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows [B, K] of values [B, K, ...]."""
    index = rows.view(*rows.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def _trace(attended: AttentionOutput, heads: bool) -> Trace:
    """Return what attention did in one step, each tensor [B, K, ...]."""
    trace = {"weights": attended.weights, "gates": attended.gate, "heads": attended.heads if heads else None}
    trace["locations"] = attended.sample.location if attended.sample else None
    return {name: value for name, value in trace.items() if value is not None}


def _follow_back(traces: list[Trace], parents: list[Tensor], gains: list[Tensor]) -> Trace:
    """Return the traces [B, K, ...] of all steps along the ancestors of the last rows, each tensor [B, K, T, ...].

    Of each step, a trace is of the rows before a word was chosen, and gains [B, K] are of those after it.
    """
    row = torch.arange(parents[-1].shape[1], device=parents[-1].device).expand_as(parents[-1])
    steps: dict[str, list[Tensor]] = {name: [] for name in (*traces[0], "word_log_probabilities")}
    for trace, parent, gain in zip(reversed(traces), reversed(parents), reversed(gains), strict=True):
        steps["word_log_probabilities"].append(gain.gather(1, row))
        row = parent.gather(1, row)
        for name, value in trace.items():
            steps[name].append(_select_rows(value, row))
    return {name: torch.stack(values[::-1], 2) for name, values in steps.items()}


def mask_log_probabilities(log_probabilities: Tensor, history: Tensor, config: SearchConfig) -> Tensor:
    """Return log-probabilities [B, K, V] with minus infinity where a word may not follow history [B, K, t].

    The argument is changed in place.
    """
    for word in (PAD, START):  # one by one: a list would be copied to a GPU
        log_probabilities[..., word] = -torch.inf
    if config.suppress_unknown:
        log_probabilities[..., UNKNOWN] = -torch.inf
    if history.shape[-1] < config.min_length:
        log_probabilities[..., END] = -torch.inf
    n = config.no_repeat_ngram
    if 0 < n <= history.shape[-1]:
        ngrams = history.unfold(-1, n, 1)  # [B, K, t - n + 1, n]
        last = history[..., history.shape[-1] - n + 1 :].unsqueeze(-2)  # [B, K, 1, n - 1]
        follows = (ngrams[..., :-1] == last).all(-1).to(log_probabilities.dtype)  # its last word would repeat an n-gram
        repeats = torch.zeros_like(log_probabilities).scatter_add_(-1, ngrams[..., -1], follows) > 0
        repeats[..., END] = False
        blocked = log_probabilities.masked_fill(repeats, -torch.inf)
        stuck = blocked.isneginf().all(-1, keepdim=True)  # a caption too short to end, with every word used up
        log_probabilities = torch.where(stuck, log_probabilities, blocked)
    return log_probabilities


def _all(flags: Tensor, step: int) -> bool:
    """Return whether all flags are set; a GPU is asked only at every eighth step, because asking waits for it."""
    return (not flags.is_cuda or step % 8 == 7) and bool(flags.all())


def _collect(history: Tensor, totals: Tensor, trace: Trace, config: SearchConfig) -> list[list[Hypothesis]]:
    """Return the ranked hypotheses of each image from history [B, K, T], totals [B, K] and traces [B, K, T, ...]."""
    history, totals, *traced = to_cpu(history, totals, *trace.values())
    trace = dict(zip(trace, traced, strict=True))
    results = []
    for b, (rows, scores) in enumerate(zip(history.tolist(), totals.tolist(), strict=True)):
        ranked = []
        for k, (row, total) in enumerate(zip(rows, scores, strict=True)):
            if total == -torch.inf:  # fewer captions exist than there are beams
                continue
            finished = END in row
            steps = row.index(END) + 1 if finished else len(row)
            fields = {name: value[b, k, :steps].clone() for name, value in trace.items()}  # not the whole block
            ranked.append(Hypothesis(row[: steps - finished], total, finished, **fields))
        ranked.sort(key=lambda h: -h.log_probability / (len(h.words) + h.finished) ** config.length_penalty)
        results.append(ranked)
    return results
