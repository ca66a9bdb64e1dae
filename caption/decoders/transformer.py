"""The Transformer decoder (Vaswani et al., 2017, section 3), with the protocol of the recurrent ones.

Each of N layers: masked self-attention over the words read so far, attention over the regions, two feed-forward
layers; each sublayer f with a residual sum, normalised after it, norm(x + f(x)), as published, or before it,
x + f(norm(x)) (Xiong et al., 2020).
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from caption.attention import AttentionOutput, Memory, MultiHeadAttention
from caption.config import DecoderConfig
from caption.data.vocabulary import PAD
from caption.decoders.base import DecoderOutput, shifted, words_of
from caption.device import to_device
from caption.ops.dropout import Dropout

LEARNED = 128  # positions in a table of learned ones


class Cache(NamedTuple):
    """Keys and values of the words that Q rows of each image have read, for every layer."""

    keys: Tensor  # [B, Q, N, M, t, A / M]
    values: Tensor  # [B, Q, N, M, t, A / M]

    def select(self, rows: Tensor) -> "Cache":
        """Row rows[b, q] of image b becomes its row q; rows [B, Q']."""
        image = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        return Cache(self.keys[image, rows], self.values[image, rows])


class Layer(nn.Module):
    """Three sublayers, numbered 0 to 2: attention over the words read so far, over the regions, and `feed`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.words = MultiHeadAttention(width, width, config.attention_dim, config.heads)
        self.regions = MultiHeadAttention(width, width, config.attention_dim, config.heads)
        self.feed = nn.Sequential(nn.Linear(width, config.hidden_dim), nn.ReLU(), nn.Linear(config.hidden_dim, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(config.state_dropout)
        self.pre = config.transformer.norm == "pre"

    def before(self, sublayer: int, x: Tensor) -> Tensor:
        """What one of the three reads."""
        return self.norms[sublayer](x) if self.pre else x

    def after(self, sublayer: int, x: Tensor, result: Tensor) -> Tensor:
        """What becomes of its result."""
        x = x + self.dropout(result)
        return x if self.pre else self.norms[sublayer](x)


class TransformerDecoder(nn.Module):
    """N layers over the words; regions are projected to their width and normalised before.

    Memory holds every layer's keys and values of the regions as [B, N, M, L, A / M]. The weights are the mean of the
    N M heads; all of them are given as well, layer by layer.
    """

    stochastic = False

    def __init__(self, config: DecoderConfig, region_width: int, grid: tuple[int, int], vocabulary_size: int) -> None:
        super().__init__()
        width, form = config.embedding_dim, config.transformer
        self.embedding = nn.Embedding(vocabulary_size, width, padding_idx=PAD)
        self.positions = nn.Embedding(LEARNED, width) if form.positions == "learned" else None
        self.region = nn.Sequential(nn.Linear(region_width, width), nn.LayerNorm(width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(form.layers))
        self.norm = nn.LayerNorm(width) if form.norm == "pre" else nn.Identity()
        self.output = nn.Linear(width, vocabulary_size)
        self.dropout = Dropout(config.dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # `read` multiplies it by the root of E
        self.embedding.weight.data[PAD] = 0
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight
        self.register_buffer("places", grid_sinusoids(grid, width) if form.grid_positions else None, persistent=False)

    def _layers(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D] -> what every later step reads; once an image."""
        projected = self.region(regions)  # [B, L, E]
        if self.places is not None:
            projected = projected + self.places
        keys, values = zip(*(layer.regions.project(projected) for layer in self._layers()), strict=True)
        return Memory(torch.stack(keys, 1), torch.stack(values, 1), regions.mean(1))

    def read(self, words: Tensor, first: int) -> Tensor:
        """words [..., n], the first of them at this position of its caption -> [..., n, E]."""
        width = self.embedding.embedding_dim
        numbers = torch.arange(first, first + words.shape[-1], device=words.device)
        positions = (
            sinusoids(numbers, width) if self.positions is None else self.positions(numbers.clamp(max=LEARNED - 1))
        )
        embedded: Tensor = self.dropout(self.embedding(words) * math.sqrt(width) + positions)
        return embedded

    def readout(self, x: Tensor) -> Tensor:
        """Results of the last layer [..., E] -> logits [..., V]."""
        logits: Tensor = self.output(self.dropout(self.norm(x)))
        return logits

    def start(self, memory: Memory, rows: int) -> Cache:
        """Nothing read yet; `rows` rows an image."""
        images, layers, heads, _, width = memory.keys.shape
        nothing = memory.keys.new_empty(images, rows, layers, heads, 0, width)
        return Cache(nothing, nothing)

    def step(self, words: Tensor, state: Cache, memory: Memory) -> tuple[Tensor, Cache, AttentionOutput]:
        """One word for every row: words [B, Q] -> logits [B, Q, V] for the next, state, attention."""
        x = self.read(words.unsqueeze(-1), state.keys.shape[-2]).squeeze(-2)  # [B, Q, E]
        caches: list[tuple[Tensor, Tensor]] = []
        looks: list[Tensor] = []
        for n, layer in enumerate(self._layers()):
            alone = layer.before(0, x).flatten(0, 1).unsqueeze(1)  # [B Q, 1, E]: every row has its own words
            past = (state.keys[:, :, n].flatten(0, 1), state.values[:, :, n].flatten(0, 1))
            new = layer.words.project(alone)  # [B Q, M, 1, A / M]
            keys, values = (torch.cat([old, more], -2) for old, more in zip(past, new, strict=True))
            caches.append((keys, values))
            x = layer.after(0, x, layer.words.contexts(alone, keys, values).view_as(x))
            contexts, heads = layer.regions.attend(layer.before(1, x), memory.keys[:, n], memory.values[:, n])
            looks.append(heads)
            x = layer.after(1, x, contexts)
            x = layer.after(2, x, layer.feed(layer.before(2, x)))
        keys, values = (
            torch.stack(parts, 1).view(*words.shape, len(caches), *parts[0].shape[1:])
            for parts in zip(*caches, strict=True)
        )  # [B, Q, N, M, t + 1, A / M]
        heads = torch.cat(looks, 2)  # [B, Q, N M, L]
        return self.readout(x), Cache(keys, values), AttentionOutput(x, heads.mean(2), heads=heads)

    def forward(
        self, memory: Memory, captions: Tensor, lengths: Tensor, inputs: Tensor | None = None, need_weights: bool = True
    ) -> DecoderOutput:
        """Teacher forcing, all words at once: logits of every word of captions [B, Q, T], each ending with <end>.

        `lengths` [B, Q] lie on the CPU and count <end>, too; 0 is a caption that is not there. `inputs` [B, Q, T] are
        the words that are read, where these are not the captions' own. Without `need_weights`, attention is fused and
        its weights are left out.
        """
        images, rows, steps = captions.shape
        x = self.read(shifted(captions) if inputs is None else inputs, 0).flatten(1, 2)  # [B, Q T, E]
        looks: list[Tensor] = []
        for n, layer in enumerate(self._layers()):
            alone = layer.before(0, x).view(images * rows, steps, -1)
            contexts = layer.words.contexts(alone, *layer.words.project(alone), causal=True)
            x = layer.after(0, x, contexts.view_as(x))
            if need_weights:
                contexts, heads = layer.regions.attend(layer.before(1, x), memory.keys[:, n], memory.values[:, n])
                looks.append(heads.mean(2))
            else:
                contexts = layer.regions.contexts(layer.before(1, x), memory.keys[:, n], memory.values[:, n])
            x = layer.after(1, x, contexts)
            x = layer.after(2, x, layer.feed(layer.before(2, x)))
        positions = to_device(words_of(lengths, steps), captions.device)
        weights = None
        if need_weights:
            real = captions.new_zeros(captions.numel()).index_fill(0, positions, 1).view_as(captions)
            weights = torch.stack(looks).mean(0).view(images, rows, steps, -1) * real.unsqueeze(-1)
        logits = self.readout(x.flatten(0, 1).index_select(0, positions))
        return DecoderOutput(logits, captions.flatten().index_select(0, positions), positions, weights)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Positions [...] -> [..., width]: sines in the first half, cosines in the second, of wavelengths from 2 pi to
    10,000 times 2 pi (section 3.5)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000.0) / half))
    angles = positions.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def grid_sinusoids(grid: tuple[int, int], width: int) -> Tensor:
    """Of each region [L, width], row by row: a half for its row, a half for its column."""
    rows, columns = (sinusoids(torch.arange(count), width // 2) for count in grid)
    return torch.cat([rows.repeat_interleave(grid[1], 0), columns.repeat(grid[0], 1)], -1)
