"""Every kind of decoder keeps the same protocol: what holds for one holds for all."""

import math
from typing import Any

import pytest
import torch
from conftest import KINDS, D, V, check_gradients, far_from_uniform, make_kind, pytorch_s_lstm, saved_and_loaded
from torch import Tensor, nn

from caption.attention import AttentionOutput, MultiHeadAttention
from caption.config import DecoderConfig, SearchConfig, TrainingConfig, TransformerConfig
from caption.data.vocabulary import END, PAD, START
from caption.decoders import AdaptiveDecoder, LuongDecoder, build_decoder, shift_right
from caption.decoders.transformer import MAX_POSITIONS, TransformerDecoder, sinusoids
from caption.errors import UserError
from caption.search import beam, force_decode, greedy, search
from caption.training import losses
from caption.training.losses import LossInputs

CAPTIONS = torch.tensor(
    [
        [[4, 5, 6, 7, END], [8, 9, END, PAD, PAD]],
        [[10, 4, END, PAD, PAD], [PAD, PAD, PAD, PAD, PAD]],
        [[5, END, PAD, PAD, PAD], [6, 7, 8, END, PAD]],
    ]
)
LENGTHS = torch.tensor([[5, 3], [3, 0], [2, 4]])
REAL = torch.arange(5) < LENGTHS[..., None]
every_kind = pytest.mark.parametrize("kind", KINDS)
PLACED = ("transformer grid", *(kind for kind in KINDS if kind.endswith(("draw", "retina"))))  # know where regions lie
transformers = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("transformer")])


