"""The stores of pixels, JPEG files and features return what was written, and models train on all of them."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import evaluate
import train
from caption.captioner import Captioner
from caption.config import EncoderConfig
from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_image_config, read_manifest, read_vocabulary
from caption.data.records import Records
from caption.encoders.registry import build_encoder
from caption.errors import UserError
from preprocess import features as feature_module
from preprocess.__main__ import main as preprocess

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth images with captions, the same data in the three stores, and the encoder's weights."""
    folder = tmp_path_factory.mktemp("stores")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    lines = ["file_name,caption"]
    for number in range(50):
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"images/{number}.png")
        lines += [f"{number}.png,a {colour} dog" for colour in ("red", "blue", "green")[: 1 + number % 3]]
    (folder / "captions.csv").write_text("\n".join(lines))
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), folder / "weights.pth")
    torch.save(torchvision.models.mobilenet_v2().state_dict(), folder / "others.pth")
    for store in ("pixels", "jpeg", "features"):
        build(folder, folder / f"{store}.h5", store)
    return folder


def build(folder: Path, output: Path, store: str, *more: str) -> None:
    args = ["folder", "--images", str(folder / "images"), "--captions", str(folder / "captions.csv")]
    args += ["--output", str(output), "--store", store, "--size", str(SIZE), "--min-count", "1", "--workers", "1"]
    preprocess([*args, *encoder(folder, "weights.pth"), "--device", "cpu", *more])


def encoder(folder: Path, weights: str) -> list[str]:
    return ["--encoder.name", "mobilenet_v2", "--encoder.weights", str(folder / weights)]


def originals(folder: Path, split: CaptionDataset) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / "images" / name)).transpose(2, 0, 1) for name in split.file_names])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_store_returns_the_images_that_were_written(folder: Path, split: str) -> None:
    pixels, jpeg, features = (CaptionDataset(folder / f"{s}.h5", split) for s in ("pixels", "jpeg", "features"))
    expected = originals(folder, pixels)
    everything = range(len(pixels))
    assert np.array_equal(pixels.read_images(everything), expected)
    assert np.abs(jpeg.read_images(everything).numpy().astype(int) - expected).mean() < 3
    config = EncoderConfig("mobilenet_v2", str(folder / "weights.pth"))
    with torch.inference_mode():
        regions = build_encoder(config, SIZE).eval()(torch.from_numpy(expected))
    result = features.read_images(everything)
    assert result.dtype == torch.float16 and torch.allclose(result.float(), regions, rtol=2e-3, atol=2e-3)
    for name in ("image_ids", "file_names", "words"):
        values = [np.asarray(getattr(data, name)).tolist() for data in (pixels, jpeg, features)]
        assert values[0] == values[1] == values[2]


def test_a_jpeg_store_is_smaller(folder: Path) -> None:
    sizes = {store: (folder / f"{store}.h5").stat().st_size for store in ("pixels", "jpeg")}
    assert sizes["jpeg"] < sizes["pixels"] / 4


def test_hdf5_reads_the_same_records(folder: Path) -> None:
    """`Records` reads rows without HDF5; other tools read them through it."""
    for store, name in (("pixels", "images"), ("features", "features")):
        own = CaptionDataset(folder / f"{store}.h5", "train").read_images([3, 0, 5]).numpy()
        with h5py.File(folder / f"{store}.h5") as file:
            assert np.array_equal(own, file[f"train/{name}"][:][[3, 0, 5]])


