"""Training on captions of the model: rewards, self-critical training, scheduled sampling; pretrained embeddings."""

import dataclasses
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import KINDS, make_kind
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from torch import Tensor

from caption import checkpoint
from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig, SearchConfig, SelfCriticalConfig
from caption.data import embeddings
from caption.data.dataset import Batch, CaptionDataset, pad_captions
from caption.data.hdf5 import read_image_config, read_vocabulary
from caption.data.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary
from caption.decoders import shift_right
from caption.errors import UserError
from caption.evaluation.cider import cider_d
from caption.evaluation.ngrams import count_ngrams
from caption.evaluation.reward import Reward
from caption.search import sample
from caption.training import losses
from caption.training.self_critical import CaptionSampler
from train import main as train


def texts(count: int, seed: int) -> list[list[int]]:
    """Return captions over few words, so that they share n-grams."""
    chance = random.Random(seed)
    return [[chance.randrange(4, 10) for _ in range(chance.randrange(1, 12))] + [END] for _ in range(count)]


# Rewards.


def test_the_cider_d_reward_equals_the_evaluation_score() -> None:
    """Caption by caption, with the references of the same images."""
    captions = texts(60, 0)
    references = [texts(number % 5 + 1, 100 + number) for number in range(60)]
    reward = Reward(references, "cider_d")
    words = [[str(word) for word in caption] for caption in captions]
    known = [[[str(word) for word in one] for one in several] for several in references]
    wanted = cider_d(known, words, count_ngrams(known, words)).per_image  # in percent
    found = [reward(image, [caption])[0] for image, caption in enumerate(captions)]
    assert reward(7, captions) == [reward(7, [caption])[0] for caption in captions]
    assert found == pytest.approx((wanted / 100).tolist(), abs=1e-9) and max(found) > 0.5


def test_the_bleu_4_reward_equals_nltk_s_smoothed_bleu() -> None:
    captions, references = texts(60, 0), [texts(number % 5 + 1, 100 + number) for number in range(60)]
    reward = Reward(references, "bleu_4")
    for image, (caption, several) in enumerate(zip(captions, references, strict=True)):
        if len(caption) >= 4:  # NLTK's method 2 is the same, but takes a shorter caption to have one n-gram
            wanted = sentence_bleu(several, caption, smoothing_function=SmoothingFunction().method2)
            assert reward(image, [caption]) == pytest.approx([wanted])
    assert Reward([[[5, 6, 7, 8, END]]], "bleu_4")(0, [[5, 6, 7, 8, END]]) == pytest.approx([1])
    assert Reward([[[5, 6]]], "bleu_4")(0, [[9, 9, 9]]) == [0]


@pytest.mark.parametrize("kind", ["cider_d", "bleu_4"])
def test_a_reference_earns_the_highest_reward_and_less_without_end(kind: str) -> None:
    references = [texts(1, number) for number in range(30)]
    reward = Reward(references, kind)
    for image, several in enumerate(references):
        best, without_end, *others = reward(image, [several[0], several[0][:-1], *texts(20, 1000 + image)])
        assert best >= max(others) and best > without_end
    assert Reward([[]], kind)(0, [[4, 5, END]]) == [0]


# Self-critical training.


