"""Train a captioner: `python train.py PRESET --data FILE --output FOLDER [--any.field value ...]`."""

import contextlib
import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import tyro

from caption import checkpoint, distributed
from caption.captioner import Captioner, check_features, check_fits
from caption.config import Config
from caption.config.cli import parse, run
from caption.config.presets import PRESETS
from caption.data import dataset, embeddings, hdf5
from caption.data.vocabulary import Vocabulary
from caption.device import allow_tf32, choose_device, choose_precision, free_memory, tune_malloc
from caption.errors import UserError
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.generate import generate
from caption.evaluation.metrics import VALIDATION, score_captions
from caption.ops import torch_compile
from caption.training import loop, run_dir
from caption.training.self_critical import Critic

EXAMPLES = 10  # pictures whose captions are kept from every epoch


@dataclasses.dataclass(frozen=True)
class Resume:
    """Go on with an interrupted run, exactly as if it had not been interrupted."""

    resume: str
    """The run's folder."""
    data: str = ""
    """Where the data file is now, if it was moved."""
    device: str = ""
    """Another device than before."""


def main(arguments: list[str]) -> None:
    config, state = read_arguments(arguments)
    device = distributed.init(choose_device(config.device))
    config = distributed.broadcast(config)  # another machine might have chosen another precision
    folder, training = Path(config.output), config.training
    processes = distributed.world_size()
    if training.batch_size < processes * training.accumulate:
        raise UserError(
            f"training.batch_size is {training.batch_size}, but {processes} processes share a batch, each in "
            f"{training.accumulate} parts; give at least {processes * training.accumulate}"
        )
    torch.manual_seed(training.seed)
    if training.compile:
        torch_compile.want(device)
    tune_malloc(device)
    allow_tf32(device)

    # The data.
    train, val = dataset.CaptionData(config.data, "train"), dataset.CaptionData(config.data, "val")
    workers, pin = training.workers, device.type == "cuda"
    if training.cache == "auto" and 4 * (train.size + val.size) < free_memory(device):
        for split in (train, val):
            split.keep_on(device)
        workers, pin = 0, False
        print(f"all pictures stay on {device}: {(train.size + val.size) / 1e9:.1f} GB (or: --training.cache never)")
    rows, batches = dataset.training_batches(train, training.batching, training.batch_size, training.seed)
    shares = distributed.DistributedBatches(batches, training.accumulate)
    train_loader = dataset.make_loader(distributed.PaddingBatches(rows), shares, workers, pin)
    val_batches = distributed.shard(dataset.in_order(len(val), 2 * training.batch_size))
    val_loader = dataset.make_loader(val, val_batches, workers, pin)

    # The model, new or as it was saved.
    if state is None:
        vocabulary, image = hdf5.read_vocabulary(config.data), hdf5.read_image_config(config.data)
        captioner = Captioner(image, config.encoder, config.decoder, vocabulary, not config.start_from).to(device)
        if config.start_from:
            begin_with(captioner, config)
        elif config.decoder.vectors:
            print(embeddings.fill(captioner.decoder.embedding.weight, captioner.vocabulary, config.decoder.vectors))
        optimizer, progress = loop.make_optimizer(captioner, training), loop.Progress()
        if distributed.rank() == 0:
            run_dir.create_folder(config)
    else:
        captioner = Captioner.from_checkpoint(state, folder / "last.pt").to(device)
        check_fits(config.data, captioner.vocabulary, captioner.image)
        optimizer = loop.make_optimizer(captioner, training)
        progress = loop.restore_training(state, optimizer, device)
    check_features(config.data, captioner.encoder, training.mirror)
    distributed.seed_rank(training.seed, progress.step)
    print(describe(config, captioner, len(train), len(val)))

    # Ctrl-C and a scheduler's SIGTERM: finish the step, save, leave. A second one ends the program at once.
    stop_asked = False

    def ask_to_stop(number: int, frame: Any) -> None:
        nonlocal stop_asked
        stop_asked = True
        signal.signal(number, signal.SIG_DFL)

    def save(every: int) -> None:
        stop = distributed.sum_integers(stop_asked)[0] > 0  # all at the same step
        if stop or (every and progress.step % every == 0):
            loop.check_finite(progress)
            more = loop.training_state(optimizer, progress, device)
            if distributed.rank() == 0:
                checkpoint.save(folder / "last.pt", {**captioner.to_checkpoint(), **more})
        if stop:
            if distributed.rank() == 0:
                print(f"\nstopped and saved; go on with: python train.py --resume {folder}", file=sys.stderr)
            sys.exit(130)

    signal.signal(signal.SIGINT, ask_to_stop)
    signal.signal(signal.SIGTERM, ask_to_stop)

    critic: Critic | None = None
    log = run_dir.Run(folder, progress.epoch) if distributed.rank() == 0 else None
    batches.start(1)
    steps = training.epochs * len(batches)
    # The first epoch of what training ends with: patience is not for what comes before.
    begun = training.reinforce.first_epoch if captioner.decoder.stochastic else training.self_critical.first_epoch
    while progress.epoch <= training.epochs:
        epoch = progress.epoch
        if epoch == training.self_critical.first_epoch and not progress.batch:
            progress.reductions = 0
        since = max(progress.best_epoch, begun - 1 if epoch >= begun else 0)
        if training.patience and epoch >= begun and epoch - 1 - since >= training.patience:
            print(f"no better score for {epoch - 1 - since} epochs: stopped")
            break
        if captioner.decoder.stochastic and epoch == training.reinforce.first_epoch:
            progress.best_score = -1.0  # what soft epochs scored is not hard attention's best
        critical = 0 < training.self_critical.first_epoch <= epoch
        if critical and critic is None:  # it counts the n-grams of all references
            critic = Critic(training.self_critical, train, config.search.max_length)
        captioner.encoder.fine_tune(epoch >= training.finetune_epoch)
        batches.start(epoch, skip=progress.batch)
        trained = loop.train_epoch(
            captioner,
            train_loader,
            optimizer,
            training,
            progress,
            steps,
            lambda: save(training.checkpoint_steps),
            critic,
        )
        save(every=1)  # whatever happens in validation
        validated = loop.validate(captioner, val_loader, training, device)
        found = generate(captioner, val_loader, config.search, device, training.precision)
        numbers = distributed.gather({one.image: one.hypotheses[0].words for one in found})
        texts = [" ".join(captioner.vocabulary.decode(numbers[index])) for index in range(len(val))]
        scores = distributed.broadcast(write_epoch(log, epoch, trained, validated, val, texts) if log else {})
        better = scores["BLEU-4"] > progress.best_score
        told = f"reward {trained['reward']:.3f}" if critical else f"loss {trained['cross_entropy']:.3f}"
        print(
            f"epoch {epoch}: {told}, val {validated['cross_entropy']:.3f}, generated "
            f"BLEU-4 {scores['BLEU-4']:.2f}{' (best)' if better else ''}; "
            f"{trained['captions_per_second']:.0f} captions/s, {trained['data_share']:.0%} of the time for data"
        )
        if better:
            progress.best_score, progress.best_epoch = scores["BLEU-4"], epoch
        if better and log:
            checkpoint.save(folder / "best.pt", {**captioner.to_checkpoint(), "epoch": epoch, "scores": scores})
        if not better and (epoch - since) % training.plateau_epochs == 0:
            progress.reductions += 1
        progress = progress.next_epoch()
        save(every=1)
    distributed.destroy()
    print(f"best: epoch {progress.best_epoch}, BLEU-4 {progress.best_score:.2f} on val; {folder / 'best.pt'}")