@pytest.mark.parametrize("store", ["pixels", "jpeg", "features"])
def test_training_and_evaluation_run_on_every_store(
    folder: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = str(folder / f"{store}.h5"), str(tmp_path / "run")
    args = ["flickr8k-soft", "--data", path, "--output", run, *encoder(folder, "weights.pth"), "--device", "cpu"]
    args += ["--training.epochs", "1", "--training.precision", "fp32", "--training.batch-size", "4"]
    train.main(args)
    evaluate.main(["--checkpoint", f"{run}/best.pt", "--data", path, "--split", "test", "--no-java"])
    assert "BLEU-4" in capsys.readouterr().out


def test_features_give_the_same_logits_as_their_images(folder: Path) -> None:
    vocabulary, image = (
        read_vocabulary(folder / "pixels.h5"),
        read_image_config(folder / "pixels.h5"),
    )
    from caption.config import DecoderConfig

    torch.manual_seed(0)
    config = EncoderConfig("mobilenet_v2", str(folder / "weights.pth"))
    captioner = Captioner(
        image, config, DecoderConfig(embedding_dim=16, hidden_dim=16, attention_dim=16), vocabulary
    ).eval()
    pixels, features = (CaptionDataset(folder / f"{s}.h5", "val").__getitems__([0]) for s in ("pixels", "features"))
    with torch.inference_mode():
        one, two = (captioner.encode(batch.images).values for batch in (pixels, features))
        assert torch.allclose(one, two, atol=1e-2) and not torch.equal(one, two)  # rounded to half precision
        one, two = (captioner(batch.images, batch.captions, batch.lengths).logits for batch in (pixels, features))
        assert torch.allclose(one, two, atol=1e-2)


def test_features_of_another_encoder_are_refused(folder: Path, tmp_path: Path) -> None:
    args = ["flickr8k-soft", "--data", str(folder / "features.h5"), "--output", str(tmp_path / "run")]
    with pytest.raises(UserError, match="features are not of the model's encoder: digest .*--store pixels"):
        train.main([*args, *encoder(folder, "others.pth")])
    with pytest.raises(UserError, match="name mobilenet_v2 .the model's: squeezenet1_1"):
        torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "squeeze.pth")
        train.main([*args, "--encoder.name", "squeezenet1_1", "--encoder.weights", str(tmp_path / "squeeze.pth")])
    with pytest.raises(UserError, match=r"layer features .the model's: features\.13"):
        train.main([*args, *encoder(folder, "weights.pth"), "--encoder.layer", "features.13"])
    with pytest.raises(UserError, match="padding as usual .the model's: tensorflow"):
        train.main([*args, *encoder(folder, "weights.pth"), "--encoder.padding", "tensorflow"])
    with pytest.raises(UserError, match="holds features, but training.horizontal_flip needs images"):
        train.main([*args, *encoder(folder, "weights.pth"), "--training.horizontal-flip"])
    with pytest.raises(UserError, match="holds features, but encoder.finetune_from is to train"):
        train.main([*args, *encoder(folder, "weights.pth"), "--encoder.finetune-from", "all"])


