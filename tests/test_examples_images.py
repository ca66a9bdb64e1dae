"""RAM and DRAW: their digits are whole and apart, their losses are those of the papers, and a short run ends."""

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import far_from_uniform
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from caption.attention import glimpses
from caption.errors import UserError
from examples import draw, ram
from preprocess.strings import draw_white

TINY_RAM = ["--images", "70", "--test-images", "30", "--epochs", "1", "--glimpses", "2", "--width", "8"]
TINY_DRAW = ["--images", "30", "--test-images", "10", "--epochs", "1", "--steps", "2", "--width", "8"]


def test_digits_lie_wholly_on_the_canvas() -> None:
    """Without clutter an image is the digit as it was drawn, and nothing else; clutter only adds to it."""
    images = ram.make_data("train", 60, 0, 1)[0].numpy()
    cluttered, labels = ram.make_data("train", 60, 6, 1)
    rng = random.Random("ram train 1")
    assert [rng.randrange(10) for _ in range(60)] == labels.tolist()
    for image, label in zip(images, labels.tolist(), strict=True):
        drawn = draw_white(str(label), ram.DRAWN, rng, ram.HEIGHTS)
        digit = np.asarray(drawn.crop(drawn.getbbox()))
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        assert np.array_equal(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], digit)
        assert digit[0].any() and 12 < len(digit) < ram.DRAWN
    assert (cluttered.numpy() > 0).sum() > 1.3 * (images > 0).sum()
    for image in draw.draw_digits("train", 60, 1):
        assert image.sum() > 10 and not (image[0].any() or image[-1].any() or image[:, 0].any() or image[:, -1].any())


def test_no_image_is_in_two_splits() -> None:
    def seen(images: Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in images}

    train, test, other = (
        seen(ram.make_data(*made)[0]) for made in (("train", 60, 0, 1), ("test", 60, 0, 1), ("train", 60, 0, 2))
    )
    assert len(train) > 58 and not train & test and not train & other
    train, test = (seen(draw.draw_digits(split, 60, 1)) for split in ("train", "test"))
    assert len(train) > 58 and not train & test


def test_ram_is_trained_by_the_gradient_of_its_expected_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences of the mean cross-entropy of 40,000 sequences of places, always of the same noise, in the bias of the
    location network; against the gradient of the example's loss on the average, of sequences of other noise."""
    monkeypatch.setattr(ram, "SIZE", 6)
    torch.manual_seed(0)
    config = ram.RamConfig(glimpses=2, scales=1, squares=2, width=4, samples=4_000)
    model = far_from_uniform(ram.Ram(config))
    images, labels = torch.rand(2, 6, 6, dtype=torch.double) * 3, torch.tensor([1, 7])
    bias, noise = model.retina.centre.bias, torch.randn(2, 2, 4_000, 2, dtype=torch.double)

    def expected() -> float:
        with monkeypatch.context() as patch, torch.no_grad():
            steps = iter(noise)
            patch.setattr(glimpses, "sample_place", lambda centre: centre + glimpses.SIGMA * next(steps))
            log_probabilities = model(images, 4_000, sample=True)[0].log_softmax(-1)
            return -log_probabilities[[0, 1], :, :, labels].mean().item()

    slopes = []
    for i in range(2):
        kept = bias[i].item()
        values = []
        for change in (0.01, -0.01):
            bias.data[i] = kept + change
            values.append(expected())
        bias.data[i] = kept
        slopes.append((values[0] - values[1]) / 0.02)
    wanted = torch.tensor(slopes, dtype=torch.double)
    found = torch.autograd.grad(ram.ram_loss(model, images, labels, config.reinforce()), bias)[0]
    assert wanted.norm() > 0.01
    assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_baselines_have_as_many_weights_as_they_are_asked_for() -> None:
    for model in ram.build_baselines(200_000).values():
        assert abs(ram.count_weights(model) - 200_000) < 4_000
        assert model(torch.zeros(3, ram.SIZE, ram.SIZE)).shape == (3, 10)