def regions(images: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(images, 6, D, dtype=torch.double)


# The protocol.


@every_kind
def test_forward_equals_a_loop_of_step(kind: str) -> None:
    """The Transformer's cache of keys and values and its parallel attention are one function."""
    decoder = make_kind(kind)
    memory = decoder.prepare(regions())
    decoded = decoder(memory, CAPTIONS, LENGTHS)
    state, words, logits, weights = decoder.start(memory, 2), torch.full((3, 2), START), [], []
    for t in range(5):
        step, state, attended = decoder.step(words, state, memory)
        logits.append(step)
        weights.append(attended.weights)
        words = CAPTIONS[..., t]
    torch.testing.assert_close(decoded.logits, torch.stack(logits, 2)[REAL])
    torch.testing.assert_close(decoded.weights[REAL], torch.stack(weights, 2)[REAL])
    torch.testing.assert_close(decoded.weights.sum(-1), REAL.double())
    assert (decoded.weights >= 0).all()
    assert decoded.targets.tolist() == CAPTIONS[REAL].tolist()


@every_kind
def test_attention_forced_to_its_own_weights_changes_nothing(kind: str) -> None:
    """Step by step and all at once. The retina reads its place from the weights, which only tells it inside the grid's
    outermost centres."""
    decoder = make_kind(kind)
    if "retina" in kind:
        for parameter in decoder.attention.centre.parameters():
            parameter.data.mul_(0.01)
    memory = decoder.prepare(regions())
    free = decoder(memory, CAPTIONS, LENGTHS)
    state, words, heads = decoder.start(memory, 2), torch.full((3, 2), START), []
    for t in range(5):
        _, state, attended = decoder.step(words, state, memory)
        heads.append(attended.weights.unsqueeze(2) if attended.heads is None else attended.heads)
        words = CAPTIONS[..., t]
    forced = memory._replace(forced=torch.stack(heads, 2))
    torch.testing.assert_close(decoder(forced, CAPTIONS, LENGTHS).logits, free.logits)
    state, words = decoder.start(forced, 2), torch.full((3, 2), START)
    logits = []
    for t in range(5):
        step, state, attended = decoder.step(words, state, forced)
        torch.testing.assert_close(attended.weights, heads[t].mean(2))
        logits.append(step)
        words = CAPTIONS[..., t]
    torch.testing.assert_close(torch.stack(logits, 2)[REAL], free.logits)


@every_kind
def test_forced_weights_hold_for_all_rows_and_beyond_their_last_step(kind: str) -> None:
    decoder = make_kind(kind)
    memory = decoder.prepare(regions())
    _, _, attended = decoder.step(torch.full((3, 1), START), decoder.start(memory, 1), memory)
    width = 1 if attended.heads is None else attended.heads.shape[2]
    torch.manual_seed(2)
    weights = torch.rand(3, 1, 2, width, 6).softmax(-1).double()
    every = torch.cat([weights, weights[:, :, 1:].expand(-1, -1, 3, -1, -1)], 2).expand(-1, 2, -1, -1, -1)
    one, all_of_them = (decoder(memory._replace(forced=w), CAPTIONS, LENGTHS) for w in (weights, every))
    assert torch.equal(one.logits, all_of_them.logits)
    torch.testing.assert_close(one.weights[REAL], every.mean(3)[REAL])


@every_kind
def test_a_caption_alone_equals_the_caption_in_a_batch(kind: str) -> None:
    decoder = make_kind(kind)
    together = decoder(decoder.prepare(regions()), CAPTIONS, LENGTHS).logits.split([5, 3, 3, 2, 4])
    rows = [(b, q) for b in range(3) for q in range(2) if LENGTHS[b, q]]
    for (b, q), expected in zip(rows, together, strict=True):
        one = (slice(b, b + 1), slice(q, q + 1))
        alone = decoder(decoder.prepare(regions()[b : b + 1]), CAPTIONS[one], LENGTHS[one])
        torch.testing.assert_close(alone.logits, expected)


@every_kind
def test_permuting_regions_permutes_the_weights_alone(kind: str) -> None:
    """Unless the decoder is told where they lie."""
    decoder, order = make_kind(kind), torch.tensor([3, 1, 5, 0, 2, 4])
    plain = decoder(decoder.prepare(regions()), CAPTIONS, LENGTHS)
    permuted = decoder(decoder.prepare(regions()[:, order]), CAPTIONS, LENGTHS)
    if kind in PLACED:
        assert not torch.allclose(permuted.logits, plain.logits)
        return
    torch.testing.assert_close(permuted.logits, plain.logits)
    torch.testing.assert_close(permuted.weights, plain.weights[..., order])


@every_kind
def test_gradients_numerically(kind: str) -> None:
    """Every weight's gradient of the whole loss, against central differences."""
    decoder, given = make_kind(kind), regions()

    def loss() -> Tensor:
        config = TrainingConfig(label_smoothing=0.1, doubly_stochastic=0.3)
        inputs = LossInputs(decoder(decoder.prepare(given), CAPTIONS, LENGTHS))
        return losses.total_loss(losses.compute_terms(inputs, config), config)

    check_gradients(decoder, loss, count=3, rel=1e-4)


@every_kind
def test_what_stands_after_the_end_counts_for_nothing(kind: str) -> None:
    decoder = make_kind(kind)
    memory = decoder.prepare(regions())
    filled = torch.where(REAL, CAPTIONS, 9)
    assert torch.equal(decoder(memory, CAPTIONS, LENGTHS).logits, decoder(memory, filled, LENGTHS).logits)


@every_kind
def test_other_words_can_be_read_than_are_written(kind: str) -> None:
    decoder = make_kind(kind)
    memory = decoder.prepare(regions())
    plain = decoder(memory, CAPTIONS, LENGTHS)
    assert torch.equal(decoder(memory, CAPTIONS, LENGTHS, inputs=shift_right(CAPTIONS)).logits, plain.logits)
    other = shift_right(CAPTIONS).clone()
    other[0, 0, 2] = 9  # before the third word
    changed = decoder(memory, CAPTIONS, LENGTHS, inputs=other)
    assert torch.equal(changed.targets, plain.targets)
    same = (changed.logits == plain.logits).all(-1)
    assert same[:2].all() and not same[2:5].any() and same[5:].all()


@every_kind
def test_searches(kind: str) -> None:
    """A beam of one is greedy; what a beam tells of its captions is what the decoder says of them one by one."""
    decoder = make_kind(kind)
    memory = decoder.prepare(regions())
    config = SearchConfig(beam_size=1, max_length=7)
    for one, other in zip(beam(decoder, memory, config), greedy(decoder, memory, config), strict=True):
        assert one[0].words == other[0].words and one[0].heads is None
        torch.testing.assert_close(one[0].weights, other[0].weights)
    config = SearchConfig(beam_size=3, max_length=5, min_length=2)
    for b, found in enumerate(search(decoder, memory, config, heads=True)):
        assert len(found) == 3
        for hypothesis in found:
            if not hypothesis.finished:
                continue
            again = force_decode(decoder, memory, hypothesis.words, "expectation", heads=True)[b]
            assert again.log_probability == pytest.approx(hypothesis.log_probability, rel=1e-4)
            torch.testing.assert_close(again.weights, hypothesis.weights)
            assert (again.gates is not None) == decoder.gated
            if again.gates is not None:
                assert len(again.gates) == len(hypothesis.words) + 1 and again.gates.unique().numel() > 1
                torch.testing.assert_close(again.gates, hypothesis.gates)
            assert (again.heads is None) == (decoder.__class__ is not TransformerDecoder and "multi" not in kind)
            if again.heads is not None:
                torch.testing.assert_close(again.heads, hypothesis.heads)
                torch.testing.assert_close(again.heads.mean(1), again.weights)
                torch.testing.assert_close(again.heads.sum(-1), torch.ones_like(again.heads[..., 0]))


@every_kind
def test_a_captioner_is_saved_and_loaded(kind: str) -> None:
    again, _ = saved_and_loaded(DecoderConfig(embedding_dim=8, hidden_dim=8, attention_dim=16, **KINDS[kind]))
    tied = KINDS[kind].get("tie_embeddings", False)
    assert (again.decoder.output.weight is again.decoder.embedding.weight) == tied


@every_kind
def test_bfloat16_autocast_stays_close(kind: str) -> None:
    decoder = make_kind(kind).float()
    for parameter in decoder.parameters():
        parameter.data *= 0.5
    memory = decoder.prepare(regions().float())
    plain = losses.cross_entropy(decoder(memory, CAPTIONS, LENGTHS))
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(decoder.prepare(regions().float()), CAPTIONS, LENGTHS)
        found = search(decoder, memory, SearchConfig(beam_size=2, max_length=4))
    assert half.logits.dtype == torch.bfloat16 and half.weights.dtype == torch.float32 and len(found) == 3
    assert losses.cross_entropy(half).item() == pytest.approx(plain.item(), rel=0.03)


# The recurrent decoders by their equations; Show, Attend and Tell's is in test_show_attend_tell.py.


def test_luong_by_its_equations() -> None:
    """The LSTM first, then attention by its new state, h~ = tanh(W_c [z; h]), W_s h~; h~ goes into the next step."""
    decoder = make_kind("current")
    assert isinstance(decoder, LuongDecoder)
    memory = decoder.prepare(regions(1))
    inputs = torch.cat([decoder.word_to_gates.weight, decoder.attention_vector_to_gates.weight], 1)
    cell = pytorch_s_lstm(inputs, decoder.hidden_to_gates.weight, decoder.word_to_gates.bias)
    state = decoder.start(memory, 1)
    h, c, fed = state.hidden[0], state.cell[0], torch.zeros(1, 12).double()
    for word in (START, 4, 7):
        logits, state, attended = decoder.step(torch.tensor([[word]]), state, memory)
        h, c = cell(torch.cat([decoder.embedding.weight[word].unsqueeze(0), fed], 1), (h, c))
        score = decoder.attention.score
        weights = score(h.unsqueeze(0), memory.keys)[0, 0].softmax(0)
        fed = torch.tanh(torch.cat([weights @ memory.values[0], h[0]]) @ decoder.joint.weight.T).unsqueeze(0)
        torch.testing.assert_close(attended.weights[0, 0], weights)
        torch.testing.assert_close(logits[0], decoder.output(fed))


def test_up_down_by_its_equations() -> None:
    """One LSTM reads [h2; mean region; word], attention is by its state h1, the other LSTM reads [z; h1], W_p h2."""
    decoder = make_kind("up-down")
    memory, mean = decoder.prepare(regions(1)), regions(1).mean(1)
    words, means, both = decoder.word_to_gates, decoder.mean_to_gates.weight, decoder.hidden_to_gates.weight
    first = pytorch_s_lstm(torch.cat([both[:, 12:], means, words.weight], 1), both[:, :12], words.bias)
    contexts = decoder.context_to_language
    inputs = torch.cat([contexts.weight, decoder.attention_to_language.weight], 1)
    second = pytorch_s_lstm(inputs, decoder.language_to_language.weight, contexts.bias)
    state = decoder.start(memory, 1)
    (h1, h2), (c1, c2) = state.hidden[0].chunk(2, -1), state.cell[0].chunk(2, -1)
    for word in (START, 4, 7):
        logits, state, attended = decoder.step(torch.tensor([[word]]), state, memory)
        h1, c1 = first(torch.cat([h2, mean, decoder.embedding.weight[word].unsqueeze(0)], 1), (h1, c1))
        weights = decoder.attention.score(h1.unsqueeze(0), memory.keys)[0, 0].softmax(0)
        h2, c2 = second(torch.cat([weights @ regions(1)[0], h1[0]]).unsqueeze(0), (h2, c2))
        torch.testing.assert_close(attended.weights[0, 0], weights)
        torch.testing.assert_close(logits[0], decoder.output(h2))


def adaptive(**options: Any) -> AdaptiveDecoder:
    torch.manual_seed(0)
    config = DecoderConfig("adaptive", embedding_dim=8, hidden_dim=12, attention_dim=16, **options)
    return far_from_uniform(AdaptiveDecoder(config, D, (2, 3), V))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"window": "local_m", "window_radius": 1}], ids=["plain", "sharp", "window"]
)
def test_adaptive_by_its_equations(options: dict[str, Any]) -> None:
    """One softmax over the regions and the sentinel gives alpha, when it is divided by what the regions have, and
    beta."""
    decoder = adaptive(**options)
    memory, score = decoder.prepare(regions(1)), decoder.attention.score
    v = (regions(1)[0] @ decoder.region[0].weight.T + decoder.region[0].bias).relu()
    v_g = v.mean(0)
    words, means, hiddens = (
        layer.weight for layer in (decoder.word_to_gates, decoder.mean_to_gates, decoder.hidden_to_gates)
    )
    inputs, bias = torch.cat([words, means], 1), decoder.word_to_gates.bias
    lstm, (w_x, w_h, b) = pytorch_s_lstm(inputs[:48], hiddens[:48], bias[:48]), (inputs[48:], hiddens[48:], bias[48:])
    state = decoder.start(memory, 1)
    h, m = state.hidden[0], state.cell[0]
    for t, word in enumerate((START, 4, 7)):
        logits, state, attended = decoder.step(torch.tensor([[word]]), state, memory)
        x = torch.cat([decoder.embedding.weight[word], v_g])
        g = torch.sigmoid(w_x @ x + w_h @ h[0] + b)
        h, m = lstm(x.unsqueeze(0), (h, m))
        s = g * torch.tanh(m[0])
        z = torch.tanh(score.key(v) + score.query(h)) @ score.vector.weight[0]
        own = torch.tanh(decoder.sentinel_key(s) + score.query(h[0])) @ score.vector.weight[0]
        inside = decoder.attention.window(h, t).inside if "window" in options else torch.tensor(True)
        z = torch.cat([z.masked_fill(~inside, -math.inf), own.unsqueeze(0)])
        *alpha, beta = (z / options.get("temperature", 1)).softmax(0)
        alpha = torch.stack(alpha) / (1 - beta)
        torch.testing.assert_close(attended.weights[0, 0], alpha)
        torch.testing.assert_close(attended.gate[0, 0], 1 - beta)
        torch.testing.assert_close(logits[0, 0], decoder.output(beta * s + (1 - beta) * (alpha @ v) + h[0]))


