"""The decoder of Luong et al., 2015, section 3."""

import torch
from torch import Tensor

from caption import ops
from caption.attention import AttentionOutput, Grid, Memory
from caption.config import DecoderConfig
from caption.decoders.base import RecurrentDecoder, RecurrentState, init_embedding, tie_embeddings


class LuongDecoder(RecurrentDecoder):
    """An LSTM that attends by its current state, after the recurrence.

    The attention vector h~_t = tanh(W_c [z_t; h_t]) gives the word, and goes into the next step beside it (input
    feeding, section 3.3).
    """

    def __init__(self, config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int):
        """Raises UserError when tied embeddings are not as wide as the state."""
        embedding, hidden = config.embedding_dim, config.hidden_dim
        super().__init__(config, region_width, grid, vocabulary_size, hidden)
        self.word_to_gates = ops.RecurrentLinear(embedding, 4 * hidden)
        self.hidden_to_gates = ops.RecurrentLinear(hidden, 4 * hidden, bias=False)
        self.attention_vector_to_gates = ops.RecurrentLinear(hidden, 4 * hidden, bias=False)
        self.joint = ops.RecurrentLinear(self.attention.context_width + hidden, hidden, bias=False)  # W_c
        self.output = ops.RecurrentLinear(hidden, vocabulary_size)  # W_s
        init_embedding(self.embedding)
        tie_embeddings(config, self.embedding, self.output)

    def start(self, memory: Memory, rows: int) -> RecurrentState:
        """Return the state before the first word, with an attention vector of zeros, for `rows` rows of each image."""
        state = super().start(memory, rows)
        return state._replace(attention_vector=torch.zeros_like(state.hidden))

    def recurrence(
        self, word_gates: Tensor, state: RecurrentState, memory: Memory
    ) -> tuple[RecurrentState, Tensor, AttentionOutput]:
        """Return the next state, h~_t [B, Q, H] and the attention, from the word's addend of the gates [B, Q, 4H]."""
        state_gates = self.hidden_to_gates(state.hidden), self.attention_vector_to_gates(state.attention_vector)
        hidden, cell = ops.lstm_cell(state.cell, word_gates, *state_gates)
        attended = self.attention(hidden, memory, state.step)
        attention_vector = torch.tanh(self.joint(torch.cat([attended.context, self.state_dropout(hidden)], -1)))
        return RecurrentState(hidden, cell, attention_vector, state.step + 1), attention_vector, attended

    def output_layer(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Return the logits W_s h~_t [..., V] of h~_t [..., H], which holds word and state already."""
        return self.output(self.dropout(context))
