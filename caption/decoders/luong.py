"""The decoder of Luong et al., 2015, section 3."""

import torch
from torch import Tensor, nn

from caption import ops
from caption.attention import AttentionOutput, Memory, build_attention
from caption.attention.windows import Grid
from caption.config import DecoderConfig
from caption.data.vocabulary import PAD
from caption.decoders.base import RecurrentDecoder, RecurrentState, init_embedding
from caption.errors import UserError


class LuongDecoder(RecurrentDecoder):
    """An LSTM that attends by its current state, after the recurrence.

    The attention vector h~_t = tanh(W_c [z_t; h_t]) gives the word, and goes into the next step beside it (input
    feeding, section 3.3).
    """

    def __init__(self, config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int):
        """Raises UserError when tied embeddings are not as wide as the state."""
        super().__init__()
        embedding, hidden = config.embedding_dim, config.hidden_dim
        self.attention = build_attention(config, region_width, grid)
        self.embedding = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
        self.initial_hidden = nn.Linear(region_width, hidden)
        self.initial_cell = nn.Linear(region_width, hidden)
        self.word_to_gates = ops.RecurrentLinear(embedding, 4 * hidden)
        self.hidden_to_gates = ops.RecurrentLinear(hidden, 4 * hidden, bias=False)
        self.attention_vector_to_gates = ops.RecurrentLinear(hidden, 4 * hidden, bias=False)
        self.joint = ops.RecurrentLinear(self.attention.context_width + hidden, hidden, bias=False)  # W_c
        self.output = ops.RecurrentLinear(hidden, vocabulary_size)  # W_s
        self.state_dropout = ops.Dropout(config.state_dropout)
        self.dropout = ops.Dropout(config.dropout)
        init_embedding(self.embedding)
        if config.tie_embeddings:
            if config.embedding_dim != hidden:
                raise UserError(
                    "decoder.tie_embeddings with --decoder.name luong needs decoder.embedding_dim "
                    f"({config.embedding_dim}) equal to decoder.hidden_dim ({hidden}); give both the same"
                )
            self.output.weight = self.embedding.weight

    def start(self, memory: Memory, rows: int) -> RecurrentState:
        """Return the state before the first word, with an attention vector of zeros, for `rows` rows of each image."""
        state = super().start(memory, rows)
        return state._replace(attention_vector=torch.zeros_like(state.hidden))

    def recurrence(
        self, word_gates: Tensor, state: RecurrentState, memory: Memory
    ) -> tuple[RecurrentState, Tensor, AttentionOutput]:
        """Return the next state, h~_t [B, Q, H] and the attention, from the word's addend of the gates [B, Q, 4H]."""
        hidden, cell = ops.lstm_cell(
            state.cell,
            word_gates,
            self.hidden_to_gates(state.hidden),
            self.attention_vector_to_gates(state.attention_vector),
        )
        attended = self.attention(hidden, memory, state.step)
        attention_vector = torch.tanh(self.joint(torch.cat([attended.context, self.state_dropout(hidden)], -1)))
        return RecurrentState(hidden, cell, attention_vector, state.step + 1), attention_vector, attended

    def output_layer(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Return the logits W_s h~_t [..., V] of h~_t [..., H], which holds word and state already."""
        logits: Tensor = self.output(self.dropout(context))
        return logits
