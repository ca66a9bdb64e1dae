"""Encoders: the regions they promise, what is frozen stays frozen, weights that cannot be had say why."""

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

from caption.config import EncoderConfig
from caption.encoders import base as module
from caption.encoders.base import Encoder, download
from caption.encoders.same_padding import SameConv2d
from caption.errors import UserError


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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
def test_regions(name: str, layer: str, size: int, grid: int, width: int) -> None:
    encoder = Encoder(EncoderConfig(name=name, layer=layer), size).eval()
    assert encoder.grid == (grid, grid) and encoder.width == width
    with torch.inference_mode():
        assert encoder(pictures(1, size)).shape == (1, grid * grid, width)


def test_vgg19_is_cut_behind_conv5_4() -> None:
    """The paper's annotation vectors: after the last convolution's ReLU, before the last pooling."""
    encoder = Encoder(EncoderConfig(name="vgg19"), 224)
    convolutions = [m for m in encoder.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 16
    with torch.inference_mode():
        assert encoder(pictures(1, 224)).min() == 0


def test_regions_run_along_the_rows() -> None:
    """Region i lies at row i // columns: a change in one corner of the picture shows in that corner's region."""
    encoder = Encoder(EncoderConfig(name="mobilenet_v2", layer="features.1"), 32).eval()
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    marked = image.clone()
    marked[..., 0:2, 30:32] = 255  # upper right
    with torch.inference_mode():
        moved = (encoder(marked) - encoder(image)).abs().sum(-1)[0].view(16, 16)
    assert moved.max() > 0 and moved[4:].max() == 0 and moved[:, :-4].max() == 0


def test_frozen_weights_and_buffers_stay(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig(name="mobilenet_v2", finetune_from="features.17"), 64).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        encoder(pictures(2, 64)).square().sum().backward()
        optimizer.step()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("backbone.features.17", "backbone.features.18")) for name in moved)
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_a_small_cnn_that_is_frozen_stays() -> None:
    encoder = Encoder(EncoderConfig(name="small_cnn"), 32).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(pictures(2, 32))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_fine_tuning_can_wait() -> None:
    encoder = Encoder(EncoderConfig(name="resnet18", finetune_from="layer4"), 64)
    encoder.fine_tune(False)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    encoder.fine_tune(True)
    assert [p.requires_grad for p in encoder.trained] == [True] * len(encoder.trained)
    assert sum(p.requires_grad for p in encoder.parameters()) == len(encoder.trained) > 0


def test_only_bytes_are_scaled() -> None:
    encoder = Encoder(EncoderConfig(name="small_cnn"), 32)
    with pytest.raises(ValueError, match="give uint8"):
        encoder(torch.rand(1, 3, 32, 32))


def test_normalisation_is_kept_with_the_weights() -> None:
    encoder = Encoder(EncoderConfig(name="small_cnn"), 32)
    torch.testing.assert_close(encoder.state_dict()["mean"].flatten(), torch.tensor([0.485, 0.456, 0.406]))
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder.eval()(white)
    torch.testing.assert_close(seen[0][0, :, 0, 0], (1 - encoder.mean.flatten()) / encoder.std.flatten())


