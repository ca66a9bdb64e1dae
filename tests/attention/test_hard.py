"""Hard attention, held against the enumeration of every path of locations, in double precision."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from conftest import D, check_gradients, make_attention, make_decoder
from torch import Tensor

from caption.attention import AdditiveScore, GumbelSoftmax, HardAttention, Memory
from caption.attention import hard as hard_module
from caption.config import ReinforceConfig, SearchConfig, TrainingConfig
from caption.data.dataset import Batch
from caption.data.vocabulary import END, PAD
from caption.decoders import DecoderOutput, ShowAttendTellDecoder
from caption.search import search
from caption.training import losses, objective, reinforce
from caption.training.losses import LossInputs

LOCATIONS, STEPS = 3, 3
CAPTION = torch.tensor([[[4, 6, END]]])
PATHS = list(itertools.product(range(LOCATIONS), repeat=STEPS))
ZERO = torch.zeros((), dtype=torch.double)
EXACT = ReinforceConfig(soft_probability=0.0)  # eq. 11 with lambda_r = 1 and lambda_e = 0
RELAXED, STRAIGHT_THROUGH = GumbelSoftmax(0.5, straight_through=False), GumbelSoftmax(0.5, straight_through=True)


@pytest.fixture
def decoder() -> ShowAttendTellDecoder:
    return make_decoder(attention="hard")


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch):
    """force(paths [Q, T]): from now on row q goes along path q, whatever alpha says."""

    def follow(paths: list[tuple[int, ...]]) -> None:
        steps = itertools.cycle(torch.tensor(paths).T)  # [T, Q]
        monkeypatch.setattr(hard_module, "sample_location", lambda log_weights, argmax: next(steps).unsqueeze(0))

    return follow


def encode(decoder: ShowAttendTellDecoder, locations: int = LOCATIONS) -> Memory:
    torch.manual_seed(3)
    return decoder.attention.prepare(torch.randn(1, locations, D, dtype=torch.double))


def decode(decoder: ShowAttendTellDecoder, memory: Memory, sampled: list[bool]) -> DecoderOutput:
    """Teacher forcing of the caption, once for each entry of `sampled`."""
    rows = len(sampled)
    memory = memory._replace(sample_rows=torch.tensor([sampled]))
    return decoder(memory, CAPTION.expand(1, rows, STEPS), torch.full((1, rows), STEPS))


def gradient(decoder: ShowAttendTellDecoder, value: Tensor) -> Tensor:
    """d value / d all weights, in one row."""
    parts = torch.autograd.grad(value, list(decoder.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def training_loss(decoded: DecoderOutput, config: TrainingConfig, advantages: Tensor) -> Tensor:
    """The loss of decoded captions whose locations were sampled."""
    inputs = LossInputs(decoded, decoded.sample, advantages)
    return losses.total_loss(losses.compute_terms(inputs, config), config)


def bound(decoder: ShowAttendTellDecoder, paths=PATHS, locations: int = LOCATIONS) -> tuple[Tensor, Tensor]:
    """L_s = sum_s p(s | a) log p(y | s, a), eq. 10, and log p(y | a), both with gradient; all paths as rows."""
    decoded = decode(decoder, encode(decoder, locations), [True] * len(paths))
    words = decoded.logits.log_softmax(-1).gather(-1, decoded.targets[:, None]).view(-1, STEPS).sum(1)
    path = decoded.sample.log_probability[0].sum(-1)
    assert path.exp().sum().item() == pytest.approx(1, abs=1e-12)
    return (path.exp() * words).sum(), (path + words).logsumexp(0)


def estimates(
    decoder: ShowAttendTellDecoder, force, config: ReinforceConfig, moving: Tensor = ZERO
) -> Iterator[tuple[float, Tensor]]:
    """For every path its probability and the gradient that training would take, times the number of words."""
    training = TrainingConfig(doubly_stochastic=0.0, reinforce=config)
    for path in PATHS:
        force([path])
        decoded = decode(decoder, encode(decoder), [True])
        earned = reinforce.location_advantages(decoded, config, moving)[0]
        loss = training_loss(decoded, training, earned) * STEPS
        yield math.exp(decoded.sample.log_probability.sum().item()), -gradient(decoder, loss)


def expectation(pairs: list[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([probability * value for probability, value in pairs]).sum(0)


def variance(pairs: list[tuple[float, Tensor]]) -> float:
    mean = expectation(pairs)
    return sum(probability * (value - mean).square().sum().item() for probability, value in pairs)


def exact(decoder: ShowAttendTellDecoder, force) -> Tensor:
    force(PATHS)
    return gradient(decoder, bound(decoder)[0])


@pytest.mark.parametrize("reward", ["caption", "to_go"])
@pytest.mark.parametrize("baseline", ["none", "moving_average"])
def test_the_estimator_s_expectation_is_the_gradient_of_the_bound(decoder, force, reward: str, baseline: str) -> None:
    config = dataclasses.replace(EXACT, reward=reward, baseline=baseline)
    pairs = list(estimates(decoder, force, config, torch.tensor(-7.3, dtype=torch.double)))
    torch.testing.assert_close(expectation(pairs), exact(decoder, force), atol=1e-9, rtol=1e-9)


def test_both_parts_of_the_gradient_are_needed(decoder, force) -> None:
    """Without the reward the expectation is something else: the test above can fail."""
    pairs = list(estimates(decoder, force, dataclasses.replace(EXACT, weight=0.0)))
    assert (expectation(pairs) - exact(decoder, force)).abs().max() > 0.01


@pytest.mark.parametrize("reward", ["caption", "to_go"])
def test_leave_one_out(decoder, force, reward: str) -> None:
    """Two samples: over all pairs of paths, the expectation is the same gradient."""
    paths = list(itertools.product(range(2), repeat=STEPS))
    config = dataclasses.replace(EXACT, samples=2, baseline="leave_one_out", reward=reward)
    training = TrainingConfig(doubly_stochastic=0.0, reinforce=config)
    pairs = []
    for both in itertools.product(paths, repeat=2):
        force(list(both))
        decoded = decode(decoder, encode(decoder, 2), [True, True])
        earned = reinforce.location_advantages(decoded, config, ZERO)[0]
        loss = training_loss(decoded, training, earned) * STEPS
        pairs.append((math.exp(decoded.sample.log_probability.sum().item()), -gradient(decoder, loss)))
    force(paths)
    expected = gradient(decoder, bound(decoder, paths, 2)[0])
    torch.testing.assert_close(expectation(pairs), expected, atol=1e-9, rtol=1e-9)


def test_samples_tell_the_probability_of_their_location_and_the_entropy(decoder) -> None:
    """Rows that took the expectation, and read it, have an entropy like the others, and the log-probability 0."""
    memory = encode(decoder)._replace(sample_rows=torch.tensor([[True, False]]))
    attended = decoder.attention(torch.ones(1, 2, 8, dtype=torch.double), memory)
    torch.testing.assert_close(attended.context[0, 1], attended.weights[0, 1] @ memory.values[0])
    rows = decode(decoder, encode(decoder), [True, False])
    torch.testing.assert_close(rows.sample.entropy, -(rows.weights * rows.weights.log()).sum(-1))
    sampled = rows.weights[:, 0].gather(-1, rows.sample.location[:, 0].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(rows.sample.log_probability[:, 0], sampled.log())
    assert rows.sample.location[:, 1].eq(-1).all() and rows.sample.log_probability[:, 1].eq(0).all()


def test_entropy(decoder, force) -> None:
    """lambda_e adds the gradient of the steps' entropies along the sampled path, as eq. 11 says. (That of the entropy
    of all paths would hold the effect of early samples on later entropies, too.)"""
    pairs = list(estimates(decoder, force, dataclasses.replace(EXACT, entropy=0.7)))
    force(PATHS)
    decoded = decode(decoder, encode(decoder), [True] * len(PATHS))
    probabilities = decoded.sample.log_probability[0].sum(-1).exp().detach()
    alphas = decoded.weights[0]
    entropies = (probabilities * -(alphas * alphas.log()).sum((1, 2))).sum()
    expected = exact(decoder, force) + 0.7 * gradient(decoder, entropies)
    torch.testing.assert_close(expectation(pairs), expected, atol=1e-9, rtol=1e-9)


def test_taking_the_expectation_mixes_in_soft_attention_s_gradient(decoder, force) -> None:
    """With chance e: (1 - e) times the bound's gradient plus e times that of soft attention's log p(y | a)."""
    training = TrainingConfig(doubly_stochastic=0.0, reinforce=EXACT)
    chance = 0.3
    drew = expectation(list(estimates(decoder, force, EXACT)))
    soft = decode(decoder, encode(decoder), [False])
    assert soft.sample.location.eq(-1).all() and soft.sample.log_probability.eq(0).all()
    earned = reinforce.location_advantages(soft, EXACT, ZERO)[0]
    took = -gradient(decoder, training_loss(soft, training, earned) * STEPS)
    plain = decoder(encode(decoder), CAPTION, torch.tensor([[STEPS]]))  # as soft attention does it
    assert plain.sample is None
    torch.testing.assert_close(took, -gradient(decoder, losses.cross_entropy(plain) * STEPS))
    expected = (1 - chance) * exact(decoder, force) + chance * took
    torch.testing.assert_close((1 - chance) * drew + chance * took, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_a_bound(force, seed: int) -> None:
    force(PATHS)
    below, likelihood = bound(make_decoder(seed=seed, attention="hard"))
    assert below.item() < likelihood.item() < 0


def test_the_baseline_lowers_the_variance(decoder, force, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly, over all paths. The expectation is the same to 1e-9 (above)."""
    force(PATHS)
    moving = bound(decoder)[0].detach()  # what the moving average tends to: E log p(y | s, a)
    none, whole, to_go = (
        variance(list(estimates(decoder, force, dataclasses.replace(EXACT, reward=reward, baseline=baseline), moving)))
        for reward, baseline in (("caption", "none"), ("caption", "moving_average"), ("to_go", "moving_average"))
    )
    with capsys.disabled():
        print(f"\nvariance of the gradient: {none / whole:.1f} times lower with the baseline, "
              f"{none / to_go:.1f} times with reward to go, too")  # fmt: skip
    assert whole < none / 3 and to_go < none / 3


