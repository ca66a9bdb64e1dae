"""Every operation of the model as its equation (Xu et al., 2015), in plain PyTorch.

The other modules of `caption.ops` compute the same faster and are tested against these functions.
`CAPTION_OPS=reference` makes the whole program run on this file alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from caption.device import upcast_float32


def lstm_cell(cell: Tensor, from_word: Tensor, from_hidden: Tensor, from_context: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell, each [..., H], eq. 1-3.

    `cell` [..., H] is the previous one. The other three, each [..., 4H], are the addends T_E E y_(t-1), T_h h_(t-1) and
    T_z z_t of eq. 1, with the input gate, forget gate, output gate and modulator one after the other.
    """
    i, f, o, g = torch.split(from_word + from_hidden + from_context, cell.shape[-1], -1)  # eq. 1
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)  # eq. 2
    return torch.sigmoid(o) * torch.tanh(cell).to(o.dtype), cell  # eq. 3


def prepare_keys(keys: Tensor) -> Tensor:
    """Return keys [B, L, A] in the form that `additive_scores` reads; here they are left as they are."""
    return upcast_float32(keys)


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Return the scores e_ti = v . tanh(W_a a_i + W_h h_(t-1)) of the perceptron f_att, shape [B, Q, L], eq. 4.

    `query` W_h h_(t-1) is [B, Q, A], `keys` W_a a_i (from `prepare_keys`) are [B, L, A], `vector` v is [A].
    """
    hidden = torch.tanh(keys.unsqueeze(1) + upcast_float32(query).unsqueeze(2))  # [B, Q, L, A]
    return (hidden * vector).sum(-1)


def attention_weights(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the weights alpha_t = softmax(e_t) of scores e_t over a temperature, shape [B, Q, L], eq. 5."""
    return (scores if temperature == 1 else scores / temperature).softmax(-1)


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Return the contexts z_t = sum_i alpha_ti a_i, shape [B, Q, D], eq. 13.

    `weights` alpha_t are [B, Q, L], `values` a_i are [B, L, D]; the result has the dtype of the values.
    """
    return weights.to(values.dtype) @ values


def additive_attention(
    query: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the contexts [B, Q, D] and weights alpha_t [B, Q, L] of additive soft attention, eq. 4, 5 and 13."""
    weights = attention_weights(additive_scores(query, keys, vector), temperature)
    return weighted_sum(weights, values), weights


def gate_context(context: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gated context beta_t z_t [B, Q, C] and the gate beta_t = sigmoid(f_beta(h_(t-1))) [B, Q], section
    4.2.1.

    `context` z_t is [B, Q, C], `hidden` [B, Q, H]; `weight` [1, H] and `bias` [1] are those of f_beta.
    """
    gate = torch.sigmoid(F.linear(hidden, weight, bias))
    return gate * context, gate.squeeze(-1)


def add_gumbel_noise(log_probabilities: Tensor) -> Tensor:
    """Return log p_i + g_i [..., V] of logarithms of probabilities [..., V], with independent standard Gumbel noise.

    g_i is -log x_i with x_i exponentially distributed.
    """
    log_probabilities = upcast_float32(log_probabilities)
    # Below its resolution the generator gives 0 too often (its probability should be the value itself), and a 0 would
    # win against any probability.
    smallest = torch.finfo(log_probabilities.dtype).eps / 2
    noise = torch.empty_like(log_probabilities).exponential_().clamp_(min=smallest)
    return log_probabilities - noise.log_()


def sample_categorical(log_probabilities: Tensor) -> Tensor:
    """Return a sample [...] of each distribution [..., V], given as logarithms up to a constant, in 0..V-1.

    The argmax after Gumbel noise (the Gumbel-max trick). `torch.multinomial` does the same, but first checks its
    probabilities, which makes a GPU wait twice.
    """
    return add_gumbel_noise(log_probabilities).argmax(-1)


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target token in nats, shape [N]; logits [N, V], targets [N]."""
    return F.cross_entropy(upcast_float32(logits), targets, reduction="none")


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Return x with each element zero with probability p and the others divided by 1 - p, if `training`."""
    return F.dropout(x, p, training)
