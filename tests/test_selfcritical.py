"""Training on what the model writes: rewards, self-critical training, scheduled sampling; word vectors, schedules."""

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
from caption.config import Config, DecoderConfig, EncoderConfig, SearchConfig, SelfCriticalConfig, TrainingConfig
from caption.data import embeddings
from caption.data.dataset import Batch, CaptionData, pad_captions
from caption.data.hdf5 import read_image_config, read_vocabulary
from caption.data.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary
from caption.decoders.base import shifted
from caption.errors import UserError
from caption.evaluation.cider import cider_d
from caption.evaluation.ngrams import count_ngrams
from caption.evaluation.reward import Reward
from caption.search import sample
from caption.training import loop, losses
from caption.training.self_critical import Critic
from train import main as train


def texts(count: int, seed: int) -> list[list[int]]:
    """Captions of few words, so that n-grams meet."""
    chance = random.Random(seed)
    return [[chance.randrange(4, 10) for _ in range(chance.randrange(1, 12))] + [END] for _ in range(count)]


# Rewards.


def test_cider_d_is_the_evaluation_s() -> None:
    """With the references of the same pictures, caption for caption."""
    captions = texts(60, 0)
    references = [texts(number % 5 + 1, 100 + number) for number in range(60)]
    reward = Reward(references, "cider_d")
    words = [[str(word) for word in caption] for caption in captions]
    known = [[[str(word) for word in one] for one in several] for several in references]
    wanted = cider_d(known, words, count_ngrams(known, words)).per_image  # in percent
    found = [reward(image, [caption])[0] for image, caption in enumerate(captions)]
    assert reward(7, captions) == [reward(7, [caption])[0] for caption in captions]
    assert found == pytest.approx((wanted / 100).tolist(), abs=1e-9) and max(found) > 0.5


def test_bleu_4_is_the_smoothed_one_of_nltk() -> None:
    captions, references = texts(60, 0), [texts(number % 5 + 1, 100 + number) for number in range(60)]
    reward = Reward(references, "bleu_4")
    for image, (caption, several) in enumerate(zip(captions, references, strict=True)):
        if len(caption) >= 4:  # NLTK's method 2 is the same, but takes a shorter caption to have one n-gram
            wanted = sentence_bleu(several, caption, smoothing_function=SmoothingFunction().method2)
            assert reward(image, [caption]) == pytest.approx([wanted])
    assert Reward([[[5, 6, 7, 8, END]]], "bleu_4")(0, [[5, 6, 7, 8, END]]) == pytest.approx([1])
    assert Reward([[[5, 6]]], "bleu_4")(0, [[9, 9, 9]]) == [0]


@pytest.mark.parametrize("kind", ["cider_d", "bleu_4"])
def test_rewards_are_highest_for_a_reference_and_want_an_end(kind: str) -> None:
    references = [texts(1, number) for number in range(30)]
    reward = Reward(references, kind)
    for image, several in enumerate(references):
        best, without_end, *others = reward(image, [several[0], several[0][:-1], *texts(20, 1000 + image)])
        assert best >= max(others) and best > without_end
    assert Reward([[]], kind)(0, [[4, 5, END]]) == [0]


# Self-critical training.


