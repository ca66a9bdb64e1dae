"""The interface from Python: images of every kind in, captions with their attention out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig, ImageConfig
from caption.data.photos import load_photo
from caption.data.vocabulary import END, SPECIALS, Vocabulary
from caption.describe import Caption
from caption.errors import UserError

WORDS = ("a", "red", "blue", "circle", "square")


@pytest.fixture
def captioner() -> Captioner:
    torch.manual_seed(1)
    decoder = DecoderConfig(embedding_dim=8, hidden_dim=8, attention_dim=8)
    encoder = EncoderConfig("small_cnn", finetune_from="all")
    model = Captioner(ImageConfig(32, "crop"), encoder, decoder, Vocabulary([*SPECIALS, *WORDS])).eval()
    with torch.no_grad():
        model.decoder.output.bias[END] += 1  # captions end, but not at once
        model.decoder.output.weight.mul_(5)
    return model


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def same(a: Caption, b: Caption) -> bool:
    return a.words == b.words and a.log_probability == pytest.approx(b.log_probability, abs=1e-5)


def test_an_image_of_any_kind_has_the_same_caption(captioner: Captioner, pixels: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.png")
    expected = captioner.caption(tmp_path / "image.png", beam_size=2, max_length=6)
    first = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [str(tmp_path / "image.png"), Image.fromarray(pixels), pixels, torch.from_numpy(pixels), first]
    assert expected.words
    for image in [*kinds, load_photo(pixels, captioner.image)]:
        assert same(captioner.caption(image, beam_size=2, max_length=6), expected)


def test_a_grey_image_and_one_with_one_channel_are_the_same(captioner: Captioner, pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    captions = captioner.caption([grey, grey[..., None], Image.fromarray(grey)], max_length=6)
    assert all(same(captions[0], other) for other in captions[1:])


def test_a_list_of_images_is_captioned_as_each_of_them(captioner: Captioner, pixels: np.ndarray) -> None:
    images = [pixels, 255 - pixels, pixels[::-1]]
    captions = captioner.caption(images, beam_size=3, max_length=6)
    assert captioner.caption([]) == []
    for caption, image in zip(captions, images, strict=True):
        alone = captioner.caption(image, beam_size=3, max_length=6)
        assert same(caption, alone)
        np.testing.assert_allclose(caption.attention, alone.attention, atol=1e-5)


@pytest.mark.parametrize("decoder", [{}, {"attention": "hard"}, {"score": "multi_head", "heads": 2}], ids=str)
def test_a_caption_says_all_about_its_words(decoder: dict[str, object], pixels: np.ndarray) -> None:
    torch.manual_seed(2)
    config = DecoderConfig(embedding_dim=8, hidden_dim=8, attention_dim=8, **decoder)  # type: ignore[arg-type]
    encoder = EncoderConfig("small_cnn", finetune_from="all")
    model = Captioner(ImageConfig(32, "crop"), encoder, config, Vocabulary([*SPECIALS, *WORDS])).eval()
    chosen = {"hard_attention": "argmax"} if decoder.get("attention") == "hard" else {}
    caption = model.caption(pixels, beam_size=3, max_length=5, min_length=2, **chosen)
    steps = len(caption.words)
    assert caption.text == " ".join(caption.words) == str(caption) and caption.text in repr(caption)
    assert sum(caption.word_log_probabilities) == pytest.approx(caption.log_probability, abs=1e-5)
    assert len(caption.word_log_probabilities) == steps + caption.finished
    assert caption.attention.shape == (steps, 4, 4)
    np.testing.assert_allclose(caption.attention.sum((1, 2)), 1, atol=1e-5)
    assert caption.gates is not None and len(caption.gates) == steps
    if chosen:
        best = [np.unravel_index(weights.argmax(), weights.shape) for weights in caption.attention]
        assert caption.locations == best
    if "heads" in decoder:
        np.testing.assert_allclose(np.mean([*caption.heads.values()], axis=0), caption.attention, atol=1e-5)
    scores = [caption.log_probability, *(other.log_probability for other in caption.alternatives)]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    plain = caption.to_json()
    assert [word["log_probability"] for word in plain["words"]] == caption.word_log_probabilities[:steps]
    assert [other["caption"] for other in plain["alternatives"]] == [other.text for other in caption.alternatives]


def test_given_words_are_the_caption(captioner: Captioner, pixels: np.ndarray) -> None:
    caption = captioner.caption(pixels, text="A red circle.")
    assert caption.words == ["a", "red", "circle"] and len(caption.word_log_probabilities) == 4
    found = captioner.caption(pixels, beam_size=1, max_length=6)
    assert same(captioner.caption(pixels, text=found.words), found) or not found.finished


def test_a_caption_draws_itself(captioner: Captioner, pixels: np.ndarray) -> None:
    caption = captioner.caption(pixels, text="a red circle")
    figure = caption.figure()
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["a", "red", "circle"]
    page = caption._repr_html_()
    assert page.startswith("<iframe") and "circle" in page and "<script>" not in page  # escaped, inside the attribute


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((5, 5, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), None], ids=str
)
def test_what_is_no_image_of_bytes_is_refused(captioner: Captioner, image: object) -> None:
    with pytest.raises(UserError, match="must be a path, a PIL image, or an array of uint8"):
        captioner.caption(image)


def test_wrong_uses_are_refused(captioner: Captioner, pixels: np.ndarray) -> None:
    with pytest.raises(TypeError, match="beam"):
        captioner.caption(pixels, beam=5)
    with pytest.raises(UserError, match="beam_size is 0, but must be at least 1"):
        captioner.caption(pixels, beam_size=0)
    with pytest.raises(UserError, match="this model's attention is soft"):
        captioner.caption(pixels, hard_attention="argmax")
    with pytest.raises(UserError, match="in training mode"):
        captioner.train().caption(pixels)


def test_the_package_is_imported_without_pytorch() -> None:
    code = (
        "import sys, caption; assert 'torch' not in sys.modules and 'Captioner' in caption.__all__;"
        "from caption import Caption, Captioner; assert Captioner.__module__ == 'caption.captioner'"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'Captionner'"):
        __import__("caption").Captionner  # noqa: B018