class RegionCaptioner:
    """A captioner whose images are regions already."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        self.decoder = decoder

    def encode(self, regions: Tensor):
        return self.decoder.prepare(regions)


@pytest.mark.parametrize(("kind", "temperature"), [("soft", 1.0), ("soft", 0.4), ("transformer", 1.0)])
def test_the_gradient_is_that_of_the_expected_reward(kind: str, temperature: float) -> None:
    """The mean of many samples approaches the gradient from enumerating all captions of at most two words."""
    decoder = make_kind(kind)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter *= 0.5
    regions = torch.randn(1, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    steer = decoder.output.bias

    words = [w for w in range(decoder.embedding.num_embeddings) if w not in (PAD, START, END)]
    captions = [[END], *([a, END] for a in words), *([a, b] for a in words for b in words)]  # all that can be sampled

    class FixedReward(Reward):
        def __init__(self) -> None:
            super().__init__([[[1]]], "cider_d")

        def __call__(self, image: int, captions: list[list[int]]) -> list[float]:
            return [(3.0 if 5 in caption else 0.0) + (1.0 if caption[-1] == END else 0.0) for caption in captions]

    sampler = CaptionSampler.__new__(CaptionSampler)
    sampler.config = SelfCriticalConfig(1, samples=1500, baseline="leave_one_out", temperature=temperature)
    sampler.reward = FixedReward()
    sampler.sampling = SearchConfig(1500, 2, 0, suppress_unknown=False, method="sample", temperature=temperature)
    sampler.greedy = SearchConfig(1, 2, 0, suppress_unknown=False)

    padded, lengths = pad_captions([captions])
    decoded = decoder(decoder.prepare(regions), padded, lengths)
    never = torch.tensor([PAD, START])
    allowed = (decoded.logits / temperature).index_fill(1, never, -torch.inf)
    each = allowed.log_softmax(-1).gather(1, decoded.targets.unsqueeze(1)).squeeze(1)  # [N]
    chances = torch.stack([part.sum() for part in each.split(lengths[0].tolist())]).exp()
    assert chances.sum().item() == pytest.approx(1, abs=1e-5)
    expected = chances @ torch.tensor(sampler.reward(0, captions), dtype=torch.double)
    (wanted,) = torch.autograd.grad(expected, steer)
    for baseline in ("leave_one_out", "greedy"):
        sampler.config = dataclasses.replace(sampler.config, baseline=baseline)
        torch.manual_seed(0)
        found = torch.zeros_like(wanted)
        for _ in range(3):
            decoded, advantages, mean = sampler(RegionCaptioner(decoder), Batch([0], regions, None, None), regions)
            # A sum over words, a mean over captions.
            loss = losses.self_critical_loss(decoded, advantages) * len(advantages) / 1500
            found -= torch.autograd.grad(loss, steer)[0] / 3
        error = (found - wanted).norm() / wanted.norm()
        assert error < 0.12, (baseline, error)
        assert mean == pytest.approx(expected.item(), rel=0.2)


@pytest.mark.parametrize("sure", [1e3, 1.0])
def test_samples_equal_to_their_baseline_have_no_advantage(captioner: Captioner, shapes: Path, sure: float) -> None:
    """Neither against the greedy caption nor against each other: for a model so sure of every word that all samples are
    the greedy caption, and at a temperature near zero."""
    data = CaptionDataset(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    captioner.decoder.output.weight.data *= sure
    captioner.decoder.output.bias.data = torch.randn(len(captioner.vocabulary)) * sure
    for baseline in ("greedy", "leave_one_out"):
        config = SelfCriticalConfig(1, baseline=baseline, samples=3, temperature=sure / 1e3)
        sampler = CaptionSampler(config, data, 6)
        captioner.train()
        decoded, advantages, _ = sampler(captioner, batch, batch.images)
        assert advantages.shape == decoded.targets.shape and advantages.abs().max() < 1e-6
        assert captioner.decoder.training


def test_samples_are_scored_with_the_log_probability_of_sampling(captioner: Captioner, shapes: Path) -> None:
    """Teacher forcing gives the log-probability that sampling reported, also for captions cut at the limit."""
    data = CaptionDataset(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    sampler = CaptionSampler(SelfCriticalConfig(1, samples=4), data, 5)
    captioner.train()
    captioner.decoder.dropout.p = captioner.decoder.state_dropout.p = 0.5  # which must be off in both
    captioner.decoder.output.bias.data[[PAD, START]] = -50.0  # the log-probabilities of search include these words
    torch.manual_seed(1)
    decoded, _, _ = sampler(captioner, batch, batch.images)
    torch.manual_seed(1)
    captioner.decoder.eval()
    found = sample(captioner.decoder, captioner.encode(batch.images), sampler.sampling)
    total = -torch.nn.functional.cross_entropy(decoded.logits, decoded.targets, reduction="sum").item()
    assert total == pytest.approx(sum(one.log_probability for several in found for one in several), rel=1e-5)
    words = sum(len(one.words) + one.finished for several in found for one in several)
    assert len(decoded.targets) == words


def test_dropout_acts_on_scoring_only_and_only_if_calls(captioner: Captioner, shapes: Path) -> None:
    """The samples and their advantages are the same: only their scores differ."""
    data = CaptionDataset(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    captioner.train()
    captioner.decoder.dropout.p = captioner.decoder.state_dropout.p = 0.5
    found = []
    for dropout in (False, False, True):
        torch.manual_seed(1)
        sampler = CaptionSampler(SelfCriticalConfig(1, samples=4, dropout=dropout), data, 5)
        found.append(sampler(captioner, batch, batch.images))
        assert captioner.decoder.training
    (one, advantages, _), (again, _, _), (other, same_advantages, _) = found
    assert torch.equal(one.logits, again.logits) and torch.equal(one.targets, other.targets)
    assert torch.equal(advantages, same_advantages) and not torch.allclose(one.logits, other.logits)


def test_every_sample_is_scored_against_its_own_image(captioner: Captioner, shapes: Path) -> None:
    """In any order of the batch; references end with <end>, and no sample can equal their unknown words."""
    data = CaptionDataset(shapes, "train")
    batch = data.__getitems__([5, 3, 1, 4])
    sampler = CaptionSampler(SelfCriticalConfig(1, samples=3), data, 5)
    assert sampler.reward.references[2] == [[*words, END] for words in data.captions(2)]
    calls: list[tuple[int, list[list[int]]]] = []
    sampler.reward = lambda image, captions: calls.append((image, captions)) or [1.0, 2.0, 6.0]
    captioner.train()
    decoded, advantages, mean = sampler(captioner, batch, batch.images)
    assert [image for image, _ in calls] == batch.indices and batch.indices != sorted(batch.indices)
    assert mean == 3
    written = [words for _, captions in calls for words in captions]
    assert decoded.targets.tolist() == [word for words in written for word in words]
    wanted = [gain for words, gain in zip(written, [-3.0, -1.5, 4.5] * 4, strict=True) for _ in words]
    assert advantages.tolist() == pytest.approx(wanted)
    for _, captions in calls:
        assert [len(words) for words in captions] == sorted((len(words) for words in captions), reverse=True)
        assert all(len(words) == 5 or words[-1] == END for words in captions)

    class Unknown:
        def __len__(self) -> int:
            return 1

        def captions(self, index: int) -> list[np.ndarray]:
            return [np.array([4, UNKNOWN, 5])]

    assert CaptionSampler(SelfCriticalConfig(1), Unknown(), 5).reward.references == [[[4, -1, 5, END]]]


@pytest.mark.parametrize("kind", ["soft", "multi-head", "transformer"])
def test_bfloat16_gradients_reach_the_same_weights_as_fp32(kind: str, captioner: Captioner, shapes: Path) -> None:
    """Autocast caches casts of weights; those made without gradient while sampling must not be reused."""
    data = CaptionDataset(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    config = dataclasses.replace(captioner.configs["decoder"], **KINDS[kind])
    model = Captioner(captioner.image, captioner.configs["encoder"], config, captioner.vocabulary)
    sampler = CaptionSampler(SelfCriticalConfig(1, samples=3), data, 5)
    sampler.reward = lambda image, captions: [1.0, 2.0, 6.0]
    for sampled in (True, False):
        norms = []
        for enabled in (False, True):
            model.zero_grad()
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                if sampled:
                    loss = losses.self_critical_loss(*sampler(model, batch, batch.images)[:2])
                else:
                    loss = losses.cross_entropy(model(batch.images, batch.captions, batch.lengths, sampling_rate=0.5))
            loss.backward()
            norms.append([None if p.grad is None else p.grad.norm() for p in model.parameters()])
        assert [norm is None for norm in norms[0]] == [norm is None for norm in norms[1]]
        if not sampled:  # (bfloat16 samples other captions)
            sizes = [torch.stack([norm for norm in each if norm is not None]).norm() for each in norms]
            assert sizes[1].item() == pytest.approx(sizes[0].item(), rel=0.2)


@pytest.mark.parametrize("reward", ["cider_d", "bleu_4"])
def test_rewards_take_less_than_half_the_time_of_sampling(shapes: Path, reward: str, captioner: Captioner) -> None:
    """A ratio within one run, with the smallest of models."""
    data = CaptionDataset(shapes, "train")
    sampler = CaptionSampler(SelfCriticalConfig(1, reward=reward), data, 12)
    batch = data.__getitems__(list(range(16)))
    captioner.eval()
    ratios = []
    for _ in range(4):
        begun = time.perf_counter()
        found = sample(captioner.decoder, captioner.encode(batch.images), sampler.sampling)
        sampled = time.perf_counter()
        sampler.score(batch.indices, [[one.words for one in several] for several in found])
        ratios.append((time.perf_counter() - sampled) / (sampled - begun))
    assert min(ratios) < 0.5


# Scheduled sampling.


def test_scheduled_sampling_replaces_inputs_and_never_targets(captioner: Captioner, shapes: Path) -> None:
    data = CaptionDataset(shapes, "train")
    batch = data.__getitems__(list(range(20)))
    captioner.eval()
    memory = captioner.encode(batch.images)
    torch.manual_seed(0)
    gold = shift_right(batch.captions)
    real = torch.arange(batch.captions.shape[2]) < batch.lengths[..., None]
    read = real[..., 1:]  # inputs that are words of the caption
    assert torch.equal(captioner._sample_inputs(memory, batch.captions, batch.lengths, 0.0), gold)
    mixed = captioner._sample_inputs(memory, batch.captions, batch.lengths, 1.0)
    assert (mixed[..., 0] == START).all()
    changed = (mixed != gold)[..., 1:]
    assert changed[read].float().mean() > 0.5
    assert (mixed[..., 1:][changed] >= len(SPECIALS)).all()  # no special word is an input
    half = captioner._sample_inputs(memory, batch.captions, batch.lengths, 0.5)
    fraction = (half != gold)[..., 1:][read].float().mean() / changed[read].float().mean()
    assert fraction.item() == pytest.approx(0.5, abs=0.1)
    decoded = captioner(batch.images, batch.captions, batch.lengths, sampling_rate=1.0)
    assert torch.equal(decoded.targets, batch.captions[real])


# The command.


def untrained(shapes: Path, folder: Path) -> Path:
    """Save the checkpoint of an untrained model."""
    torch.manual_seed(0)
    decoder = DecoderConfig(embedding_dim=16, hidden_dim=16, attention_dim=8)
    encoder = EncoderConfig("small_cnn", finetune_from="all")
    made = Captioner(read_image_config(shapes), encoder, decoder, read_vocabulary(shapes))
    checkpoint.save(folder / "untrained.pt", made.to_checkpoint())
    return folder / "untrained.pt"


WIDTHS = "--decoder.embedding-dim 16 --decoder.hidden-dim 16 --decoder.attention-dim 8".split()


def epochs(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_switches_to_the_reward_at_its_first_epoch(shapes: Path, tmp_path: Path, capsys) -> None:
    """(test_training.py resumes such a run.)"""
    small = ["--data", str(shapes), *WIDTHS]
    small += ["--training.self-critical.first-epoch", "2", "--training.self-critical.samples", "2"]
    small += ["--training.scheduled-sampling", "0.3", "--search.max-length", "8"]
    train(["shapes-soft", *small, "--output", str(tmp_path / "a"), "--training.epochs", "3"])
    output = capsys.readouterr().out
    assert "epoch 1: loss" in output and "epoch 2: reward" in output
    records = epochs(tmp_path / "a")
    assert [("cross_entropy" in r["train"], "reward" in r["train"]) for r in records] == [(1, 0), (0, 1), (0, 1)]
    assert (tmp_path / "a" / "curves.png").exists()


def test_patience_and_rate_reductions_start_anew_with_self_critical_epochs(
    shapes: Path, tmp_path: Path, capsys
) -> None:
    """Without a better score, only the self-critical epochs are cut short; earlier reductions are forgotten."""
    small = ["--data", str(shapes), *WIDTHS]
    small += ["--training.self-critical.first-epoch", "3", "--training.self-critical.samples", "2"]
    small += ["--training.learning-rate", "1e-12", "--training.self-critical.learning-rate", "1e-12"]
    small += [
        "--encoder.finetune-from",
        "",
        "--init-from",
        str(untrained(shapes, tmp_path)),
        "--search.max-length",
        "6",
    ]
    small += ["--training.patience", "1", "--training.schedule", "plateau", "--training.plateau-epochs", "1"]
    train(["shapes-soft", *small, "--output", str(tmp_path / "run"), "--training.epochs", "6"])
    assert [record["epoch"] for record in epochs(tmp_path / "run")] == [1, 2, 3]
    assert "no better score for 1 epochs: stopped" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "run" / "last.pt")["train_state"]["lr_reductions"] == 1


# Pretrained embeddings.


def test_pretrained_embeddings_fill_the_rows_of_their_words(tmp_path: Path) -> None:
    vocabulary = Vocabulary([*SPECIALS, "dog", "t-shirt", "new york", "zebra"])
    path = tmp_path / "glove.txt"
    path.write_text("the 9 9 9\ndog 1 2 3\nnew york -1 0 1\n<end> 7 7 7\nt-shirt 0 0 2\n", encoding="utf-8")
    torch.manual_seed(0)
    embedding = torch.randn(8, 3) * 0.1
    before = embedding.clone()
    output = embeddings.load_embeddings(embedding, vocabulary, str(path))
    assert output == f"{path}: vectors for 3 of 4 words (75.0%); without: zebra"
    assert torch.equal(embedding[[0, 1, 2, 3, 7]], before[[0, 1, 2, 3, 7]])
    given = torch.tensor([[1.0, 2, 3], [0, 0, 2], [-1, 0, 1]])
    sizes = [values.square().mean().sqrt() for values in (before[4:], given)]
    torch.testing.assert_close(embedding[4:7], given * (sizes[0] / sizes[1]))
    for text in ("4 3\ndog 1 2 3\n", "dog\t1\t2\t3\n"):  # word2vec's header; tabs
        path.write_text(text)
        assert "1 of 4" in embeddings.load_embeddings(embedding, vocabulary, str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dog 1 2 3 4\n", "its vectors have 4 numbers, but decoder.embedding_dim is 3; give --decoder.embedding-dim 4"),
        ("the 1 2 3\n", "has no vector for any of the 1 words"),
        ("the 1 2 3\ndog 1 x 3\n", r"no word vectors can be read from it \(line 2: could not convert"),
        ("dog\n", r"no word vectors can be read from it \(line 1: a word without numbers"),
        ("dog\t1\t2\n", "its vectors have 2 numbers, .*give --decoder.embedding-dim 2"),
        ("dog 1 nan 3\n", "its vectors hold NaN or infinity, or nothing but 0"),
        ("dog 0 0 0\n", "its vectors hold NaN or infinity, or nothing but 0"),
        (None, r"no word vectors can be read from it \(No such file"),
    ],
)
def test_unusable_pretrained_embeddings_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        embeddings.load_embeddings(torch.randn(5, 3), Vocabulary([*SPECIALS, "dog"]), str(path))


def test_training_starts_from_pretrained_embeddings(shapes: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("\n".join(f"{word} " + " ".join("0.1" for _ in range(16)) for word in ("red", "circle")))
    train(
        ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / "run"), "--training.epochs", "1"]
        + ["--decoder.embedding-dim", "16", "--decoder.hidden-dim", "16", "--decoder.pretrained-embeddings", str(path)]
    )
    assert "vectors for 2 of " in capsys.readouterr().out
    assert epochs(tmp_path / "run")[0]["train"]["cross_entropy"] < math.log(34) + 0.5
    assert checkpoint.load(tmp_path / "run" / "best.pt")["model"]["decoder.embedding.weight"].abs().max() < 1
