"""LSTM decoders: that of section 3.1.2, and Luong's. Their arithmetic stands once, in `recur` and `readout`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from caption.attention import Attention, AttentionOutput, Draw, Memory
from caption.config import DecoderConfig
from caption.data.vocabulary import PAD, START
from caption.device import to_device, upcast_float32
from caption.errors import UserError
from caption.ops.cuda_graphs import Graphs, records
from caption.ops.dropout import Dropout
from caption.ops.gate import gated
from caption.ops.lstm import lstm
from caption.ops.recurrent_linear import StepLinear, unrolled

BUCKET = 4  # recorded time loops have a multiple of so many steps


class State(NamedTuple):
    """The LSTM's state for Q rows of each image."""

    hidden: Tensor  # [B, Q, H]
    cell: Tensor  # [B, Q, H]
    attentional: Tensor | None = None  # [B, Q, H], h~ of the decoder that attends after the recurrence
    step: int = 0  # words read so far

    def first(self, images: int, rows: int) -> "State":
        """The state of the first images and of their first rows, without a copy."""
        if self.hidden.shape[:2] == (images, rows):
            return self
        return self._map(lambda part: part[:images, :rows])

    def select(self, rows: Tensor) -> "State":
        """Row rows[b, q] of image b becomes its row q; rows [B, Q']."""
        index = rows.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return self._map(lambda part: part.gather(1, index))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "State":
        attentional = None if self.attentional is None else change(self.attentional)
        return State(change(self.hidden), change(self.cell), attentional, self.step)


class DecoderOutput(NamedTuple):
    """The result of teacher forcing: N words in all, padding left out, in the order of captions[B, Q, T].flatten()."""

    logits: Tensor  # [N, V]
    targets: Tensor  # [N]
    positions: Tensor  # [N], of the words in captions.flatten()
    weights: Tensor | None  # [B, Q, T, L], zero where there is no word; None: not asked for
    draw: Draw | None = None  # of hard attention, each part [B, Q, T], zero where there is no word