def test_baseline_is_the_moving_average(decoder) -> None:
    """b_k = 0.9 b_(k-1) + 0.1 mean log p over the captions that drew; captions that are not there do not count."""
    torch.manual_seed(0)
    captions = torch.tensor([[[4, 6, END], [5, END, PAD], [PAD, PAD, PAD]]])
    memory = encode(decoder)._replace(sample_rows=torch.tensor([[True, False, True]]))
    decoded = decoder(memory, captions, torch.tensor([[3, 2, 0]]))
    words = decoded.logits.log_softmax(-1).gather(-1, decoded.targets[:, None]).squeeze(1)
    drew = words[:3].sum().item()  # the first caption alone
    minus_two = torch.tensor(-2.0)

    def following(moving: Tensor | None, decoded: DecoderOutput) -> Tensor:
        return reinforce.update_baseline(moving, reinforce.reward_sum(reinforce.word_rewards(decoded), decoded))

    assert following(None, decoded).item() == pytest.approx(drew)
    assert following(minus_two, decoded).item() == pytest.approx(0.9 * -2.0 + 0.1 * drew)
    nobody = decoder(
        memory._replace(sample_rows=torch.tensor([[False, False, True]])), captions, torch.tensor([[3, 2, 0]])
    )
    assert following(minus_two, nobody).item() == -2.0
    earned, none = reinforce.location_advantages(nobody, EXACT, None)  # the very first batch, and nobody drew
    first = reinforce.update_baseline(None, none)
    assert first.isnan() and losses.reinforce_loss(nobody, nobody.sample, earned).item() == 0
    assert following(first, decoded).item() == pytest.approx(drew)


