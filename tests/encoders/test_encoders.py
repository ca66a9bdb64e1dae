"""Encoders give the regions they promise, keep frozen weights, and explain weights that cannot be loaded."""

import functools
import http.server
import math
import re
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import random_images

from caption.config import EncoderConfig
from caption.encoders import torchvision as module
from caption.encoders.registry import build_encoder
from caption.encoders.same_padding import SameConv2d
from caption.encoders.torchvision import download_weights
from caption.errors import UserError


@pytest.mark.parametrize(
    ("name", "layer", "size", "grid", "width"),
    [
        ("small_cnn", "", 64, 8, 128),
        ("recursive_cnn", "", 64, 8, 130),
        ("recurrent_cnn", "", 64, 8, 130),
        ("mobilenet_v2", "", 224, 7, 1280),
        ("mobilenet_v2", "features.13", 224, 14, 96),
        ("vgg19", "", 224, 14, 512),
        ("resnet101", "", 224, 7, 2048),
        ("resnet101", "layer3", 224, 14, 1024),
        ("vit_b_16", "", 224, 14, 768),
        pytest.param("densenet121", "", 96, 3, 1024, marks=pytest.mark.slow),
        pytest.param("swin_t", "", 96, 3, 768, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "", 96, 3, 768, marks=pytest.mark.slow),
        pytest.param("inception_v3", "", 128, 2, 2048, marks=pytest.mark.slow),
        ("shufflenet_v2_x0_5", "", 96, 3, 1024),
    ],
)
def test_regions_have_the_declared_grid_and_width(name: str, layer: str, size: int, grid: int, width: int) -> None:
    encoder = build_encoder(EncoderConfig(name=name, layer=layer), size).eval()
    assert encoder.grid == (grid, grid) and encoder.width == width
    with torch.inference_mode():
        assert encoder(random_images(1, size)).shape == (1, grid * grid, width)


def test_vgg19_is_cut_after_conv5_4() -> None:
    """The paper's annotation vectors come after the last convolution's ReLU and before the last pooling."""
    encoder = build_encoder(EncoderConfig(name="vgg19"), 224)
    convolutions = [m for m in encoder.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 16
    with torch.inference_mode():
        assert encoder(random_images(1, 224)).min() == 0


def test_regions_are_ordered_row_by_row() -> None:
    """Region i lies in row i // columns: a change in one corner of the image changes that corner's region alone."""
    encoder = build_encoder(EncoderConfig(name="mobilenet_v2", layer="features.1"), 32).eval()
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    marked = image.clone()
    marked[..., 0:2, 30:32] = 255  # upper right
    with torch.inference_mode():
        moved = (encoder(marked) - encoder(image)).abs().sum(-1)[0].view(16, 16)
    assert moved.max() > 0 and moved[4:].max() == 0 and moved[:, :-4].max() == 0


def test_training_changes_only_finetuned_weights_and_no_statistics() -> None:
    encoder = build_encoder(EncoderConfig(name="mobilenet_v2", finetune_from="features.17"), 64).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        encoder(random_images(2, 64)).square().sum().backward()
        optimizer.step()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("backbone.features.17", "backbone.features.18")) for name in moved)
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_a_frozen_small_cnn_keeps_its_batch_norm_statistics() -> None:
    encoder = build_encoder(EncoderConfig(name="small_cnn"), 32).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(random_images(2, 32))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_finetuning_can_be_switched_off_and_on() -> None:
    encoder = build_encoder(EncoderConfig(name="resnet18", finetune_from="layer4"), 64)
    encoder.fine_tune(False)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    encoder.fine_tune(True)
    assert [p.requires_grad for p in encoder.finetuned] == [True] * len(encoder.finetuned)
    assert sum(p.requires_grad for p in encoder.parameters()) == len(encoder.finetuned) > 0


def test_images_that_are_not_uint8_are_refused() -> None:
    encoder = build_encoder(EncoderConfig(name="small_cnn"), 32)
    with pytest.raises(ValueError, match="give uint8"):
        encoder(torch.rand(1, 3, 32, 32))


