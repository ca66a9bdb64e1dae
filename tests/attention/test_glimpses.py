"""Glimpses, held against their equations in plain numbers; the retina's samples against their Gaussian."""

import dataclasses
import functools
import itertools
import math
from typing import Any

import pytest
import torch
from conftest import KINDS, D, far_from_uniform, make_kind
from torch import Tensor

from caption.attention import GLIMPSES, SELECTIONS, DrawGlimpse, Retina
from caption.attention import glimpses as module
from caption.attention.filterbank import BOUND
from caption.attention.glimpses import SIGMA
from caption.config import STOCHASTIC, Config, DecoderConfig, ReinforceConfig, SearchConfig, TrainingConfig
from caption.data.vocabulary import END
from caption.errors import UserError
from caption.search import search
from caption.training import losses, reinforce
from caption.training.losses import LossInputs

GRID = (4, 5)
H, L = 7, 20
SAMPLED = torch.ones(1, 1, dtype=torch.bool)
every_glimpse = pytest.mark.parametrize("name", GLIMPSES)


def make(name: str, size: int = 3, grid: tuple[int, int] = GRID, seed: int = 0) -> Any:
    """A glimpse of queries [B, Q, 7] in double precision, its weights far from uniform."""
    torch.manual_seed(seed)
    return far_from_uniform(GLIMPSES[name](H, D, 8, grid, size))