def test_draws_follow_alpha_and_the_context_is_the_region(decoder) -> None:
    rows = 20000
    memory = encode(decoder)._replace(sample_rows=torch.ones(1, rows, dtype=torch.bool))
    query = torch.randn(1, 1, 8, dtype=torch.double).expand(1, rows, 8)
    torch.manual_seed(0)
    attended = decoder.attention(query, memory)
    share = torch.bincount(attended.sample.location[0], minlength=LOCATIONS) / rows
    torch.testing.assert_close(share.double(), attended.weights[0, 0], atol=0.015, rtol=0)
    assert torch.equal(attended.context[0], memory.values[0, attended.sample.location[0]])
    best = decoder.attention(query, memory._replace(argmax=True))
    assert best.sample.location.unique().item() == attended.weights[0, 0].argmax()


@pytest.mark.parametrize("gumbel_softmax", [None, RELAXED, STRAIGHT_THROUGH])
@pytest.mark.parametrize("scale", [1e3, 1e30, math.inf])
def test_no_nan_where_alpha_is_zero_or_one(scale: float, gumbel_softmax: GumbelSoftmax | None) -> None:
    """One location has all the weight, to the last bit: values and gradients stay finite."""
    score = AdditiveScore(4, 3, 5)
    attention = HardAttention(score, 3)
    query = torch.randn(2, 6, 4, requires_grad=True)
    memory = attention.prepare(torch.randn(2, 3, 3))._replace(sample_rows=torch.arange(12).view(2, 6) % 3 > 0)
    memory = memory._replace(gumbel_softmax=gumbel_softmax)
    offset = torch.tensor([0.0, -scale, -scale])
    plain = score.forward
    score.forward = lambda query, keys: plain(query, keys) + offset
    attended = attention(query, memory)
    assert attended.weights.unique().tolist() == [0, 1]
    assert attended.sample.location.unique().tolist() == [-1, 0]
    assert attended.sample.entropy.eq(0).all() and attended.sample.log_probability.eq(0).all()
    value = attended.context.sum() + (attended.sample.log_probability * 50).sum() + attended.sample.entropy.sum()
    (slope,) = torch.autograd.grad(value, query)
    assert slope.isfinite().all()