def test_the_divergence_is_that_of_gaussians() -> None:
    mean, log_sigma = torch.randn(2, 5, 4).unbind()
    expected = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(draw.divergence(mean, log_sigma), expected)


@pytest.mark.parametrize("attention", [False, True])
def test_the_bound_is_above_the_negative_log_likelihood(attention: bool) -> None:
    """With one latent number, p(x) is an integral over a fine grid; the bound exceeds -log p(x) by the divergence of Q
    from the true posterior, an integral, too."""
    torch.manual_seed(0)
    model = far_from_uniform(draw.Draw(draw.DrawConfig(steps=1, width=6, latent=1, patch=3), attention))
    image = draw.draw_digits("test", 1, 1).double()
    z = torch.linspace(-8, 8, 4001, dtype=torch.double).unsqueeze(1)
    step = (z[1] - z[0]).item()
    with torch.no_grad():
        canvas = model.write(z, model.start(len(z))).canvas
        joint = -draw.image_loss(canvas, image.expand(len(z), -1, -1)) + Normal(0.0, 1.0).log_prob(
            z[:, 0]
        )  # log p(x, z)
        evidence = torch.logsumexp(joint, 0) + math.log(step)
        samples = model(image.expand(4_000, -1, -1)).sum(0)
        mean, log_sigma = posterior(model, image)
        q = Normal(mean, log_sigma.exp()).log_prob(z[:, 0])
        gap = (q.exp() * (q - (joint - evidence))).sum() * step
    bound, error = samples.mean(), samples.std() / 4_000**0.5
    assert bound - 3 * error > -evidence
    assert abs(bound - gap + evidence) < 4 * error


def posterior(model: draw.Draw, image: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and log deviation of Q at the first step, eq. 1-5."""
    state = model.start(1)
    read = model.read(image, image - state.canvas.sigmoid(), state.hidden)
    hidden, _ = model.encoder(torch.cat([read, state.hidden], 1))
    return model.posterior(hidden).squeeze(0).unbind(0)


def test_the_canvas_is_what_all_steps_have_written() -> None:
    """Eq. 8: with filters on the cells, one patch a step, c_T is c_0 and the sum of what is written."""
    torch.manual_seed(0)
    model = draw.Draw(draw.DrawConfig(steps=3, width=8), attention=True)
    states = [model.start(2), *model.generate(2)]
    for before, after in itertools.pairwise(states):
        patch = model.patch(after.hidden).view(2, 5, 5)
        rows, columns = after.window.rows, after.window.columns
        written = torch.einsum("bir,bij,bjc->brc", rows, patch, columns) / after.window.strength
        torch.testing.assert_close(after.canvas, before.canvas + written)


@pytest.mark.parametrize(
    ("main", "arguments", "files"),
    [
        (ram.main, TINY_RAM, {"ram.png": None, "accuracy.json": {"RAM", *ram.build_baselines(9000)}}),
        (draw.main, TINY_DRAW, {"draw.png": None, "bounds.json": {"with attention", "without attention"}}),
    ],
)
def test_a_short_run_ends_and_writes_its_files(
    main: Callable[[list[str]], None], arguments: list[str], files: dict[str, set[str] | None], tmp_path: Path
) -> None:
    main([*arguments, "--output", str(tmp_path / "run")])
    assert {path.name for path in (tmp_path / "run").iterdir()} == set(files)
    for name, keys in files.items():
        assert keys is None or set(json.loads((tmp_path / "run" / name).read_text())) == keys


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (ram.main, ["--samples", "1"], "samples is 1, but must be at least 2"),
        (ram.main, ["--images", "0"], "images is 0, but must be at least 1"),
        (draw.main, ["--learning-rate", "0"], "learning_rate is 0.0, but must be positive"),
        (draw.main, ["--step", "3"], "--step"),
    ],
)
def test_a_mistake_is_one_line(main: Callable[[list[str]], None], arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)