class RecurrentDecoder(nn.Module):
    """An LSTM that attends at every word; what its subclasses have in common.

    `prepare`, `start`, `step` and `forward` are the whole protocol of a decoder: search knows only `start` and `step`,
    training only `forward`. Rows are captions in training and beams in search; nothing of an image is repeated for
    them.
    """

    attention: Attention
    embedding: nn.Embedding
    initial_hidden: nn.Linear
    initial_cell: nn.Linear
    word_to_gates: nn.Linear
    recorded: Graphs | None = None  # the time loop, on a GPU

    def recur(self, word_gates: Tensor, state: State, memory: Memory) -> tuple[State, Tensor, AttentionOutput]:
        """Attention and LSTM: the words' share of the gates [B, Q, 4H] -> state, what `readout` reads beside it
        [B, Q, C], attention."""
        raise NotImplementedError

    def readout(self, embedded: Tensor, hidden: Tensor, seen: Tensor) -> Tensor:
        """Word read [..., E], state [..., H], second result of `recur` [..., C] -> logits [..., V]."""
        raise NotImplementedError

    @property
    def stochastic(self) -> bool:
        """Whether training draws locations."""
        return self.attention.stochastic

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D] -> what every later step reads; once an image."""
        return self.attention.prepare(regions)

    def start(self, memory: Memory, rows: int) -> State:
        """The state before the first word, from the mean annotation vector; `rows` rows an image."""
        hidden, cell = torch.tanh(self.initial_hidden(memory.mean)), torch.tanh(self.initial_cell(memory.mean))
        return State(hidden.unsqueeze(1).expand(-1, rows, -1), upcast_float32(cell).unsqueeze(1).expand(-1, rows, -1))

    def step(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, AttentionOutput]:
        """One word for every row: words [B, Q] -> logits [B, Q, V] for the next, state, attention."""
        embedded = self.embedding(words)  # [B, Q, E]
        state, seen, attended = self.recur(self.word_to_gates(embedded), state, memory)
        return self.readout(embedded, state.hidden, seen), state, attended

    def forward(
        self, memory: Memory, captions: Tensor, lengths: Tensor, inputs: Tensor | None = None, need_weights: bool = True
    ) -> DecoderOutput:
        """Teacher forcing: logits of every word of captions [B, Q, T], each ending with <end>.

        `lengths` [B, Q] lie on the CPU and count <end>, too; 0 is a caption that is not there. Steps shrink to the
        images and rows that still have a word, so captions sorted by falling length cost least; but where the time loop
        is recorded (graphs.py), T of the result is padded to a multiple of BUCKET. `inputs` [B, Q, T] are the words
        that are read, where these are not the captions' own. Weights are given even without `need_weights`: the
        context needs them.
        """
        record = torch.is_grad_enabled() and records(captions.device) and not memory.most_probable
        reads = shifted(captions) if inputs is None else inputs
        if record:  # all of a few shapes, each row at every step
            captions, reads = lengthened(captions), lengthened(reads)
        images, rows, steps = captions.shape
        rectangles = [(images, rows)] * steps if record else live_rectangles(lengths, steps)
        live, positions, places = (to_device(each, captions.device) for each in live_and_words(lengths, rectangles))
        embedded = self.embedding(reads.flatten().index_select(0, live))  # [R, E], the R live rows of all steps
        word_gates = self.word_to_gates(embedded)  # one product for all
        if record:
            self.recorded = self.recorded or Graphs(_Loop(self))
            drawn = () if memory.drawn is None else (memory.drawn,)
            gates = word_gates.view(steps, images, rows, -1)
            hiddens, seens, weights, *draw = self.recorded(gates, memory.keys, memory.values, memory.mean, *drawn)
        else:
            parts = word_gates.split([b * q for b, q in rectangles])
            each_step = [part.view(b, q, -1) for part, (b, q) in zip(parts, rectangles, strict=True)]
            hiddens, seens, weights, *draw = self.unroll(each_step, memory)

        def placed(values: Tensor) -> Tensor:  # [R, ...] -> [B, Q, T, ...], zero where no word is
            words = values.index_select(0, places)
            whole = words.new_zeros(images * rows * steps, *words.shape[1:])
            return whole.index_copy(0, positions, words).view(images, rows, steps, *words.shape[1:])

        return DecoderOutput(
            self.readout(*(each.index_select(0, places) for each in (embedded, hiddens, seens))),
            captions.flatten().index_select(0, positions),
            positions,
            placed(weights),
            Draw(*map(placed, draw)) if draw else None,
        )

    def unroll(self, word_gates: Sequence[Tensor], memory: Memory) -> tuple[Tensor, ...]:
        """The time loop: the words' share of the gates at each step [b, q, 4H] -> of the R rows of all steps: states
        [R, H], what `readout` reads beside them [R, C], weights [R, L] and, of hard attention, the parts of the draws
        [R]."""
        state = self.start(memory, word_gates[0].shape[1])
        found: list[tuple[Tensor, ...]] = []
        with unrolled(self):
            for gates in word_gates:
                b, q = gates.shape[:2]
                memory = memory.first(b, q)
                state, seen, attended = self.recur(gates, state.first(b, q), memory)
                found.append((state.hidden, seen, attended.weights, *(attended.draw or ())))
        return tuple(torch.cat([each.flatten(0, 1) for each in several]) for several in zip(*found, strict=True))


class _Loop(nn.Module):
    """A decoder's time loop as a module that `Graphs` can record."""

    def __init__(self, decoder: RecurrentDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, word_gates: Tensor, keys: Tensor, values: Tensor, mean: Tensor, drawn: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """word_gates [T, B, Q, 4H] and the parts of the memory."""
        return self.decoder.unroll(word_gates.unbind(), Memory(keys, values, mean, drawn))


class Decoder(RecurrentDecoder):
    """The paper's: it attends by the previous state, before the recurrence; beta gate and deep output layer."""

    def __init__(self, config: DecoderConfig, attention: Attention, region_width: int, vocabulary_size: int):
        super().__init__()
        embedding, hidden = config.embedding_dim, config.hidden_dim
        self.attention = attention
        self.embedding = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)  # E
        self.initial_hidden = nn.Linear(region_width, hidden)  # f_init,h
        self.initial_cell = nn.Linear(region_width, hidden)  # f_init,c
        self.gate = nn.Linear(hidden, 1)  # f_beta
        self.word_to_gates = StepLinear(embedding, 4 * hidden)  # the three column blocks of T in eq. 1
        self.hidden_to_gates = StepLinear(hidden, 4 * hidden, bias=False)
        self.context_to_gates = StepLinear(attention.context_width, 4 * hidden, bias=False)
        self.hidden_to_output = StepLinear(hidden, embedding, bias=False)  # L_h
        self.context_to_output = StepLinear(attention.context_width, embedding, bias=False)  # L_z
        self.output = StepLinear(embedding, vocabulary_size)  # L_o
        self.state_dropout = Dropout(config.state_dropout)
        self.dropout = Dropout(config.dropout)
        begin_embedding(self.embedding)
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight

    def recur(self, word_gates: Tensor, state: State, memory: Memory) -> tuple[State, Tensor, AttentionOutput]:
        """Eq. 1-6: the words' share of the gates [B, Q, 4H] -> state, gated context [B, Q, C], attention."""
        attended = self.attention(state.hidden, memory, state.step)
        context, gate = gated(attended.context, state.hidden, self.gate.weight, self.gate.bias)  # section 4.2.1
        hidden, cell = lstm(state.cell, word_gates, self.hidden_to_gates(state.hidden), self.context_to_gates(context))
        return State(hidden, cell, step=state.step + 1), context, attended._replace(gate=gate)

    def readout(self, embedded: Tensor, hidden: Tensor, seen: Tensor) -> Tensor:
        """Deep output layer, eq. 7: L_o (E y_(t-1) + L_h h_t + L_z z_t); [..., E], [..., H], [..., C] -> [..., V]."""
        joined = embedded + self.hidden_to_output(self.state_dropout(hidden)) + self.context_to_output(seen)
        logits: Tensor = self.output(self.dropout(joined))
        return logits