def inputs(images: int = 3, rows: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Queries [B, Q, H] and regions [B, L, D]."""
    torch.manual_seed(seed)
    return torch.randn(images, rows, H, dtype=torch.double) / 2, torch.randn(images, L, D, dtype=torch.double)


def grid_with(numbers: list[float], size: int = 3, seed: int = 0, grid: tuple[int, int] = GRID) -> DrawGlimpse:
    """A Gaussian grid whose five numbers are these, whatever the query."""
    made: DrawGlimpse = make("draw", size, grid, seed)
    with torch.no_grad():
        made.numbers.weight.zero_()
        made.numbers.bias.copy_(torch.tensor(numbers))
    return made


def retina_at(place: tuple[float, float], size: int = 3) -> Retina:
    """A retina whose centre is this, whatever the query."""
    made: Retina = make("retina", size)
    with torch.no_grad():
        made.centre.weight.zero_()
        made.centre.bias.copy_(torch.tensor(place).atanh())
    return made


# The Gaussian grid.


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_draw_by_its_equations(size: int) -> None:
    """Cell by cell and filter by filter, eq. 19-27; A columns and B rows, numbered from 1."""
    query, regions = inputs(1, 1)
    grid = make("draw", size)
    attended = grid(query, grid.prepare(regions))
    rows, columns = GRID
    x, y, log_variance, log_stride, log_gamma = (grid.numbers.weight @ query[0, 0] + grid.numbers.bias).tolist()
    g_x, g_y = (columns + 1) / 2 * (x + 1), (rows + 1) / 2 * (y + 1)
    delta = (max(rows, columns) - 1) / (size - 1) * math.exp(log_stride) if size > 1 else 0

    def bank(middle: float, cells: int) -> list[list[float]]:
        filters = []
        for i in range(1, size + 1):
            mu = middle + (i - size / 2 - 0.5) * delta
            heights = [math.exp(-((a - mu) ** 2) / (2 * math.exp(log_variance))) for a in range(1, cells + 1)]
            filters.append([height / sum(heights) for height in heights])
        return filters

    f_x, f_y = bank(g_x, columns), bank(g_y, rows)
    weights, read = torch.zeros(L, dtype=torch.double), []
    for i, j in itertools.product(range(size), range(size)):
        seen = torch.zeros(D, dtype=torch.double)
        for b, a in itertools.product(range(rows), range(columns)):
            share = f_y[i][b] * f_x[j][a]
            seen += math.exp(log_gamma) * share * regions[0, b * columns + a]
            weights[b * columns + a] += share / size**2
        read.append(seen)
    torch.testing.assert_close(attended.weights[0, 0], weights)
    torch.testing.assert_close(attended.context[0, 0], grid.output(torch.cat(read)))


def test_a_huge_sigma_sees_the_mean() -> None:
    query, regions = inputs()
    grid = grid_with([0.3, -0.2, BOUND, 0.0, 0.0])
    attended = grid(query, grid.prepare(regions))
    expected = grid.output(regions.mean(1).repeat(1, 9)).unsqueeze(1).expand_as(attended.context)
    torch.testing.assert_close(attended.context, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(attended.weights, torch.full_like(attended.weights, 1 / L), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (3, 4)])
def test_a_tiny_sigma_and_stride_see_one_cell(row: int, column: int) -> None:
    """All nine filters."""
    query, regions = inputs()
    middle = [2 * (column + 1) / (GRID[1] + 1) - 1, 2 * (row + 1) / (GRID[0] + 1) - 1]
    grid = grid_with([*middle, -5.0, -BOUND, 0.0])
    attended = grid(query, grid.prepare(regions))
    cell = row * GRID[1] + column
    expected = grid.output(regions[:, cell].repeat(1, 9)).unsqueeze(1).expand_as(attended.context)
    torch.testing.assert_close(attended.context, expected)
    assert attended.weights[..., cell].min() > 1 - 1e-6


def test_gamma_multiplies_what_is_read() -> None:
    """And not the weights that are sampled."""
    query, regions = inputs()
    plain, twice = grid_with([0.1, 0.2, 0.3, 0.0, 0.0]), grid_with([0.1, 0.2, 0.3, 0.0, math.log(2)])
    a, b = (grid(query, grid.prepare(regions)) for grid in (plain, twice))
    torch.testing.assert_close(b.weights, a.weights)
    torch.testing.assert_close(b.context - plain.output.bias, 2 * (a.context - plain.output.bias))


def test_at_first_the_grid_covers_the_image() -> None:
    """Its outer filters on the outer cells, nowhere nothing."""
    torch.manual_seed(0)
    grid = DrawGlimpse(H, D, 8, (8, 8), 3)
    query, regions = torch.zeros(1, 1, H), torch.randn(1, 64, D)
    weights = grid(query, grid.prepare(regions)).weights[0, 0].view(8, 8)
    torch.testing.assert_close(weights, weights.flip(0).flip(1))
    assert weights.min() > 0.5 / 64 and weights.max() < 2 / 64


def test_writing_is_the_adjoint_of_reading() -> None:
    """<w, F_Y x F_X^T> = <F_Y^T w F_X, x>, eq. 27 and 29, each with its own power of gamma."""
    query = inputs()[0]
    bank = make("draw").numbers.filterbank(query)
    plane, patch = torch.randn(3, 2, *GRID, dtype=torch.double), torch.randn(3, 2, 3, 3, dtype=torch.double)
    gamma = bank.strength[..., 0, 0]
    read = (patch * bank.read(plane)).sum((-1, -2)) / gamma
    torch.testing.assert_close(read, (bank.write(patch) * plane).sum((-1, -2)) * gamma)


def test_filters_on_the_cells_write_back_what_they_read() -> None:
    """N = 4 on a 4 x 4 plane, one filter a cell; whatever the strength, as eq. 29 divides by it."""
    bank = grid_with([0.0, 0.0, -BOUND, 0.0, 1.3], size=4, grid=(4, 4)).numbers.filterbank(torch.zeros(1, H).double())
    plane = torch.randn(1, 4, 4, dtype=torch.double)
    torch.testing.assert_close(bank.write(bank.read(plane)), plane)
    torch.testing.assert_close(bank.read(plane), math.exp(1.3) * plane)


# The retina.


@pytest.mark.parametrize("squares", [1, 3, 4])
def test_one_product_after_the_other_reads_what_the_filters_read(squares: int) -> None:
    """Values, and gradients of regions and places."""
    regions = inputs()[1].requires_grad_()
    retina = far_from_uniform(Retina(H, D, 8, GRID, 3, squares))
    place = torch.empty(3, 2, 2, dtype=torch.double).uniform_(-1, 1).requires_grad_()
    memory = retina.prepare(regions)
    results = retina.glimpse(place, memory), retina.read_at(place, memory).context
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(result.sin().sum(), (regions, place)) for result in results))


@pytest.mark.parametrize("squares", [1, 3, 4])
def test_the_place_is_told_by_the_filters(squares: int) -> None:
    """Away from the edge, where squares pile up."""
    torch.manual_seed(0)
    retina = far_from_uniform(Retina(H, D, 8, (9, 11), 2, squares))
    memory = retina.prepare(torch.randn(1, 99, D, dtype=torch.double))
    place = torch.tensor([[[0.31, -0.18]]], dtype=torch.double)
    attended = retina.read_at(place, memory)
    torch.testing.assert_close(retina.read(place, attended.heads, memory), attended.context, atol=1e-6, rtol=0)


@pytest.mark.parametrize("place", [(0.0, 0.0), (-0.73, 0.41), (0.97, -0.99)])
def test_retina_by_a_plain_loop(place: tuple[float, float]) -> None:
    """Nine squares a patch; each is read as the mean of the map over it, cells counting by the area that they share
    with it; one whose middle is outside the image as if it were on the edge."""
    query, regions = inputs(1, 1)
    retina = retina_at(place)
    attended = retina(query, retina.prepare(regions))
    rows, columns = GRID
    y, x = ((each + 1) / 2 * cells for each, cells in zip(place, GRID, strict=True))
    weights, seen = torch.zeros(L, dtype=torch.double), []
    for side, i, j in itertools.product((1, 2, 4), (-1, 0, 1), (-1, 0, 1)):
        middle_y, middle_x = min(max(y + i * side, 0), rows), min(max(x + j * side, 0), columns)
        areas = torch.zeros(L, dtype=torch.double)
        for r, c in itertools.product(range(rows), range(columns)):
            height = max(0.0, min(middle_y + side / 2, r + 1) - max(middle_y - side / 2, r))
            areas[r * columns + c] = height * max(0.0, min(middle_x + side / 2, c + 1) - max(middle_x - side / 2, c))
        areas /= areas.sum()
        weights += areas / 27
        seen.append(areas @ regions[0])
    torch.testing.assert_close(attended.weights[0, 0], weights, atol=1e-6, rtol=0)
    expected = retina.output(torch.cat([*seen, torch.tensor(place, dtype=torch.double)]))
    torch.testing.assert_close(attended.context[0, 0], expected, atol=1e-6, rtol=0)


def test_a_patch_over_the_whole_image_sees_the_mean() -> None:
    """The squares of the fifth are sixteen cells wide; the middle one of the smallest, on a cell, sees it alone."""
    regions = inputs()[1]
    retina = retina_at((0.25, 0.4), 5)  # the middle of row 2 and column 3
    place = torch.tensor([0.25, 0.4], dtype=torch.double).expand(3, 2, 2)
    filters = retina.read_at(place, retina.prepare(regions)).heads
    torch.testing.assert_close(filters[:, :, 4 * 9 :], torch.full((3, 2, 9, L), 1 / L, dtype=torch.double))
    torch.testing.assert_close(filters[:, :, 4, 2 * 5 + 3], torch.ones(3, 2, dtype=torch.double))


def test_draws_are_gaussian_around_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, deviation and log-probability; the rows that do not sample take the centre."""
    rows, kept = 20000, []
    query, regions = inputs(1, 1)
    retina, sample_place = make("retina"), module.sample_place
    monkeypatch.setattr(module, "sample_place", lambda centre: kept.append(sample_place(centre)) or kept[-1])
    sampled = torch.arange(rows).unsqueeze(0) < rows - 2
    torch.manual_seed(0)
    attended = retina(query.expand(1, rows, H), retina.prepare(regions)._replace(sample_rows=sampled))
    centre = torch.tanh(retina.centre(query))[0, 0]
    torch.testing.assert_close(kept[0][0].mean(0), centre, atol=0.005, rtol=0)
    torch.testing.assert_close(kept[0][0].T.cov(), SIGMA**2 * torch.eye(2).double(), atol=0.001, rtol=0)
    normal = torch.distributions.Normal(centre, SIGMA)
    expected = normal.log_prob(kept[0][0]).sum(-1)
    torch.testing.assert_close(attended.sample.log_probability[0, :-2], expected[:-2])
    torch.testing.assert_close(attended.sample.entropy[0], normal.entropy().sum().expand(rows))
    assert attended.sample.location[0, -2:].eq(-1).all() and attended.sample.log_probability[0, -2:].eq(0).all()
    plain = retina(query, retina.prepare(regions))
    assert plain.sample is None
    torch.testing.assert_close(attended.context[0, -1], plain.context[0, 0])
    assert (attended.context[0, :-2] - plain.context[0, 0]).norm(dim=-1).min() > 0


def test_the_location_is_the_cell_that_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a sample outside the image, whose log-probability stays its own, and on the very last edge."""
    monkeypatch.setitem(GLIMPSES, "retina", functools.partial(Retina, squares=1))
    query, regions = inputs(1, 1)
    retina = retina_at((0.0, 0.0), 1)
    memory = retina.prepare(regions)._replace(sample_rows=SAMPLED)
    for row, column in itertools.product(range(4), range(5)):
        place = torch.tensor([[[(row + 0.5) / 2 - 1, (column + 0.5) / 2.5 - 1]]], dtype=torch.double)
        monkeypatch.setattr(module, "sample_place", lambda centre, place=place: place)
        attended = retina(query, memory)
        assert attended.sample.location.item() == row * 5 + column == attended.weights[0, 0].argmax().item()
    outside = torch.tensor([[[1.3, -2.0]]], dtype=torch.double)
    monkeypatch.setattr(module, "sample_place", lambda centre: outside)
    attended = retina(query, memory)
    assert attended.sample.location.item() == 15 == attended.weights[0, 0].argmax().item()
    expected = torch.distributions.Normal(0.0, SIGMA).log_prob(outside).sum()
    torch.testing.assert_close(attended.sample.log_probability.sum(), expected)


def test_no_gradient_from_what_a_draw_sees_to_the_centre() -> None:
    query, regions = inputs(1, 1)
    retina = make("retina")
    memory = retina.prepare(regions)
    (slope,) = torch.autograd.grad(retina(query, memory).context.sum(), retina.centre.weight)
    assert slope.abs().max() > 1e-3
    attended = retina(query, memory._replace(sample_rows=SAMPLED))
    (slope,) = torch.autograd.grad(attended.context.sum(), retina.centre.weight, retain_graph=True)
    assert slope.eq(0).all()
    (slope,) = torch.autograd.grad(attended.sample.log_probability.sum(), retina.centre.weight)
    assert slope.abs().max() > 1e-3


def test_reinforce_gives_the_gradient_of_the_expected_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """E log p(y | l, a) by a fine grid of the Gaussian's quantiles, its slopes by differences in the weights of the
    location network; against the mean of the gradients that training takes, over 50,000 samples of one word's place."""
    torch.manual_seed(0)
    decoder = make_kind("retina")
    retina = decoder.attention
    with torch.no_grad():
        retina.output.weight *= 2
        decoder.gate.bias += 3
    regions = torch.randn(1, 6, D, dtype=torch.double)

    def decode(rows: int) -> Any:
        memory = decoder.prepare(regions)._replace(sample_rows=torch.ones(1, rows, dtype=torch.bool))
        return decoder(memory, torch.full((1, rows, 1), END), torch.ones(1, rows, dtype=torch.long))

    quantiles = torch.special.ndtri((torch.arange(60, dtype=torch.double) + 0.5) / 60)
    noise = torch.cartesian_prod(quantiles, quantiles).unsqueeze(0)

    def expected() -> float:
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(module, "sample_place", lambda centre: centre + SIGMA * noise)
            return -losses.cross_entropy(decode(len(noise[0]))).item()

    slopes = []
    for parameter in (retina.centre.weight, retina.centre.bias):
        values = parameter.data.view(-1)
        for i in range(len(values)):
            kept, numbers = values[i].item(), []
            for change in (1e-3, -1e-3):
                values[i] = kept + change
                numbers.append(expected())
            values[i] = kept
            slopes.append((numbers[0] - numbers[1]) / 2e-3)
    wanted = torch.tensor(slopes, dtype=torch.double)

    config = ReinforceConfig(soft_probability=0.0)
    training = TrainingConfig(doubly_stochastic=0.0, reinforce=config)
    baseline = torch.tensor(expected(), dtype=torch.double)
    decoded = decode(50_000)
    earned = reinforce.location_advantages(decoded, config, baseline)[0]
    loss = losses.total_loss(losses.compute_terms(LossInputs(decoded, decoded.sample, earned), training), training)
    parts = torch.autograd.grad(-loss, [retina.centre.weight, retina.centre.bias])
    found = torch.cat([part.flatten() for part in parts])
    assert wanted.norm() > 0.1
    assert (found - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("attend", ["argmax", "sample"])
@pytest.mark.parametrize("size", [1, 3])
def test_every_hypothesis_keeps_its_locations(monkeypatch: pytest.MonkeyPatch, attend: str, size: int) -> None:
    """Through the reordering of beams: the cell told is the one on which a single square lies most."""
    monkeypatch.setitem(GLIMPSES, "retina", functools.partial(Retina, squares=1))
    monkeypatch.setitem(KINDS, "one square", {"attention": "retina", "glimpse_size": 1})
    decoder = make_kind("one square")
    torch.manual_seed(4)
    memory = decoder.prepare(torch.randn(2, 6, D, dtype=torch.double))
    config = SearchConfig(beam_size=size, max_length=6, hard_attention=attend)
    for hypothesis in itertools.chain(*search(decoder, memory, config)):
        steps = len(hypothesis.words) + hypothesis.finished
        assert len(hypothesis.locations) == len(hypothesis.weights) == steps
        assert hypothesis.locations.tolist() == hypothesis.weights.argmax(-1).tolist()
    assert search(decoder, memory, SearchConfig(max_length=3))[0][0].locations is None


# What both must keep.


@every_glimpse
@pytest.mark.parametrize("size", [1, 3])
def test_weights_are_a_distribution(name: str, size: int) -> None:
    query, regions = inputs()
    glimpse = make(name, size)
    memory = glimpse.prepare(regions)
    for sampled in (None, torch.rand(3, 2) < 0.5):
        attended = glimpse(query, memory._replace(sample_rows=sampled))
        assert (
            attended.weights.shape == (3, 2, L) and attended.context.shape == (3, 2, 8) and glimpse.context_width == 8
        )
        assert attended.weights.min() >= 0
        torch.testing.assert_close(attended.weights.sum(-1), torch.ones(3, 2, dtype=torch.double))


@every_glimpse
def test_a_row_alone_is_the_row_in_a_batch(name: str) -> None:
    query, regions = inputs()
    glimpse = make(name)
    together = glimpse(query, glimpse.prepare(regions))
    for b, q in itertools.product(range(3), range(2)):
        alone = glimpse(query[b : b + 1, q : q + 1], glimpse.prepare(regions[b : b + 1]))
        torch.testing.assert_close(alone.context[0, 0], together.context[b, q])
        torch.testing.assert_close(alone.weights[0, 0], together.weights[b, q])


@every_glimpse
def test_the_mirrored_image_is_seen_by_the_mirrored_glimpse(name: str) -> None:
    """Rows and columns are not confused: the map turned over its diagonal, with the two middles exchanged."""
    query, regions = inputs()
    glimpse, turned = make(name), make(name, grid=GRID[::-1])
    turned.load_state_dict(glimpse.state_dict())
    layer = turned.numbers if name == "draw" else turned.centre
    with torch.no_grad():
        for part in (layer.weight, layer.bias):
            part[:2] = part[:2].flip(0)
    a = glimpse(query, glimpse.prepare(regions))
    b = turned(query, turned.prepare(regions.view(3, *GRID, D).transpose(1, 2).flatten(1, 2)))
    torch.testing.assert_close(a.weights.view(3, 2, *GRID), b.weights.view(3, 2, *GRID[::-1]).transpose(2, 3))


@every_glimpse
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_everywhere(name: str, dtype: torch.dtype) -> None:
    """Each number that the state predicts at its extremes, one by one and together: values and gradients."""
    glimpse = make(name).to(dtype)
    regions = inputs()[1].to(dtype)
    layer = glimpse.numbers if name == "draw" else glimpse.centre
    width = layer.out_features
    extremes = torch.tensor(list(itertools.product([-1e30, -BOUND, 0.0, BOUND, 1e30], repeat=width)), dtype=dtype)
    layer.weight.data = torch.eye(width, dtype=dtype)
    layer.bias.data.zero_()
    query = extremes.unsqueeze(0).requires_grad_()
    for sampled in (None, torch.ones(query.shape[:2], dtype=torch.bool)):
        attended = glimpse(query, glimpse.prepare(regions[:1])._replace(sample_rows=sampled))
        values = [
            attended.context,
            attended.weights,
            *([] if attended.sample is None else [attended.sample.log_probability]),
        ]
        assert all(value.isfinite().all() for value in values)
        torch.testing.assert_close(attended.weights.sum(-1), torch.ones(query.shape[:2], dtype=dtype))
        (slope,) = torch.autograd.grad(sum(value.square().sum() for value in values[1:]), query, retain_graph=True)
        assert slope.isfinite().all()
        (slope,) = torch.autograd.grad(attended.context.sum(), query)
        assert slope.isfinite().all()


@every_glimpse
@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradients_numerically(name: str, size: int) -> None:
    """Of queries, regions and the weights that predict the place; the retina's by its centre, on no edge of a cell
    here. tests/test_decoders.py has those of all weights."""
    query, regions = (each.requires_grad_() for each in inputs(1, 2))
    glimpse = make(name, size)
    layer = glimpse.numbers if name == "draw" else glimpse.centre

    def run(query: Tensor, regions: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        attended = glimpse(query, glimpse.prepare(regions))
        return attended.context, attended.weights

    assert torch.autograd.gradcheck(run, (query, regions, layer.weight, layer.bias))


# Settings.


def test_the_configuration_knows_which_selections_draw() -> None:
    kinds = {**SELECTIONS, **GLIMPSES}
    assert {name for name, kind in kinds.items() if kind.stochastic} == set(STOCHASTIC)
    assert {fields["attention"] for fields in KINDS.values() if "attention" in fields} | {"soft"} == set(kinds)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "draw", "score": "dot"}, "decoder.score is dot, but decoder.attention is draw, which"),
        ({"attention": "retina", "window": "local_p"}, "decoder.window is local_p, but decoder.attention is retina"),
        ({"attention": "draw", "temperature": 2.0}, "decoder.temperature is 2.0, but decoder.attention is draw, which"),
        ({"attention": "retina", "score": "multi_head"}, "attention is retina, but decoder.score is multi_head"),
        ({"attention": "draw", "name": "transformer"}, "decoder.attention is draw, but decoder.name is transformer"),
        ({"attention": "draw", "glimpse_size": 0}, "decoder.glimpse_size is 0, but must be at least 1"),
        (
            {"glimpse_size": 5},
            "decoder.glimpse_size is 5, but decoder.attention is soft; add --decoder.attention draw or retina",
        ),
        ({"glimpse_size": 5, "name": "transformer"}, "decoder.glimpse_size is 5, but"),
        ({"attention": "draw", "heads": 2}, "decoder.heads is 2, but nothing has heads"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DecoderConfig(**fields)


def test_draws_are_trained_and_searched_where_there_are_any() -> None:
    retina, draw = (Config("d", "o", decoder=DecoderConfig(attention=name)) for name in ("retina", "draw"))
    training, search_ = TrainingConfig(reinforce=ReinforceConfig(samples=2)), SearchConfig(hard_attention="sample")
    dataclasses.replace(retina, training=training, search=search_)
    with pytest.raises(UserError, match=r"reinforce is set, but decoder.attention is draw; add .*hard or retina"):
        dataclasses.replace(draw, training=training)
    with pytest.raises(
        UserError, match="search.hard_attention is sample, but decoder.attention is draw; add .*hard or retina"
    ):
        dataclasses.replace(draw, search=search_)
    with pytest.raises(
        UserError, match=r"reinforce.entropy is 0.1, but .* decoder.attention retina is constant; leave it 0"
    ):
        dataclasses.replace(retina, training=TrainingConfig(reinforce=ReinforceConfig(entropy=0.1)))
