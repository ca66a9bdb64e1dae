"""Training, validation and search on a GPU that is not there: no mix of devices, and few waits for the device.

A wait costs more than its time: the GPU runs dry while Python launches the next word.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import FakeGPU, fake_gpu, to_gpu
from PIL import Image
from torch import Tensor

from caption import ops
from caption.captioner import Captioner
from caption.config import (
    DecoderConfig,
    EncoderConfig,
    ImageConfig,
    ReinforceConfig,
    SearchConfig,
    SelfCriticalConfig,
    TrainingConfig,
    TransformerConfig,
)
from caption.data.dataset import Batch, pad_captions
from caption.data.vocabulary import END, SPECIALS, Vocabulary
from caption.decoders import build_decoder
from caption.device import to_cpu, to_device
from caption.evaluation.faithfulness import measure_falls
from caption.evaluation.generate import generate
from caption.evaluation.knock_out import KNOCK_OUTS, knock_out
from caption.training import loop
from caption.training.schedule import build_optimizer
from caption.training.self_critical import CaptionSampler
from caption.training.state import TrainState

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is no CUDA build")
pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")

CUDA = torch.device("cuda")
WORDS = 9  # of a search: at the eighth it asks whether all captions are finished
TRANSFORMER = {"name": "transformer", "heads": 2, "transformer": TransformerConfig(layers=1)}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    with fake_gpu(monkeypatch) as gpu:
        yield gpu


def make_captioner(gpu: FakeGPU, **decoder: Any) -> Captioner:
    """A tiny captioner on the fake GPU, which forgets what it took to get there."""
    encoder = EncoderConfig(name="small_cnn", finetune_from="all")
    config = DecoderConfig(**{"embedding_dim": 8, "hidden_dim": 8, "attention_dim": 8, **decoder})
    captioner = Captioner(ImageConfig(32, "squash"), encoder, config, Vocabulary([*SPECIALS, *"abcdef"]))
    moved = to_gpu(captioner)
    captioner.encoder.finetuned = [moved[weights] for weights in captioner.encoder.finetuned]
    gpu.waits.clear()
    return captioner


def make_batch(captioner: Captioner, images: bool = False) -> Batch:
    """Two images, or their features, with up to two captions of up to three words."""
    captions, lengths = pad_captions([[[6, 7, END], [8, END]], [[9, END]]])
    rows, columns = captioner.encoder.grid
    features = torch.zeros(2, rows * columns, captioner.encoder.width, dtype=torch.half)
    return Batch([0, 1], torch.zeros(2, 3, 32, 32, dtype=torch.uint8) if images else features, captions, lengths)


class References:
    """The references of two images, for the rewards of self-critical training."""

    def __len__(self) -> int:
        return 2

    def captions(self, index: int) -> list[Any]:
        return [np.array([6, 7]), np.array([8, 6, 7])]


@pytest.mark.parametrize(("dtype", "taken"), [(torch.float, True), (torch.double, False)])
def test_the_triton_kernels_take_no_double_precision(dtype: torch.dtype, taken: bool, gpu: FakeGPU) -> None:
    """They would not compile; PyTorch goes on with it."""
    query, keys, vector, values = (
        torch.zeros(shape, dtype=dtype, device=CUDA) for shape in ((2, 3, 8), (2, 6, 8), (8,), (2, 6, 5))
    )
    ops.additive_attention(query, ops.prepare_keys(keys), vector, values, 1.0)
    assert any(name.startswith("Triton") for name in gpu.launches) == taken


# What may be done to x [4], and how often it waits.
ACTIONS: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "item": (lambda x: x.sum().item(), 1),
    "bool": (lambda x: bool((x > 0).all()), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "to_cpu": (lambda x: to_cpu(x, x), 1),
    "index by a list": (lambda x: x[[0, 1]], 1),
    "set a number": (lambda x: x.__setitem__(0, -1.0), 1),
    "fill a column": (lambda x: x.view(2, 2).__setitem__((..., 0), -1.0), 0),
    "tensor": (lambda x: torch.tensor([1.0], device=CUDA), 1),
    "new_tensor": (lambda x: x.new_tensor(1.0), 1),
    "new_full": (lambda x: x.new_full((), 1.0), 0),
    "to": (lambda x: torch.zeros(3).to(CUDA), 1),
    "to, not pinned": (lambda x: torch.zeros(3).to(CUDA, non_blocking=True), 1),
    "copy_": (lambda x: x.copy_(torch.zeros(4)), 1),
    "to_device": (lambda x: to_device(torch.zeros(3), CUDA), 0),
    "multinomial": (lambda x: torch.multinomial(x, 1), 2),
    "arithmetic": (lambda x: x.softmax(0).argmax(), 0),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_waits_are_seen(name: str, gpu: FakeGPU) -> None:
    action, waits = ACTIONS[name]
    for context in (torch.no_grad(), torch.inference_mode()):
        x = torch.zeros(4, device=CUDA)
        gpu.waits.clear()
        with context:
            action(x)
        assert sum(gpu.waits.values()) == waits


@pytest.mark.parametrize("action", [lambda x: x[x > 0], lambda x: (x > 0).nonzero()])
def test_sizes_that_depend_on_values_are_refused(gpu: FakeGPU, action: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError):
        action(torch.zeros(4, device=CUDA))
    assert gpu.waits


@pytest.mark.usefixtures("gpu")
def test_a_mix_of_devices_is_refused() -> None:
    with pytest.raises(RuntimeError):
        torch.zeros(4, device=CUDA) + torch.zeros(4)


SAMPLED = {"attention": "hard"}
TRAINING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "soft": ({}, {}),
    "soft, fp32": ({}, {"precision": "fp32", "optimizer": "rmsprop", "max_grad_norm": 0.0}),
    "soft, smoothed and sampled": ({}, {"label_smoothing": 0.1, "scheduled_sampling": 0.5, "doubly_stochastic": 0.0}),
    "local_m": ({"window": "local_m"}, {}),
    "multi-head": ({"score": "multi_head", "heads": 2}, {}),
    "draw": ({"attention": "draw"}, {}),
    "retina": ({"attention": "retina"}, {}),
    "hard": (SAMPLED, {"reinforce": ReinforceConfig(entropy=0.1)}),
    "hard, straight through": (SAMPLED, {"reinforce": ReinforceConfig("straight_through")}),
    "hard, none": (SAMPLED, {"reinforce": ReinforceConfig(baseline="none")}),
    "hard, leave one out": (
        {**SAMPLED, "window": "local_p"},
        {"reinforce": ReinforceConfig(samples=2, baseline="leave_one_out", reward="to_go")},
    ),
    "luong": ({"name": "luong", "tie_embeddings": True}, {}),
    "luong hard, to go": ({"name": "luong", **SAMPLED}, {"reinforce": ReinforceConfig(reward="to_go")}),
    "adaptive": ({"name": "adaptive"}, {}),
    "up-down, hard": ({"name": "up_down", **SAMPLED}, {"reinforce": ReinforceConfig(reward="to_go")}),
    "transformer": (
        {"name": "transformer", "heads": 2, "transformer": TransformerConfig(layers=2)},
        {"scheduled_sampling": 0.5},
    ),
    "transformer, post, fused": (
        {**TRANSFORMER, "transformer": TransformerConfig(1, "post", "learned", True)},
        {"doubly_stochastic": 0.0},
    ),
}


def train(gpu: FakeGPU, captioner: Captioner, config: TrainingConfig, **options: Any) -> tuple[int, int, list[str]]:
    """Train an epoch of one batch; return the waits of its step, those after it, and the names in the log."""
    in_step: list[int] = []
    sampler = CaptionSampler(config.self_critical, References(), WORDS) if config.self_critical.first_epoch else None
    log = loop.train_epoch(
        captioner,
        [make_batch(captioner, **options)] * config.accumulation_steps,
        build_optimizer(captioner, config),
        config,
        TrainState(epoch=config.epochs),
        10,
        lambda: in_step.append(sum(gpu.waits.values())),
        sampler,
    )
    assert [n for n, w in captioner.decoder.named_parameters() if w.grad is None] == []
    (waits,) = in_step
    logged = [name for name in log if name not in ("captions_per_second", "data_fraction")]
    return waits, sum(gpu.waits.values()) - waits, logged


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_step_never_waits(name: str, gpu: FakeGPU) -> None:
    """Only after the epoch, each value of the log is read, once to check it and once to write it."""
    decoder, training = TRAINING[name]
    captioner = make_captioner(gpu, **decoder)
    waits, afterwards, logged = train(gpu, captioner, TrainingConfig(**{"epochs": 2, "precision": "bf16", **training}))
    assert waits == 0, gpu.waits
    assert afterwards <= 2 * len(logged), gpu.waits


def test_a_training_step_from_pixels_never_waits(gpu: FakeGPU) -> None:
    config = TrainingConfig(epochs=2, precision="bf16", accumulation_steps=2, horizontal_flip=True)
    captioner = make_captioner(gpu)
    assert train(gpu, captioner, config, images=True)[0] == 0, gpu.waits
    assert all(weights.grad is not None for weights in captioner.encoder.finetuned)


@pytest.mark.parametrize(("baseline", "searches"), [("leave_one_out", 1), ("greedy", 2)])
@pytest.mark.parametrize("decoder", [{}, TRANSFORMER])
def test_a_self_critical_step_waits_only_for_its_captions(
    baseline: Any, searches: int, decoder: dict[str, Any], gpu: FakeGPU
) -> None:
    """Whether all are finished, at every eighth word, and the words of each search, which are scored on the CPU."""
    critical = SelfCriticalConfig(first_epoch=1, baseline=baseline, samples=2, temperature=0.7)
    captioner = make_captioner(gpu, **decoder)
    waits, *_ = train(gpu, captioner, TrainingConfig(epochs=1, precision="bf16", self_critical=critical))
    assert waits == searches * (WORDS // 8 + 1), gpu.waits


@pytest.mark.parametrize("decoder", [{}, SAMPLED, TRANSFORMER])
def test_validation_waits_once_a_batch(decoder: dict[str, Any], gpu: FakeGPU) -> None:
    captioner = make_captioner(gpu, **decoder)
    loop.validate(captioner, [make_batch(captioner)] * 2, TrainingConfig(precision="bf16"))
    assert sum(gpu.waits.values()) == 2, gpu.waits


@pytest.mark.parametrize(
    ("decoder", "search"),
    [
        ({}, {"beam_size": 1}),
        ({}, {"beam_size": 3, "length_penalty": 0.7, "no_repeat_ngram": 2, "min_length": 2}),
        ({}, {"beam_size": 2, "method": "sample"}),
        (SAMPLED, {"beam_size": 1, "hard_attention": "sample"}),
        (SAMPLED, {"beam_size": 2, "hard_attention": "argmax"}),
        ({"attention": "retina"}, {"beam_size": 2, "hard_attention": "sample"}),
        ({"attention": "draw"}, {"beam_size": 1}),
        ({"window": "local_p"}, {"beam_size": 1}),
        ({"name": "luong"}, {"beam_size": 2}),
        ({"name": "adaptive"}, {"beam_size": 2}),
        ({"name": "up_down"}, {"beam_size": 2}),
        (TRANSFORMER, {"beam_size": 2}),
        (TRANSFORMER, {"beam_size": 2, "method": "sample"}),
    ],
    ids=str,
)
def test_generation_waits_at_every_eighth_word_and_twice_a_batch(
    decoder: dict[str, Any], search: dict[str, Any], gpu: FakeGPU
) -> None:
    """For the captions, and for the attention of the references."""
    captioner = make_captioner(gpu, **decoder)
    config = SearchConfig(max_length=WORDS, **search)
    list(generate(captioner, [make_batch(captioner)], config, CUDA, "bf16", references=True))
    assert sum(gpu.waits.values()) == WORDS // 8 + 2, gpu.waits


@pytest.mark.parametrize("decoder", [{}, SAMPLED, TRANSFORMER, {"attention": "retina"}], ids=str)
def test_studies_of_attention_mix_no_devices(
    decoder: dict[str, Any], gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the gradient itself, which no fake can compute."""
    monkeypatch.setattr(torch.autograd, "grad", lambda output, leaf: (torch.zeros_like(leaf),))
    captioner = make_captioner(gpu, **decoder)
    mode = "argmax" if decoder == SAMPLED else "expectation"
    config = SearchConfig(beam_size=2, max_length=2, hard_attention=mode)
    loader: Any = [make_batch(captioner)]
    assert len(dict(knock_out(captioner, loader, list(KNOCK_OUTS), config, CUDA, "bf16"))) == 2
    assert len(dict(measure_falls(captioner, loader, config, CUDA, "bf16"))) == 2


