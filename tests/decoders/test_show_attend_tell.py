"""The decoder: teacher forcing equals stepping, padding counts for nothing, gradients are right."""

import math

import pytest
import torch
from conftest import D, L, V, check_gradients, make_decoder, make_memory, pytorch_s_lstm

from caption.attention import Memory
from caption.config import DecoderConfig, TrainingConfig
from caption.data.vocabulary import END, PAD, START
from caption.decoders import DecoderOutput, ShowAttendTellDecoder
from caption.decoders.packing import active_shapes
from caption.training import losses

CAPTIONS = torch.tensor(
    [
        [[4, 5, 6, 7, END], [8, 9, END, PAD, PAD]],
        [[10, 4, END, PAD, PAD], [PAD, PAD, PAD, PAD, PAD]],
        [[5, END, PAD, PAD, PAD], [6, 7, 8, END, PAD]],  # not sorted: that must only cost time
    ]
)
LENGTHS = torch.tensor([[5, 3], [3, 0], [2, 4]])


def by_steps(decoder: ShowAttendTellDecoder, memory) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] and weights [N, L] of every real word, one step at a time."""
    state, words = decoder.start(memory, 2), torch.full((3, 2), START)
    logits, weights = [], []
    for t in range(5):
        step_logits, state, attended = decoder.step(words, state, memory)
        logits.append(step_logits)
        weights.append(attended.weights)
        words = CAPTIONS[:, :, t]
    real = torch.arange(5) < LENGTHS[..., None]
    return torch.stack(logits, 2)[real], torch.stack(weights, 2)[real]


def test_show_attend_tell_by_its_equations(decoder: ShowAttendTellDecoder) -> None:
    """Attention by the state before, beta z_t into PyTorch's LSTM and into the output layer, eq. 1-7."""
    memory, score = make_memory(decoder, 1), decoder.attention.score
    values = memory.values[0]  # [L, D]
    inputs = torch.cat([decoder.word_to_gates.weight, decoder.context_to_gates.weight], 1)
    lstm = pytorch_s_lstm(inputs, decoder.hidden_to_gates.weight, decoder.word_to_gates.bias)
    state = decoder.start(memory, 1)
    h, c = state.hidden[0], state.cell[0]
    torch.testing.assert_close(h[0], torch.tanh(decoder.initial_hidden(values.mean(0))))
    torch.testing.assert_close(c[0], torch.tanh(decoder.initial_cell(values.mean(0))))
    for word in (START, 4, 7):
        logits, state, attended = decoder.step(torch.tensor([[word]]), state, memory)
        alpha = (torch.tanh(score.key(values) + score.query(h[0])) @ score.vector.weight[0]).softmax(0)
        beta = torch.sigmoid(decoder.gate(h[0]))
        z = beta * (alpha @ values)
        embedded = decoder.embedding.weight[word]
        h, c = lstm(torch.cat([embedded, z]).unsqueeze(0), (h, c))
        joined = embedded + decoder.hidden_to_output.weight @ h[0] + decoder.context_to_output.weight @ z
        torch.testing.assert_close(attended.weights[0, 0], alpha)
        torch.testing.assert_close(attended.gate[0], beta)
        torch.testing.assert_close(state.hidden[0], h)
        torch.testing.assert_close(logits[0, 0], decoder.output.weight @ joined + decoder.output.bias)


def test_the_output_layer_drops_out_the_state_and_the_sum(decoder: ShowAttendTellDecoder) -> None:
    """With the state dropped whole, L_h h_t counts for nothing; with the sum dropped whole, the bias is left."""
    embedded, hidden, context = (torch.randn(4, width, dtype=torch.double) for width in (7, 8, D))
    decoder.train()
    decoder.state_dropout.p, decoder.dropout.p = 1.0, 0.0
    without = decoder.output(embedded + decoder.context_to_output(context))
    torch.testing.assert_close(decoder.output_layer(embedded, hidden, context), without)
    decoder.state_dropout.p, decoder.dropout.p = 0.0, 1.0
    torch.testing.assert_close(decoder.output_layer(embedded, hidden, context), decoder.output.bias.expand(4, V))
    calls = []
    hook = decoder.dropout.register_forward_hook(lambda layer, inputs, output: calls.append(inputs[0]))
    decoder.output_layer(embedded, hidden, context)
    hook.remove()
    joined = embedded + decoder.hidden_to_output(hidden) + decoder.context_to_output(context)
    assert len(calls) == 1  # of the sum alone
    torch.testing.assert_close(calls[0], joined)