def test_images_are_normalised_with_the_saved_mean_and_std() -> None:
    encoder = build_encoder(EncoderConfig(name="small_cnn"), 32)
    torch.testing.assert_close(encoder.state_dict()["mean"].flatten(), torch.tensor([0.485, 0.456, 0.406]))
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    pixels = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0]))
    encoder.eval()(white)
    torch.testing.assert_close(pixels[0][0, :, 0, 0], (1 - encoder.mean.flatten()) / encoder.std.flatten())


def test_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = build_encoder(EncoderConfig(name="resnet18", weights=str(tmp_path / "weights.pth")), 64)
    torch.testing.assert_close(
        encoder.state_dict()["backbone.layer4.1.conv2.weight"], model.layer4[1].conv2.weight.data
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            EncoderConfig(name="resnet1"),
            "unknown encoder .resnet1.; known: small_cnn, recursive_cnn, recurrent_cnn",
        ),
        (EncoderConfig(name="resnet18", weights="IMAGENET"), "neither a file nor weights of resnet18.*IMAGENET1K_V1"),
        (EncoderConfig(name="resnet18", layer="layer9"), "layer 'layer9' is no module of resnet18.*layer4"),
        (EncoderConfig(name="resnet18", finetune_from="maxpool"), "'maxpool' has no weights in resnet18"),
        (EncoderConfig(name="googlenet", layer="aux1"), "'aux1' does not run in googlenet; its outermost are conv1"),
        (EncoderConfig(name="resnet18", finetune_from="layer9"), "'layer9' names no weights of resnet18"),
        (
            EncoderConfig(name="vit_b_16"),
            "cannot make regions of images of 64 pixels.*--size that the model was",
        ),
        (EncoderConfig(name="resnet18", layer="fc"), "cannot make regions.*not a map"),
        (EncoderConfig(name="resnet18", layer="avgpool"), "no square map of two .*: 1 in all.*another encoder.layer"),
        (EncoderConfig(name="small_cnn", weights="IMAGENET1K_V1"), "small_cnn has no weights"),
        (EncoderConfig(name="small_cnn", padding="tensorflow"), "small_cnn has no weights, layers or padding"),
        (EncoderConfig(name="vgg11", padding="tensorflow"), "vgg11 pads nothing it would change"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(config: EncoderConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_encoder(config, 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [6, 7, 12, 13])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (7, 2), (1, 2), (3, 3), (5, 3), (4, 4)])