def test_temperature_sharpens() -> None:
    score = AdditiveScore(4, 3, 5)
    memory = HardAttention(score, 3).prepare(torch.randn(2, 7, 3))
    query = torch.randn(2, 3, 4)
    sharp, plain, flat = (HardAttention(score, 3, t)(query, memory).weights.log() for t in (0.5, 1.0, 2.0))
    torch.testing.assert_close(sharp, (2 * plain).log_softmax(-1))
    torch.testing.assert_close(flat, (plain / 2).log_softmax(-1))


@pytest.mark.parametrize("attend", ["argmax", "sample"])
@pytest.mark.parametrize(("size", "method"), [(1, "beam"), (4, "beam"), (3, "sample")])
def test_every_hypothesis_keeps_its_locations(decoder, monkeypatch, attend: str, size: int, method: str) -> None:
    """Going along the locations that a hypothesis tells gives its log-probability and its weights again."""
    with torch.no_grad():
        decoder.output.bias[END] += 3
    torch.manual_seed(4)
    memory = decoder.attention.prepare(torch.randn(2, 5, D, dtype=torch.double))
    choose = hard_module.sample_location
    config = SearchConfig(beam_size=size, method=method, max_length=8, hard_attention=attend, no_repeat_ngram=2)
    found = search(decoder, memory, config)
    for image, hypothesis in ((image, h) for image, hypotheses in enumerate(found) for h in hypotheses):
        words = [*hypothesis.words, *([END] if hypothesis.finished else [])]
        assert len(hypothesis.locations) == len(words) == len(hypothesis.weights)
        if attend == "argmax":
            assert hypothesis.locations.tolist() == hypothesis.weights.argmax(-1).tolist()
        steps = iter(hypothesis.locations)
        monkeypatch.setattr(hard_module, "sample_location", lambda *_, steps=steps: torch.tensor([[next(steps)]]))
        alone = (part[image, None] for part in (memory.keys, memory.values, memory.mean))
        one = Memory(*alone, sample_rows=torch.tensor([[True]]))
        decoded = decoder(one, torch.tensor([[words]]), torch.tensor([[len(words)]]))
        logps = decoded.logits.log_softmax(-1).gather(-1, decoded.targets[:, None])
        assert hypothesis.log_probability == pytest.approx(logps.sum().item(), abs=1e-5)
        torch.testing.assert_close(hypothesis.weights, decoded.weights[0, 0], atol=1e-5, rtol=0, check_dtype=False)
        monkeypatch.setattr(hard_module, "sample_location", choose)
    assert search(decoder, memory, SearchConfig(max_length=4))[0][0].locations is None


