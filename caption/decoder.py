"""The LSTM decoder of section 3.1.2. Its arithmetic stands once, in `recur` and `readout`."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from caption.attention import Attended, Draw, Memory, SoftAttention, at_least_single
from caption.config import DecoderConfig
from caption.vocabulary import PAD, START


class State(NamedTuple):
    """The LSTM's state for Q rows of each image."""

    hidden: Tensor  # [B, Q, H]
    cell: Tensor  # [B, Q, H]
    step: int = 0  # words read so far

    def first(self, images: int, rows: int) -> "State":
        """The state of the first images and of their first rows, without a copy."""
        return State(self.hidden[:images, :rows], self.cell[:images, :rows], self.step)

    def select(self, rows: Tensor) -> "State":
        """Row rows[b, q] of image b becomes its row q; rows [B, Q']."""
        index = rows.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return State(self.hidden.gather(1, index), self.cell.gather(1, index), self.step)


class Decoded(NamedTuple):
    """The result of teacher forcing: N words in all, padding left out, in the order of captions[B, Q, T].flatten()."""

    logits: Tensor  # [N, V]
    targets: Tensor  # [N]
    positions: Tensor  # [N], of the words in captions.flatten()
    weights: Tensor  # [B, Q, T, L], zero where there is no word
    draw: Draw | None = None  # of hard attention, each part [B, Q, T], zero where there is no word


