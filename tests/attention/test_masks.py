"""Memory with padding, as a batch of sentences has it: each image's regions are attended to as if they were alone."""

import itertools

import pytest
import torch
from conftest import KINDS, D, attention_config, far_from_uniform, make_kind
from torch import Tensor

from caption import ops
from caption.attention import SCORES, Attention, GumbelSoftmax, Memory, build_attention
from caption.config import DecoderConfig, SearchConfig
from caption.data.vocabulary import END, PAD
from caption.errors import UserError
from caption.search import search

LENGTHS = [6, 4, 1]
MASK = torch.arange(6) < torch.tensor(LENGTHS)[:, None]  # [B, L]
CAPTIONS = torch.tensor([[[4, 5, 6, END], [8, END, PAD, PAD]], [[5, 9, END, PAD]] * 2, [[7, END, PAD, PAD]] * 2])
WORDS = (CAPTIONS != PAD).sum(-1)  # [B, Q]
# Hard attention takes its most probable location; several heads are neither soft nor hard, and have no window.
FAMILY = [*itertools.product(SCORES, ("", "local_m", "local_p"), ("soft", "hard")), ("multi_head", "", "soft")]
PLACED = [kind for kind in KINDS if kind.endswith(("draw", "retina"))]  # these read a whole grid


def make(score: str, window: str, selection: str, length: int) -> Attention:
    """An attention over a line of so many regions, always with the same weights."""
    torch.manual_seed(0)
    config = attention_config(score, window, plane=False, attention=selection, hidden=D)
    if score == "multi_head":
        config = DecoderConfig(hidden_dim=D, attention_dim=8, score=score, heads=2)
    return far_from_uniform(build_attention(config, D, (1, length)))


def padded_inputs() -> tuple[Tensor, Tensor]:
    """Queries [B, Q, H] and regions [B, L, D], padded with what is not a number."""
    torch.manual_seed(1)
    query, regions = torch.randn(3, 2, D, dtype=torch.double), torch.randn(3, 6, D, dtype=torch.double)
    return query.requires_grad_(), regions.masked_fill(~MASK.unsqueeze(-1), torch.nan).requires_grad_()


def argmax(memory: Memory, attention: Attention) -> Memory:
    rows = torch.ones(len(memory.values), 2, dtype=torch.bool) if attention.stochastic else None
    return memory._replace(sample_rows=rows, argmax=True)


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(("score", "window", "selection"), FAMILY)
def test_padding_changes_neither_context_weights_nor_gradients(
    score: str, window: str, selection: str, step: int
) -> None:
    """Each image alone, unpadded and without a mask, gives the same, and padding gets exactly nothing."""
    query, regions = padded_inputs()
    attention = make(score, window, selection, 6)
    memory = attention.prepare(regions, MASK)
    together = attention(query, argmax(memory, attention), step)
    loss = (together.context.sin().sum((1, 2)) + together.weights.square().sum((1, 2))).sum() + memory.mean.sum()
    loss.backward()
    summed = {name: torch.zeros_like(weight) for name, weight in attention.named_parameters()}
    for b, n in enumerate(LENGTHS):
        alone = make(score, window, selection, n)
        own_query, own_regions = (each.detach().requires_grad_() for each in (query[b : b + 1], regions[b : b + 1, :n]))
        own = alone.prepare(own_regions)
        attended = alone(own_query, argmax(own, alone), step)
        (attended.context.sin().sum() + attended.weights.square().sum() + own.mean.sum()).backward()
        torch.testing.assert_close(together.context[b], attended.context[0])
        torch.testing.assert_close(together.weights[b, :, :n], attended.weights[0])
        torch.testing.assert_close(query.grad[b], own_query.grad[0])
        torch.testing.assert_close(regions.grad[b, :n], own_regions.grad[0])
        torch.testing.assert_close(memory.mean[b], own.mean[0])
        for name, weight in alone.named_parameters():
            summed[name] += 0 if weight.grad is None else weight.grad
    assert not together.weights.transpose(1, 2)[~MASK].any() and not regions.grad[~MASK].any()
    for name, weight in attention.named_parameters():
        torch.testing.assert_close(torch.zeros_like(weight) if weight.grad is None else weight.grad, summed[name])


@pytest.mark.parametrize("gumbel_softmax", [None, GumbelSoftmax(0.7, False)])
def test_hard_attention_never_samples_padding(gumbel_softmax: GumbelSoftmax | None) -> None:
    _, regions = padded_inputs()
    attention = make("dot", "", "hard", 6)
    memory = attention.prepare(regions, MASK)
    rows = torch.ones(3, 500, dtype=torch.bool)
    memory = memory._replace(sample_rows=rows, gumbel_softmax=gumbel_softmax)
    attended = attention(torch.zeros(3, 500, D, dtype=torch.double), memory)  # a query that finds all regions alike
    for b, n in enumerate(LENGTHS):
        assert set(attended.sample.location[b].tolist()) == set(range(n))
    entropies = torch.tensor(LENGTHS).double().log()
    torch.testing.assert_close(attended.sample.entropy, entropies[:, None].expand(-1, 500))
    assert attended.context.isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*PLACED, "transformer grid")])