def test_forward_equals_a_loop_of_step(decoder) -> None:
    """Soft attention's test has the rest; here the locations, which shrink with the rows."""
    captions = torch.tensor([[[4, 5, 6, END], [8, END, PAD, PAD]], [[5, END, PAD, PAD], [PAD] * 4]])
    lengths = torch.tensor([[4, 2], [2, 0]])
    torch.manual_seed(4)
    memory = decoder.attention.prepare(torch.randn(2, 5, D, dtype=torch.double))
    memory = memory._replace(sample_rows=torch.tensor([[True, True], [False, True]]), argmax=True)
    decoded = decoder(memory, captions, lengths)
    state, words = decoder.start(memory, 2), torch.full((2, 2), 1)
    real = torch.arange(4) < lengths[..., None]
    for t in range(4):
        _, state, attended = decoder.step(words, state, memory)
        for part, whole in zip(attended.sample, decoded.sample, strict=True):
            torch.testing.assert_close(whole[:, :, t][real[:, :, t]], part[real[:, :, t]])
            assert whole[:, :, t][~real[:, :, t]].eq(0).all()
        words = captions[:, :, t]


def test_rewards_of_captions_of_different_lengths(decoder) -> None:
    """Reward to go, word by word, and b shared out evenly among a caption's words."""
    captions = torch.tensor([[[4, 6, END], [5, END, PAD]]])
    memory = encode(decoder)._replace(sample_rows=torch.tensor([[True, True]]))
    decoded = decoder(memory, captions, torch.tensor([[3, 2]]))
    a, b, c, d, e = decoded.logits.log_softmax(-1).gather(-1, decoded.targets[:, None]).squeeze(1).tolist()
    to_go = dataclasses.replace(EXACT, reward="to_go")
    rewards, words = reinforce.word_rewards(decoded), torch.tensor([[[1.0, 1, 1], [1, 1, 0]]])
    earned = reinforce.advantages(rewards, words, to_go, torch.tensor(-6.0)).tolist()
    assert earned[0][0] == pytest.approx([a + b + c + 6, b + c + 4, c + 2])
    assert earned[0][1][:2] == pytest.approx([d + e + 6, e + 3])
    nothing = torch.zeros(1, 1, 3)  # a row without a word
    assert reinforce.advantages(nothing, nothing, to_go, torch.tensor(-6.0)).eq(0).all()
    whole = reinforce.advantages(rewards, words, EXACT, torch.tensor(-6.0)).tolist()
    assert whole[0][0] == pytest.approx([a + b + c + 6] * 3)


def test_leave_one_out_compares_the_draws_of_one_caption(decoder) -> None:
    """Two captions, two samples each, as rows 0 0 1 1: never one caption against the other."""
    captions = torch.tensor([[[4, 6, END], [4, 6, END], [5, END, PAD], [5, END, PAD]]])
    torch.manual_seed(0)
    memory = encode(decoder)._replace(sample_rows=torch.ones(1, 4, dtype=torch.bool))
    decoded = decoder(memory, captions, torch.tensor([[3, 3, 2, 2]]))
    rewards = reinforce.word_rewards(decoded)
    config = dataclasses.replace(EXACT, samples=2, baseline="leave_one_out")
    earned = reinforce.advantages(rewards, rewards.ne(0), config)[0, :, 0]
    a, b, c, d = rewards[0].sum(-1)
    torch.testing.assert_close(earned, torch.stack([a - b, b - a, c - d, d - c]))


