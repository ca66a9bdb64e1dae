"""Recorded time loops: they give what the loop gives, forward and backward, whatever was recorded before.

Where there is no GPU, a stand-in records: it runs the work anew and puts the results where the first ones lie.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import KINDS, D, make_decoder, make_kind, read_log
from torch import Tensor, nn

import train
from caption import ops
from caption.attention import GumbelSoftmax
from caption.config import Config, TrainingConfig
from caption.data.vocabulary import END, PAD
from caption.decoders import RecurrentDecoder
from caption.decoders.packing import MULTIPLE
from caption.ops import cuda_graphs, exp_tanh, torch_compile
from caption.ops.cuda_graphs import Graphs
from caption.training import setup

SMALL = [
    "--decoder.embedding-dim", "16", "--decoder.hidden-dim", "16", "--decoder.attention-dim", "16",
    "--training.precision", "fp32", "--training.epochs", "2",
    "--training.batch-size", "8", "--training.warmup-steps", "2", "--search.max-length", "8",
]  # fmt: skip
KEYWORDS = [{"score": "concat"}, {"window": "local_m"}, {"window": "local_p", "attention": "hard"}]
DECODERS: dict[str, RecurrentDecoder] = {
    **{name: made for name in KINDS if isinstance(made := make_kind(name), RecurrentDecoder)},
    **{" ".join(each.values()): make_decoder(**each) for each in KEYWORDS},
}


class StandIn:
    """For `Recorder`."""

    def __init__(self) -> None:
        self.recorded = 0

    def warm(self, work: cuda_graphs.Work) -> None:
        work()

    def record(self, work: cuda_graphs.Work) -> cuda_graphs.Recorded:
        self.recorded += 1
        results = work()

        def again() -> None:
            for place, value in zip(results, work(), strict=True):
                if place is not None:
                    place.copy_(value)

        return results, again


class Small(nn.Module):
    """Two weights, one of which is not read, and two results, one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.idle = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        made = x * self.weight + y
        return made.exp(), made.detach() > 0


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small().double()