def test_local_weights_are_used(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = Encoder(EncoderConfig(name="resnet18", weights=str(tmp_path / "weights.pth")), 64)
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
        (EncoderConfig(name="resnet18", finetune_from="layer9"), "'layer9' names no weights of resnet18"),
        (EncoderConfig(name="vit_b_16"), "cannot make regions of pictures of 64 pixels.*vit_b_16 needs 224"),
        (EncoderConfig(name="resnet18", layer="fc"), "cannot make regions.*not a map"),
        (EncoderConfig(name="small_cnn", weights="IMAGENET1K_V1"), "small_cnn has no weights"),
        (EncoderConfig(name="small_cnn", padding="tensorflow"), "small_cnn has no weights, layers or padding"),
        (EncoderConfig(name="vgg11", padding="tensorflow"), "vgg11 pads nothing it would change"),
    ],
)
def test_mistakes_are_told(config: EncoderConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Encoder(config, 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [6, 7, 12, 13])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (7, 2), (1, 2), (3, 3), (5, 3), (4, 4)])
def test_padding_of_tensorflow(kernel: int, stride: int, side: int) -> None:
    """The rule as its documentation gives it: ceil(n / s) outputs; what they lack is zeros, the odd one behind.
    Window by window, against the sum over what of it lies on the picture."""
    convolution = torch.nn.Conv2d(2, 3, kernel, stride, padding=kernel // 2 + 1, bias=False).double()
    pixels = torch.randn(1, 2, side, side, dtype=torch.double)
    count = math.ceil(side / stride)
    lack = max(kernel - stride if side % stride == 0 else kernel - side % stride, 0)
    found = SameConv2d(convolution)(pixels)
    assert found.shape == (1, 3, count, count)
    for row in range(count):
        for column in range(count):
            expected = torch.zeros(3, dtype=torch.double)
            for i in range(kernel):
                for j in range(kernel):
                    y, x = row * stride - lack // 2 + i, column * stride - lack // 2 + j
                    if 0 <= y < side and 0 <= x < side:
                        expected += convolution.weight[:, :, i, j] @ pixels[0, :, y, x]
            torch.testing.assert_close(found[0, :, row, column], expected)


def test_padding_changes_borders_and_no_weights() -> None:
    """mobilenet_v2 has five strided convolutions; their weights go by the same names, and can be fine-tuned."""
    torch.manual_seed(0)
    usual = Encoder(EncoderConfig(name="mobilenet_v2", finetune_from="features.17"), 64).eval()
    padded = Encoder(EncoderConfig(name="mobilenet_v2", finetune_from="features.17", padding="tensorflow"), 64).eval()
    assert sum(isinstance(module, SameConv2d) for module in padded.modules()) == 5
    padded.load_state_dict(usual.state_dict())
    assert [p.shape for p in padded.trained] == [p.shape for p in usual.trained]
    assert usual.cells.first == 0 and padded.cells.first == 31 and usual.cells.step == padded.cells.step == 32
    assert usual.identity().items() < padded.identity().items()
    with torch.inference_mode():
        assert not torch.equal(usual(pictures(1, 64)), padded(pictures(1, 64)))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(UserError, match="do not fit mobilenet_v2"):
        Encoder(EncoderConfig(name="mobilenet_v2", weights=str(tmp_path / "resnet.pth")), 64)
    (tmp_path / "text.pth").write_text("no")
    with pytest.raises(UserError, match="not a state dict"):
        Encoder(EncoderConfig(name="mobilenet_v2", weights=str(tmp_path / "text.pth")), 64)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A local web server, its address and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()


def test_download(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched, its hash checked and kept; a wrong hash, a missing file and a dead server each say what to do."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    address, folder = server
    torch.save({"a": torch.ones(2)}, folder / "new.pth")
    content = (folder / "new.pth").read_bytes()
    good = f"net-{sha256(content).hexdigest()[:8]}.pth"
    for name in (good, "net-00000000.pth"):
        (folder / name).write_bytes(content)
    download(f"{address}/{good}")
    assert torch.load(tmp_path / "hub" / "checkpoints" / good)["a"].tolist() == [1, 1]
    for url in (f"{address}/net-00000000.pth", f"{address}/absent-12345678.pth", "http://127.0.0.1:9/net-12345678.pth"):
        with pytest.raises(
            UserError, match="cannot be downloaded from http.*place it at .*/hub/checkpoints/"
        ) as caught:
            download(url)
        assert "\n" not in str(caught.value)


def test_named_weights_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Densenet's files have old names of weights, which torchvision itself must translate."""
    entry = torchvision.models.get_model_weights("densenet121").IMAGENET1K_V1
    asked = []
    monkeypatch.setattr(module, "download", asked.append)
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
    encoder = Encoder(EncoderConfig(name="densenet121", weights="IMAGENET1K_V1"), 64)
    assert asked == [entry.url]
    kept = "features.denseblock1.denselayer1.conv1.weight"
    torch.testing.assert_close(encoder.state_dict()[f"backbone.{kept}"], state[kept])
