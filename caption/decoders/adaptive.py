"""The decoder of adaptive attention with a visual sentinel (Lu et al., 2017, "Knowing When to Look")."""

from typing import cast

import torch
from torch import Tensor, nn

from caption import ops
from caption.attention import AttentionOutput, Grid, Memory, SoftAttention
from caption.attention.base import mask_regions
from caption.attention.scores import TanhScore
from caption.config import DecoderConfig
from caption.decoders.base import RecurrentDecoder, RecurrentState, init_embedding, tie_embeddings
from caption.device import upcast_float32


class AdaptiveDecoder(RecurrentDecoder):
    """An LSTM that reads the word and the mean region, attends by its current state, and may look at its own memory
    instead: at the visual sentinel s_t, which competes with the regions for the weights.

    Regions that are not as wide as the state are projected to its width, v_i = ReLU(W_a a_i).

    In training, a row is without its sentinel with the probability `state_dropout`, at each word: it must look. Else
    an encoder that starts from nothing may never learn to see what the sentinel could at first guess as well, because
    no gradient passes to regions that are not looked at. The paper's encoder is trained before.
    """

    attention: SoftAttention
    gated = True

    def __init__(self, config: DecoderConfig, region_width: int, grid: Grid, vocabulary_size: int):
        """Raises UserError when tied embeddings are not as wide as the state."""
        embedding, hidden = config.embedding_dim, config.hidden_dim
        super().__init__(config, hidden, grid, vocabulary_size, hidden)
        self.hidden = hidden
        project = nn.Sequential(nn.Linear(region_width, hidden), nn.ReLU())  # W_a
        self.region = nn.Identity() if region_width == hidden else project
        # Each gives the addends of the LSTM's gates, and below them of the sentinel's: x_t = [E y_(t-1); v_g].
        self.word_to_gates = ops.RecurrentLinear(embedding, 5 * hidden)
        self.mean_to_gates = ops.RecurrentLinear(hidden, 5 * hidden, bias=False)
        self.hidden_to_gates = ops.RecurrentLinear(hidden, 5 * hidden, bias=False)
        self.sentinel_key = ops.RecurrentLinear(hidden, config.attention_dim)  # W_s
        self.output = ops.RecurrentLinear(hidden, vocabulary_size)  # W_p
        init_embedding(self.embedding)
        tie_embeddings(config, self.embedding, self.output)

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding."""
        if mask is not None:  # or padding that is not a number would reach the gradient of W_a
            regions, _ = mask_regions(regions, mask)
        memory = super().prepare(self.region(regions), mask)  # v_i, [B, L, H], and their mean v_g, [B, H]
        return memory._replace(mean_gates=self.mean_to_gates(memory.mean))

    def recurrence(
        self, word_gates: Tensor, state: RecurrentState, memory: Memory
    ) -> tuple[RecurrentState, Tensor, AttentionOutput]:
        """Return the next state, c^_t [B, Q, H] and the attention, from the word's addend of the gates [B, Q, 5H].

        The weights are alpha_t, over the regions alone; the gate [B, Q] is 1 - beta_t, how much the image counts.
        """
        assert memory.mean_gates is not None
        mean_gates = memory.mean_gates.unsqueeze(1).expand_as(word_gates)  # [B, 5H] -> [B, Q, 5H]
        addends = [
            gates.split([4 * self.hidden, self.hidden], -1)
            for gates in (word_gates, self.hidden_to_gates(state.hidden), mean_gates)
        ]
        hidden, cell = ops.lstm_cell(state.cell, *(lstm for lstm, _ in addends))  # h_t, m_t
        gate = torch.sigmoid(torch.stack([own for _, own in addends]).sum(0))  # g_t = sigma(W_x x_t + W_h h_(t-1))
        sentinel = gate * torch.tanh(cell).to(gate.dtype)  # s_t, [B, Q, H]
        attended = self.attention(hidden, memory, state.step)  # c_t
        beta = self.sentinel_weight(hidden, sentinel, memory, state.step).unsqueeze(-1)  # [B, Q, 1]
        context = (beta * sentinel + (1 - beta) * attended.context).to(attended.context.dtype)  # c^_t
        attended = attended._replace(gate=1 - beta.squeeze(-1))
        return RecurrentState(hidden, cell, step=state.step + 1), context, attended

    def sentinel_weight(self, hidden: Tensor, sentinel: Tensor, memory: Memory, step: int) -> Tensor:
        """Return beta_t [B, Q], the sentinel's weight in a softmax over the scores of L regions and its own, from h_t
        and s_t, each [B, Q, H].

        That softmax over L + 1 is alpha_t, over L, times a choice between the sentinel and all regions together, whose
        score is log sum_i exp(e_ti). The Gaussian of the window local_p has no part in this choice.
        """
        score = cast(TanhScore, self.attention.score)
        activation = torch.tanh(self.sentinel_key(sentinel) + score.project_query(hidden))  # [B, Q, A]
        own = upcast_float32(score.vector(activation)).squeeze(-1)  # v . tanh(W_s s_t + W_h h_t), [B, Q]
        if self.training:  # without a sentinel
            own = own.masked_fill(torch.rand_like(own) < self.state_dropout.p, -torch.inf)
        regions, _ = self.attention.logits(hidden, memory, step)  # e_t over the temperature, [B, Q, L]
        return torch.sigmoid(own / self.attention.temperature - regions.logsumexp(-1))

    def output_layer(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Return the logits W_p (c^_t + h_t) [..., V] of h_t and c^_t, each [..., H]."""
        return self.output(self.dropout(context + self.state_dropout(hidden)))
