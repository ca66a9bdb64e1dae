"""The whole model: encoder and decoder from a configuration; saved and loaded with its vocabulary."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caption import checkpoint
from caption.attention import GLIMPSES, SCORES, SELECTIONS, WINDOWS, Attention, Memory, MultiHeadAttention
from caption.config import DecoderConfig, EncoderConfig, ImageConfig, SearchConfig, from_dict
from caption.decoder import Decoded, Decoder, LuongDecoder, RecurrentDecoder
from caption.encoder import Encoder
from caption.errors import UserError
from caption.transformer import TransformerDecoder
from caption.vocabulary import Vocabulary

Grid = tuple[int, int]


def make_attention(config: DecoderConfig, region_width: int, grid: Grid) -> Attention:
    """What a recurrent decoder attends with: a score, a window and a selection; several heads; or glimpses."""
    hidden, width = config.hidden, config.attention
    if config.score == "multi_head":
        return MultiHeadAttention(hidden, region_width, width, config.heads, config.temperature)
    if config.selection in GLIMPSES:
        return GLIMPSES[config.selection](hidden, region_width, width, grid, config.glimpse)
    score = SCORES[config.score](hidden, region_width, width)
    window = None
    if config.window != "global":
        plane = config.window_over == "plane"
        window = WINDOWS[config.window](grid, config.window_radius, plane, hidden, width)
    return SELECTIONS[config.selection](score, region_width, config.temperature, window)


def make_decoder(
    config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int
) -> RecurrentDecoder | TransformerDecoder:
    """Of regions so wide on a grid of rows and columns."""
    if config.kind == "transformer":
        return TransformerDecoder(config, region_width, grid, vocabulary_size)
    kind = Decoder if config.query == "previous" else LuongDecoder
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

    def remember(self, images: Tensor) -> Memory:
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
        self, images: Tensor, captions: Tensor, lengths: Tensor, drawn: Tensor | None = None, weigh: bool = True
    ) -> Decoded:
        """Teacher forcing: pictures uint8 [B, 3, S, S], captions [B, Q, T], lengths [B, Q] on the CPU.

        `drawn` [B, Q]: with hard attention, the captions that attend to drawn locations; None: all to the expectation.
        `weigh`: attention's weights are asked for; without, a Transformer is faster.
        """
        memory = self.remember(images)._replace(drawn=drawn)
        decoded: Decoded = self.decoder(memory, captions, lengths, weigh=weigh)
        return decoded

    def check_search(self, search: SearchConfig) -> None:
        """Raises UserError for a way to attend that this model does not have."""
        if search.attend != "expectation" and not self.decoder.stochastic:
            raise UserError(
                f"attend is {search.attend}, but this model's attention is soft: it has the expectation alone"
            )

    def content(self) -> dict[str, Any]:
        """The part of a checkpoint that makes this model again."""
        return {
            "configs": {name: dataclasses.asdict(config) for name, config in self.configs.items()},
            "vocabulary": self.vocabulary.words,
            "model": self.state_dict(),
        }

    @classmethod
    def from_content(cls, content: dict[str, Any], source: str | Path) -> "Captioner":
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
        return cls.from_content(checkpoint.load(path), path).eval()