def test_a_sentinel_that_no_one_looks_at_leaves_the_regions_and_one_that_wins_leaves_none() -> None:
    """Its score is -|v|, or |v|, which no region reaches: beta is 0, or 1."""
    decoder = adaptive()
    score, memory = decoder.attention.score, decoder.prepare(regions())
    words = torch.tensor([[4, 5]] * 3)
    with torch.no_grad():
        score.vector.weight *= 1e4
    for sign, expected in ((-1, 1.0), (1, 0.0)):
        with torch.no_grad():
            decoder.sentinel_key.bias.copy_(sign * 1e3 * score.vector.weight[0].sign())
        logits, state, attended = decoder.step(words, decoder.start(memory, 2), memory)
        assert attended.gate.tolist() == [[expected] * 2] * 3
        if expected:
            torch.testing.assert_close(logits, decoder.output(attended.context + state.hidden))
        else:
            other = memory._replace(values=memory.values.flip(0))  # regions of other images
            assert torch.equal(decoder.step(words, decoder.start(memory, 2), other)[0], logits)


def test_regions_as_wide_as_the_state_are_not_projected() -> None:
    decoder = build_decoder(DecoderConfig("adaptive", embedding_dim=8, hidden_dim=D, attention_dim=16), D, (2, 3), V)
    assert torch.equal(decoder.prepare(regions().float()).values, regions().float())


