"""A new family of backbones is one builder and one entry in ENCODERS."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig, ImageConfig, SearchConfig
from caption.data.vocabulary import END, SPECIALS, Vocabulary
from caption.encoders.base import Backbone
from caption.encoders.grid import FeatureGrid
from caption.encoders.registry import ENCODERS, build_encoder
from caption.errors import UserError
from caption.search import search

SIZE, WIDTH = 32, 6


class ConvolutionalBackbone(nn.Module):
    """Pixels [B, 3, S, S] -> map [B, 6, S/8, S/8]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, WIDTH, 8, 8), nn.BatchNorm2d(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.patches(pixels))


class TokenBackbone(ConvolutionalBackbone):
    """Pixels [B, 3, S, S] -> tokens [B, 1 + (S/8)^2, 6], the class token first."""

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = super().forward(pixels).flatten(2).transpose(1, 2)
        return torch.cat([torch.full_like(tokens[:, :1], torch.nan), tokens], 1)


def tiny_family(network: Callable[[], nn.Module]) -> Callable[[EncoderConfig, int, bool], Backbone]:
    """Return a builder whose only pretrained weights, ONES, set every parameter to one."""

    def build(config: EncoderConfig, image_size: int, load_weights: bool) -> Backbone:
        if config.weights not in ("none", "ONES"):
            raise UserError(f"encoder.weights is {config.weights}, but {config.name} has ONES alone")
        backbone = network()
        if load_weights and config.weights == "ONES":
            for parameter in backbone.parameters():
                nn.init.ones_(parameter)
        return Backbone(backbone, layer="norm", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

    return build


@pytest.fixture(params=[ConvolutionalBackbone, TokenBackbone])
def _tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "tiny", tiny_family(request.param))


@pytest.mark.usefixtures("_tiny")
def test_a_new_family_trains_and_captions_after_one_entry() -> None:
    """The captioner learns to name two images, finetuning the new backbone, and survives its checkpoint."""
    torch.manual_seed(0)
    config = EncoderConfig(name="tiny", weights="ONES", finetune_from="all")
    vocabulary, decoder = Vocabulary([*SPECIALS, "left", "right"]), DecoderConfig(dropout=0.0, state_dropout=0.0)
    captioner = Captioner(ImageConfig(SIZE, "squash"), config, decoder, vocabulary).train()
    images = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
    images[0, ..., :8], images[1, ..., -8:] = 255, 128
    captions = torch.tensor([[[4, END]], [[5, END]]])
    before = {name: value.clone() for name, value in captioner.encoder.state_dict().items()}
    optimizer = torch.optim.Adam(captioner.parameters(), 1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        output = captioner(images, captions, torch.tensor([[2], [2]]))
        cross_entropy(output.logits, output.targets).backward()
        optimizer.step()
    changed = {name for name, value in captioner.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"backbone.{name}" for name, _ in captioner.encoder.backbone.named_parameters()}
    restored = Captioner.from_checkpoint(captioner.to_checkpoint(), "memory")
    for model in (captioner.eval(), restored.eval()):
        results = search(model.decoder, model.encode(images), SearchConfig(beam_size=1, max_length=3))
        assert [hypotheses[0].words for hypotheses in results] == [[4], [5]]


@pytest.mark.usefixtures("_tiny")
def test_a_new_family_gets_normalisation_grid_and_fingerprint() -> None:
    encoder = build_encoder(EncoderConfig(name="tiny", weights="ONES"), SIZE).eval()
    assert encoder.feature_grid == FeatureGrid(4, 4, SIZE, 3.5, 8) and encoder.width == WIDTH
    assert encoder.fingerprint().items() >= {"name": "tiny", "layer": "norm", "grid": [4, 4], "width": WIDTH}.items()
    white = torch.full((1, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    patches = 3 * 8 * 8 * (1 - 0.5) / 0.25 + 1  # weights and bias are one
    expected = patches / (1 + encoder.backbone.norm.eps) ** 0.5 + 1
    with torch.no_grad():
        torch.testing.assert_close(encoder(white), torch.full((1, 16, WIDTH), expected))


@pytest.mark.usefixtures("_tiny")
def test_a_checkpoint_does_not_need_the_pretrained_weights() -> None:
    encoder = build_encoder(EncoderConfig(name="tiny", weights="ONES"), SIZE, load_weights=False)
    assert not (encoder.backbone.patches.weight == 1).any()


@pytest.mark.usefixtures("_tiny")
def test_an_unknown_name_lists_every_family() -> None:
    with pytest.raises(UserError, match="unknown encoder 'vgg99'; known: .*small_cnn.*vgg19.*tiny"):
        build_encoder(EncoderConfig(name="vgg99"), SIZE)