class Sums(torch.nn.Module):
    """A thousandth of 1,000 times the sum of each row of pixels, [B, 4, 3]: beyond half precision in between."""

    grid, width = (2, 2), 3

    def fingerprint(self) -> dict:
        return {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        sums = torch.nn.functional.linear(images.float(), torch.full((1, 4), 1000.0))  # [B, 3, 4, 1]
        return sums.float().squeeze(-1).transpose(1, 2) / 1000


def test_half_precision_that_overflows_is_encoded_again_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; each time is one copy back."""
    monkeypatch.setattr(feature_module, "build_encoder", lambda config, size: Sums())
    monkeypatch.setattr(feature_module, "PRECISIONS", {"cpu": ("fp16", "fp32")})
    copies: list[torch.dtype] = []
    monkeypatch.setattr(feature_module, "to_cpu", lambda *values: copies.append(values[0].dtype) or values)
    encode = feature_module.build_feature_encoder(EncoderConfig(weights="some"), 4, "cpu", 1).encode
    for value, times in ((3, 1), (200, 2)):
        assert (encode(np.full((1, 3, 4, 4), value, np.uint8)) == 4 * value).all()
        assert copies == times * [torch.float16]
        copies.clear()


def test_images_are_encoded_in_batches_that_suit_the_device(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, build_encoder = [], feature_module.build_feature_encoder

    def large(*arguments: Any) -> feature_module.FeatureEncoder:
        made = build_encoder(*arguments)
        return made._replace(encode=lambda images: sizes.append(len(images)) or made.encode(images), batch_size=40)

    monkeypatch.setattr(feature_module, "build_feature_encoder", large)
    build(folder, tmp_path / "large.h5", "features")
    assert sizes == [40, 40]  # of 50 images
    one, two = (
        CaptionDataset(path, "train").read_images(range(20)) for path in (folder / "features.h5", tmp_path / "large.h5")
    )
    assert torch.allclose(one.float(), two.float(), atol=2e-3, rtol=2e-3)


def test_features_of_trained_or_random_encoders_are_refused(folder: Path, tmp_path: Path) -> None:
    for more, message in (
        (["--encoder.finetune-from", "all"], "stored features cannot be trained further"),
        (["--encoder.weights", "none"], "features of a random encoder are useless"),
    ):
        with pytest.raises(UserError, match=message):
            build(folder, tmp_path / "no.h5", "features", *more)
    with pytest.raises(UserError, match="--quality is 0, but must be from 1 to 100"):
        build(folder, tmp_path / "no.h5", "jpeg", "--quality", "0")


def test_features_do_not_depend_on_the_other_images_of_a_batch(folder: Path, tmp_path: Path) -> None:
    """A shard has other neighbours in its batches than the complete data set."""
    build(folder, tmp_path / "shard.h5", "features", "--shard", "2/3")
    shard = CaptionDataset(tmp_path / "shard.h5", "train")
    complete = CaptionDataset(folder / "features.h5", "train")
    numbers = [complete.file_names.index(name) for name in shard.file_names]
    assert torch.equal(shard.read_images(range(len(shard))), complete.read_images(numbers))


def test_features_stay_in_half_precision_until_they_are_tensors(folder: Path) -> None:
    """NumPy takes twenty times as long as PyTorch to convert features to single precision."""
    batch = CaptionDataset(folder / "features.h5", "train").__getitems__([0])
    assert batch.images.dtype == torch.float16


def test_a_forked_reader_does_not_share_the_file_position(folder: Path) -> None:
    split = CaptionDataset(folder / "pixels.h5", "train")
    expected = split.read_images([0, 1])
    handle = next(iter(split.records._handles.values()))
    before = handle.tell()
    child = os.fork()
    if child == 0:
        same = torch.equal(split.read_images([0, 1]), expected)
        os._exit(0 if same and handle.tell() == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and handle.tell() == before


def test_verify_finds_changed_and_truncated_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for store in ("pixels", "jpeg", "features"):
        path = tmp_path / f"{store}.h5"
        path.write_bytes((folder / f"{store}.h5").read_bytes())
        preprocess(["verify", str(path)])
        assert "50 images and" in capsys.readouterr().out
        records = Records(path, "train")
        with path.open("r+b") as file:
            file.seek(records.extents[0].offset + 5)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(UserError, match=r"train: image 0, \d+\.png; make it again"):
            preprocess(["verify", str(path)])
        with h5py.File(path, "r+") as file:
            file["val/words"][0] += 1
        with pytest.raises(UserError, match="val/words; train: image 0"):
            preprocess(["verify", str(path)])
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        with pytest.raises(UserError, match="is damaged"):
            CaptionDataset(path, "train").read_images([30])


def test_chunks_are_refused_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "chunks.h5"
    path.write_bytes((folder / "pixels.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        images = file["val/images"][:]
        del file["val/images"]
        file["val"].create_dataset("images", data=images, compression="gzip")
    with pytest.raises(UserError, match="h5repack -l CONTI"):
        CaptionDataset(path, "val")


def test_the_manifest_identifies_the_encoder(folder: Path) -> None:
    fingerprint = read_manifest(folder / "features.h5")["encoder"]
    assert fingerprint["name"] == "mobilenet_v2" and fingerprint["grid"] == [2, 2] and fingerprint["width"] == 1280
    assert len(fingerprint["digest"]) == 16


def test_features_are_encoded_with_the_memory_of_the_batch_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the kernel clears every page of every tensor anew: a fifth of the processor's time."""
    tuned = []
    monkeypatch.setattr(feature_module, "tune", tuned.append)
    build(folder, tmp_path / "out.h5", "features")
    assert tuned == [torch.device("cpu")]
