"""The protocol of a decoder, and the recurrent decoders' time loop."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from caption import ops
from caption.attention import AttentionOutput, Grid, Memory, Sample, build_attention
from caption.config import DecoderConfig
from caption.data.vocabulary import PAD, START
from caption.decoders.packing import active_shapes, packed_indices, pad_to_multiple, unpack
from caption.device import to_device, upcast_float32
from caption.errors import UserError


class DecoderOutput(NamedTuple):
    """The result of teacher forcing: N words in all, without padding, in the order of captions[B, Q, T].flatten()."""

    logits: Tensor  # [N, V]
    targets: Tensor  # [N]
    positions: Tensor  # [N], of the words in captions.flatten()
    weights: Tensor | None  # [B, Q, T, L], zero where there is no word; None if they were not needed
    sample: Sample | None = None  # of hard attention, each field [B, Q, T], zero where there is no word


class Decoder(Protocol):
    """The protocol of a decoder: search calls `start` and `step`, training `forward`; both begin with `prepare`.

    Rows are captions in training and beams in search; nothing of an image is repeated for them.
    """

    stochastic: bool  # whether training samples locations
    gated: bool  # whether its steps say how much the image counts, AttentionOutput.gate
    head_names: list[str]  # of the attention's heads, in the order of AttentionOutput.heads; none if it has one

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding.

        Raises UserError for a mask that `attention.base.mask_regions` refuses, or that the attention cannot use.
        """

    def start(self, memory: Memory, rows: int) -> Any:
        """Return the state before the first word, for `rows` rows of each image.

        Of a state, a search knows only `select(rows)`: the state in which row rows[b, q] of image b is its row q, for
        rows [B, Q'].
        """

    def step(self, words: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, AttentionOutput]:
        """Read one word of every row, words [B, Q]; return logits [B, Q, V] of the next, the state and the
        attention."""

    def __call__(
        self, memory: Memory, captions: Tensor, lengths: Tensor, inputs: Tensor | None = None, need_weights: bool = True
    ) -> DecoderOutput:
        """Return the logits of every word of captions [B, Q, T], each ending with <end>, by teacher forcing.

        `lengths` [B, Q] are on the CPU and count <end>; 0 stands for no caption. `inputs` [B, Q, T] are the tokens
        read; they default to `captions` shifted right.
        """


class RecurrentState(NamedTuple):
    """The LSTM's state for Q rows of each image."""

    hidden: Tensor  # [B, Q, H], h_t
    cell: Tensor  # [B, Q, H], c_t
    attention_vector: Tensor | None = None  # [B, Q, H], h~_t of the decoder that attends after the recurrence
    step: int = 0  # words read so far

    def first(self, images: int, rows: int) -> "RecurrentState":
        """Return the state of the first `images` images and of their first `rows` rows, without a copy."""
        if self.hidden.shape[:2] == (images, rows):
            return self
        return self._map(lambda tensor: tensor[:images, :rows])

    def select(self, rows: Tensor) -> "RecurrentState":
        """Return the state in which row rows[b, q] of image b is its row q; rows are [B, Q']."""
        index = rows.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return self._map(lambda tensor: tensor.gather(1, index))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "RecurrentState":
        attention_vector = None if self.attention_vector is None else change(self.attention_vector)
        return RecurrentState(change(self.hidden), change(self.cell), attention_vector, self.step)