def test_forward_equals_a_loop_of_step(decoder: ShowAttendTellDecoder) -> None:
    memory = make_memory(decoder)
    decoded = decoder(memory, CAPTIONS, LENGTHS)
    logits, weights = by_steps(decoder, memory)
    real = torch.arange(5) < LENGTHS[..., None]
    torch.testing.assert_close(decoded.logits, logits)
    torch.testing.assert_close(decoded.weights[real], weights)
    assert decoded.targets.tolist() == CAPTIONS[real].tolist()


def test_weights_are_zero_where_there_is_no_word(decoder: ShowAttendTellDecoder) -> None:
    decoded = decoder(make_memory(decoder), CAPTIONS, LENGTHS)
    real = torch.arange(5) < LENGTHS[..., None]
    torch.testing.assert_close(decoded.weights.sum(-1), real.double())
    assert (decoded.weights >= 0).all()


def test_row_alone_equals_row_in_batch(decoder: ShowAttendTellDecoder) -> None:
    memory = make_memory(decoder)
    together = decoder(memory, CAPTIONS, LENGTHS).logits.split([5, 3, 3, 2, 4])
    alone = [
        decoder(
            Memory(*(part[b : b + 1] for part in (memory.keys, memory.values, memory.mean))),
            CAPTIONS[b : b + 1, q : q + 1],
            LENGTHS[b : b + 1, q : q + 1],
        )
        for b in range(3)
        for q in range(2)
        if LENGTHS[b, q]
    ]
    for expected, single in zip(together, alone, strict=True):
        torch.testing.assert_close(single.logits, expected)


def test_permuting_locations_permutes_the_weights_alone(decoder: ShowAttendTellDecoder) -> None:
    torch.manual_seed(2)
    regions, order = torch.randn(3, L, D, dtype=torch.double), torch.randperm(L)
    plain = decoder(decoder.attention.prepare(regions), CAPTIONS, LENGTHS)
    permuted = decoder(decoder.attention.prepare(regions[:, order]), CAPTIONS, LENGTHS)
    torch.testing.assert_close(permuted.logits, plain.logits)
    torch.testing.assert_close(permuted.weights, plain.weights[..., order])
    assert not torch.allclose(plain.weights, plain.weights[..., order])