class LuongDecoder(RecurrentDecoder):
    """Luong et al., 2015, section 3: it attends by the current state, after the recurrence.

    h~_t = tanh(W_c [z_t; h_t]) gives the word, and goes into the next step beside it (input feeding, section 3.3).
    """

    def __init__(self, config: DecoderConfig, attention: Attention, region_width: int, vocabulary_size: int):
        super().__init__()
        embedding, hidden = config.embedding_dim, config.hidden_dim
        self.attention = attention
        self.embedding = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
        self.initial_hidden = nn.Linear(region_width, hidden)
        self.initial_cell = nn.Linear(region_width, hidden)
        self.word_to_gates = StepLinear(embedding, 4 * hidden)
        self.hidden_to_gates = StepLinear(hidden, 4 * hidden, bias=False)
        self.attentional_to_gates = StepLinear(hidden, 4 * hidden, bias=False)
        self.joint = StepLinear(attention.context_width + hidden, hidden, bias=False)  # W_c
        self.output = StepLinear(hidden, vocabulary_size)  # W_s
        self.state_dropout = Dropout(config.state_dropout)
        self.dropout = Dropout(config.dropout)
        begin_embedding(self.embedding)
        if config.tie_embeddings:
            if config.embedding_dim != hidden:
                raise UserError(
                    "decoder.tie_embeddings with --decoder.attend-with current_state needs "
                    f"decoder.embedding_dim ({config.embedding_dim}) equal to "
                    f"decoder.hidden_dim ({hidden}); give both the same"
                )
            self.output.weight = self.embedding.weight

    def start(self, memory: Memory, rows: int) -> State:
        """As of every recurrent decoder; h~ is zero."""
        state = super().start(memory, rows)
        return state._replace(attentional=torch.zeros_like(state.hidden))

    def recur(self, word_gates: Tensor, state: State, memory: Memory) -> tuple[State, Tensor, AttentionOutput]:
        """The words' share of the gates [B, Q, 4H] -> state, h~ [B, Q, H], attention."""
        hidden, cell = lstm(
            state.cell, word_gates, self.hidden_to_gates(state.hidden), self.attentional_to_gates(state.attentional)
        )
        attended = self.attention(hidden, memory, state.step)
        attentional = torch.tanh(self.joint(torch.cat([attended.context, self.state_dropout(hidden)], -1)))
        return State(hidden, cell, attentional, state.step + 1), attentional, attended

    def readout(self, embedded: Tensor, hidden: Tensor, seen: Tensor) -> Tensor:
        """W_s h~: h~ [..., H] -> [..., V]. The word and the state are in it already."""
        logits: Tensor = self.output(self.dropout(seen))
        return logits


def begin_embedding(embedding: nn.Embedding) -> None:
    """PyTorch's unit variance would go straight into the logits (eq. 7): a first loss far above log V."""
    nn.init.normal_(embedding.weight, std=0.1)
    embedding.weight.data[PAD] = 0


def shifted(captions: Tensor) -> Tensor:
    """The words that are read when captions [B, Q, T] are written: <start>, and all but the last."""
    return torch.cat([torch.full_like(captions[..., :1], START), captions[..., :-1]], -1)


def lengthened(captions: Tensor) -> Tensor:
    """Captions [B, Q, T] padded to the next multiple of BUCKET words."""
    return F.pad(captions, (0, -captions.shape[-1] % BUCKET), value=PAD)


def words_of(lengths: Tensor, steps: int) -> Tensor:
    """The N words' places in captions.flatten() [N], on the CPU, where `lengths` [B, Q] lie: a device is not asked."""
    real = torch.arange(steps) < lengths.unsqueeze(-1)  # [B, Q, T]
    return real.flatten().nonzero().squeeze(1)


def live_and_words(lengths: Tensor, rectangles: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Places in captions.flatten() of the R rows that are live at each step, those of a step after those of the one
    before [R], and of the N words [N]; and the words' places among the live rows [N]. All on the CPU."""
    images, rows = lengths.shape
    sizes = torch.tensor(rectangles)[..., None]  # [T, 2, 1]
    alive = (torch.arange(images) < sizes[:, 0]).unsqueeze(2) & (torch.arange(rows) < sizes[:, 1]).unsqueeze(1)
    step, image, row = alive.nonzero().unbind(1)
    live = (image * rows + row) * len(rectangles) + step
    words = words_of(lengths, len(rectangles))
    number = torch.empty(lengths.numel() * len(rectangles), dtype=torch.long)
    number[live] = torch.arange(len(live))
    return live, words, number[words]


def live_rectangles(lengths: Tensor, steps: int) -> list[tuple[int, int]]:
    """For each step the (images, rows) that contain every caption still unfinished; lengths [B, Q] on the CPU."""
    alive = torch.arange(steps).view(-1, 1, 1) < lengths  # [T, B, Q]

    def count(some: Tensor) -> list[int]:  # [T, n] -> one more than the index of the last that holds
        return (some * torch.arange(1, some.shape[1] + 1)).amax(1).clamp(min=1).tolist()

    return list(zip(count(alive.any(2)), count(alive.any(1)), strict=True))
