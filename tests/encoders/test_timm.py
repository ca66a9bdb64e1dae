"""Models of timm become encoders: their grids, statistics, weights and layers are timm's own."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from PIL import Image
from safetensors.torch import save_file

from caption.config import EncoderConfig, ImageConfig
from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_image_config
from caption.data.photos import load_photo
from caption.encoders.registry import build_encoder
from caption.encoders.timm import usual_images
from caption.errors import UserError
from preprocess.folder import Folder

timm = pytest.importorskip("timm")
WEIGHTS = Path(__file__).parents[3] / "shared/weights/tf_efficientnet_lite2.pth"


@pytest.mark.parametrize(
    ("name", "layer", "size", "grid", "width", "first"),
    [
        ("resnet18", "", 96, 3, 512, 0),
        ("resnet18", "layer3", 96, 6, 256, 0),
        ("tf_efficientnet_lite0", "", 96, 3, 1280, 31),
        ("tf_efficientnet_lite0", "blocks.4", 96, 6, 112, 15),
        ("convnext_atto", "", 96, 3, 320, 15.5),
        ("vit_tiny_patch16_224", "", 96, 6, 192, 7.5),
        ("vit_xsmall_patch16_clip_224", "", 96, 6, 256, 7.5),
        ("vit_base_patch32_siglip_256", "", 96, 3, 768, 15.5),
        ("vit_small_patch14_reg4_dinov2", "", 98, 7, 384, 6.5),
        ("vit_small_patch14_reg4_dinov2", "blocks.8", 98, 7, 384, 6.5),
        ("vit_small_patch16_dinov3", "", 96, 6, 384, 7.5),
        ("swin_tiny_patch4_window7_224", "", 128, 4, 768, 15.5),
        ("swin_tiny_patch4_window7_224", "layers.2", 128, 8, 384, 7.5),
        # Without its pooling, timm's model fails, or gives no map: its last intermediate features are taken.
        ("coat_tiny", "", 224, 7, 152, 15.5),
        ("crossvit_tiny_240", "", 240, 14, 192, 113 / 14),
        ("deit_tiny_distilled_patch16_224", "", 96, 6, 192, 7.5),
        ("efficientvim_m1", "", 128, 2, 320, 0),
        ("efficientvit_b0", "", 96, 3, 128, 0),
        ("inception_next_atto", "", 96, 3, 320, 15.5),
        ("pit_ti_224", "", 224, 7, 256, 7.5),
        ("vgg11", "", 96, 3, 512, 15.5),
        ("volo_d1_224", "", 224, 14, 384, 7),
    ],
)
def test_families_give_regions_of_the_declared_grid(
    name: str, layer: str, size: int, grid: int, width: int, first: float
) -> None:
    encoder = build_encoder(EncoderConfig(name=f"timm/{name}", layer=layer), size).eval()
    assert encoder.grid == (grid, grid) and encoder.width == width
    assert (encoder.feature_grid.first, encoder.feature_grid.step) == pytest.approx((first, size / grid))
    images = random_images(2, size)
    with torch.inference_mode():
        regions = encoder(images)
    assert regions.shape == (2, grid * grid, width) and regions.isfinite().all()


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224"]
)
def test_regions_are_the_patches_without_class_and_registers(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    size = model.default_cfg["input_size"][1]
    encoder = build_encoder(EncoderConfig(name=f"timm/{name}", weights=str(tmp_path / "weights.pth")), size).eval()
    images = random_images(1, size)
    mean, std = (torch.tensor(model.default_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.forward_features((images / 255 - mean) / std)
        torch.testing.assert_close(encoder(images), expected[:, model.num_prefix_tokens :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_from_a_file_at_another_size_and_with_another_classifier(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    state = timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    encoder = build_encoder(EncoderConfig(name="timm/vit_tiny_patch16_224", weights=str(path)), 160)
    own = encoder.backbone.state_dict()
    assert torch.equal(own["blocks.11.mlp.fc2.weight"], state["blocks.11.mlp.fc2.weight"])
    assert own["pos_embed"].shape == (1, 1 + 10 * 10, 192) and "head.weight" not in own


def test_a_checkpoint_fills_a_model_without_its_weights_file(tmp_path: Path) -> None:
    config = EncoderConfig(name="timm/vit_tiny_patch16_224", weights=str(tmp_path / "gone.pth"))
    encoder = build_encoder(config, 160, load_weights=False)
    encoder.load_state_dict(build_encoder(EncoderConfig(name=config.name), 160).state_dict())


def test_finetuning_starts_at_a_stage() -> None:
    config = EncoderConfig(name="timm/tf_efficientnet_lite0", finetune_from="blocks.6")
    encoder = build_encoder(config, 64).train()
    trained = {name for name, parameter in encoder.backbone.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"blocks", "conv_head", "bn2"}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks")} == {"6"}
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    encoder(random_images(2, 64)).square().mean().backward()
    torch.optim.SGD(encoder.finetuned, lr=1.0).step()
    after = encoder.backbone.state_dict()
    assert {name for name in after if not torch.equal(before[name], after[name])} <= trained
    assert not torch.equal(before["conv_head.weight"], after["conv_head.weight"])


@pytest.mark.skipif(not WEIGHTS.exists(), reason="no weights of tf_efficientnet_lite2 beside the checkout")
def test_pooled_regions_give_the_logits_of_the_classifier() -> None:
    config = EncoderConfig(name="timm/tf_efficientnet_lite2", weights=str(WEIGHTS))
    images = usual_images(config, "crop")
    classifier = timm.create_model("tf_efficientnet_lite2").eval()
    classifier.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    encoder = build_encoder(config, images.size).eval()
    image = Image.linear_gradient("L").convert("RGB")
    statistics = timm.data.resolve_model_data_config(classifier) | {"crop_pct": 1.0}
    pixels = timm.data.create_transform(**statistics)(image).unsqueeze(0)
    square = torch.from_numpy(load_photo(image, images).square.copy()).unsqueeze(0)
    with torch.inference_mode():
        logits = classifier.classifier(encoder(square).mean(1))
        torch.testing.assert_close(logits, classifier(pixels), rtol=1e-4, atol=1e-4)


def test_data_is_made_as_the_encoder_was_trained_unless_told_otherwise(tmp_path: Path) -> None:
    lite2 = EncoderConfig(name="timm/tf_efficientnet_lite2")
    options: dict[str, Any] = {"images": str(tmp_path), "captions": "captions.csv", "output": str(tmp_path / "data.h5")}
    assert Folder(**options, encoder=lite2).image_config() == ImageConfig(260, "crop", "bicubic")
    assert Folder(**options, encoder=lite2, size=64, interpolation="bilinear").image_config() == ImageConfig(64, "crop")
    Image.linear_gradient("L").resize((48, 48)).save(tmp_path / "1.png")
    Image.linear_gradient("L").rotate(90).save(tmp_path / "2.png")
    (tmp_path / "captions.csv").write_text("image,caption,split\n1.png,a b,train\n2.png,a b,val\n")
    files = []
    for method in ("bilinear", "bicubic"):
        options |= {"captions": str(tmp_path / "captions.csv"), "output": str(tmp_path / f"{method}.h5")}
        Folder(**options, size=32, interpolation=method, min_count=1, workers=0).run()
        assert read_image_config(options["output"]) == ImageConfig(32, "crop", method)
        files.append(CaptionDataset(options["output"], "train").read_images([0]))
    assert not torch.equal(*files)


def test_stored_features_are_those_of_the_encoder(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_xsmall_patch16_clip_224").state_dict(), tmp_path / "weights.pth")
    config = EncoderConfig(name="timm/vit_xsmall_patch16_clip_224", weights=str(tmp_path / "weights.pth"))
    for name, angle in (("1", 0), ("2", 90)):
        Image.linear_gradient("L").rotate(angle).save(tmp_path / f"{name}.png")
    (tmp_path / "captions.csv").write_text("image,caption,split\n1.png,a b,train\n2.png,a b,train\n")
    options: dict[str, Any] = {"images": str(tmp_path), "captions": str(tmp_path / "captions.csv"), "workers": 0}
    found = []
    for store in ("features", "pixels"):
        path = str(tmp_path / f"{store}.h5")
        Folder(**options, output=path, store=store, encoder=config, size=64, min_count=1, device="cpu").run()
        found.append(CaptionDataset(path, "train").read_images([0, 1]))
    with torch.inference_mode():
        regions = build_encoder(config, 64).eval()(found[1])
    torch.testing.assert_close(found[0].float(), regions, rtol=1e-3, atol=1e-3)


def test_images_suit_the_encoder() -> None:
    lite2, dino = (EncoderConfig(name=f"timm/{name}") for name in ("tf_efficientnet_lite2", "vit_small_patch14_dinov2"))
    assert usual_images(lite2, "crop") == ImageConfig(260, "crop", "bicubic")
    assert usual_images(dino, "squash") == ImageConfig(518, "squash", "bicubic")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncoderConfig(name="timm/resnet19"), r"^encoder.name timm/resnet19: unknown to timm \S+; nearest: .*resnet18"),
        (EncoderConfig(name="timm/resnet18", layer="layer9"), "'layer9' has no features .*known: act1, layer1, layer2"),
        (EncoderConfig(name="timm/resnet18", weights="IMAGENET"), "neither a file nor weights .*none, or DEFAULT"),
        (EncoderConfig(name="timm/resnet18", padding="tensorflow"), "timm's models know their own padding"),
        (EncoderConfig(name="timm/resnet18", finetune_from="layer9"), "names no weights of timm/resnet18"),
        (EncoderConfig(name="timm/vit_tiny_patch16_224"), "cannot read images of 8 pixels"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(config: EncoderConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_encoder(config, 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("lambda_resnet26t", 256, r"lambda_resnet26t cannot make regions .*channels_last format\); .* or model$"),
        ("mobilenetv3_small_050", 32, r"cannot make regions of images of 32 pixels \(no square map .*: 1 in all\)"),
    ],
)
def test_a_model_without_a_map_of_regions_is_refused_in_one_line(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_encoder(EncoderConfig(name=f"timm/{name}"), size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layer", ["", "layer4"])
def test_a_model_that_cannot_be_cut_is_refused_in_one_line(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(torch.nn.Flatten):
        default_cfg = timm.create_model("resnet18").default_cfg

        def reset_classifier(self, classes: int, pooling: str = "") -> None: ...

    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: Whole())
    with pytest.raises(UserError, match=r"timm/resnet18 cannot be cut \(AttributeError: .*another model$") as error:
        build_encoder(EncoderConfig(name="timm/resnet18", layer=layer), 64)
    assert "\n" not in str(error.value)


def test_without_timm_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="encoder.name timm/resnet18: needs timm; pip install timm"):
        build_encoder(EncoderConfig(name="timm/resnet18"), 64)


def test_weights_that_cannot_be_downloaded_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool) -> None:
        assert pretrained
        raise OSError("no\nnetwork")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(UserError, match=r"DEFAULT of timm/resnet18 cannot be had \(OSError: no network\); fetch"):
        build_encoder(EncoderConfig(name="timm/resnet18", weights="DEFAULT"), 64)
