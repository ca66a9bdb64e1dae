"""The decoder of Up-Down attention (Anderson et al., 2018, section 3.2), here over a grid of regions."""

import torch
from torch import Tensor

from caption import ops
from caption.attention import AttentionOutput, Grid, Memory
from caption.config import DecoderConfig
from caption.decoders.base import RecurrentDecoder, RecurrentState, init_embedding, tie_embeddings


class UpDownDecoder(RecurrentDecoder):
    """Two LSTMs: one reads [h2_(t-1); mean region; E y_(t-1)] and attends by its state h1_t, the other reads
    [z_t; h1_t] and writes the word, p = softmax(W_p h2_t).

    `hidden` and `cell` of the state hold both LSTMs: [h1; h2] and [c1; c2], each [B, Q, 2H].
    """

    def __init__(self, config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int):
        """Raises UserError when tied embeddings are not as wide as the state."""
        embedding, hidden = config.embedding_dim, config.hidden_dim
        super().__init__(config, region_width, grid, vocabulary_size, 2 * hidden)
        self.word_to_gates = ops.RecurrentLinear(embedding, 4 * hidden)
        self.mean_to_gates = ops.RecurrentLinear(region_width, 4 * hidden, bias=False)
        self.hidden_to_gates = ops.RecurrentLinear(2 * hidden, 4 * hidden, bias=False)  # of [h1; h2]
        self.context_to_language = ops.RecurrentLinear(self.attention.context_width, 4 * hidden)
        self.attention_to_language = ops.RecurrentLinear(hidden, 4 * hidden, bias=False)
        self.language_to_language = ops.RecurrentLinear(hidden, 4 * hidden, bias=False)
        self.output = ops.RecurrentLinear(hidden, vocabulary_size)  # W_p
        init_embedding(self.embedding)
        tie_embeddings(config, self.embedding, self.output)

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding."""
        memory = super().prepare(regions, mask)
        return memory._replace(mean_gates=self.mean_to_gates(memory.mean))

    def recurrence(
        self, word_gates: Tensor, state: RecurrentState, memory: Memory
    ) -> tuple[RecurrentState, Tensor, AttentionOutput]:
        """Return the next state, h2_t [B, Q, H] and the attention, from the word's addend of the gates [B, Q, 4H]."""
        assert memory.mean_gates is not None
        cell1, cell2 = state.cell.chunk(2, -1)
        mean_gates = memory.mean_gates.unsqueeze(1).expand_as(word_gates)  # [B, 4H] -> [B, Q, 4H]
        hidden1, cell1 = ops.lstm_cell(cell1, word_gates, self.hidden_to_gates(state.hidden), mean_gates)
        attended = self.attention(hidden1, memory, state.step)
        hidden2, cell2 = ops.lstm_cell(
            cell2,
            self.context_to_language(attended.context),
            self.attention_to_language(self.state_dropout(hidden1)),
            self.language_to_language(state.hidden.chunk(2, -1)[1]),
        )
        hidden, cell = torch.cat([hidden1, hidden2], -1), torch.cat([cell1, cell2], -1)
        return RecurrentState(hidden, cell, step=state.step + 1), hidden2, attended

    def output_layer(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Return the logits W_p h2_t [..., V] of h2_t [..., H], which holds word and context already."""
        return self.output(self.dropout(context))
