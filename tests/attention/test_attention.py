"""The family of attentions: what each computes, against its equation, and what all of them must keep."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import D, make_attention, make_decoder, saved_and_loaded
from torch import Tensor

from caption.attention import SCORES, WINDOWS, Memory, SoftAttention
from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig, ImageConfig, SearchConfig
from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.errors import UserError
from caption.search import beam, greedy, search

L = 6  # regions, on a grid of 2 x 3
WINDOWED = ["", "local_m", "local_p"]
FAMILY = [
    (score, window, plane, selection)
    for score, window, plane, selection in itertools.product(SCORES, WINDOWED, (True, False), ("soft", "hard"))
    if window or plane
]


def make(score: str, window: str = "", plane: bool = True, selection: str = "soft", seed: int = 0) -> SoftAttention:
    """An attention in double precision, its weights far from uniform."""
    torch.manual_seed(seed)
    attention = make_attention(score, window, plane, selection, hidden=D)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return attention.double().eval()


def inputs(images: int = 3, rows: int = 2) -> tuple[Tensor, Tensor]:
    """Queries [B, Q, H] and regions [B, L, D]."""
    torch.manual_seed(1)
    return torch.randn(images, rows, D, dtype=torch.double), torch.randn(images, L, D, dtype=torch.double)


def drawing(attention: SoftAttention, memory: Memory, rows: int) -> Memory:
    """A memory with which hard attention takes its most probable location."""
    if not attention.stochastic:
        return memory
    return memory._replace(sample_rows=torch.ones(len(memory.keys), rows, dtype=torch.bool), argmax=True)


# What each score computes.


def test_scores_by_their_equations() -> None:
    query, regions = inputs(1, 1)
    h, regions_one = query[0, 0], regions[0]

    def scores(name: str) -> tuple[Tensor, torch.nn.Module]:
        score = make(name).score
        return score(query, score.keys(regions))[0, 0], score

    found, score = scores("additive")
    for a, e in zip(regions_one, found, strict=True):
        wanted = score.vector.weight[0] @ torch.tanh(score.key.weight @ a + score.key.bias + score.query.weight @ h)
        assert e.item() == pytest.approx(wanted.item())
    found, score = scores("concat")
    for a, e in zip(regions_one, found, strict=True):
        wanted = score.vector.weight[0] @ torch.tanh(score.joint.weight @ torch.cat([h, a]) + score.joint.bias)
        assert e.item() == pytest.approx(wanted.item())
    found, _ = scores("dot")
    torch.testing.assert_close(found, regions_one @ h)
    found, score = scores("general")
    for a, e in zip(regions_one, found, strict=True):
        assert e.item() == pytest.approx((h @ score.key.weight @ a).item())


def test_concat_is_additive() -> None:
    """The blocks of one's matrix are the two matrices of the other: one function, one result."""
    query, regions = inputs()
    concat, additive = make("concat").score, make("additive").score
    with torch.no_grad():
        additive.query.weight.copy_(concat.joint.weight[:, :D])
        additive.key.weight.copy_(concat.joint.weight[:, D:])
        additive.key.bias.copy_(concat.joint.bias)
        additive.vector.weight.copy_(concat.vector.weight)
    a, b = (score(query, score.keys(regions)) for score in (concat, additive))
    torch.testing.assert_close(a, b)


def test_scaled_dot_is_pytorch_s() -> None:
    query, regions = inputs()
    attention = make("scaled_dot")
    attended = attention(query, attention.prepare(regions))
    score = attention.score
    theirs = F.scaled_dot_product_attention(score.query(query), score.key(regions), regions)
    torch.testing.assert_close(attended.context, theirs)


def test_dot_needs_equal_widths() -> None:
    with pytest.raises(
        UserError, match=r"decoder.hidden_dim \(8\) as wide as a region \(128\); give --decoder.hidden-dim 128"
    ):
        Captioner(
            ImageConfig(32, "squash"),
            EncoderConfig(name="small_cnn", finetune_from="all"),
            DecoderConfig(embedding_dim=8, hidden_dim=8, attention_dim=8, score="dot"),
            Vocabulary([*SPECIALS, "a"]),
        )