class RecurrentDecoder(nn.Module):
    """An LSTM that attends at every word. Subclasses implement `recurrence` and `output_layer`, each once for training
    and search alike."""

    gated = False  # whether `recurrence` gives AttentionOutput.gate
    word_to_gates: nn.Linear
    output: nn.Linear

    def __init__(
        self, config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int, state_width: int
    ) -> None:
        """Make the layers that every such decoder has; `state_width` is H, the width of its state."""
        super().__init__()
        self.time_loop = ops.TimeLoop(type(self).unroll)
        self.attention = attention = build_attention(config, region_width, grid)
        self.stochastic = attention.stochastic
        self.head_names = [f"head {m + 1}" for m in range(attention.heads)] if attention.heads > 1 else []
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_dim, padding_idx=PAD)  # E
        self.initial_hidden = nn.Linear(region_width, state_width)  # f_init,h
        self.initial_cell = nn.Linear(region_width, state_width)  # f_init,c
        self.state_dropout = ops.Dropout(config.state_dropout)
        self.dropout = ops.Dropout(config.dropout)

    def recurrence(
        self, word_gates: Tensor, state: RecurrentState, memory: Memory
    ) -> tuple[RecurrentState, Tensor, AttentionOutput]:
        """Return the next state, what the output layer reads beside it [B, Q, C], and the attention; `word_gates`
        [B, Q, G] is the word's addend of the gates, of an LSTM G = 4H."""
        raise NotImplementedError

    def output_layer(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Return logits [..., V] from the word read [..., E], the state [..., H] and the second result of `recurrence`
        [..., C]."""
        raise NotImplementedError

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding."""
        return self.attention.prepare(regions, mask)

    def start(self, memory: Memory, rows: int) -> RecurrentState:
        """Return the state before the first word from the mean annotation vector, for `rows` rows of each image."""
        hidden = torch.tanh(self.initial_hidden(memory.mean))  # [B, H]
        cell = upcast_float32(torch.tanh(self.initial_cell(memory.mean)))
        return RecurrentState(hidden.unsqueeze(1).expand(-1, rows, -1), cell.unsqueeze(1).expand(-1, rows, -1))

    def step(
        self, words: Tensor, state: RecurrentState, memory: Memory
    ) -> tuple[Tensor, RecurrentState, AttentionOutput]:
        """Read one word of every row, words [B, Q]; return logits [B, Q, V] of the next, the state and the
        attention."""
        embedded = self.embedding(words)  # [B, Q, E]
        state, context, attended = self.recurrence(self.word_to_gates(embedded), state, memory)
        return self.output_layer(embedded, state.hidden, context), state, attended

    def forward(
        self, memory: Memory, captions: Tensor, lengths: Tensor, inputs: Tensor | None = None, need_weights: bool = True
    ) -> DecoderOutput:
        """Return the logits of every word of captions [B, Q, T], each ending with <end>, by teacher forcing.

        `lengths` [B, Q] are on the CPU and count <end>; 0 stands for no caption. `inputs` [B, Q, T] are the tokens
        read; they default to `captions` shifted right. Steps shrink to the images and rows that still have a word, so
        that captions sorted by falling length cost least; but where steps are replayed from recordings, shapes must be
        few: every row takes part in every step, and T of the result is padded. Weights are returned even without
        `need_weights`: the context needs them.
        """
        replay = self.time_loop.replays(captions.device) and memory.forced is None
        inputs = shift_right(captions) if inputs is None else inputs
        if replay:
            captions, inputs = pad_to_multiple(captions), pad_to_multiple(inputs)
        shape = images, rows, steps = captions.shape
        shapes = [(images, rows)] * steps if replay else active_shapes(lengths, steps)
        active, positions, packed = (to_device(i, captions.device) for i in packed_indices(lengths, shapes))
        embedded = self.embedding(inputs.flatten().index_select(0, active))  # [R, E], the R active rows of all steps
        word_gates = self.word_to_gates(embedded)  # [R, G], one product for all steps
        hiddens, contexts, weights, *sample = self.time_loop(self, word_gates, shapes, memory, replay)
        return DecoderOutput(
            self.output_layer(*(values.index_select(0, packed) for values in (embedded, hiddens, contexts))),
            captions.flatten().index_select(0, positions),
            positions,
            unpack(weights.index_select(0, packed), positions, shape),
            Sample(*(unpack(v.index_select(0, packed), positions, shape) for v in sample)) if sample else None,
        )

    def unroll(self, word_gates: Sequence[Tensor], memory: Memory) -> tuple[Tensor, ...]:
        """Run the recurrence over all steps, from the words' addends of the gates [b, q, G] at each step.

        Returns, of the R rows of all steps, states [R, H], what the output layer reads beside them [R, C], weights
        [R, L] and, of hard attention, the fields of the samples [R].
        """
        state = self.start(memory, word_gates[0].shape[1])
        results: list[tuple[Tensor, ...]] = []
        with ops.reuse_weights(self):
            for gates in word_gates:
                b, q = gates.shape[:2]
                memory = memory.first(b, q)
                state, context, attended = self.recurrence(gates, state.first(b, q), memory)
                results.append((state.hidden, context, attended.weights, *(attended.sample or ())))
        return tuple(torch.cat([step.flatten(0, 1) for step in steps]) for steps in zip(*results, strict=True))


def init_embedding(embedding: nn.Embedding) -> None:
    """Initialise an embedding with a standard deviation of 0.1.

    PyTorch's unit variance would go straight into the logits (eq. 7): a first loss far above log V.
    """
    nn.init.normal_(embedding.weight, std=0.1)
    embedding.weight.data[PAD] = 0


def tie_embeddings(config: DecoderConfig, embedding: nn.Embedding, output: nn.Linear) -> None:
    """Give the output layer the weights of the embedding, if the configuration says so.

    Raises UserError when what the output layer reads is not as wide as an embedding.
    """
    if not config.tie_embeddings:
        return
    if embedding.embedding_dim != output.in_features:
        raise UserError(
            f"decoder.tie_embeddings with --decoder.name {config.name} needs decoder.embedding_dim "
            f"({embedding.embedding_dim}) equal to decoder.hidden_dim ({output.in_features}); give both the same"
        )
    output.weight = embedding.weight


def shift_right(captions: Tensor) -> Tensor:
    """Return the tokens read when captions [B, Q, T] are written: <start>, and all words but the last."""
    return torch.cat([torch.full_like(captions[..., :1], START), captions[..., :-1]], -1)
