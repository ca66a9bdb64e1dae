"""Build a run before its first step: data loaders, model, optimizer and state."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from caption import checkpoint, distributed, ops
from caption.captioner import Captioner, check_features, check_fits
from caption.config import Config, ImageConfig
from caption.config.validation import from_dict
from caption.data import dataset, embeddings, hdf5
from caption.data.dataset import Batch, CaptionDataset
from caption.data.sampler import BucketSampler, sequential_batches
from caption.data.vocabulary import Vocabulary
from caption.device import free_memory, set_tf32, tune
from caption.errors import UserError, reading
from caption.training import run_dir, state
from caption.training.schedule import build_optimizer
from caption.training.state import TrainState

BY_WORD = ("decoder.embedding.weight", "decoder.output.weight", "decoder.output.bias")  # a row of each word


class Data(NamedTuple):
    """The training and validation splits, and their loaders."""

    train: CaptionDataset
    val: CaptionDataset
    digests: dict[str, str]  # of both splits, by which a resumed run knows its data
    train_batches: BucketSampler  # the order of the training batches
    train_loader: DataLoader[Batch]
    val_loader: DataLoader[Batch]


def configure_torch(config: Config, device: torch.device) -> None:
    """Set PyTorch's seed, precision, memory and compilation. Raises UserError for a batch too small to be shared, and
    for an unknown value of CAPTION_OPS."""
    ops.switch.fast()  # raises it now, and not when the folder holds a run already
    training, processes = config.training, distributed.world_size()
    smallest = processes * training.accumulation_steps
    if training.batch_size < smallest:
        raise UserError(
            f"training.batch_size is {training.batch_size}, but {processes} processes share a batch, each in "
            f"{training.accumulation_steps} micro-batches; give at least {smallest}"
        )
    torch.manual_seed(training.seed)
    ops.enable_graphs(training.cuda_graphs)
    if training.compile:
        ops.enable_compile(device)
    tune(device)
    set_tf32(device, allowed=True)


def build_data(config: Config, device: torch.device) -> Data:
    """Open the splits and make their loaders; on a GPU, images that fit into its memory are cached there."""
    training = config.training
    train, val = CaptionDataset(config.data, "train"), CaptionDataset(config.data, "val")
    for split in (train, val):
        split.check_captioned("give a data file that was made without --keep-uncaptioned")
    workers, pin = training.workers, device.type == "cuda"
    size = train.nbytes + val.nbytes
    if training.cache_on_device == "auto" and 4 * size < free_memory(device):
        for split in (train, val):
            split.cache_on(device)
        workers, pin = 0, False  # worker processes could not share the cache
        print(f"all images cached on {device}: {size / 1e9:.1f} GB (disable: --training.cache-on-device never)")
    rows, batches = dataset.training_batches(
        train, training.batch_by, training.batch_size, training.seed, training.curriculum_epochs
    )
    own_batches = distributed.DistributedBatches(batches, training.accumulation_steps)
    train_loader = dataset.build_loader(distributed.PaddingBatches(rows), own_batches, workers, pin)
    val_batches = distributed.shard(sequential_batches(len(val), 2 * training.batch_size))
    val.references()  # held from now on
    digests = hdf5.read_digests(config.data)
    return Data(train, val, digests, batches, train_loader, dataset.build_loader(val, val_batches, workers, pin))


def build_model(
    config: Config, saved: dict[str, Any] | None, digests: dict[str, str], device: torch.device
) -> tuple[Captioner, torch.optim.Optimizer, TrainState]:
    """Return model, optimizer and state: those of the checkpoint `saved`, or new ones and a new folder for the run."""
    if saved is None:
        vocabulary, image = hdf5.read_vocabulary(config.data), hdf5.read_image_config(config.data)
        captioner = Captioner(image, config.encoder, config.decoder, vocabulary, not config.init_from).to(device)
        if config.init_from:
            print(load_weights(captioner, config))
        elif path := config.decoder.pretrained_embeddings:
            print(embeddings.load_embeddings(captioner.decoder.embedding.weight, captioner.vocabulary, path))
        if distributed.rank() == 0:
            run_dir.create_folder(config)
    else:
        captioner = Captioner.from_checkpoint(saved, Path(config.output) / "last.pt").to(device)
        check_fits(config.data, captioner.vocabulary, captioner.image)
    optimizer, train_state = build_optimizer(captioner, config.training), TrainState()
    if saved is not None:
        with reading(Path(config.output) / "last.pt", "start a new run from its weights, by --init-from"):
            check_same_data(config.data, digests, saved["data"])
            train_state = state.restore(saved, optimizer, device)
        if distributed.rank() == 0:
            run_dir.record_epochs(config)
    check_features(config.data, captioner.encoder, config.training.augmentation)
    return captioner, optimizer, train_state


def check_same_data(path: str, found: dict[str, str], trained_on: dict[str, str]) -> None:
    """Raise UserError unless the digests found in the file are those of the data that a run was trained on."""
    if different := [name for name in found | trained_on if found.get(name) != trained_on.get(name)]:
        raise UserError(
            f"{path}: is not the data that this run was trained on ({', '.join(different)} differ); give that file by "
            "--data, or start a new run on this one with --init-from"
        )


def load_weights(captioner: Captioner, config: Config) -> str:
    """Load the weights of `init_from`, and return a line that says what is new: of words that its model did not have,
    the rows of the embedding and of the output layer; another one if its images had another form. Raises UserError if
    its encoder or its shapes differ."""
    content = checkpoint.load(config.init_from)
    with reading(config.init_from, "give another run's best.pt"):
        source, weights, words = Vocabulary.from_checkpoint(content), content["model"], captioner.vocabulary.words
        known = [index for index, word in enumerate(words) if word in source.word_to_index]
        if source.words != words:
            rows = source.encode(words[index] for index in known)
            weights = adopt_words(weights, captioner.state_dict(), rows, known)
        encoder, image = content["configs"]["encoder"]["name"], from_dict(ImageConfig, content["configs"]["image"])
        if encoder != (ours := captioner.encoder.name):
            raise UserError(
                f"init_from {config.init_from}: its encoder is {encoder}, but encoder.name is {ours}; give "
                f"--encoder.name {encoder}"
            )
        checkpoint.load_weights(captioner, weights, f"init_from {config.init_from}")
    others = f"; the other {len(words) - len(known)} begin anew" if len(known) < len(words) else ""
    line = f"init_from {config.init_from}: {len(known)} of {len(words)} words are its own{others}"
    if image == captioner.image:
        return line
    return (
        f"{line}\nits images had {image}, those of {config.data} have {captioner.image}; it knows more of data made "
        f"with --size {image.size} --fit {image.fit} --interpolation {image.interpolation}"
    )


def adopt_words(
    weights: dict[str, Tensor], new: dict[str, Tensor], rows: list[int], known: list[int]
) -> dict[str, Tensor]:
    """Return the weights for another vocabulary: of its words `known`, the rows of the embedding and of the output
    layer are `rows` of the weights, and those of the other words are as in `new`."""
    adopted = dict(weights)
    for name in BY_WORD:
        if name in weights and weights[name].shape[1:] == new[name].shape[1:]:  # or it is refused by its shape
            adopted[name] = new[name].detach().clone()
            adopted[name][known] = weights[name][rows]
    return adopted


def describe(config: Config, captioner: Captioner, data: Data) -> str:
    """Return two lines about data and model, printed before training."""
    rows, columns = captioner.encoder.grid
    weights = sum(parameter.numel() for parameter in captioner.parameters())
    trained = sum(parameter.numel() for parameter in (*captioner.decoder.parameters(), *captioner.encoder.finetuned))
    return (
        f"{config.data}: {len(data.train)} training images, {len(data.val)} validation images, "
        f"{len(captioner.vocabulary)} words\n"
        f"{config.encoder.name}: {rows}x{columns} regions of width {captioner.encoder.width}; "
        f"{weights / 1e6:.1f} M weights, {trained / 1e6:.1f} M of them trained, {config.training.precision}"
    )
