"""The Transformer decoder (Vaswani et al., 2017, section 3), with the protocol of every decoder.

Each of N layers: masked self-attention over the words read so far, attention over the regions, two feed-forward
layers; each sublayer f with a residual sum, normalised after it, norm(x + f(x)), as published, or before it,
x + f(norm(x)) (Xiong et al., 2020).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from caption import ops
from caption.attention import AttentionOutput, Grid, Memory, MultiHeadAttention
from caption.attention.base import mask_regions
from caption.config import DecoderConfig
from caption.data.vocabulary import PAD
from caption.decoders.base import DecoderOutput, shift_right
from caption.decoders.packing import token_positions, unpack
from caption.device import to_device

MAX_POSITIONS = 128  # of learned ones; the last stands for all beyond


class Cache(NamedTuple):
    """Keys and values of the words that Q rows of each image have read, for every layer."""

    keys: Tensor  # [B, Q, N, M, t, A / M]
    values: Tensor  # [B, Q, N, M, t, A / M]

    def select(self, rows: Tensor) -> "Cache":
        """Return the cache in which row rows[b, q] of image b is its row q; rows are [B, Q']."""
        image = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        return Cache(self.keys[image, rows], self.values[image, rows])


class Layer(nn.Module):
    """Three sublayers, numbered 0 to 2: attention over the words read so far, over the regions, and feed-forward."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.words = MultiHeadAttention(width, width, config.attention_dim, config.heads)
        self.regions = MultiHeadAttention(width, width, config.attention_dim, config.heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.hidden_dim), nn.ReLU(), nn.Linear(config.hidden_dim, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = ops.Dropout(config.state_dropout)
        self.pre = config.transformer.norm == "pre"

    def attend_regions(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, forced: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return contexts [B, n, E] and weights [B, n, M, L] of positions [B, n, E]: `forced`, or the layer's own."""
        weights = self.regions.weights(x, keys, mask) if forced is None else forced
        return self.regions.weighted_sum(weights, values), weights

    def pre_norm(self, sublayer: int, x: Tensor) -> Tensor:
        """Return the input of a sublayer, normalised if normalisation comes before it."""
        return self.norms[sublayer](x) if self.pre else x

    def add_residual(self, sublayer: int, x: Tensor, result: Tensor) -> Tensor:
        """Return the residual sum of a sublayer, normalised if normalisation comes after it."""
        x = x + self.dropout(result)
        return x if self.pre else self.norms[sublayer](x)


class TransformerDecoder(nn.Module):
    """N layers over the words; regions are projected to their width and normalised first.

    The memory holds every layer's keys and values of the regions as [B, N, M, L, A / M]. The weights are the mean of
    the N M heads; `heads` are all of them, layer by layer.
    """

    stochastic = False
    gated = False

    def __init__(self, config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int) -> None:
        super().__init__()
        width, form = config.embedding_dim, config.transformer
        self.embedding = nn.Embedding(vocabulary_size, width, padding_idx=PAD)
        self.positions = nn.Embedding(MAX_POSITIONS, width) if form.positions == "learned" else None
        self.region = nn.Sequential(nn.Linear(region_width, width), nn.LayerNorm(width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(form.layers))
        self.head_names = [f"layer {n + 1}, head {m + 1}" for n in range(form.layers) for m in range(config.heads)]
        self.norm = nn.LayerNorm(width) if form.norm == "pre" else nn.Identity()
        self.output = nn.Linear(width, vocabulary_size)
        self.dropout = ops.Dropout(config.dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # `embed` multiplies it by the root of E
        self.embedding.weight.data[PAD] = 0
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight
        encoding = grid_sinusoids(grid, width) if form.grid_positions else None
        self.register_buffer("grid_encoding", encoding, persistent=False)

    def _layers(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding."""
        regions, mean = mask_regions(regions, mask)
        projected = self.region(regions)  # [B, L, E]
        if self.grid_encoding is not None:
            projected = projected + self.grid_encoding
        keys, values = zip(*(layer.regions.project(projected) for layer in self._layers()), strict=True)
        return Memory(torch.stack(keys, 1), torch.stack(values, 1), mean, mask=mask)

    def _forced_weights(self, memory: Memory, rows: int, first: int, steps: int) -> Sequence[Tensor | None]:
        """Return `Memory.forced` of each layer in so many steps from the first on [B, Q steps, M, L]; else None."""
        forced = memory.forced_weights(rows, first, steps)
        layers = len(self.layers)
        return [None] * layers if forced is None else forced.flatten(1, 2).chunk(layers, 2)

    def embed(self, words: Tensor, first: int) -> Tensor:
        """Return embeddings [..., n, E] of words [..., n], the first of them at position `first` of its caption."""
        width = self.embedding.embedding_dim
        index = torch.arange(first, first + words.shape[-1], device=words.device)
        positions = (
            sinusoids(index, width) if self.positions is None else self.positions(index.clamp(max=MAX_POSITIONS - 1))
        )
        return self.dropout(self.embedding(words) * math.sqrt(width) + positions)

    def output_layer(self, x: Tensor) -> Tensor:
        """Return logits [..., V] of the last layer's results [..., E]."""
        return self.output(self.dropout(self.norm(x)))

    def start(self, memory: Memory, rows: int) -> Cache:
        """Return an empty cache for `rows` rows of each image."""
        images, layers, heads, _, width = memory.keys.shape
        empty = memory.keys.new_empty(images, rows, layers, heads, 0, width)
        return Cache(empty, empty)

    def step(self, words: Tensor, state: Cache, memory: Memory) -> tuple[Tensor, Cache, AttentionOutput]:
        """Read one word of every row, words [B, Q]; return logits [B, Q, V] of the next, the state and the
        attention."""
        x = self.embed(words.unsqueeze(-1), state.keys.shape[-2]).squeeze(-2)  # [B, Q, E]
        forced = self._forced_weights(memory, words.shape[1], state.keys.shape[-2], 1)
        caches: list[tuple[Tensor, Tensor]] = []
        region_weights: list[Tensor] = []
        for n, layer in enumerate(self._layers()):
            row = layer.pre_norm(0, x).flatten(0, 1).unsqueeze(1)  # [B Q, 1, E]: every row has its own words
            past = (state.keys[:, :, n].flatten(0, 1), state.values[:, :, n].flatten(0, 1))
            new = layer.words.project(row)  # [B Q, M, 1, A / M]
            keys, values = (torch.cat(pair, -2) for pair in zip(past, new, strict=True))
            caches.append((keys, values))
            x = layer.add_residual(0, x, layer.words.contexts(row, keys, values).view_as(x))
            contexts, heads = layer.attend_regions(
                layer.pre_norm(1, x), memory.keys[:, n], memory.values[:, n], memory.mask, forced[n]
            )
            region_weights.append(heads)
            x = layer.add_residual(1, x, contexts)
            x = layer.add_residual(2, x, layer.feed_forward(layer.pre_norm(2, x)))
        keys, values = (
            torch.stack(layers, 1).view(*words.shape, len(caches), *layers[0].shape[1:])
            for layers in zip(*caches, strict=True)
        )  # [B, Q, N, M, t + 1, A / M]
        heads = torch.cat(region_weights, 2)  # [B, Q, N M, L]
        return self.output_layer(x), Cache(keys, values), AttentionOutput(x, heads.mean(2), heads=heads)

    def forward(
        self, memory: Memory, captions: Tensor, lengths: Tensor, inputs: Tensor | None = None, need_weights: bool = True
    ) -> DecoderOutput:
        """Return the logits of every word of captions [B, Q, T], each ending with <end>, by teacher forcing, all at
        once.

        `lengths` [B, Q] are on the CPU and count <end>; 0 stands for no caption. `inputs` [B, Q, T] are the tokens
        read; they default to `captions` shifted right. Without `need_weights`, attention is fused and returns no
        weights.
        """
        images, rows, steps = captions.shape
        x = self.embed(shift_right(captions) if inputs is None else inputs, 0).flatten(1, 2)  # [B, Q T, E]
        region_weights: list[Tensor] = []
        forced = self._forced_weights(memory, rows, 0, steps)
        for n, layer in enumerate(self._layers()):
            sequences = layer.pre_norm(0, x).view(images * rows, steps, -1)
            contexts = layer.words.contexts(sequences, *layer.words.project(sequences), causal=True)
            x = layer.add_residual(0, x, contexts.view_as(x))
            if need_weights or memory.forced is not None:
                contexts, heads = layer.attend_regions(
                    layer.pre_norm(1, x), memory.keys[:, n], memory.values[:, n], memory.mask, forced[n]
                )
                region_weights.append(heads.mean(2))
            else:
                contexts = layer.regions.contexts(
                    layer.pre_norm(1, x), memory.keys[:, n], memory.values[:, n], mask=memory.mask
                )
            x = layer.add_residual(1, x, contexts)
            x = layer.add_residual(2, x, layer.feed_forward(layer.pre_norm(2, x)))
        positions = to_device(token_positions(lengths, steps), captions.device)
        weights = None
        if need_weights:
            is_word = unpack(torch.ones_like(positions), positions, captions.shape)
            weights = torch.stack(region_weights).mean(0).view(images, rows, steps, -1) * is_word.unsqueeze(-1)
        logits = self.output_layer(x.flatten(0, 1).index_select(0, positions))
        return DecoderOutput(logits, captions.flatten().index_select(0, positions), positions, weights)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return encodings [..., width] of positions [...]: sines in the first half, cosines in the second, of wavelengths
    from 2 pi to 10,000 times 2 pi (section 3.5)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000.0) / half))
    angles = positions.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def grid_sinusoids(grid: Grid, width: int) -> Tensor:
    """Return encodings [L, width] of the regions, row by row: one half for the row, one half for the column."""
    rows, columns = (sinusoids(torch.arange(count), width // 2) for count in grid)
    return torch.cat([rows.repeat_interleave(grid[1], 0), columns.repeat(grid[0], 1)], -1)
