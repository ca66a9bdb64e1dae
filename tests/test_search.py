"""Search against brute force, against greedy, against re-scoring, and under every option."""

import itertools
import math

import pytest
import torch
from conftest import make_decoder, make_memory

from caption.attention import Memory
from caption.config import SearchConfig
from caption.data.vocabulary import END, PAD, START, UNKNOWN
from caption.decoders import ShowAttendTellDecoder
from caption.search import Hypothesis, beam, greedy, keep_nucleus, search


def score(decoder: ShowAttendTellDecoder, memory: Memory, words: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [T] of the words and weights [T, L] of a caption for a single image, by teacher forcing."""
    decoded = decoder(memory, torch.tensor([[words]]), torch.tensor([[len(words)]]))
    logps = decoded.logits.log_softmax(-1).gather(-1, decoded.targets[:, None])
    return logps.squeeze(-1), decoded.weights[0, 0]


def gates(decoder: ShowAttendTellDecoder, memory: Memory, words: list[int]) -> list[float]:
    """beta of every step of a caption, from the equation of section 4.2.1."""
    state, found = decoder.start(memory, 1), []
    for word in [START, *words[:-1]]:
        found.append(torch.sigmoid(decoder.gate(state.hidden)).item())
        _, state, _ = decoder.step(torch.tensor([[word]]), state, memory)
    return found


def one(memory: Memory, image: int) -> Memory:
    return Memory(*(part[image : image + 1] for part in (memory.keys, memory.values, memory.mean)))


def same(a: list[list[Hypothesis]], b: list[list[Hypothesis]]) -> None:
    for first, second in zip(itertools.chain(*a), itertools.chain(*b), strict=True):
        assert first.words == second.words and first.finished == second.finished
        assert first.log_probability == pytest.approx(second.log_probability)
        torch.testing.assert_close(first.weights, second.weights)


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_one_is_greedy(seed: int) -> None:
    decoder = make_decoder(seed=seed)
    memory = make_memory(decoder, 4, seed + 10)
    config = SearchConfig(beam_size=1, max_length=12, no_repeat_ngram=2)
    same(beam(decoder, memory, config), greedy(decoder, memory, config))


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("minimum", [0, 2])
def test_full_width_beam_is_brute_force(penalty: float, minimum: int) -> None:
    """Four words to choose from and three steps: every possible caption, in the right order."""
    vocabulary, steps = 7, 3
    decoder = make_decoder(vocabulary)
    memory = make_memory(decoder, 1)
    words = [number for number in range(vocabulary) if number not in (PAD, START, UNKNOWN, END)]
    captions = [[*body, END] for n in range(minimum, steps) for body in itertools.product(words, repeat=n)]
    captions += [list(body) for body in itertools.product(words, repeat=steps)]
    expected = sorted(
        ((score(decoder, memory, c)[0].sum().item() / len(c) ** penalty, c) for c in captions), reverse=True
    )

    config = SearchConfig(beam_size=len(captions), max_length=steps, min_length=minimum, length_penalty=penalty)
    found = search(decoder, memory, config)[0]
    assert len(found) == len(captions)
    for hypothesis, (rank, caption) in zip(found, expected, strict=True):
        assert [*hypothesis.words, *([END] if hypothesis.finished else [])] == caption
        assert hypothesis.log_probability / len(caption) ** penalty == pytest.approx(rank)


@torch.no_grad()
def slow_beam(decoder: ShowAttendTellDecoder, memory: Memory, config: SearchConfig) -> list[tuple[float, list[int]]]:
    """The best captions of a single image and their log-probabilities: a list that grows, is sorted and is cut."""
    allowed = [number for number in range(decoder.embedding.num_embeddings) if number not in (PAD, START, UNKNOWN)]

    def rank(candidate: tuple[float, list[int]]) -> float:
        return candidate[0] / len(candidate[1]) ** config.length_penalty

    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for t in range(config.max_length):
        candidates = [beam for beam in beams if END in beam[1]]
        for total, words in beams:
            if END not in words:  # of the word that is added, whichever it is, after these
                decoded = decoder(memory, torch.tensor([[[*words, END]]]), torch.tensor([[t + 1]]))
                added = decoded.logits[-1].log_softmax(-1).tolist()
                candidates += [(total + added[word], [*words, word]) for word in allowed]
        beams = sorted(candidates, key=rank, reverse=True)[: config.beam_size]
    return beams


@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_a_narrow_beam_is_a_list_that_is_sorted_and_cut(penalty: float) -> None:
    """Finished captions compete with unfinished ones at every step, by the rank with which they are returned."""
    ended = 0
    for seed in range(2):
        decoder = make_decoder(seed=seed)
        with torch.no_grad():
            decoder.output.bias[END] += 4
        memory = make_memory(decoder, 2, seed + 20)
        config = SearchConfig(beam_size=3, max_length=5, min_length=0, length_penalty=penalty)
        for image, found in enumerate(search(decoder, memory, config)):
            expected = slow_beam(decoder, one(memory, image), config)
            assert [[*h.words, *([END] if h.finished else [])] for h in found] == [words for _, words in expected]
            assert [h.log_probability for h in found] == pytest.approx([total for total, _ in expected], abs=1e-5)
            ended += sum(h.finished and len(h.words) < 4 for h in found)
    assert ended > 2  # or nothing would have competed


def test_wider_than_all_captions_returns_them_all_and_no_more(decoder: ShowAttendTellDecoder) -> None:
    found = search(decoder, make_memory(decoder, 2), SearchConfig(beam_size=50, max_length=1, min_length=0))
    assert [len(hypotheses) for hypotheses in found] == [8, 8]  # seven words and the empty caption


@pytest.mark.parametrize(
    "config",
    [
        SearchConfig(beam_size=1, max_length=9),
        SearchConfig(beam_size=4, max_length=9, length_penalty=0.7, no_repeat_ngram=2),
        SearchConfig(beam_size=3, max_length=9, method="sample", temperature=1.5),
    ],
)
def test_what_is_reported_equals_rescoring(decoder: ShowAttendTellDecoder, config: SearchConfig) -> None:
    with torch.no_grad():
        decoder.output.bias[END] += 4
    memory = make_memory(decoder)
    finished = 0
    for image, hypotheses in enumerate(search(decoder, memory, config)):
        for hypothesis in hypotheses:
            words = [*hypothesis.words, *([END] if hypothesis.finished else [])]
            log_probabilities, weights = score(decoder, one(memory, image), words)
            assert hypothesis.log_probability == pytest.approx(log_probabilities.sum().item(), abs=1e-5)
            assert hypothesis.word_log_probabilities == pytest.approx(log_probabilities.tolist(), abs=1e-5)
            torch.testing.assert_close(hypothesis.weights, weights, atol=1e-5, rtol=0, check_dtype=False)
            assert hypothesis.gates == pytest.approx(gates(decoder, one(memory, image), words), abs=1e-5)
            finished += hypothesis.finished
    assert finished  # or the test would not have seen an <end>


@pytest.mark.parametrize("size", [1, 3])
def test_batch_of_three_is_three_of_one(decoder: ShowAttendTellDecoder, size: int) -> None:
    memory, config = make_memory(decoder), SearchConfig(beam_size=size, max_length=10)
    same(search(decoder, memory, config), [search(decoder, one(memory, image), config)[0] for image in range(3)])


def test_unfinished_captions_count(decoder: ShowAttendTellDecoder) -> None:
    """A model that never ends still gives captions: at the limit they are returned as they stand."""
    with torch.no_grad():
        decoder.output.bias[END] = -1e4
    for size in (1, 3):
        for hypotheses in search(decoder, make_memory(decoder), SearchConfig(beam_size=size, max_length=6)):
            assert len(hypotheses) == size
            assert all(not h.finished and len(h.words) == len(h.weights) == 6 for h in hypotheses)


def test_minimum_length_and_unknown(decoder: ShowAttendTellDecoder) -> None:
    with torch.no_grad():
        decoder.output.bias[END] = 50
        decoder.output.bias[UNKNOWN] = 40
    memory = make_memory(decoder)
    best = search(decoder, memory, SearchConfig(min_length=4))[0][0]
    assert len(best.words) == 4 and best.finished and UNKNOWN not in best.words
    assert search(decoder, memory, SearchConfig(min_length=4, suppress_unknown=False))[0][0].words == [UNKNOWN] * 4
    assert search(decoder, memory, SearchConfig(min_length=0))[0][0].words == []


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_twice(decoder: ShowAttendTellDecoder, n: int) -> None:
    with torch.no_grad():
        decoder.output.bias[END] = -1e4
        decoder.output.bias[5] = 9  # would be said over and over
    memory = make_memory(decoder)
    free = search(decoder, memory, SearchConfig(beam_size=1, max_length=7))[0][0].words
    assert free == [5] * 7
    for size in (1, 3):
        for hypotheses in search(decoder, memory, SearchConfig(beam_size=size, max_length=7, no_repeat_ngram=n)):
            for words in (h.words for h in hypotheses):
                ngrams = list(zip(*(words[i:] for i in range(n)), strict=False))
                assert len(set(ngrams)) == len(ngrams)


def test_words_run_out_before_the_minimum_length(decoder: ShowAttendTellDecoder) -> None:
    """Seven words, none twice, ten wanted: still a caption, not an empty hand."""
    config = SearchConfig(beam_size=2, max_length=10, min_length=10, no_repeat_ngram=1)
    assert all(len(hypotheses[0].words) == 10 for hypotheses in search(decoder, make_memory(decoder), config))


def test_samples_follow_the_model() -> None:
    """The share of first words among many samples is the model's probability, at the temperature asked for."""
    decoder = make_decoder(7)
    memory = make_memory(decoder, 1)
    logits = decoder.step(torch.full((1, 1), START), decoder.start(memory, 1), memory)[0][0, 0]
    logits[[PAD, START, UNKNOWN]] = -math.inf
    for temperature in (0.5, 1.0):
        config = SearchConfig(beam_size=4000, max_length=1, min_length=0, method="sample", temperature=temperature)
        torch.manual_seed(0)
        sampled = search(decoder, memory, config)[0]
        counts = torch.zeros(7)
        for hypothesis in sampled:
            counts[hypothesis.words[0] if hypothesis.words else END] += 1
        expected = (logits / temperature).softmax(-1).float()
        torch.testing.assert_close(counts / 4000, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.7, 0.95, 1.0])