class Fixed:
    """A captioner whose regions are given."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        self.decoder = decoder

    def encode(self, regions: Tensor):
        return self.decoder.prepare(regions)


@pytest.mark.parametrize(("kind", "temperature"), [("soft", 1.0), ("soft", 0.4), ("transformer", 1.0)])
def test_its_gradient_is_that_of_the_expected_reward(kind: str, temperature: float) -> None:
    """Of all captions of at most two words, each with its probability: the mean of many draws approaches it."""
    decoder = make_kind(kind)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter *= 0.5
    regions = torch.randn(1, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    steer = decoder.output.bias

    words = [w for w in range(decoder.embedding.num_embeddings) if w not in (PAD, START, END)]
    captions = [[END], *([a, END] for a in words), *([a, b] for a in words for b in words)]  # all that can be drawn

    class Given(Reward):
        def __init__(self) -> None:
            super().__init__([[[1]]], "cider_d")

        def __call__(self, image: int, captions: list[list[int]]) -> list[float]:
            return [(3.0 if 5 in caption else 0.0) + (1.0 if caption[-1] == END else 0.0) for caption in captions]

    critic = Critic.__new__(Critic)
    critic.config = SelfCriticalConfig(1, samples=1500, baseline="leave_one_out", temperature=temperature)
    critic.reward = Given()
    critic.draw = SearchConfig(1500, 2, 0, suppress_unknown=False, method="sample", temperature=temperature)
    critic.greedy = SearchConfig(1, 2, 0, suppress_unknown=False)

    padded, lengths = pad_captions([captions])
    decoded = decoder(decoder.prepare(regions), padded, lengths)
    never = torch.tensor([PAD, START])
    allowed = (decoded.logits / temperature).index_fill(1, never, -torch.inf)
    each = allowed.log_softmax(-1).gather(1, decoded.targets.unsqueeze(1)).squeeze(1)  # [N]
    chances = torch.stack([part.sum() for part in each.split(lengths[0].tolist())]).exp()
    assert chances.sum().item() == pytest.approx(1, abs=1e-5)
    expected = chances @ torch.tensor(critic.reward(0, captions), dtype=torch.double)
    (wanted,) = torch.autograd.grad(expected, steer)
    for baseline in ("leave_one_out", "greedy"):
        critic.config = dataclasses.replace(critic.config, baseline=baseline)
        torch.manual_seed(0)
        found = torch.zeros_like(wanted)
        for _ in range(3):
            decoded, earned, mean = critic(Fixed(decoder), Batch([0], regions, None, None), regions)
            loss = losses.self_critical(decoded, earned) * len(earned) / 1500  # a sum over words, a mean over captions
            found -= torch.autograd.grad(loss, steer)[0] / 3
        error = (found - wanted).norm() / wanted.norm()
        assert error < 0.12, (baseline, error)
        assert mean == pytest.approx(expected.item(), rel=0.2)


@pytest.mark.parametrize("sure", [1e3, 1.0])
def test_the_greedy_caption_earns_nothing_against_itself(captioner: Captioner, shapes: Path, sure: float) -> None:
    """And draws that are all alike earn nothing against each other: those of a model so sure of every word that they
    are greedy's, and those at a temperature of nearly zero."""
    data = CaptionData(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    captioner.decoder.output.weight.data *= sure
    captioner.decoder.output.bias.data = torch.randn(len(captioner.vocabulary)) * sure
    for baseline in ("greedy", "leave_one_out"):
        config = SelfCriticalConfig(1, baseline=baseline, samples=3, temperature=sure / 1e3)
        critic = Critic(config, data, 6)
        captioner.train()
        decoded, earned, _ = critic(captioner, batch, batch.images)
        assert earned.shape == decoded.targets.shape and earned.abs().max() < 1e-6
        assert captioner.decoder.training


def test_draws_are_read_again_as_they_were_drawn(captioner: Captioner, shapes: Path) -> None:
    """Teacher forcing finds the log-probability that sampling told, for captions cut off at the limit, too."""
    data = CaptionData(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    critic = Critic(SelfCriticalConfig(1, samples=4), data, 5)
    captioner.train()
    captioner.decoder.dropout.p = captioner.decoder.state_dropout.p = 0.5  # which must rest in both
    captioner.decoder.output.bias.data[[PAD, START]] = -50.0  # search tells log-probabilities with these in the sum
    torch.manual_seed(1)
    decoded, _, _ = critic(captioner, batch, batch.images)
    torch.manual_seed(1)
    captioner.decoder.eval()
    found = sample(captioner.decoder, captioner.encode(batch.images), critic.draw)
    total = -torch.nn.functional.cross_entropy(decoded.logits, decoded.targets, reduction="sum").item()
    assert total == pytest.approx(sum(one.log_probability for several in found for one in several), rel=1e-5)
    words = sum(len(one.words) + one.finished for several in found for one in several)
    assert len(decoded.targets) == words


def test_dropout_works_where_it_is_wanted(captioner: Captioner, shapes: Path) -> None:
    """On the same draws, which earn the same: only how they are read differs."""
    data = CaptionData(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    captioner.train()
    captioner.decoder.dropout.p = captioner.decoder.state_dropout.p = 0.5
    found = []
    for dropout in (False, False, True):
        torch.manual_seed(1)
        found.append(Critic(SelfCriticalConfig(1, samples=4, dropout=dropout), data, 5)(captioner, batch, batch.images))
        assert captioner.decoder.training
    (one, earned, _), (again, _, _), (other, earned_too, _) = found
    assert torch.equal(one.logits, again.logits) and torch.equal(one.targets, other.targets)
    assert torch.equal(earned, earned_too) and not torch.allclose(one.logits, other.logits)


def test_every_draw_is_held_against_its_own_image(captioner: Captioner, shapes: Path) -> None:
    """Whatever the order of the batch; with <end>, and with words that no draw can equal where one is unknown."""
    data = CaptionData(shapes, "train")
    batch = data.__getitems__([5, 3, 1, 4])
    critic = Critic(SelfCriticalConfig(1, samples=3), data, 5)
    assert critic.reward.references[2] == [[*words, END] for words in data.captions(2)]
    asked: list[tuple[int, list[list[int]]]] = []
    critic.reward = lambda image, captions: asked.append((image, captions)) or [1.0, 2.0, 6.0]
    captioner.train()
    decoded, earned, mean = critic(captioner, batch, batch.images)
    assert [image for image, _ in asked] == batch.indices and batch.indices != sorted(batch.indices)
    assert mean == 3
    written = [words for _, captions in asked for words in captions]
    assert decoded.targets.tolist() == [word for words in written for word in words]
    wanted = [gain for words, gain in zip(written, [-3.0, -1.5, 4.5] * 4, strict=True) for _ in words]
    assert earned.tolist() == pytest.approx(wanted)
    for _, captions in asked:
        assert [len(words) for words in captions] == sorted((len(words) for words in captions), reverse=True)
        assert all(len(words) == 5 or words[-1] == END for words in captions)

    class Unknown:
        def __len__(self) -> int:
            return 1

        def captions(self, index: int) -> list[np.ndarray]:
            return [np.array([4, UNKNOWN, 5])]

    assert Critic(SelfCriticalConfig(1), Unknown(), 5).reward.references == [[[4, -1, 5, END]]]


@pytest.mark.parametrize("kind", ["soft", "multi-head", "transformer"])
def test_bfloat16_gradients_reach_what_they_reach_in_single(kind: str, captioner: Captioner, shapes: Path) -> None:
    """Autocast keeps copies of weights; those of the draws, which are made without gradient, must not be used again."""
    data = CaptionData(shapes, "train")
    batch = data.__getitems__([0, 1, 2])
    config = dataclasses.replace(captioner.configs["decoder"], **KINDS[kind])
    model = Captioner(captioner.image, captioner.configs["encoder"], config, captioner.vocabulary)
    critic = Critic(SelfCriticalConfig(1, samples=3), data, 5)
    critic.reward = lambda image, captions: [1.0, 2.0, 6.0]
    for drawn in (True, False):
        norms = []
        for enabled in (False, True):
            model.zero_grad()
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                if drawn:
                    loss = losses.self_critical(*critic(model, batch, batch.images)[:2])
                else:
                    loss = losses.cross_entropy(model(batch.images, batch.captions, batch.lengths, own=0.5))
            loss.backward()
            norms.append([None if p.grad is None else p.grad.norm() for p in model.parameters()])
        assert [norm is None for norm in norms[0]] == [norm is None for norm in norms[1]]
        if not drawn:  # (draws in bfloat16 are other draws)
            sizes = [torch.stack([norm for norm in each if norm is not None]).norm() for each in norms]
            assert sizes[1].item() == pytest.approx(sizes[0].item(), rel=0.2)


@pytest.mark.parametrize("reward", ["cider_d", "bleu_4"])
def test_a_reward_takes_little_of_a_step(shapes: Path, reward: str, captioner: Captioner) -> None:
    """A ratio within one run: far less than drawing the captions, with the smallest of models."""
    data = CaptionData(shapes, "train")
    critic = Critic(SelfCriticalConfig(1, reward=reward), data, 12)
    batch = data.__getitems__(list(range(16)))
    captioner.eval()
    share = []
    for _ in range(4):
        begun = time.perf_counter()
        found = sample(captioner.decoder, captioner.encode(batch.images), critic.draw)
        drawn = time.perf_counter()
        critic.score(batch.indices, [[one.words for one in several] for several in found])
        share.append((time.perf_counter() - drawn) / (drawn - begun))
    assert min(share) < 0.5


# Scheduled sampling.


def test_own_words_are_read_and_not_written(captioner: Captioner, shapes: Path) -> None:
    data = CaptionData(shapes, "train")
    batch = data.__getitems__(list(range(20)))
    captioner.eval()
    memory = captioner.encode(batch.images)
    torch.manual_seed(0)
    gold = shifted(batch.captions)
    real = torch.arange(batch.captions.shape[2]) < batch.lengths[..., None]
    read = real[..., 1:]  # places where a word of the caption is read
    assert torch.equal(captioner._own_words(memory, batch.captions, batch.lengths, 0.0), gold)
    mixed = captioner._own_words(memory, batch.captions, batch.lengths, 1.0)
    assert (mixed[..., 0] == START).all()
    changed = (mixed != gold)[..., 1:]
    assert changed[read].float().mean() > 0.5
    assert (mixed[..., 1:][changed] >= len(SPECIALS)).all()  # nothing special is read
    half = captioner._own_words(memory, batch.captions, batch.lengths, 0.5)
    share = (half != gold)[..., 1:][read].float().mean() / changed[read].float().mean()
    assert share.item() == pytest.approx(0.5, abs=0.1)
    decoded = captioner(batch.images, batch.captions, batch.lengths, own=1.0)
    assert torch.equal(decoded.targets, batch.captions[real])


# The command.


def frozen(shapes: Path, folder: Path) -> Path:
    """The checkpoint of an untrained model."""
    torch.manual_seed(0)
    decoder = DecoderConfig(embedding=16, hidden=16, attention=8)
    encoder = EncoderConfig("small_cnn", finetune_from="all")
    made = Captioner(read_image_config(shapes), encoder, decoder, read_vocabulary(shapes))
    checkpoint.save(folder / "untrained.pt", made.to_checkpoint())
    return folder / "untrained.pt"


def epochs(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_changes_over_by_epoch(shapes: Path, tmp_path: Path, capsys) -> None:
    """(That such a run goes on when it was interrupted is tested in test_training.py.)"""
    small = ["--data", str(shapes), "--decoder.embedding", "16", "--decoder.hidden", "16", "--decoder.attention", "8"]
    small += ["--training.self-critical.first-epoch", "2", "--training.self-critical.samples", "2"]
    small += ["--training.scheduled-sampling", "0.3", "--search.max-length", "8"]
    train(["shapes-soft", *small, "--output", str(tmp_path / "a"), "--training.epochs", "3"])
    told = capsys.readouterr().out
    assert "epoch 1: loss" in told and "epoch 2: reward" in told
    records = epochs(tmp_path / "a")
    assert [("cross_entropy" in r["train"], "reward" in r["train"]) for r in records] == [(1, 0), (0, 1), (0, 1)]
    assert (tmp_path / "a" / "curves.png").exists()


def test_schedules() -> None:
    """Warm-up and cosine, then anew at the lower rate of self-critical training; the inverse root by its formula."""
    config = TrainingConfig(
        epochs=4, warmup_steps=10, learning_rate=1e-3, self_critical=SelfCriticalConfig(3, learning_rate=1e-4)
    )
    rates = [loop.rate_factor(config, step, 400, 0) for step in range(400)]
    assert rates[9] == 1 and rates[199] < 0.001 and rates[200] == 1 and rates[399] < 0.001
    assert rates[:200] == [
        loop.rate_factor(dataclasses.replace(config, epochs=2, self_critical=SelfCriticalConfig()), s, 200, 0)
        for s in range(200)
    ]
    noam = TrainingConfig(schedule="inverse_sqrt", warmup_steps=40, learning_rate=(512 * 40) ** -0.5)
    for step in (1, 20, 40, 41, 400):  # from 1, as in the paper
        wanted = 512**-0.5 * min(step**-0.5, step * 40**-1.5)
        assert noam.learning_rate * loop.rate_factor(noam, step - 1, 1000, 0) == pytest.approx(wanted)


def test_rates_of_decoder_and_encoder(captioner: Captioner, shapes: Path) -> None:
    """In self-critical epochs the decoder has its other rate, and that of the encoder falls in proportion."""
    data = CaptionData(shapes, "train")
    critical = SelfCriticalConfig(2, learning_rate=1e-4, samples=2)
    config = TrainingConfig(
        epochs=2, learning_rate=1e-3, encoder_learning_rate=1e-5, self_critical=critical, schedule="constant"
    )
    optimizer = loop.make_optimizer(captioner, config)
    loader = [data.__getitems__([0, 1])]
    for critic, rate in ((None, 1e-3), (Critic(critical, data, 4), 1e-4)):
        progress = loop.Progress(epoch=2 if critic else 1)
        loop.train_epoch(captioner, loader, optimizer, config, progress, 2, critic=critic)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate / 100])


def test_own_words_become_more_from_epoch_to_epoch(captioner: Captioner, shapes: Path, monkeypatch) -> None:
    """Evenly up to the share given, in the last epoch of cross-entropy."""
    loader, shares = [CaptionData(shapes, "train").__getitems__([0, 1])], []
    forward = captioner.forward
    monkeypatch.setattr(captioner, "forward", lambda *given: shares.append(given[-1]) or forward(*given))

    def train_epochs(epochs: int, count: int, critical: SelfCriticalConfig) -> list[float]:
        shares.clear()
        config = TrainingConfig(epochs=epochs, scheduled_sampling=0.6, self_critical=critical)
        optimizer = loop.make_optimizer(captioner, config)
        for epoch in range(1, count + 1):
            loop.train_epoch(captioner, loader, optimizer, config, loop.Progress(epoch=epoch), 9)
        return shares

    assert train_epochs(3, 3, SelfCriticalConfig()) == pytest.approx([0, 0.3, 0.6])
    assert train_epochs(5, 2, SelfCriticalConfig(3)) == pytest.approx([0, 0.6])
    assert train_epochs(1, 1, SelfCriticalConfig()) == [0.6]


def test_patience_and_halvings_begin_anew(shapes: Path, tmp_path: Path, capsys) -> None:
    """Where nothing becomes better, only what follows cross-entropy is cut short; halvings before it are forgotten."""
    small = ["--data", str(shapes), "--decoder.embedding", "16", "--decoder.hidden", "16", "--decoder.attention", "8"]
    small += ["--training.self-critical.first-epoch", "3", "--training.self-critical.samples", "2"]
    small += ["--training.learning-rate", "1e-12", "--training.self-critical.learning-rate", "1e-12"]
    small += ["--encoder.finetune-from", "", "--start-from", str(frozen(shapes, tmp_path)), "--search.max-length", "6"]
    small += ["--training.patience", "1", "--training.schedule", "plateau", "--training.plateau-epochs", "1"]
    train(["shapes-soft", *small, "--output", str(tmp_path / "run"), "--training.epochs", "6"])
    assert [record["epoch"] for record in epochs(tmp_path / "run")] == [1, 2, 3]
    assert "no better score for 1 epochs: stopped" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "run" / "last.pt")["progress"]["reductions"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TrainingConfig(self_critical=SelfCriticalConfig(samples=3)),
            "self_critical is set, but its first_epoch is 0",
        ),
        (lambda: SelfCriticalConfig(1, samples=1), "samples is 1, but must be at least 2 for leave_one_out"),
        (
            lambda: TrainingConfig(epochs=3, self_critical=SelfCriticalConfig(4)),
            "first_epoch is 4, but must be at most training.epochs, 3",
        ),
        (
            lambda: Config("a", "b", start_from="c.pt", decoder=DecoderConfig(vectors="d.txt")),
            "decoder.vectors is set, but start_from has embeddings already",
        ),
        (lambda: TrainingConfig(schedule="inverse_sqrt"), "warmup_steps is 0, but must be at least 1"),
        (lambda: TrainingConfig(scheduled_sampling=1.5), r"scheduled_sampling is 1.5, but must be in \[0, 1\]"),
    ],
)
def test_mistakes(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_hard_attention_is_refused() -> None:
    training = TrainingConfig(self_critical=SelfCriticalConfig(1))
    with pytest.raises(UserError, match="self_critical is set, but decoder.selection is hard"):
        Config("a", "b", decoder=DecoderConfig(selection="hard"), training=training)


# Word vectors.


def test_vectors_fill_the_words_they_have(tmp_path: Path) -> None:
    vocabulary = Vocabulary([*SPECIALS, "dog", "t-shirt", "new york", "zebra"])
    path = tmp_path / "glove.txt"
    path.write_text("the 9 9 9\ndog 1 2 3\nnew york -1 0 1\n<end> 7 7 7\nt-shirt 0 0 2\n", encoding="utf-8")
    torch.manual_seed(0)
    embedding = torch.randn(8, 3) * 0.1
    before = embedding.clone()
    told = embeddings.fill(embedding, vocabulary, str(path))
    assert told == f"{path}: vectors for 3 of 4 words (75.0%); without: zebra"
    assert torch.equal(embedding[[0, 1, 2, 3, 7]], before[[0, 1, 2, 3, 7]])
    given = torch.tensor([[1.0, 2, 3], [0, 0, 2], [-1, 0, 1]])
    sizes = [values.square().mean().sqrt() for values in (before[4:], given)]
    torch.testing.assert_close(embedding[4:7], given * (sizes[0] / sizes[1]))
    path.write_text("4 3\ndog 1 2 3\n")  # word2vec's
    assert "1 of 4" in embeddings.fill(embedding, vocabulary, str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dog 1 2 3 4\n", "its vectors have 4 numbers, but decoder.embedding is 3; give --decoder.embedding 4"),
        ("the 1 2 3\n", "has no vector for any of the 1 words"),
        ("the 1 2 3\ndog 1 x 3\n", r"no word vectors can be read from it \(line 2: could not convert"),
        (None, r"no word vectors can be read from it \(No such file"),
    ],
)
def test_vectors_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        embeddings.fill(torch.randn(5, 3), Vocabulary([*SPECIALS, "dog"]), str(path))


def test_training_begins_with_vectors(shapes: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("\n".join(f"{word} " + " ".join("0.1" for _ in range(16)) for word in ("red", "circle")))
    train(
        ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / "run"), "--training.epochs", "1"]
        + ["--decoder.embedding", "16", "--decoder.hidden", "16", "--decoder.vectors", str(path)]
    )
    assert "vectors for 2 of " in capsys.readouterr().out
    assert epochs(tmp_path / "run")[0]["train"]["cross_entropy"] < math.log(34) + 0.5
    assert checkpoint.load(tmp_path / "run" / "best.pt")["model"]["decoder.embedding.weight"].abs().max() < 1