def test_one_coin_and_n_draws_for_each_caption() -> None:
    """Of 4,000 captions about 80 % sample their locations, each as three rows that are alike."""
    asked = []

    class Recorder(torch.nn.Module):
        decoder = torch.nn.Module()

        def forward(self, *arguments: Tensor) -> None:
            asked.append(arguments)

    captioner = Recorder()
    captioner.decoder.stochastic = True
    captioner.weight = torch.nn.Parameter(torch.zeros(1))  # on the CPU
    captions = torch.arange(2000 * 2 * 3).view(2000, 2, 3)
    batch = Batch([], torch.zeros(2000, 1), captions, captions[..., 0])
    config = TrainingConfig(precision="fp32", reinforce=ReinforceConfig(soft_probability=0.2, samples=3))
    torch.manual_seed(0)
    objective.decode(captioner, batch, config, sample_locations=True)
    objective.decode(captioner, batch, config, sample_locations=False)
    (_, rows, lengths, sampled, need_weights, rate, relaxed), without = asked
    assert (
        need_weights
        and rate == 0
        and relaxed is None
        and rows.shape == (2000, 6, 3)
        and without[1] is captions
        and without[3] is None
    )
    for sample in range(3):
        assert torch.equal(rows[:, sample::3], captions) and torch.equal(lengths[:, sample::3], captions[..., 0])
        assert torch.equal(sampled[:, sample::3], sampled[:, ::3])
    assert sampled.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (sampled[:, 0] != sampled[:, 3]).float().mean().item() == pytest.approx(0.32, abs=0.03)  # coins of their own


def test_bfloat16_autocast_stays_close() -> None:
    decoder = make_decoder(attention="hard").float()
    torch.manual_seed(3)
    memory = decoder.attention.prepare(torch.randn(1, LOCATIONS, D))
    memory = memory._replace(sample_rows=torch.tensor([[True]]), argmax=True)
    plain = decoder(memory, CAPTION, torch.tensor([[STEPS]]))
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(memory, CAPTION, torch.tensor([[STEPS]]))
    assert half.logits.dtype == torch.bfloat16
    assert half.weights.dtype == half.sample.log_probability.dtype == half.sample.entropy.dtype == torch.float32
    assert torch.equal(half.sample.location, plain.sample.location)
    torch.testing.assert_close(half.sample.entropy, plain.sample.entropy, atol=0.03, rtol=0)


def sampled_gradients(decoder: ShowAttendTellDecoder, config: ReinforceConfig, batches: int, rows: int) -> Tensor:
    """The gradient that training would take, times the number of words: the mean over each batch's rows [batches,
    weights]."""
    training = TrainingConfig(doubly_stochastic=0.0, reinforce=config)
    gradients = []
    for seed in range(batches):
        memory = encode(decoder)._replace(gumbel_softmax=objective.gumbel_softmax(config))
        torch.manual_seed(seed)
        decoded = decode(decoder, memory, [True] * rows)
        loss = training_loss(decoded, training, reinforce.location_advantages(decoded, config, ZERO)[0]) * STEPS
        gradients.append(-gradient(decoder, loss))
    return torch.stack(gradients)


@pytest.mark.parametrize(
    ("estimator", "is_biased"), [("reinforce", False), ("straight_through", True), ("gumbel_softmax", True)]
)
def test_relaxed_samples_give_another_gradient_than_that_of_the_bound(
    decoder, force, estimator: str, is_biased: bool
) -> None:
    """The mean of 20,000 samples is within three standard errors of the enumerated gradient, or far from it."""
    gradients = sampled_gradients(decoder, dataclasses.replace(EXACT, estimator=estimator), batches=40, rows=500)
    standard_error = (gradients.var(0).sum() / len(gradients)).sqrt()
    error = (gradients.mean(0) - exact(decoder, force)).norm()
    assert error > 10 * standard_error if is_biased else error < 3 * standard_error


def test_the_relaxed_gradient_equals_finite_differences_under_the_same_noise(decoder) -> None:
    def loss() -> Tensor:
        torch.manual_seed(5)
        decoded = decode(decoder, encode(decoder)._replace(gumbel_softmax=RELAXED), [True, True, False])
        return losses.cross_entropy(decoded)

    check_gradients(decoder, loss, count=6, rel=1e-5)


def select(memory: Memory, decoder: ShowAttendTellDecoder, gumbel_softmax: GumbelSoftmax | None, rows: int = 50):
    """The attention of many rows to one query, all of which sample but the last, under the same noise each time."""
    sampled = torch.arange(rows).unsqueeze(0) < rows - 1
    query = torch.linspace(-1, 1, 8, dtype=torch.double).expand(1, rows, 8)
    torch.manual_seed(0)
    return decoder.attention(query, memory._replace(sample_rows=sampled, gumbel_softmax=gumbel_softmax))