def write_epoch(
    log: run_dir.Run,
    epoch: int,
    trained: dict[str, float],
    validated: dict[str, float],
    val: dataset.CaptionData,
    texts: list[str],
) -> dict[str, float]:
    """Score the captions of the validation split, write all of an epoch down, and return the scores."""
    scored = score_captions(CaptionSet(texts, val.references()), VALIDATION).scores
    scores = {score.name: score.value for score in scored}
    run_dir.write_text(log.folder / "captions_val.json", run_dir.coco_results(val.image_ids, texts))
    shown, each = val.file_names[:EXAMPLES], {score.name: score.per_image for score in scored}
    log.record(
        {
            "epoch": epoch,
            "train": trained,
            "val": validated,
            "scores": scores,
            "examples": dict(zip(shown, texts, strict=False)),
            "CIDEr-D of examples": dict(zip(shown, each["CIDEr-D"].tolist(), strict=False)),
        }
    )
    return scores


def read_arguments(arguments: list[str]) -> tuple[Config, dict[str, Any] | None]:
    """The configuration, and the checkpoint to go on from, if any. Raises UserError."""
    if any(argument.split("=")[0] == "--resume" for argument in arguments):
        given = parse(Resume, arguments, "train.py")
        config = run_dir.read_config(given.resume)
        config = dataclasses.replace(
            config, output=given.resume, data=given.data or config.data, device=given.device or config.device
        )
        return config, checkpoint.load(Path(given.resume) / "last.pt")
    presets = tyro.extras.subcommand_type_from_defaults(
        {name: config for name, (_, config) in PRESETS.items()},
        {name: description for name, (description, _) in PRESETS.items()},
    )
    if arguments and not arguments[0].startswith("-") and arguments[0] not in PRESETS:
        raise UserError(f"unknown preset {arguments[0]!r}; known: {', '.join(PRESETS)}")
    if arguments in (["--help"], ["-h"]):  # the presets, then the fields, which are the same for all
        with contextlib.suppress(SystemExit):
            parse(presets, arguments, "train.py", f"{__doc__}\n\nGo on with a run: `python train.py --resume FOLDER`")
        arguments = [next(iter(PRESETS)), "--help"]
    config = parse(presets, arguments, "train.py")
    hdf5.read_manifest(config.data)
    if config.encoder.weights == "none" and not config.encoder.finetune_from and not config.start_from:
        raise UserError(
            "encoder.weights is none and encoder.finetune_from empty: the encoder would stay random; give it weights, "
            "or train it by --encoder.finetune-from all"
        )
    precision = choose_precision(config.training.precision, choose_device(config.device))
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision=precision)), None


def begin_with(captioner: Captioner, config: Config) -> None:
    """Fill a new model from `start_from`. Raises UserError when the two have other words or other shapes."""
    content = checkpoint.load(config.start_from)
    check_fits(config.data, Vocabulary(content["vocabulary"]), captioner.image)
    try:
        captioner.load_state_dict(content["model"])
    except RuntimeError as error:
        raise UserError(f"start_from {config.start_from}: a model of another shape: {str(error)[:200]!r}") from None


def describe(config: Config, captioner: Captioner, train: int, val: int) -> str:
    """What is about to be trained."""
    rows, columns = captioner.encoder.grid
    weights = sum(parameter.numel() for parameter in captioner.parameters())
    learnt = sum(parameter.numel() for parameter in (*captioner.decoder.parameters(), *captioner.encoder.trained))
    return (
        f"{config.data}: {train} pictures to train, {val} to validate, {len(captioner.vocabulary)} words\n"
        f"{config.encoder.name}: {rows}x{columns} regions of width {captioner.encoder.width}; "
        f"{weights / 1e6:.1f} M weights, {learnt / 1e6:.1f} M of them trained, {config.training.precision}"
    )


if __name__ == "__main__":
    run(main)
