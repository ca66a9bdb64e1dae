"""The whole model: encoder, decoder and vocabulary from a configuration; saved and loaded together."""

import dataclasses
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from caption import checkpoint, ops
from caption.attention import GumbelSoftmax, Memory
from caption.config import DecoderConfig, EncoderConfig, ImageConfig, SearchConfig
from caption.config.validation import from_dict
from caption.data.hdf5 import read_image_config, read_manifest, read_vocabulary
from caption.data.photos import Photo, Source, load_photo
from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.decoders import DecoderOutput, build_decoder, shift_right
from caption.describe import Caption, make_caption
from caption.encoders.base import Encoder
from caption.encoders.registry import build_encoder
from caption.errors import UserError, reading
from caption.search import force_decode, search


class Captioner(nn.Module):
    """Images and captions in, logits out; all that is needed to caption an image is kept with it."""

    def __init__(
        self,
        image: ImageConfig,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        vocabulary: Vocabulary,
        load_weights: bool = True,
    ) -> None:
        """`load_weights=False` leaves the encoder random, for a checkpoint that will fill it."""
        super().__init__()
        self.image, self.vocabulary = image, vocabulary
        self.configs: dict[str, Any] = {"image": image, "encoder": encoder, "decoder": decoder}
        self.encoder = build_encoder(encoder, image.size, load_weights)
        self.decoder = build_decoder(decoder, self.encoder.width, self.encoder.grid, len(vocabulary))
        self.head_names = self.decoder.head_names  # of its attention, in the order of `Hypothesis.heads`

    def encode(self, images: Tensor) -> Memory:
        """Return what the decoder attends over, computed once for each image.

        `images` are uint8 [B, 3, S, S], or stored features of this encoder, float16 [B, L, D].
        """
        return self.decoder.prepare(self.regions(images))

    def regions(self, images: Tensor) -> Tensor:
        """Return the annotation vectors [B, L, D] of images, as `encode` takes them."""
        if images.is_floating_point():
            return images.float()
        finetuned = any(parameter.requires_grad for parameter in self.encoder.finetuned)
        with torch.set_grad_enabled(torch.is_grad_enabled() and finetuned):
            regions: Tensor = self.encoder(images)
        return regions

    def forward(
        self,
        images: Tensor,
        captions: Tensor,
        lengths: Tensor,
        sample_rows: Tensor | None = None,
        need_weights: bool = True,
        sampling_rate: float = 0.0,
        gumbel_softmax: GumbelSoftmax | None = None,
    ) -> DecoderOutput:
        """Return the logits of captions [B, Q, T] by teacher forcing; `lengths` [B, Q] are on the CPU.

        `sample_rows` [B, Q] are the captions for which hard attention samples; None: all take the expectation.
        Without `need_weights`, a Transformer is faster and returns no weights. `sampling_rate` is the fraction of input
        tokens that are sampled from the model instead (scheduled sampling). `gumbel_softmax` says how gradients pass
        through sampled locations; None: not at all.
        """
        memory = self.encode(images)._replace(sample_rows=sample_rows, gumbel_softmax=gumbel_softmax)
        inputs = self._sample_inputs(memory, captions, lengths, sampling_rate) if sampling_rate else None
        return self.decoder(memory, captions, lengths, inputs, need_weights)

    @torch.no_grad()
    def _sample_inputs(self, memory: Memory, captions: Tensor, lengths: Tensor, sampling_rate: float) -> Tensor:
        """Return input tokens [B, Q, T] for captions [B, Q, T], a fraction of them sampled from the model.

        All are sampled at once, each after the caption's own words (Duckworth et al., 2019), not one after the other:
        one pass more, and the same for every decoder.
        """
        output = self.decoder(memory, captions, lengths, need_weights=False)
        torch.clear_autocast_cache()  # PyTorch before 2.10 would keep weights in it that have no gradient
        words = ops.sample_categorical(output.logits)  # [N]
        replaced = (torch.rand(words.shape, device=words.device) < sampling_rate) & (words >= len(SPECIALS))
        tokens = torch.where(replaced, words, output.targets)
        return shift_right(captions.flatten().index_copy(0, output.positions, tokens).view_as(captions))

    @overload
    def caption(
        self, image: list[Any], config: SearchConfig | None = None, *, text: str | list[str] = "", **options: Any
    ) -> list[Caption]: ...

    @overload
    def caption(
        self, image: Source | Photo, config: SearchConfig | None = None, *, text: str | list[str] = "", **options: Any
    ) -> Caption: ...

    @torch.inference_mode()
    def caption(
        self, image: Any, config: SearchConfig | None = None, *, text: str | list[str] = "", **options: Any
    ) -> Any:
        """Return the caption of an image, or those of a list of images, computed as one batch.

        An image is a path, a PIL image, or an array or tensor of bytes; a photo of `data.photos.load_photo` is one that
        was opened before. `config`, or the fields of SearchConfig as keywords (`beam_size=5`), say how to search. With
        `text`, these words are the caption, and the attention and log-probability are theirs; a list of words is taken
        as it is, a sentence as the tokeniser reads it.

        Raises BadImage for a file that cannot be read, UserError for what is no image, for a search that this model
        does not know, and in training mode, in which dropout would change words.
        """
        if self.training:
            raise UserError("the captioner is in training mode, with dropout; call captioner.eval() first")
        config = dataclasses.replace(config or SearchConfig(), **options)
        self.check_search(config)
        images = image if isinstance(image, list) else [image]
        if not images:
            return []
        photos = [each if isinstance(each, Photo) else load_photo(each, self.image) for each in images]
        squares = torch.from_numpy(np.stack([photo.square for photo in photos]))
        memory = self.encode(squares.to(next(self.parameters()).device))
        heads = bool(self.head_names)  # those of a glimpse are filters, which nobody looks at one by one
        if text:
            words = self.vocabulary.encode(self.vocabulary.tokenise(text) if isinstance(text, str) else text)
            found = [[each] for each in force_decode(self.decoder, memory, words, config.hard_attention, heads)]
        else:
            found = search(self.decoder, memory, config, heads)
        decoded = [[(self.vocabulary.decode(each.words), each) for each in hypotheses] for hypotheses in found]
        captions = [
            make_caption(hypotheses, self.encoder.feature_grid, self.head_names, photo, self.vocabulary.separator)
            for hypotheses, photo in zip(decoded, photos, strict=True)
        ]
        return captions if isinstance(image, list) else captions[0]

    def check_search(self, search: SearchConfig) -> None:
        """Raise UserError for a kind of attention that this model does not have."""
        if search.hard_attention != "expectation" and not self.decoder.stochastic:
            raise UserError(
                f"hard_attention is {search.hard_attention}, but this model's attention is soft: it has the "
                "expectation alone"
            )

    def to_checkpoint(self) -> dict[str, Any]:
        """Return the part of a checkpoint that restores this model."""
        return {
            "configs": {name: dataclasses.asdict(config) for name, config in self.configs.items()},
            "vocabulary": self.vocabulary.words,
            "words": self.vocabulary.word_kind,
            "model": self.state_dict(),
        }

    @classmethod
    def from_checkpoint(cls, content: dict[str, Any], source: str | Path) -> "Captioner":
        """Return the model of a loaded checkpoint. Raises UserError when its weights do not fit its configuration."""
        kinds = {"image": ImageConfig, "encoder": EncoderConfig, "decoder": DecoderConfig}
        with reading(source, "give a best.pt or last.pt that train.py wrote, or train again"):
            configs: dict[str, Any] = {name: from_dict(kind, content["configs"][name]) for name, kind in kinds.items()}
            vocabulary = Vocabulary.from_checkpoint(content)
            captioner = cls(**configs, vocabulary=vocabulary, load_weights=False)
            checkpoint.load_weights(captioner, content["model"], str(source))
        return captioner

    @classmethod
    def load(cls, path: str | Path) -> "Captioner":
        """Return the model in a checkpoint, on the CPU, in evaluation mode."""
        return cls.from_checkpoint(checkpoint.load(path), path).eval()