def test_same_padding_follows_tensorflow(kernel: int, stride: int, side: int) -> None:
    """TensorFlow's documented rule: ceil(n / s) outputs, padded with zeros, the odd zero after the input.

    Each output is compared with the sum over the part of its window that lies on the image.
    """
    convolution = torch.nn.Conv2d(2, 3, kernel, stride, padding=kernel // 2 + 1, bias=False).double()
    pixels = torch.randn(1, 2, side, side, dtype=torch.double)
    outputs = math.ceil(side / stride)
    total = max(kernel - stride if side % stride == 0 else kernel - side % stride, 0)
    result = SameConv2d(convolution)(pixels)
    assert result.shape == (1, 3, outputs, outputs)
    for row in range(outputs):
        for column in range(outputs):
            expected = torch.zeros(3, dtype=torch.double)
            for i in range(kernel):
                for j in range(kernel):
                    y, x = row * stride - total // 2 + i, column * stride - total // 2 + j
                    if 0 <= y < side and 0 <= x < side:
                        expected += convolution.weight[:, :, i, j] @ pixels[0, :, y, x]
            torch.testing.assert_close(result[0, :, row, column], expected)


def test_same_padding_changes_features_but_no_weights() -> None:
    """mobilenet_v2 has five strided convolutions; their weights keep their names and can be finetuned."""
    torch.manual_seed(0)
    usual = build_encoder(EncoderConfig(name="mobilenet_v2", finetune_from="features.17"), 64).eval()
    config = EncoderConfig(name="mobilenet_v2", finetune_from="features.17", padding="tensorflow")
    padded = build_encoder(config, 64).eval()
    assert sum(isinstance(layer, SameConv2d) for layer in padded.modules()) == 5
    padded.load_state_dict(usual.state_dict())
    assert [p.shape for p in padded.finetuned] == [p.shape for p in usual.finetuned]
    assert usual.feature_grid.first == 0 and padded.feature_grid.first == 31
    assert usual.feature_grid.step == padded.feature_grid.step == 32
    assert usual.fingerprint().items() < padded.fingerprint().items()
    with torch.inference_mode():
        assert not torch.equal(usual(random_images(1, 64)), padded(random_images(1, 64)))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(
        UserError, match="mobilenet_v2: its weights do not fit: lacks features.0.0.weight, .* has no place for conv1"
    ):
        build_encoder(EncoderConfig(name="mobilenet_v2", weights=str(tmp_path / "resnet.pth")), 64)
    (tmp_path / "text.pth").write_text("no")
    with pytest.raises(UserError, match=r"text.pth: is damaged, .*\(UnpicklingError: .*\); give a state dict"):
        build_encoder(EncoderConfig(name="mobilenet_v2", weights=str(tmp_path / "text.pth")), 64)


def test_weights_of_a_data_parallel_model_with_another_classifier_load(tmp_path: Path) -> None:
    """Layers behind the cut are not read, and the prefix of nn.DataParallel is dropped."""
    torch.manual_seed(1)
    trained = torchvision.models.resnet18(weights=None, num_classes=7)
    torch.save({f"module.{name}": value for name, value in trained.state_dict().items()}, tmp_path / "own.pth")
    encoder = build_encoder(EncoderConfig(name="resnet18", weights=str(tmp_path / "own.pth")), 64)
    assert torch.equal(encoder.backbone.state_dict()["layer4.1.conv2.weight"], trained.layer4[1].conv2.weight)
    weights = trained.state_dict()
    weights["bn1.weight"] = weights["bn1.weight"][:3]
    del weights["layer4.1.conv2.weight"]
    torch.save(weights, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"lacks layer4.1.conv2.weight; has other shapes for bn1.weight \[3\] \(here"):
        build_encoder(EncoderConfig(name="resnet18", weights=str(tmp_path / "cut.pth")), 64)
    trained.conv1.weight.data[0, 0, 0, 0] = torch.nan
    torch.save(trained.state_dict(), tmp_path / "nan.pth")
    with pytest.raises(UserError, match="nan.pth, of resnet18: conv1.weight is not finite"):
        build_encoder(EncoderConfig(name="resnet18", weights=str(tmp_path / "nan.pth")), 64)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Run a local web server; yield its address and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()


def test_download_checks_the_hash_and_explains_failures(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good weights are cached; a wrong hash, a missing file and a dead server each say what to do."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    address, folder = server
    torch.save({"a": torch.ones(2)}, folder / "new.pth")
    content = (folder / "new.pth").read_bytes()
    good = f"net-{sha256(content).hexdigest()[:8]}.pth"
    for name in (good, "net-00000000.pth"):
        (folder / name).write_bytes(content)
    download_weights(f"{address}/{good}")
    assert torch.load(tmp_path / "hub" / "checkpoints" / good)["a"].tolist() == [1, 1]
    for url in (f"{address}/net-00000000.pth", f"{address}/absent-12345678.pth", "http://127.0.0.1:9/net-12345678.pth"):
        with pytest.raises(
            UserError, match="cannot be downloaded from http.*place it at .*/hub/checkpoints/"
        ) as caught:
            download_weights(url)
        assert "\n" not in str(caught.value)


def test_named_weights_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DenseNet's files have old names of weights, which torchvision itself must translate."""
    entry = torchvision.models.get_model_weights("densenet121").IMAGENET1K_V1
    urls = []
    monkeypatch.setattr(module, "download_weights", urls.append)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    state = torchvision.models.densenet121(weights=None).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value
        for name, value in state.items()
        if "num_" not in name
    }
    (tmp_path / "checkpoints").mkdir()
    torch.save(old, tmp_path / "checkpoints" / entry.url.rsplit("/", 1)[-1])
    monkeypatch.setattr(type(entry), "get_state_dict", lambda self, **_: torch.load(next(tmp_path.glob("*/*.pth"))))
    encoder = build_encoder(EncoderConfig(name="densenet121", weights="IMAGENET1K_V1"), 64)
    assert urls == [entry.url]
    kept = "features.denseblock1.denselayer1.conv1.weight"
    torch.testing.assert_close(encoder.state_dict()[f"backbone.{kept}"], state[kept])
