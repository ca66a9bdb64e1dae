"""What an evaluation is of: a model, a split of a data file, and what is known of its images."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from caption import distributed
from caption.captioner import Captioner, check_features, check_fits
from caption.config.inference import EvaluationConfig
from caption.data import dataset
from caption.data.sampler import sequential_batches
from caption.device import choose_precision, set_tf32, tune
from caption.errors import UserError
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.diversity import read_training_captions
from caption.evaluation.grounding import Instances, read_instances
from caption.evaluation.ngrams import Words
from caption.evaluation.results import describe_search


class Subject(NamedTuple):
    """A model and a split, opened for an evaluation; everything that could be wrong with them was checked."""

    args: EvaluationConfig
    device: torch.device
    precision: str
    captioner: Captioner
    split: dataset.CaptionDataset
    loader: DataLoader[Any]  # this process's batches of the split, in order
    instances: Instances | None
    references: list[list[str]]
    training_captions: Sequence[Words] | None

    @property
    def search(self) -> str:
        """How captions are generated, in words."""
        return describe_search(dataclasses.asdict(self.args.search), self.precision, self.args.seed)

    @property
    def summary(self) -> str:
        """What the captions are of, in one line."""
        return f"{self.args.data}, {self.args.split}: {len(self.split)} images, {self.search}"

    def caption_set(self, captions: list[list[int]], **known: Any) -> CaptionSet:
        """Return one caption of each image of the split, in order, with what else is `known` of them."""
        written = [self.captioner.vocabulary.decode(caption) for caption in captions]
        return CaptionSet(
            captions=[self.captioner.vocabulary.separator.join(words) for words in written],
            references=self.references,
            word_kind=self.captioner.vocabulary.word_kind,
            written=written,
            image_ids=self.split.image_ids,
            instances=self.instances,
            java=self.args.java,
            **known,
        )


def open_model(checkpoint: str, data: str, device: torch.device) -> Captioner:
    """Return the model of a checkpoint on a device that is set up for it. Raises UserError where it does not fit the
    data file."""
    tune(device)
    set_tf32(device, allowed=False)
    captioner = Captioner.load(checkpoint).to(device)
    check_fits(data, captioner.vocabulary, captioner.image)
    check_features(data, captioner.encoder)
    return captioner


def open_subject(args: EvaluationConfig, device: torch.device) -> Subject:
    """Open the model and the split. Raises UserError where they do not fit each other, or what is asked for."""
    captioner = open_model(args.checkpoint, args.data, device)
    captioner.check_search(args.search)
    if args.gates and not captioner.decoder.gated:
        name = captioner.configs["decoder"].name
        raise UserError(f"--gates: decoder {name} of {args.checkpoint} has no gate; leave it out")
    split = dataset.CaptionDataset(args.data, args.split)
    if not args.captions_only:
        split.check_captioned("caption them without scores, by --captions-only")
    instances = read_instances(args.instances, split)
    if args.report and split.stores_features:
        raise UserError(f"--report shows images, but {args.data} holds features; make one with --store pixels")
    references, training_captions = split.references(), read_training_captions(args.data)  # held from now on
    batches = sequential_batches(len(split), args.batch_size)
    if args.knock_out and len(batches) > 1 and len(batches[-1]) == 1:  # `shuffled` needs two images
        batches[-2:] = [batches[-2] + batches[-1]]
    loader = dataset.build_loader(split, distributed.shard(batches), args.workers, device.type == "cuda")
    precision = distributed.broadcast(choose_precision(args.precision, device))
    torch.manual_seed(args.seed)
    distributed.seed_rank(args.seed, 0)
    return Subject(args, device, precision, captioner, split, loader, instances, references, training_captions)