def test_padding_has_exactly_zero_gradient(decoder: ShowAttendTellDecoder) -> None:
    """Whatever stands after <end>, no gradient comes from it and none goes to it."""
    gradients = []
    for filler in (PAD, 9):
        captions = torch.where(torch.arange(5) < LENGTHS[..., None], CAPTIONS, filler)
        decoder.zero_grad()
        decoded = decoder(make_memory(decoder), captions, LENGTHS)
        (losses.cross_entropy(decoded) + losses.doubly_stochastic(decoded)).backward()
        gradients.append([parameter.grad.clone() for parameter in decoder.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)
    assert decoder.embedding.weight.grad[PAD].abs().sum() == 0


def test_gradients_numerically(decoder: ShowAttendTellDecoder) -> None:
    """Every weight's gradient of the whole loss, against central differences."""
    regions = torch.randn(3, L, D, dtype=torch.double)

    def loss() -> torch.Tensor:
        decoded = decoder(decoder.attention.prepare(regions), CAPTIONS, LENGTHS)
        config = TrainingConfig(label_smoothing=0.1, doubly_stochastic=0.3)
        return losses.total_loss(losses.compute_terms(losses.LossInputs(decoded), config), config)

    check_gradients(decoder, loss, count=4, rel=1e-5)


def test_gradient_reaches_the_regions(decoder: ShowAttendTellDecoder) -> None:
    regions = torch.randn(1, L, D, dtype=torch.double, requires_grad=True)

    def logits(values: torch.Tensor) -> torch.Tensor:
        return decoder(decoder.attention.prepare(values), CAPTIONS[:1], LENGTHS[:1]).logits

    assert torch.autograd.gradcheck(logits, regions)


def test_first_loss_is_about_log_v() -> None:
    torch.manual_seed(0)
    size = 1000
    config = DecoderConfig(embedding_dim=64, hidden_dim=64, attention_dim=64)
    decoder = ShowAttendTellDecoder(config, 32, (7, 7), size)
    memory = decoder.attention.prepare(torch.rand(8, 49, 32))
    captions = torch.randint(4, size, (8, 5, 12))
    loss = losses.cross_entropy(decoder(memory, captions, torch.full((8, 5), 12)))
    assert loss.item() == pytest.approx(math.log(size), rel=0.02)


def test_steps_shrink_to_what_is_left() -> None:
    assert active_shapes(torch.tensor([[4, 2], [3, 1]]), 4) == [(2, 2), (2, 2), (2, 1), (1, 1)]
    assert active_shapes(torch.tensor([[1, 3]]), 3) == [(1, 2), (1, 2), (1, 2)]  # unsorted rows stay together


def test_doubly_stochastic_is_the_paper_s_sum(decoder: ShowAttendTellDecoder) -> None:
    decoded = decoder(make_memory(decoder), CAPTIONS, LENGTHS)
    total = 0.0
    for b in range(3):
        for q in range(2):
            if LENGTHS[b, q]:
                alphas = decoded.weights[b, q, : LENGTHS[b, q]]
                total += sum((1 - alphas[:, i].sum().item()) ** 2 for i in range(L))
    assert losses.doubly_stochastic(decoded).item() == pytest.approx(total / LENGTHS.sum().item())


def test_doubly_stochastic_by_hand() -> None:
    """Two regions: a caption that looks at each once costs nothing, one that stares (2 and 0) costs 1 + 1, and a row
    without words nothing; of five words in all."""
    weights = torch.zeros(1, 4, 2, 2)
    weights[0, 0] = torch.eye(2)
    weights[0, 1] = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    weights[0, 2, 0] = torch.tensor([0.5, 0.5])  # (1 - 1/2)^2, twice
    nothing = torch.zeros(5, dtype=torch.long)
    weights.requires_grad_()
    loss = losses.doubly_stochastic(DecoderOutput(torch.zeros(5, 3), nothing, nothing, weights))
    assert loss.item() == pytest.approx((0 + 2 + 0.5) / 5)
    (slope,) = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(slope[0, 1], torch.tensor([[0.4, -0.4]] * 2))  # 2 (attended - 1) / 5
    assert not slope[0, 3].any()


def test_no_row_of_the_memory_is_repeated(decoder: ShowAttendTellDecoder) -> None:
    """Keys and values keep one entry an image, whatever the number of rows."""
    memory = make_memory(decoder)
    assert memory.keys.shape == (3, L, 9) and memory.values.shape == (3, L, D)
    assert decoder.step(torch.full((3, 4), START), decoder.start(memory, 4), memory)[0].shape == (3, 4, V)


def test_bfloat16_autocast_stays_close() -> None:
    decoder = make_decoder().float()
    memory = decoder.attention.prepare(torch.randn(3, L, D))
    plain = decoder(memory, CAPTIONS, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(memory, CAPTIONS, LENGTHS)
    assert half.logits.dtype == torch.bfloat16 and half.weights.dtype == torch.float32
    assert losses.cross_entropy(half).item() == pytest.approx(losses.cross_entropy(plain).item(), rel=0.02)


def test_label_smoothing_is_pytorch_s(decoder: ShowAttendTellDecoder) -> None:
    decoded = decoder(make_memory(decoder), CAPTIONS, LENGTHS)
    config = TrainingConfig(label_smoothing=0.2, doubly_stochastic=0.0)
    expected = torch.nn.functional.cross_entropy(decoded.logits, decoded.targets, label_smoothing=0.2)
    inputs = losses.LossInputs(decoded)
    terms = losses.compute_terms(inputs, config)
    torch.testing.assert_close(losses.total_loss(terms, config), expected)
    assert "smoothing" in terms and "smoothing" not in losses.compute_terms(inputs, TrainingConfig())
