"""The decoder of Show, Attend and Tell, section 3.1.2."""

from torch import Tensor, nn

from caption import ops
from caption.attention import AttentionOutput, Grid, Memory
from caption.config import DecoderConfig
from caption.decoders.base import RecurrentDecoder, RecurrentState, init_embedding, tie_embeddings


class ShowAttendTellDecoder(RecurrentDecoder):
    """An LSTM that attends by its previous state, before the recurrence, with the gate beta and a deep output layer."""

    gated = True

    def __init__(self, config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int):
        embedding, hidden = config.embedding_dim, config.hidden_dim
        super().__init__(config, region_width, grid, vocabulary_size, hidden)
        self.gate = nn.Linear(hidden, 1)  # f_beta
        self.word_to_gates = ops.RecurrentLinear(embedding, 4 * hidden)  # the three column blocks of T in eq. 1
        self.hidden_to_gates = ops.RecurrentLinear(hidden, 4 * hidden, bias=False)
        self.context_to_gates = ops.RecurrentLinear(self.attention.context_width, 4 * hidden, bias=False)
        self.hidden_to_output = ops.RecurrentLinear(hidden, embedding, bias=False)  # L_h
        self.context_to_output = ops.RecurrentLinear(self.attention.context_width, embedding, bias=False)  # L_z
        self.output = ops.RecurrentLinear(embedding, vocabulary_size)  # L_o
        init_embedding(self.embedding)
        tie_embeddings(config, self.embedding, self.output)

    def recurrence(
        self, word_gates: Tensor, state: RecurrentState, memory: Memory
    ) -> tuple[RecurrentState, Tensor, AttentionOutput]:
        """Return the next state, the gated context [B, Q, C] and the attention, from the word's addend of the gates
        [B, Q, 4H]."""
        attended = self.attention(state.hidden, memory, state.step)  # eq. 4-6, z_t of h_(t-1)
        # beta_t z_t, section 4.2.1
        context, gate = ops.gate_context(attended.context, state.hidden, self.gate.weight, self.gate.bias)
        hidden, cell = ops.lstm_cell(  # eq. 1-3
            state.cell, word_gates, self.hidden_to_gates(state.hidden), self.context_to_gates(context)
        )
        return RecurrentState(hidden, cell, step=state.step + 1), context, attended._replace(gate=gate)

    def output_layer(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Return L_o (E y_(t-1) + L_h h_t + L_z z_t), eq. 7: [..., E], [..., H], [..., C] give logits [..., V]."""
        joined = embedded + self.hidden_to_output(self.state_dropout(hidden)) + self.context_to_output(context)
        return self.output(self.dropout(joined))