def test_a_nucleus_is_the_smallest_set_of_words_with_that_probability(top_p: float) -> None:
    """Against every subset of six words; inside it, the probabilities keep their ratios."""
    torch.manual_seed(3)
    logits = 2 * torch.randn(5, 6, dtype=torch.float64)
    kept = keep_nucleus(logits, top_p)
    for row, probabilities in zip(kept, logits.softmax(-1), strict=True):
        inside = ~row.isinf()
        smallest = min(
            (size, -probabilities[list(words)].sum().item(), words)
            for size in range(1, 7)
            for words in itertools.combinations(range(6), size)
            if probabilities[list(words)].sum() >= top_p - 1e-12
        )[2]
        assert inside.nonzero().flatten().tolist() == sorted(smallest)
    assert torch.equal(kept[~kept.isinf()], logits[~kept.isinf()])


def test_words_outside_the_nucleus_are_never_sampled() -> None:
    decoder = make_decoder(7)
    memory = make_memory(decoder, 1)
    logits = decoder.step(torch.full((1, 1), START), decoder.start(memory, 1), memory)[0][0, 0].detach()
    logits[[PAD, START, UNKNOWN]] = -math.inf
    config = SearchConfig(beam_size=500, max_length=1, min_length=0, method="sample", top_p=0.6)
    torch.manual_seed(0)
    found = {h.words[0] if h.words else END for h in search(decoder, memory, config)[0]}
    assert found == set((~keep_nucleus(logits, 0.6).isinf()).nonzero().flatten().tolist())