# What each window lets through.


@pytest.mark.parametrize(
    ("plane", "step", "inside"),
    [
        (False, 0, {0, 1}),
        (False, 2, {1, 2, 3}),  # on the line, the end of a row is beside the beginning of the next
        (False, 9, {4, 5}),
        (True, 0, {0, 1, 3, 4}),
        (True, 2, {1, 2, 4, 5}),
        (True, 4, {0, 1, 2, 3, 4, 5}),
        (True, 9, {1, 2, 4, 5}),
    ],
)
def test_local_m_walks_in_reading_order(plane: bool, step: int, inside: set[int]) -> None:
    query, regions = inputs()
    attention = make("additive", "local_m", plane)
    memory = attention.prepare(regions)
    weights = attention(query, memory, step).weights
    assert set(weights[0, 0].nonzero().flatten().tolist()) == inside
    members = sorted(inside)
    alone = make("additive")(query, Memory(memory.keys[:, members], memory.values[:, members], memory.mean))
    torch.testing.assert_close(weights[..., members], alone.weights)  # the softmax is over these alone
    torch.testing.assert_close(attention(query, memory, step).context, alone.context)


@pytest.mark.parametrize("plane", [True, False])
def test_local_p_by_its_equation(plane: bool) -> None:
    """Softmax within D of p_t, times a Gaussian of sigma D / 2 around it."""
    query, regions = inputs(1, 1)
    attention = make("general", "local_p", plane)
    window, scores = attention.window, attention.score(query, attention.score.keys(regions))[0, 0]
    share = torch.sigmoid(window.centre.weight @ torch.tanh(window.hidden.weight @ query[0, 0]))
    middle = (torch.tensor([2.0, 3.0]) if plane else torch.tensor([6.0])) * share
    places = [(n // 3, n % 3) if plane else (n,) for n in range(L)]
    distances = [[s - p for s, p in zip(place, middle.tolist(), strict=True)] for place in places]
    inside = [all(abs(d) <= 1 for d in distance) for distance in distances]
    total = sum(scores[n].exp().item() for n in range(L) if inside[n])
    weights = attention(query, attention.prepare(regions)).weights[0, 0]
    assert any(inside) and not all(inside)
    for n in range(L):
        gauss = torch.tensor(-sum(d * d for d in distances[n]) / (2 * 0.5**2)).exp().item()
        assert weights[n].item() == pytest.approx(scores[n].exp().item() / total * gauss if inside[n] else 0, rel=1e-5)
    hard = make("general", "local_p", plane, "hard")
    torch.testing.assert_close(hard(query, hard.prepare(regions)).weights[0, 0], weights / weights.sum())


# What all of them must keep.


@pytest.mark.parametrize(("score", "window", "plane", "selection"), FAMILY)
def test_weights_are_a_distribution(score: str, window: str, plane: bool, selection: str) -> None:
    """local-p excepted, whose Gaussian takes some away; not of hard attention, which samples."""
    query, regions = inputs()
    attention = make(score, window, plane, selection)
    attended = attention(query, drawing(attention, attention.prepare(regions), 2), step=1)
    sums = attended.weights.sum(-1)
    assert attended.weights.min() >= 0 and attended.context.isfinite().all()
    if window == "local_p" and selection == "soft":
        assert (sums > 0).all() and (sums < 1).all()
    else:
        torch.testing.assert_close(sums, torch.ones_like(sums))
    if selection == "hard":
        chosen = regions.gather(1, attended.sample.location.unsqueeze(-1).expand(-1, -1, D))
        torch.testing.assert_close(attended.context, chosen)


@pytest.mark.parametrize(("score", "window", "plane", "selection"), FAMILY)
def test_a_row_alone_is_the_row_in_a_batch(score: str, window: str, plane: bool, selection: str) -> None:
    query, regions = inputs()
    attention = make(score, window, plane, selection)
    together = attention(query, drawing(attention, attention.prepare(regions), 2), step=2)
    for b, q in itertools.product(range(3), range(2)):
        alone = attention(
            query[b : b + 1, q : q + 1], drawing(attention, attention.prepare(regions[b : b + 1]), 1), step=2
        )
        torch.testing.assert_close(alone.context[0, 0], together.context[b, q])
        torch.testing.assert_close(alone.weights[0, 0], together.weights[b, q])


@pytest.mark.parametrize("selection", ["soft", "hard"])
@pytest.mark.parametrize("score", SCORES)
def test_permuting_regions_permutes_weights(score: str, selection: str) -> None:
    query, regions = inputs()
    attention, order = make(score, selection=selection), torch.tensor([3, 1, 5, 0, 2, 4])
    a = attention(query, drawing(attention, attention.prepare(regions), 2))
    b = attention(query, drawing(attention, attention.prepare(regions[:, order]), 2))
    torch.testing.assert_close(a.weights[..., order], b.weights)
    torch.testing.assert_close(a.context, b.context)


class OneStep(torch.nn.Module):
    """Queries and regions -> context and weights, for a gradient check."""

    def __init__(self, attention: SoftAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        attended = self.attention(query, self.attention.prepare(regions), 1)
        return attended.context, attended.weights


@pytest.mark.parametrize(("score", "window", "plane"), [family[:3] for family in FAMILY if family[3] == "soft"])
def test_gradients_numerically(score: str, window: str, plane: bool) -> None:
    """Of queries, regions and all weights, those that predict a window's place included."""
    query, regions = (each.requires_grad_() for each in inputs(2, 2))
    module = OneStep(make(score, window, plane))
    names = [name for name, _ in module.named_parameters()]

    def run(query: Tensor, regions: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (query, regions))

    assert torch.autograd.gradcheck(run, (query, regions, *module.parameters()))


@pytest.mark.parametrize(
    ("score", "window", "plane", "selection"), [f for f in FAMILY if f[0] in ("additive", "general")]
)
def test_decoders_and_searches_go_on_as_before(score: str, window: str, plane: bool, selection: str) -> None:
    """forward is a loop of step, at the right t; a beam of one is greedy; beams carry t along."""
    decoder = make_decoder(score=score, window=window, plane=plane, attention=selection)
    memory = decoder.attention.prepare(torch.randn(2, L, D, dtype=torch.double))
    captions = torch.randint(4, 11, (2, 3, 5))
    decoded = decoder(memory, captions, torch.full((2, 3), 5))
    state, words, logits, weights = decoder.start(memory, 3), torch.ones(2, 3, dtype=torch.long), [], []
    for t in range(5):
        step, state, attended = decoder.step(words, state, memory)
        logits.append(step)
        weights.append(attended.weights)
        words = captions[..., t]
    torch.testing.assert_close(decoded.logits.view(2, 3, 5, -1), torch.stack(logits, 2))
    torch.testing.assert_close(decoded.weights, torch.stack(weights, 2))
    config = SearchConfig(beam_size=1, max_length=7)
    for one, other in zip(beam(decoder, memory, config), greedy(decoder, memory, config), strict=True):
        assert one[0].words == other[0].words
        torch.testing.assert_close(one[0].weights, other[0].weights)
    assert all(len(found) == 3 for found in search(decoder, memory, SearchConfig(beam_size=3, max_length=7)))


@pytest.mark.parametrize("window", WINDOWS)
def test_a_captioner_of_each_kind_is_saved_and_loaded(window: str) -> None:
    """Places are not weights; the windows' own are."""
    config = DecoderConfig(
        embedding_dim=8, hidden_dim=8, attention_dim=8, score="scaled_dot", window=window, window_dims="1d"
    )
    _, found = saved_and_loaded(config)
    assert found[0][0].weights.shape[1] == 16