def test_training_takes_the_sentinel_from_a_word_as_often_as_state_dropout_says() -> None:
    decoder = adaptive(state_dropout=0.3)
    memory, words = decoder.prepare(regions()), torch.full((3, 400), 5)
    plain, trained = (
        decoder.train(mode).step(words, decoder.start(memory, 400), memory)[2].gate for mode in (False, True)
    )
    alone = trained == 1
    assert torch.equal(trained[~alone], plain[~alone]) and (plain < 1).all()
    assert alone.double().mean().item() == pytest.approx(0.3, abs=0.05)


def test_the_context_is_that_of_the_attention_whatever_it_weighs(monkeypatch: pytest.MonkeyPatch) -> None:
    """beta is a matter of the scores: it stays where the weights are replaced."""
    decoder = adaptive()
    memory, words = decoder.prepare(regions()), torch.tensor([[4, 5]] * 3)
    state = decoder.start(memory, 2)
    plain, _, attended = decoder.step(words, state, memory)
    weights = torch.full((3, 2, 6), 1 / 6, dtype=torch.double)
    even = AttentionOutput(weights @ memory.values, weights)
    monkeypatch.setattr(decoder.attention, "forward", lambda *_: even)
    logits, _, found = decoder.step(words, state, memory)
    assert torch.equal(found.weights, weights) and torch.equal(found.gate, attended.gate)
    expected = plain + (attended.gate.unsqueeze(-1) * (even.context - attended.context)) @ decoder.output.weight.T
    torch.testing.assert_close(logits, expected)


