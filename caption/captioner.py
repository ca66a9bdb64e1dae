"""The whole model: encoder and decoder from a configuration; saved and loaded with its vocabulary."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caption import checkpoint
from caption.attention import GLIMPSES, SCORES, SELECTIONS, WINDOWS, Attention, Memory, MultiHeadAttention
from caption.config import DecoderConfig, EncoderConfig, ImageConfig, SearchConfig
from caption.config.validation import from_dict
from caption.data.hdf5 import read_image_config, read_manifest, read_vocabulary
from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.decoders.base import Decoder, DecoderOutput, LuongDecoder, RecurrentDecoder, shifted
from caption.decoders.transformer import TransformerDecoder
from caption.device import upcast_float32
from caption.encoders.base import Encoder
from caption.errors import UserError

Grid = tuple[int, int]


def make_attention(config: DecoderConfig, region_width: int, grid: Grid) -> Attention:
    """What a recurrent decoder attends with: a score, a window and a selection; several heads; or glimpses."""
    hidden, width = config.hidden_dim, config.attention_dim
    if config.score == "multi_head":
        return MultiHeadAttention(hidden, region_width, width, config.heads, config.temperature)
    if config.attention in GLIMPSES:
        return GLIMPSES[config.attention](hidden, region_width, width, grid, config.glimpse_size)
    score = SCORES[config.score](hidden, region_width, width)
    window = None
    if config.window != "global":
        plane = config.window_dims == "2d"
        window = WINDOWS[config.window](grid, config.window_radius, plane, hidden, width)
    return SELECTIONS[config.attention](score, region_width, config.temperature, window)


def make_decoder(
    config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int
) -> RecurrentDecoder | TransformerDecoder:
    """Of regions so wide on a grid of rows and columns."""
    if config.kind == "transformer":
        return TransformerDecoder(config, region_width, grid, vocabulary_size)
    kind = Decoder if config.attend_with == "previous_state" else LuongDecoder
    return kind(config, make_attention(config, region_width, grid), region_width, vocabulary_size)


class Captioner(nn.Module):
    """Pictures and captions in, logits out; everything that is needed to caption a picture is kept with it."""

    def __init__(
        self,
        image: ImageConfig,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        vocabulary: Vocabulary,
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        self.image, self.vocabulary = image, vocabulary
        self.configs: dict[str, Any] = {"image": image, "encoder": encoder, "decoder": decoder}
        self.encoder = Encoder(encoder, image.size, load_weights)
        self.decoder = make_decoder(decoder, self.encoder.width, self.encoder.grid, len(vocabulary))

    def encode(self, images: Tensor) -> Memory:
        """Pictures uint8 [B, 3, S, S], or features of this encoder float16 [B, L, D], -> what the decoder attends over.

        Once an image.
        """
        if images.is_floating_point():
            return self.decoder.prepare(images.float())
        tuned = any(parameter.requires_grad for parameter in self.encoder.trained)
        with torch.set_grad_enabled(torch.is_grad_enabled() and tuned):
            regions = self.encoder(images)
        return self.decoder.prepare(regions)

    def forward(
        self,
        images: Tensor,
        captions: Tensor,
        lengths: Tensor,
        drawn: Tensor | None = None,
        need_weights: bool = True,
        sampling_rate: float = 0.0,
    ) -> DecoderOutput:
        """Teacher forcing: pictures uint8 [B, 3, S, S], captions [B, Q, T], lengths [B, Q] on the CPU.

        `drawn` [B, Q]: with hard attention, the captions that attend to drawn locations; None: all to the expectation.
        `need_weights`: attention's weights are asked for; without, a Transformer is faster. `sampling_rate`:
        share of the words read that the model drew itself.
        """
        memory = self.encode(images)._replace(drawn=drawn)
        inputs = self._own_words(memory, captions, lengths, sampling_rate) if sampling_rate else None
        decoded: DecoderOutput = self.decoder(memory, captions, lengths, inputs, need_weights)
        return decoded

    @torch.no_grad()
    def _own_words(self, memory: Memory, captions: Tensor, lengths: Tensor, share: float) -> Tensor:
        """What to read [B, Q, T] instead of captions [B, Q, T]: this share of words is drawn from the model.

        All are drawn at once, each after the caption's own words (Duckworth et al., 2019), not word by word after
        those drawn before: one pass more, and the same for every decoder.
        """
        decoded = self.decoder(memory, captions, lengths, need_weights=False)
        torch.clear_autocast_cache()  # PyTorch before 2.10 would take weights from it that have no gradient
        words = torch.multinomial(upcast_float32(decoded.logits).softmax(-1), 1).squeeze(1)  # [N]
        replaced = (torch.rand(words.shape, device=words.device) < share) & (words >= len(SPECIALS))
        read = captions.flatten().index_copy(0, decoded.positions, torch.where(replaced, words, decoded.targets))
        return shifted(read.view_as(captions))

    @property
    def head_names(self) -> list[str]:
        """Of attention with several heads, in the order of `Hypothesis.heads`; empty: it has one."""
        decoder: DecoderConfig = self.configs["decoder"]
        heads = [f"head {m + 1}" for m in range(decoder.heads)]
        if decoder.kind == "transformer":
            return [f"layer {n + 1}, {head}" for n in range(decoder.transformer.layers) for head in heads]
        return heads if decoder.score == "multi_head" else []

    def check_search(self, search: SearchConfig) -> None:
        """Raises UserError for a way to attend that this model does not have."""
        if search.hard_attention != "expectation" and not self.decoder.stochastic:
            raise UserError(
                f"hard_attention is {search.hard_attention}, but this model's attention is soft: it has the "
                "expectation alone"
            )

    def to_checkpoint(self) -> dict[str, Any]:
        """The part of a checkpoint that makes this model again."""
        return {
            "configs": {name: dataclasses.asdict(config) for name, config in self.configs.items()},
            "vocabulary": self.vocabulary.words,
            "model": self.state_dict(),
        }

    @classmethod
    def from_checkpoint(cls, content: dict[str, Any], source: str | Path) -> "Captioner":
        """The model of a loaded checkpoint. Raises UserError when its parts do not fit together."""
        configs = content["configs"]
        captioner = cls(
            from_dict(ImageConfig, configs["image"]),
            from_dict(EncoderConfig, configs["encoder"]),
            from_dict(DecoderConfig, configs["decoder"]),
            Vocabulary(content["vocabulary"]),
            load_weights=False,
        )
        try:
            captioner.load_state_dict(content["model"])
        except RuntimeError as error:
            raise UserError(f"{source}: weights do not fit their configuration: {str(error)[:200]}") from None
        return captioner

    @classmethod
    def load(cls, path: str | Path) -> "Captioner":
        """The model in a checkpoint, on the CPU, in evaluation mode."""
        return cls.from_checkpoint(checkpoint.load(path), path).eval()


def check_fits(path: str | Path, vocabulary: Vocabulary, image: ImageConfig) -> None:
    """Raises UserError when the file numbers words, or brings pictures into a square, differently from the model."""
    own = read_vocabulary(path)
    if own.digest != vocabulary.digest:
        raise UserError(
            f"{path}: its vocabulary ({len(own)} words, digest {own.digest[:8]}) is not the model's ({len(vocabulary)} "
            f"words, {vocabulary.digest[:8]}); make the file again with --vocabulary and the model's training data"
        )
    found = read_image_config(path)
    if found != image:
        raise UserError(
            f"{path}: its pictures have size {found.size} ({found.fit}), the model's {image.size} ({image.fit}); make "
            f"the file again with --size {image.size} --fit {image.fit}"
        )


def check_features(path: str | Path, encoder: Encoder, mirror: bool = False) -> None:
    """Raises UserError when the file holds features that are not this encoder's, or pictures are to be mirrored."""
    manifest = read_manifest(path)
    if manifest["store"] != "features":
        return
    if mirror:
        raise UserError(
            f"{path}: holds features, but training.horizontal_flip needs pictures: make it with --store pixels"
        )
    if encoder.trained:
        raise UserError(
            f"{path}: holds features, but encoder.finetune_from is to train their encoder; leave it empty, or make the "
            "file with --store pixels"
        )
    theirs, ours = manifest["encoder"], encoder.identity()
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