def passes(function: Callable[..., Any], module: nn.Module, sizes: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """Results and gradients of calls with these sizes; the weights change in between."""
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        x, y = (torch.randn(size, 3, generator=generator, dtype=torch.double) for _ in range(2))
        result, positive = function(x.requires_grad_(), y)
        loss = (result * torch.arange(3)).sum()
        found = torch.autograd.grad(loss, [x, *module.parameters()], allow_unused=True)
        yield result.detach().clone(), positive.clone(), *(torch.zeros(()) if each is None else each for each in found)
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(1.5)


def test_equals_the_module(small: Small) -> None:
    """Of shapes in turn, each recorded once, there and back."""
    sizes, recorder = [2, 4, 2, 2, 4, 1], StandIn()
    recorded = Graphs(small, recorder=recorder)
    wanted = [*passes(other := copy.deepcopy(small), other, sizes)]
    for one, others in zip(passes(recorded, small, sizes), wanted, strict=True):
        for a, b in zip(one, others, strict=True):
            torch.testing.assert_close(a, b)
    assert recorder.recorded == 2 * 3


def test_gradients_add_up(small: Small) -> None:
    """What the first pass gave is not overwritten by the second."""
    recorded, (x, y) = Graphs(small, recorder=StandIn()), torch.randn(2, 2, 3, dtype=torch.double)
    for _ in range(2):
        recorded(x, y)[0].sum().backward()
    once = torch.autograd.grad(small(x, y)[0].sum(), small.weight)[0]
    torch.testing.assert_close(small.weight.grad, 2 * once)
    assert small.idle.grad is None


def test_backward_comes_next_and_once(small: Small) -> None:
    recorded, (x, y) = Graphs(small, recorder=StandIn()), torch.randn(2, 2, 3, dtype=torch.double)
    first = recorded(x, y)[0].sum()
    second = recorded(x, y)[0].sum()
    with pytest.raises(RuntimeError, match="comes next"):
        first.backward()
    second.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        second.backward()


def test_beyond_the_limit_nothing_is_recorded(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 1)
    recorder = StandIn()
    recorded = Graphs(small, recorder=recorder)
    wanted = [*passes(other := copy.deepcopy(small), other, [2, 3, 2])]
    for one, others in zip(passes(recorded, small, [2, 3, 2]), wanted, strict=True):
        for a, b in zip(one, others, strict=True):
            torch.testing.assert_close(a, b)
    assert recorder.recorded == 2


def captions_of(lengths: Tensor) -> Tensor:
    """Random words [B, Q, T], each caption with <end>."""
    steps = int(lengths.max())
    words = torch.randint(END + 1, 11, (*lengths.shape, steps))
    words[torch.arange(steps) == lengths.unsqueeze(-1) - 1] = END
    return words.masked_fill(torch.arange(steps) >= lengths.unsqueeze(-1), PAD)


def losses_and_gradients(decoder: RecurrentDecoder) -> Iterator[Tensor]:
    """Yield results and gradients of two batches, one of 5 steps and one of 7 with fewer images; a decoder that could
    sample locations takes the expectation."""
    torch.manual_seed(1)
    device = decoder.embedding.weight.device
    regions = torch.randn(3, 6, D).to(decoder.embedding.weight)
    sampled = torch.zeros(3, 2, dtype=torch.bool, device=device) if decoder.stochastic else None
    for lengths in (torch.tensor([[5, 3], [3, 0], [2, 4]]), torch.tensor([[7, 1], [2, 4]])):
        torch.manual_seed(2)
        captions, some = captions_of(lengths).to(device), regions[: len(lengths)].clone().requires_grad_()
        there = None if sampled is None else sampled[: len(lengths)]
        decoded = decoder(decoder.prepare(some)._replace(sample_rows=there), captions, lengths)
        steps = captions.shape[-1]
        yield from (decoded.logits, decoded.targets, decoded.weights[:, :, :steps])
        assert not decoded.weights[:, :, steps:].any()
        parts = (
            []
            if decoded.sample is None
            else [decoded.sample.log_probability.sum(), decoded.sample.entropy.square().sum()]
        )
        loss = sum([decoded.logits.square().mean(), decoded.weights.square().sum(), *parts])
        yield from torch.autograd.grad(loss, [some, *decoder.parameters()], allow_unused=True)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(cuda_graphs, "Recorder", lambda: made)
    monkeypatch.setattr(cuda_graphs, "records", lambda device: True)
    return made


def check(decoder: RecurrentDecoder, monkeypatch: pytest.MonkeyPatch, **close: float) -> None:
    """Twice; batches of 5 and 7 steps are both recorded as of 8."""
    found, again = ([*losses_and_gradients(decoder)] for _ in range(2))
    assert [key[0][1][0] for key in decoder.time_loop.graphs.recorded] == [2 * MULTIPLE] * 2
    monkeypatch.setattr(cuda_graphs, "records", lambda device: False)
    for one, other, plain in zip(found, again, losses_and_gradients(decoder), strict=True):
        torch.testing.assert_close(one, plain, **close)
        torch.testing.assert_close(other, plain, **close)


@pytest.mark.usefixtures("recorder")
def test_all_recorded_steps_add_to_one_gradient_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, shared = [], exp_tanh.shared_gradient
    monkeypatch.setattr(exp_tanh, "shared_gradient", lambda node, keys: nodes.append(node) or shared(node, keys))
    assert len([*losses_and_gradients(make_decoder().train())]) > 0
    assert None not in nodes
    assert len(nodes) == 2 * MULTIPLE * len(set(nodes)) > 0  # batches of 5 and 7 steps are recorded as of 8


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name: str, recorder: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    check(copy.deepcopy(DECODERS[name]), monkeypatch)
    assert recorder.recorded == 4  # two of images, there and back


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", DECODERS)
def test_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CUDA graphs, in single precision, for which there is a kernel."""
    monkeypatch.setattr(cuda_graphs, "records", lambda device: True)
    check(copy.deepcopy(DECODERS[name]).to("cuda", torch.float), monkeypatch, atol=1e-3, rtol=1e-3)


def test_draws(recorder: StandIn) -> None:
    """Of hard attention: the log-probability is that of the location, and other locations are sampled the next time."""
    decoder, lengths = make_decoder(attention="hard"), torch.full((3, 2), 6)
    regions, sampled = torch.randn(3, 5, D, dtype=torch.double), torch.ones(3, 2, dtype=torch.bool)
    captions, places = captions_of(lengths), []
    for _ in range(3):
        decoded = decoder(decoder.prepare(regions)._replace(sample_rows=sampled), captions, lengths)
        chosen = decoded.weights.gather(-1, decoded.sample.location.long().unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(decoded.sample.log_probability[:, :, :6], chosen[:, :, :6].log())
        decoded.sample.log_probability.sum().backward()
        places.append(decoded.sample.location[:, :, :6])
    assert recorder.recorded == 2
    assert not places[0].equal(places[1]) or not places[1].equal(places[2])


def test_how_locations_are_selected_is_recorded(recorder: StandIn) -> None:
    """Each value of the memory's fields that are no tensors has graphs of its own."""
    decoder, lengths = make_decoder(attention="hard"), torch.full((3, 2), 4)
    regions, sampled = torch.randn(3, 5, D, dtype=torch.double), torch.ones(3, 2, dtype=torch.bool)
    memory = decoder.prepare(regions)._replace(sample_rows=sampled)
    relaxed = GumbelSoftmax(0.5, straight_through=True)
    for more in (
        {},
        {"argmax": True},
        {"gumbel_softmax": relaxed},
        {"gumbel_softmax": relaxed._replace(temperature=2)},
    ):
        decoder.zero_grad()
        decoded = decoder(memory._replace(**more), captions_of(lengths), lengths)
        assert "argmax" not in more or decoded.sample.location.equal(decoded.weights.argmax(-1))
        decoded.logits.sum().backward(retain_graph=True)  # of the memory, which all share
        # From the words to alpha, but by REINFORCE, there is a way only through relaxed samples.
        assert decoder.attention.score.vector.weight.grad.any() == ("gumbel_softmax" in more)
    assert recorder.recorded == 8


@pytest.mark.parametrize(
    "more",
    [
        ["--training.accumulation-steps", "2", "--training.scheduled-sampling", "0.5"],
        ["--training.self-critical.first-epoch", "2"],
    ],
)
@pytest.mark.usefixtures("_double")
def test_training(
    shapes: Path, tmp_path: Path, recorder: StandIn, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """The same losses and scores, epoch by epoch; in single precision Adam would make much of rounding."""

    def log(name: str) -> Any:
        train.main(["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / name), *SMALL, *more])
        return [(one["train"], one["val"], one["scores"]["BLEU-1"]) for one in read_log(tmp_path / name)]

    found, recorded = log("recorded"), recorder.recorded
    monkeypatch.setattr(cuda_graphs, "records", lambda device: False)
    plain = log("plain")
    assert recorded == recorder.recorded > 0
    for one, other in zip(found, plain, strict=True):
        assert one == tuple(pytest.approx(each, rel=1e-4) for each in other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_training_on_a_gpu(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CUDA graphs, in single precision: the losses of the plain loop, but for rounding. Without dropout, which
    draws other numbers in a graph."""
    recorded, record = [], cuda_graphs.Recorder.record
    monkeypatch.setattr(cuda_graphs.Recorder, "record", lambda self, work: recorded.append(1) or record(self, work))
    losses = []
    for by_graphs in (True, False):
        monkeypatch.setattr(cuda_graphs, "records", lambda device, by_graphs=by_graphs: by_graphs)
        folder = tmp_path / str(by_graphs)
        options = ["--decoder.dropout", "0", "--decoder.state-dropout", "0", "--device", "cuda"]
        train.main(["shapes-soft", "--data", str(shapes), "--output", str(folder), *SMALL, *options])
        assert bool(recorded) == by_graphs
        recorded.clear()
        losses.append([each["train"]["cross_entropy"] for each in read_log(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0][1] < losses[0][0]


def test_the_decoder_s_mode_is_heeded(recorder: StandIn) -> None:
    """Dropout recorded in training rests in evaluation mode, as when self-critical training reads its samples.

    What is recorded is counted: the stand-in would leave out dropout in any recording.
    """
    decoder, lengths = make_kind("current"), torch.full((3, 2), 6)
    decoder.state_dropout.p = 0.5
    captions, regions = captions_of(lengths), torch.randn(3, 6, D, dtype=torch.double)

    def logits() -> Tensor:
        return decoder(decoder.prepare(regions), captions, lengths).logits.detach().clone()

    decoder.train()
    assert not torch.equal(logits(), logits())
    decoder.eval()
    assert torch.equal(logits(), logits())
    assert recorder.recorded == 4  # with dropout and without, there and back


@pytest.mark.parametrize("asked", [True, False])
def test_training_on_a_gpu_replays_graphs_unless_told_otherwise(asked: bool) -> None:
    """Without compilation; and under CAPTION_OPS=reference never."""
    gpu = torch.device("cuda")
    assert not cuda_graphs.records(gpu)  # outside of train.py, two forward passes may come before a backward pass
    assert TrainingConfig().cuda_graphs
    setup.configure_torch(Config("d.h5", "run", training=TrainingConfig(cuda_graphs=asked)), gpu)
    assert cuda_graphs.records(gpu) == asked and not torch_compile.enabled()
    assert not cuda_graphs.records(torch.device("cpu"))
    with ops.use("reference"):
        assert not cuda_graphs.records(gpu)


def test_not_in_evaluation(recorder: StandIn) -> None:
    decoder, lengths = make_decoder(attention="hard"), torch.full((2, 2), 3)
    memory = decoder.prepare(torch.randn(2, 5, D, dtype=torch.double))._replace(sample_rows=torch.ones(2, 2).bool())
    with torch.no_grad():
        decoder(memory, captions_of(lengths), lengths)
    assert not recorder.recorded