def check_fits(path: str | Path, vocabulary: Vocabulary, image: ImageConfig) -> None:
    """Raise UserError when the file splits captions into words, numbers them, or crops images to a square, differently
    from the model."""
    own = read_vocabulary(path)
    if own.word_kind != vocabulary.word_kind:
        raise UserError(
            f"{path}: its words are {own.word_kind}, the model's {vocabulary.word_kind}; make the file again with "
            f"--words {vocabulary.word_kind}, --vocabulary and the model"
        )
    if own.digest != vocabulary.digest:
        raise UserError(
            f"{path}: its vocabulary ({len(own)} words, digest {own.digest[:8]}) is not the model's ({len(vocabulary)} "
            f"words, {vocabulary.digest[:8]}); make the file again with --vocabulary and the model"
        )
    stored = read_image_config(path)
    if stored != image:
        raise UserError(
            f"{path}: its images have {stored}, the model's {image}; make the file again with --size {image.size} "
            f"--fit {image.fit} --interpolation {image.interpolation}"
        )


def check_features(path: str | Path, encoder: Encoder, augmentation: str = "") -> None:
    """Raise UserError when the file holds features that are not this encoder's, or if images are to be changed in
    training, by the fields that `augmentation` names."""
    manifest = read_manifest(path)
    if manifest["store"] != "features":
        return
    if augmentation:
        raise UserError(f"{path}: holds features, but {augmentation} needs images: make it with --store pixels")
    if encoder.finetuned:
        raise UserError(
            f"{path}: holds features, but encoder.finetune_from is to train their encoder; leave it empty, or make the "
            "file with --store pixels"
        )
    theirs, ours = manifest["encoder"], encoder.fingerprint()
    if theirs != ours:
        different = [
            f"{name} {theirs.get(name, 'as usual')} (the model's: {ours.get(name, 'as usual')})"
            for name in dict.fromkeys([*ours, *theirs])
            if theirs.get(name) != ours.get(name)
        ]
        raise UserError(
            f"{path}: its features are not of the model's encoder: {', '.join(different)}; make the file again "
            "with the model's encoder, or with --store pixels"
        )