@pytest.mark.parametrize("window", ["", "local_p"])
def test_the_probability_of_a_sample_and_the_entropy_have_gradients(window: str) -> None:
    """Those of log alpha_t, with the factor of a window in it: by them REINFORCE and the entropy term train."""
    torch.manual_seed(0)
    attention = make_attention("general", window, attention="hard").double()
    memory = attention.prepare(torch.randn(1, 6, D, dtype=torch.double))
    query = torch.randn(1, 4, 8, dtype=torch.double)
    logits, log_bias = attention.logits(query, memory, 2)
    log_weights = (logits if log_bias is None else logits + log_bias).log_softmax(-1)  # [1, 4, 6]
    attended = attention(query, memory._replace(sample_rows=torch.ones(1, 4, dtype=torch.bool)), 2)
    torch.testing.assert_close(attended.weights, log_weights.exp())
    location = attended.sample.location.unsqueeze(-1)
    expected = log_weights.gather(-1, location).sum(), -(log_weights.exp() * log_weights.clamp(min=-100)).sum()
    weights = [weight for name, weight in attention.named_parameters() if name.startswith("score")]
    for value, its in zip(
        (attended.sample.log_probability.sum(), attended.sample.entropy.sum()), expected, strict=True
    ):
        torch.testing.assert_close(value, its)
        ours, theirs = (torch.autograd.grad(each, weights, retain_graph=True) for each in (value, its))
        torch.testing.assert_close(ours, theirs)


def test_straight_through_reads_the_sampled_location(decoder) -> None:
    """To the bit what REINFORCE reads; rows that take the expectation do so here, too."""
    memory = encode(decoder)
    plain, straight = (select(memory, decoder, gumbel_softmax) for gumbel_softmax in (None, STRAIGHT_THROUGH))
    assert torch.equal(plain.context, straight.context) and torch.equal(plain.weights, straight.weights)
    assert all(map(torch.equal, plain.sample, straight.sample))
    assert torch.equal(straight.context[0, :-1], memory.values[0, straight.sample.location[0, :-1]])
    weights = [*decoder.attention.parameters()]
    relaxed = select(memory, decoder, RELAXED)
    assert not torch.isclose(relaxed.context[0, :-1], plain.context[0, :-1]).all()  # a mixture of regions
    ours, its = (torch.autograd.grad(each.context.sum(), weights, retain_graph=True) for each in (straight, relaxed))
    torch.testing.assert_close(ours, its)  # the sum is linear in what is selected: the same gradient


def test_the_temperature_of_a_relaxed_sample_goes_from_the_sample_to_even_attention(decoder) -> None:
    memory = encode(decoder)
    plain, cold, hot = (
        select(memory, decoder, gumbel_softmax).context
        for gumbel_softmax in (None, GumbelSoftmax(0.001, False), GumbelSoftmax(1000.0, False))
    )
    torch.testing.assert_close(cold, plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(hot[0, :-1], memory.mean.expand(49, D), atol=0.02, rtol=0)
    assert torch.equal(hot[0, -1], plain[0, -1])  # the expectation


@pytest.mark.parametrize("window", ["local_m", "local_p"])
@pytest.mark.parametrize("gumbel_softmax", [RELAXED, STRAIGHT_THROUGH])
def test_relaxed_samples_stay_within_the_window(window: str, gumbel_softmax: GumbelSoftmax) -> None:
    """What lies outside is not read, and has no gradient."""
    torch.manual_seed(0)
    attention = make_attention("general", window, attention="hard").double()
    memory = attention.prepare(torch.randn(1, 6, D, dtype=torch.double))
    values = memory.values.clone().requires_grad_()
    sampled = torch.ones(1, 20, dtype=torch.bool)
    memory = memory._replace(values=values, sample_rows=sampled, gumbel_softmax=gumbel_softmax)
    attended = attention(torch.randn(1, 1, 8, dtype=torch.double).expand(1, 20, 8), memory)
    attended.context.sum().backward()
    inside = attended.weights[0, 0] > 0
    assert 0 < inside.sum() < 6
    assert not values.grad[0, ~inside].any()
    assert all(weights.grad.isfinite().all() for weights in attention.parameters() if weights.grad is not None)