class Decoder(nn.Module):
    """LSTM with attention, beta gate and deep output layer.

    `start`, `step` and `forward` are the whole protocol: search knows only the first two, training only the third.
    Rows are captions in training and beams in search; nothing of an image is repeated for them.
    """

    def __init__(self, config: DecoderConfig, attention: SoftAttention, region_width: int, vocabulary_size: int):
        super().__init__()
        embedding, hidden = config.embedding, config.hidden
        self.attention = attention
        self.embedding = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)  # E
        self.initial_hidden = nn.Linear(region_width, hidden)  # f_init,h
        self.initial_cell = nn.Linear(region_width, hidden)  # f_init,c
        self.gate = nn.Linear(hidden, 1)  # f_beta
        self.word_to_gates = nn.Linear(embedding, 4 * hidden)  # the three column blocks of T in eq. 1
        self.hidden_to_gates = nn.Linear(hidden, 4 * hidden, bias=False)
        self.context_to_gates = nn.Linear(region_width, 4 * hidden, bias=False)
        self.hidden_to_output = nn.Linear(hidden, embedding, bias=False)  # L_h
        self.context_to_output = nn.Linear(region_width, embedding, bias=False)  # L_z
        self.output = nn.Linear(embedding, vocabulary_size)  # L_o
        self.state_dropout = nn.Dropout(config.state_dropout)
        self.dropout = nn.Dropout(config.dropout)
        # PyTorch's unit variance would go straight into the logits (eq. 7): a first loss far above log V.
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.embedding.weight.data[PAD] = 0

    def start(self, memory: Memory, rows: int) -> State:
        """The state before the first word, from the mean annotation vector; `rows` rows an image."""
        mean = memory.values.mean(1)  # [B, D]
        hidden, cell = torch.tanh(self.initial_hidden(mean)), torch.tanh(self.initial_cell(mean))
        return State(hidden.unsqueeze(1).expand(-1, rows, -1), at_least_single(cell).unsqueeze(1).expand(-1, rows, -1))

    def step(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Attended]:
        """One word for every row: words [B, Q] -> logits [B, Q, V] for the next, state, attention."""
        embedded = self.embedding(words)  # [B, Q, E]
        state, context, attended = self.recur(self.word_to_gates(embedded), state, memory)
        return self.readout(embedded, state.hidden, context), state, attended

    def forward(self, memory: Memory, captions: Tensor, lengths: Tensor) -> Decoded:
        """Teacher forcing: logits of every word of captions [B, Q, T], each ending with <end>.

        `lengths` [B, Q] lie on the CPU and count <end>, too; 0 is a caption that is not there. Steps shrink to the
        images and rows that still have a word, so captions sorted by falling length cost least.
        """
        images, rows, steps = captions.shape
        inputs = torch.cat([torch.full_like(captions[..., :1], START), captions[..., :-1]], -1)
        embedded = self.embedding(inputs)  # [B, Q, T, E]
        word_gates = self.word_to_gates(embedded).unbind(2)  # T times [B, Q, 4H], one product for all
        state = self.start(memory, rows)
        hiddens: list[Tensor] = []
        contexts: list[Tensor] = []
        weights: list[Tensor] = []
        draws: list[Draw] = []
        for t, (live_images, live_rows) in enumerate(live_rectangles(lengths, steps)):
            memory = memory.first(live_images, live_rows)
            state, context, attended = self.recur(
                word_gates[t][:live_images, :live_rows], state.first(live_images, live_rows), memory
            )
            missing = (0, rows - live_rows, 0, images - live_images)
            for results, result in ((hiddens, state.hidden), (contexts, context), (weights, attended.weights)):
                results.append(F.pad(result, (0, 0, *missing)))
            if attended.draw is not None:
                draws.append(Draw(*(F.pad(part, missing) for part in attended.draw)))

        real = torch.arange(steps) < lengths.unsqueeze(-1)  # [B, Q, T], known without asking the device
        positions = real.flatten().nonzero().squeeze(1).to(captions.device, non_blocking=True)  # [N]
        real = real.to(captions.device, non_blocking=True)
        picked = [
            x.flatten(0, 2).index_select(0, positions)
            for x in (embedded, torch.stack(hiddens, 2), torch.stack(contexts, 2))
        ]
        return Decoded(
            self.readout(*picked),
            captions.flatten().index_select(0, positions),
            positions,
            torch.stack(weights, 2) * real.unsqueeze(-1),
            Draw(*(torch.stack(parts, 2) * real for parts in zip(*draws, strict=True))) if draws else None,
        )

    def recur(self, word_gates: Tensor, state: State, memory: Memory) -> tuple[State, Tensor, Attended]:
        """Attention and LSTM, eq. 1-6: the words' share of the gates [B, Q, 4H] -> state, gated context, attention."""
        attended = self.attention(state.hidden, memory, state.step)
        gate = torch.sigmoid(self.gate(state.hidden))  # beta_t, section 4.2.1, [B, Q, 1]
        context = gate * attended.context
        gates = word_gates + self.hidden_to_gates(state.hidden) + self.context_to_gates(context)
        i, f, o, g = gates.chunk(4, -1)  # input, forget, output, modulator
        cell = torch.sigmoid(f) * state.cell + torch.sigmoid(i) * torch.tanh(g)  # eq. 2
        hidden = torch.sigmoid(o) * torch.tanh(cell).to(o.dtype)  # eq. 3
        return State(hidden, cell, state.step + 1), context, attended._replace(gate=gate.squeeze(-1))

    def readout(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Deep output layer, eq. 7: L_o (E y_(t-1) + L_h h_t + L_z z_t); [..., E], [..., H], [..., D] -> [..., V]."""
        joined = embedded + self.hidden_to_output(self.state_dropout(hidden)) + self.context_to_output(context)
        logits: Tensor = self.output(self.dropout(joined))
        return logits


def live_rectangles(lengths: Tensor, steps: int) -> list[tuple[int, int]]:
    """For each step the (images, rows) that contain every caption still unfinished; lengths [B, Q] on the CPU."""
    alive = torch.arange(steps).view(-1, 1, 1) < lengths  # [T, B, Q]

    def count(some: Tensor) -> list[int]:  # [T, n] -> one more than the index of the last that holds
        return (some * torch.arange(1, some.shape[1] + 1)).amax(1).clamp(min=1).tolist()

    return list(zip(count(alive.any(2)), count(alive.any(1)), strict=True))