def test_decoders_and_searches_do_not_see_padding(kind: str) -> None:
    """Teacher forcing, with and without weights, and beam search; the first state comes from the regions' mean."""
    decoder, (_, regions) = make_kind(kind), padded_inputs()
    memory = decoder.prepare(regions, MASK)
    decoded = decoder(memory, CAPTIONS, WORDS)
    torch.testing.assert_close(decoder(memory, CAPTIONS, WORDS, need_weights=False).logits, decoded.logits)
    found = search(decoder, memory, SearchConfig(beam_size=3, max_length=5))
    decoded.logits.square().sum().backward()  # padding reaches no weight's gradient, where it is projected first, too
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in decoder.parameters())
    logits = decoded.logits.split(WORDS.sum(1).tolist())
    for b, n in enumerate(LENGTHS):
        alone = decoder.prepare(regions[b : b + 1, :n])
        own = decoder(alone, CAPTIONS[b : b + 1], WORDS[b : b + 1])
        torch.testing.assert_close(logits[b], own.logits)
        torch.testing.assert_close(decoded.weights[b, ..., :n], own.weights[0])
        for ours, theirs in zip(found[b], search(decoder, alone, SearchConfig(3, 5))[0], strict=True):
            assert ours.words == theirs.words and ours.log_probability == pytest.approx(theirs.log_probability)


@pytest.mark.parametrize("kind", ["soft", "current multi-head", "transformer"])
def test_forced_weights_on_padding_are_shared_out_among_the_regions(kind: str) -> None:
    decoder, (_, regions) = make_kind(kind), padded_inputs()
    memory = decoder.prepare(regions, MASK)
    heads = max(1, len(decoder.head_names))
    even = torch.full((3, 1, 1, heads, 6), 1 / 6).double()
    wanted = (MASK / MASK.sum(1, keepdim=True)).double().view(3, 1, 1, 1, 6).expand_as(even)
    ours, theirs = (decoder(memory._replace(forced=each), CAPTIONS, WORDS) for each in (even, wanted))
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.weights[CAPTIONS != PAD].sum(-1), torch.ones_like(theirs.logits[:, 0]))
    torch.testing.assert_close(ours.weights, theirs.weights)


@pytest.mark.parametrize("score", SCORES)
def test_the_backends_agree_on_masked_memory(score: str) -> None:
    torch.manual_seed(0)
    attention = build_attention(DecoderConfig(hidden_dim=32, attention_dim=32, score=score), 32, (1, 40))
    query, regions, lengths = torch.randn(4, 16, 32), torch.randn(4, 40, 32), torch.tensor([40, 23, 7, 1])
    mask = torch.arange(40) < lengths[:, None]
    results = []
    for backend in ("auto", "reference"):
        with ops.use(backend), torch.no_grad():
            results.append(attention(query, attention.prepare(regions, mask))[:2])
    torch.testing.assert_close(*results)


def test_masks_that_mean_nothing_are_refused() -> None:
    _, regions = padded_inputs()
    attention = make("dot", "", "soft", 6)
    with pytest.raises(UserError, match=r"image 1 of the batch is masked everywhere.*leave it out"):
        attention.prepare(regions, MASK & torch.tensor([[True], [False], [True]]))
    for mask in (MASK.long(), MASK[:, :5]):
        with pytest.raises(UserError, match=r"must be torch.bool \[3, 6\]: True for every region"):
            attention.prepare(regions, mask)
    for mask in (MASK.flip(1), MASK.flip(1) | MASK):  # before a region, or between two
        with pytest.raises(UserError, match="padding after all regions"):
            make("general", "local_p", "soft", 6).prepare(regions, mask)
    with pytest.raises(UserError, match="6 regions with padding, but the window's grid has 4"):
        make("general", "local_m", "soft", 4).prepare(regions, MASK)
    for kind in PLACED:
        with pytest.raises(UserError, match="read a whole grid"):
            make_kind(kind).prepare(regions, MASK)
    window = build_attention(attention_config("general", "local_m", plane=True, hidden=D), D, (2, 3)).double()
    with pytest.raises(UserError, match="window_dims is 2d.*give 1d"):
        window(torch.zeros(3, 1, D, dtype=torch.double), window.prepare(regions, MASK))
