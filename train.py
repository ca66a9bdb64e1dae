"""Train a captioner: `python train.py PRESET --data FILE --output FOLDER [--any.field value ...]`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

from caption import checkpoint, distributed
from caption.captioner import Captioner
from caption.config import Config
from caption.config.cli import parse, run
from caption.config.presets import parse_preset
from caption.config.training import ResumeConfig
from caption.data import hdf5
from caption.device import choose_device
from caption.errors import UserError
from caption.evaluation.generate import generate
from caption.training import loop, precision, run_dir, setup
from caption.training.run_dir import RunLog
from caption.training.self_critical import CaptionSampler
from caption.training.state import Saver


def main(arguments: list[str]) -> None:
    asked, resumed = read_arguments(arguments)
    folder = Path(asked.output)
    with distributed.join(choose_device(asked.device)) as device, run_dir.held(folder):
        distributed.broadcast(None)  # the first process has the lock before any of them reads
        train(asked, run_dir.read_last(folder) if resumed else None, device)


def train(asked: Config, saved: dict[str, Any] | None, device: torch.device) -> None:
    """Train a new run, or continue from the checkpoint `saved`."""
    config = distributed.broadcast(precision.resolve_precision(asked, saved, device))  # machines might differ
    folder, training = Path(config.output), config.training
    setup.configure_torch(config, device)
    data = setup.build_data(config, device)
    captioner, optimizer, state = setup.build_model(asked, saved, data.digests, device)
    scaler = precision.build_scaler(training.precision, device, saved)
    distributed.seed_rank(training.seed, state.step)
    print(setup.describe(config, captioner, data))
    saver = Saver(folder, captioner, optimizer, training.precision, scaler, data.digests)
    log = RunLog(folder, state.epoch) if distributed.rank() == 0 else None
    sampler: CaptionSampler | None = None
    data.train_batches.set_epoch(1)
    steps = training.epochs * len(data.train_batches)
    if state.epoch > training.epochs:
        print("this run is finished; to go on, give more --training.epochs")
    while state.epoch <= training.epochs:
        epoch = state.epoch
        state.begin_epoch(training)
        if state.out_of_patience(training):
            print(f"no better score for {state.stale_epochs(training)} epochs: stopped")
            break
        if 0 < training.self_critical.first_epoch <= epoch and sampler is None:  # counts the references' n-grams
            sampler = CaptionSampler(training.self_critical, data.train, config.search.max_length)
        captioner.encoder.fine_tune(epoch >= training.finetune_epoch)
        data.train_batches.set_epoch(epoch, skip=state.batch)
        after_step = functools.partial(saver.save, state, training.checkpoint_steps)
        trained = loop.train_epoch(
            captioner, data.train_loader, optimizer, training, state, steps, after_step, sampler, scaler
        )
        saver.save(state)  # before validation, which might fail
        validated = loop.validate(captioner, data.val_loader, training)
        captions = generate_captions(captioner, data, config, device)
        scores = distributed.broadcast(log.write_epoch(epoch, trained, validated, data.val, captions) if log else {})
        is_best = state.end_epoch(scores["BLEU-4"], training)
        loss = f"reward {trained['reward']:.3f}" if sampler else f"loss {trained['cross_entropy']:.3f}"
        print(
            f"epoch {epoch}: {loss}, val {validated['cross_entropy']:.3f}, generated "
            f"BLEU-4 {scores['BLEU-4']:.2f}{' (best)' if is_best else ''}; "
            f"{trained['captions_per_second']:.0f} captions/s, {trained['data_fraction']:.0%} of the time for data"
        )
        if is_best and log:
            checkpoint.save(folder / "best.pt", {**captioner.to_checkpoint(), "epoch": epoch, "scores": scores})
        state = state.next_epoch()
        saver.save(state)
    print(f"best: epoch {state.best_epoch}, BLEU-4 {state.best_score:.2f} on val; {folder / 'best.pt'}")


def generate_captions(captioner: Captioner, data: setup.Data, config: Config, device: torch.device) -> list[str]:
    """Return a caption for each image of the validation split, in order."""
    generated = generate(captioner, data.val_loader, config.search, device, config.training.precision)
    words = distributed.gather({item.image: item.hypotheses[0].words for item in generated})
    vocabulary = captioner.vocabulary
    return [vocabulary.separator.join(vocabulary.decode(words[index])) for index in range(len(data.val))]


def read_arguments(arguments: list[str]) -> tuple[Config, bool]:
    """Return the configuration, and whether its run is resumed. Raises UserError."""
    if any(argument.split("=")[0] == "--resume" for argument in arguments):
        args = parse(ResumeConfig, arguments, "train.py")
        config = run_dir.read_config(args.resume, args.epochs)
        data, device = args.data or config.data, args.device or config.device
        return dataclasses.replace(config, output=args.resume, data=data, device=device), True
    config = parse_preset(arguments, "train.py", f"{__doc__}\n\nResume a run: `python train.py --resume FOLDER`")
    hdf5.read_manifest(config.data)
    if config.encoder.weights == "none" and not config.encoder.finetune_from and not config.init_from:
        raise UserError(
            "encoder.weights is none and encoder.finetune_from empty: the encoder would stay random; give it weights, "
            "or train it by --encoder.finetune-from all"
        )
    return config, False


if __name__ == "__main__":
    run(main)