# Several heads.


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_multi_head_is_pytorch_s(heads: int) -> None:
    """With its weights copied: contexts, each head's weights, their mean."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, heads, kdim=D, vdim=D, batch_first=True).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.7)
    ours = MultiHeadAttention(8, D, 8, heads).double()
    with torch.no_grad():
        for layer, weight, bias in zip(
            (ours.query, ours.key, ours.value),
            (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight),
            theirs.in_proj_bias.chunk(3),
            strict=True,
        ):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        ours.output.load_state_dict(theirs.out_proj.state_dict())
    query = torch.randn(3, 5, 8, dtype=torch.double)
    context, weights = theirs(query, regions(), regions(), average_attn_weights=False)
    attended = ours(query, ours.prepare(regions()))
    torch.testing.assert_close(attended.context, context)
    torch.testing.assert_close(attended.heads, weights.transpose(1, 2))
    torch.testing.assert_close(attended.weights, weights.mean(1))
    torch.testing.assert_close(ours.contexts(query, *ours.project(regions())), context)


def test_temperature_of_several_heads() -> None:
    torch.manual_seed(0)
    sharp, flat = (far_from_uniform(MultiHeadAttention(8, D, 8, 2, t)) for t in (0.5, 2.0))
    flat.load_state_dict(sharp.state_dict())
    query = torch.randn(3, 5, 8, dtype=torch.double)
    a, b = (attention(query, attention.prepare(regions())).heads.log() for attention in (sharp, flat))
    centred = [each - each.mean(-1, keepdim=True) for each in (a, b)]
    torch.testing.assert_close(centred[0], 4 * centred[1])
    for attention in (sharp, flat):
        memory = attention.prepare(regions())
        torch.testing.assert_close(
            attention.contexts(query, memory.keys, memory.values), attention(query, memory).context
        )


# The Transformer.


@transformers
def test_fused_attention_is_the_same(kind: str) -> None:
    decoder = make_kind(kind)
    memory = decoder.prepare(regions())
    plain, fused = (decoder(memory, CAPTIONS, LENGTHS, need_weights=need_weights) for need_weights in (True, False))
    torch.testing.assert_close(plain.logits, fused.logits)
    assert fused.weights is None


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_layer_is_pytorch_s(norm: str) -> None:
    """The whole decoder against nn.TransformerDecoder with copied weights; A = E."""
    torch.manual_seed(0)
    form = TransformerConfig(layers=2, norm=norm)
    ours = far_from_uniform(
        TransformerDecoder(
            DecoderConfig("transformer", embedding_dim=8, hidden_dim=12, attention_dim=8, heads=2, transformer=form),
            D,
            (2, 3),
            V,
        )
    )
    pre = norm == "pre"
    layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, norm_first=pre)
    theirs = nn.TransformerDecoder(layer, 2, nn.LayerNorm(8) if pre else None).double().eval()
    with torch.no_grad():
        for mine, other in zip(ours.layers, theirs.layers, strict=True):
            for a, b in ((mine.words, other.self_attn), (mine.regions, other.multihead_attn)):
                b.in_proj_weight.copy_(torch.cat([a.query.weight, a.key.weight, a.value.weight]))
                b.in_proj_bias.copy_(torch.cat([a.query.bias, a.key.bias, a.value.bias]))
                b.out_proj.load_state_dict(a.output.state_dict())
            other.linear1.load_state_dict(mine.feed_forward[0].state_dict())
            other.linear2.load_state_dict(mine.feed_forward[2].state_dict())
            for number, b in enumerate((other.norm1, other.norm2, other.norm3)):
                b.load_state_dict(mine.norms[number].state_dict())
        if pre:
            theirs.norm.load_state_dict(ours.norm.state_dict())
    captions, lengths = torch.randint(4, V, (3, 1, 5)), torch.full((3, 1), 5)
    read = ours.embed(shift_right(captions), 0).squeeze(1)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.double)
    wanted = ours.output(theirs(read, ours.region(regions()), tgt_mask=mask))
    torch.testing.assert_close(ours(ours.prepare(regions()), captions, lengths).logits, wanted.flatten(0, 1))


def test_sinusoids_by_their_equation() -> None:
    table = sinusoids(torch.arange(50), 16)
    for position in (0, 3, 49):
        for i in range(8):
            angle = position / 10000 ** (i / 8)
            assert table[position, i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 8 + i].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_learned_positions_end() -> None:
    """The last stands for all beyond, in training and word by word."""
    decoder = make_kind("transformer post")
    words = torch.full((1, MAX_POSITIONS + 2), 5)
    read = decoder.embed(words, 0)[0]
    assert torch.equal(read[MAX_POSITIONS - 1], read[MAX_POSITIONS + 1]) and not torch.equal(
        read[MAX_POSITIONS - 2], read[MAX_POSITIONS - 1]
    )
    assert torch.equal(decoder.embed(words[:, :1], MAX_POSITIONS + 1)[0, 0], read[MAX_POSITIONS + 1])


def test_a_cache_is_reordered_with_its_rows() -> None:
    decoder = make_kind("transformer")
    memory = decoder.prepare(regions())
    state = decoder.start(memory, 2)
    for t in range(3):
        _, state, _ = decoder.step(CAPTIONS[..., t].clamp(min=4), state, memory)
    rows = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 0, 1]])
    picked = state.select(rows)
    for b in range(3):
        for q in range(3):
            assert torch.equal(picked.keys[b, q], state.keys[b, rows[b, q]])
            assert torch.equal(picked.values[b, q], state.values[b, rows[b, q]])
    assert state.keys.shape == (3, 2, 3, 2, 3, 8)


# Mistakes.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "transformer", "attention": "hard"}, "decoder.name is transformer, which has soft alone"),
        ({"name": "transformer", "score": "dot"}, "decoder.score is dot, but decoder.name is transformer"),
        ({"name": "transformer", "embedding_dim": 6}, "decoder.embedding_dim is 6, but must be divisible by 4"),
        ({"transformer": TransformerConfig(layers=2)}, "decoder.transformer is set, .* is show_attend_tell; add"),
        ({"score": "multi_head", "window": "local_p"}, "decoder.window is local_p, but decoder.score is multi_head"),
        ({"score": "multi_head", "attention": "hard"}, "decoder.attention is hard, but decoder.score is multi_head"),
        ({"name": "adaptive", "score": "dot"}, "decoder.score is dot, but must be additive or concat with .* adaptive"),
        ({"name": "adaptive", "score": "multi_head"}, "decoder.score is multi_head, but must be additive or concat"),
        ({"name": "adaptive", "attention": "draw"}, "decoder.attention is draw, but must be soft or hard with"),
        ({"heads": 4}, "decoder.heads is 4, but nothing has heads; add --decoder.score multi_head"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DecoderConfig(**fields)


def test_an_unknown_decoder_or_score_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="decoder.name is 'unknown', but must be one of show_attend_tell, luong, adap"):
        build_decoder(DecoderConfig(name="unknown"), D, (2, 3), V)
    with pytest.raises(UserError, match="decoder.score is 'unknown', but must be one of additive, concat"):
        build_decoder(DecoderConfig(score="unknown"), D, (2, 3), V)


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"decoder.heads is 3, but must divide decoder.attention_dim, which is 8"):
        MultiHeadAttention(8, D, 8, 3)
    for name in ("luong", "adaptive", "up_down"):
        config = DecoderConfig(name, embedding_dim=6, hidden_dim=8, attention_dim=8, tie_embeddings=True)
        with pytest.raises(UserError, match=rf"name {name} needs decoder.embedding_dim \(6\) equal to .*_dim \(8\)"):
            build_decoder(config, D, (2, 3), V)