@pytest.mark.parametrize("words", [[], ["a", "b"]])
@pytest.mark.parametrize("decoder", [{}, SAMPLED, TRANSFORMER], ids=str)
def test_describing_an_image_waits_for_it_and_for_its_caption(
    decoder: dict[str, Any], words: list[str], gpu: FakeGPU
) -> None:
    captioner = make_captioner(gpu, **decoder).eval()
    config = SearchConfig(beam_size=2, max_length=WORDS, hard_attention="sample")
    config = config.for_attention(captioner.decoder.stochastic)
    found = captioner.caption(Image.new("RGB", (40, 30)), config, text=" ".join(words))
    found.to_json()
    found.maps()
    assert sum(gpu.waits.values()) == (2 if words else 2 + WORDS // 8), gpu.waits


def launches(gpu: FakeGPU, steps: int, precision: str, **decoder: Any) -> tuple[int, int]:
    """Return the launches of a forward and of a backward pass over captions of so many words, in common widths."""
    model = build_decoder(DecoderConfig(**decoder), 2048, (14, 14), 1000)
    to_gpu(model)
    captions, lengths = torch.full((2, 5, steps), END).to(CUDA), torch.full((2, 5), steps)
    rows = torch.ones(2, 5, dtype=torch.bool, device=CUDA) if model.stochastic else None
    regions = torch.zeros(2, 196, 2048, device=CUDA)
    before = sum(gpu.launches.values())
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        decoded = model(model.prepare(regions)._replace(sample_rows=rows), captions, lengths)
    loss = decoded.logits.float().sum() + decoded.weights.sum()
    forward = sum(gpu.launches.values())
    loss.backward()
    return forward - before, sum(gpu.launches.values()) - forward


def launches_per_word(gpu: FakeGPU, precision: str, **decoder: Any) -> tuple[float, ...]:
    short, long = (launches(gpu, steps, precision, **decoder) for steps in (3, 5))
    return tuple((more - less) / 2 for less, more in zip(short, long, strict=True))


@pytest.mark.parametrize(
    ("decoder", "forward", "backward"),
    [({}, 24, 44), (SAMPLED, 44, 43), ({"name": "luong"}, 25, 37)],
    ids=["soft", "hard", "luong"],
)
def test_a_word_takes_no_more_launches_than_the_docs_say(
    decoder: dict[str, Any], forward: int, backward: int, gpu: FakeGPU
) -> None:
    """In bfloat16 (docs/performance.md, "On a GPU")."""
    found = launches_per_word(gpu, "bf16", **decoder)
    assert found[0] <= forward and found[1] <= backward, found
