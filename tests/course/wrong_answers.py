"""Wrong but plausible answers to every hole: a line of the code as it is, and what a student might write for it."""

from typing import NamedTuple


class WrongAnswer(NamedTuple):
    """A change of a file, which must cost points."""

    name: str
    file: str
    right: str  # occurs once in the file
    wrong: str


REFERENCE = "caption/ops/reference.py"
OUTPUT = "caption/decoders/show_attend_tell.py"
LOSSES = "caption/training/losses.py"
HARD = "caption/attention/hard.py"
REINFORCE = "caption/training/reinforce.py"
SEARCH = "caption/search.py"
BLEU = "caption/evaluation/bleu.py"

SOFTMAX = "return (scores if temperature == 1 else scores / temperature).softmax(-1)"
CELL = """cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)  # eq. 2
    return torch.sigmoid(o) * torch.tanh(cell).to(o.dtype), cell  # eq. 3"""
JOINED = "joined = embedded + self.hidden_to_output(self.state_dropout(hidden)) + self.context_to_output(context)"
PENALTY = "return ((1 - attended).square() * has_words).sum() / word_count(references)"
LOCATION = "location = sample_location(log_weights.detach(), memory.argmax)  # [B, Q]"
OTHERS = "others = (samples.sum(2, keepdim=True) - samples) / (config.samples - 1)"
SAMPLES = "samples = returns.reshape(len(returns), -1, config.samples, returns.shape[-1])  # [B, Q / N, N, T]"
RANKS = "ranks = candidates / (lengths**length_penalty).unsqueeze(-1) if length_penalty else candidates"
FINISHED = "candidates[..., PAD] = totals.masked_fill(~finished, -torch.inf)  # a finished hypothesis stays as it is"
BEST = "return parent, best % candidates.shape[-1], candidates.flatten(1).gather(1, best)"
MATCHES = "np.bincount(counts.captions.text, np.minimum(counts.captions.times, limit), len(captions))"
BREVITY = "np.exp(np.minimum(0, 1 - (sums[..., 9] + SMALL) / (sums[..., 8] + TINY)))"

WRONG_ANSWERS: dict[str, list[WrongAnswer]] = {
    "additive_score": [
        WrongAnswer(
            "no tanh",
            REFERENCE,
            "torch.tanh(keys.unsqueeze(1) + upcast_float32(query).unsqueeze(2))",
            "keys.unsqueeze(1) + upcast_float32(query).unsqueeze(2)",
        ),
        WrongAnswer(
            "rows and regions exchanged",
            REFERENCE,
            "torch.tanh(keys.unsqueeze(1) + upcast_float32(query).unsqueeze(2))",
            "torch.tanh(keys.unsqueeze(2) + upcast_float32(query).unsqueeze(1))",
        ),
        WrongAnswer("mean over the width", REFERENCE, "(hidden * vector).sum(-1)", "(hidden * vector).mean(-1)"),
        WrongAnswer("sum over the regions", REFERENCE, "(hidden * vector).sum(-1)", "(hidden * vector).sum(-2)"),
        WrongAnswer(
            "half precision throughout",
            REFERENCE,
            "return (hidden * vector).sum(-1)",
            "return (hidden * vector).to(query.dtype).sum(-1)",
        ),
        WrongAnswer(
            "v in the tanh",
            REFERENCE,
            "return (hidden * vector).sum(-1)",
            "return torch.tanh(vector * (keys.unsqueeze(1) + query.unsqueeze(2))).sum(-1)",
        ),
        WrongAnswer(
            "no gradient of the keys",
            REFERENCE,
            "torch.tanh(keys.unsqueeze(1)",
            "torch.tanh(keys.detach().unsqueeze(1)",
        ),
    ],
    "soft_context": [
        WrongAnswer("softmax over the rows", REFERENCE, SOFTMAX, SOFTMAX.replace("softmax(-1)", "softmax(1)")),
        WrongAnswer("softmax over the batch", REFERENCE, SOFTMAX, SOFTMAX.replace("softmax(-1)", "softmax(0)")),
        WrongAnswer("times the temperature", REFERENCE, SOFTMAX, SOFTMAX.replace("scores /", "scores *")),
        WrongAnswer("no temperature", REFERENCE, SOFTMAX, "return scores.softmax(-1)"),
        WrongAnswer(
            "an exponential that overflows",
            REFERENCE,
            SOFTMAX,
            "e = (scores / temperature).exp()\n    return e / e.sum(-1, keepdim=True)",
        ),
        WrongAnswer(
            "mean of the regions",
            REFERENCE,
            "return weights.to(values.dtype) @ values",
            "return weights.to(values.dtype) @ values / values.shape[1]",
        ),
        WrongAnswer(
            "even weights",
            REFERENCE,
            "return weights.to(values.dtype) @ values",
            "return values.mean(1, keepdim=True).expand(-1, weights.shape[1], -1)",
        ),
    ],
    "gate": [
        WrongAnswer("no bias", REFERENCE, "F.linear(hidden, weight, bias)", "F.linear(hidden, weight)"),
        WrongAnswer("tanh", REFERENCE, "gate = torch.sigmoid(F.linear", "gate = torch.tanh(F.linear"),
        WrongAnswer("what is let out", REFERENCE, "gate = torch.sigmoid(F.linear", "gate = 1 - torch.sigmoid(F.linear"),
        WrongAnswer(
            "context not scaled",
            REFERENCE,
            "return gate * context, gate.squeeze(-1)",
            "return context, gate.squeeze(-1)",
        ),
        WrongAnswer(
            "an axis too many", REFERENCE, "return gate * context, gate.squeeze(-1)", "return gate * context, gate"
        ),
        WrongAnswer(
            "one gate for all rows",
            REFERENCE,
            "F.linear(hidden, weight, bias)",
            "F.linear(hidden, weight, bias).mean(1, keepdim=True).expand(-1, hidden.shape[1], -1)",
        ),
    ],
    "lstm_cell": [
        WrongAnswer("PyTorch's order of the gates", REFERENCE, "i, f, o, g = torch.split", "i, f, g, o = torch.split"),
        WrongAnswer(
            "input and forget gate exchanged", REFERENCE, "i, f, o, g = torch.split", "f, i, o, g = torch.split"
        ),
        WrongAnswer("no tanh of the cell", REFERENCE, "torch.tanh(cell).to(o.dtype), cell", "cell.to(o.dtype), cell"),
        WrongAnswer(
            "sigmoid of the modulator",
            REFERENCE,
            "torch.sigmoid(i) * torch.tanh(g)",
            "torch.sigmoid(i) * torch.sigmoid(g)",
        ),
        WrongAnswer("forget gate left out", REFERENCE, "torch.sigmoid(f) * cell +", "cell +"),
        WrongAnswer(
            "hidden state of the cell before",
            REFERENCE,
            CELL,
            f"before = cell\n    {CELL.replace('tanh(cell)', 'tanh(before)')}",
        ),
        WrongAnswer("word left out", REFERENCE, "from_word + from_hidden + from_context", "from_hidden + from_context"),
    ],
    "deep_output": [
        WrongAnswer(
            "drops out the context, too",
            OUTPUT,
            "+ self.context_to_output(context)",
            "+ self.context_to_output(self.dropout(context))",
        ),
        WrongAnswer(
            "the authors' tanh", OUTPUT, "self.output(self.dropout(joined))", "self.output(self.dropout(joined.tanh()))"
        ),
        WrongAnswer(
            "probabilities",
            OUTPUT,
            "self.output(self.dropout(joined))",
            "self.output(self.dropout(joined)).softmax(-1)",
        ),
        WrongAnswer("no word", OUTPUT, JOINED, JOINED.replace("embedded + ", "")),
        WrongAnswer("no context", OUTPUT, JOINED, JOINED.replace(" + self.context_to_output(context)", "")),
        WrongAnswer("no dropout of the state", OUTPUT, JOINED, JOINED.replace("self.state_dropout(hidden)", "hidden")),
        WrongAnswer("no dropout of the sum", OUTPUT, "self.output(self.dropout(joined))", "self.output(joined)"),
    ],
    "doubly_stochastic": [
        WrongAnswer("mean over the regions", LOSSES, PENALTY, PENALTY.replace(".sum() /", ".mean(-1).sum() /")),
        WrongAnswer("sum over the regions of a step", LOSSES, "references.weights.sum(2)", "references.weights.sum(3)"),
        WrongAnswer("absolute value", LOSSES, PENALTY, PENALTY.replace("square()", "abs()")),
        WrongAnswer("empty rows pay", LOSSES, PENALTY, PENALTY.replace(" * has_words", "")),
        WrongAnswer("not divided by the words", LOSSES, PENALTY, PENALTY.replace(" / word_count(references)", "")),
        WrongAnswer(
            "divided by the captions", LOSSES, PENALTY, PENALTY.replace("word_count(references)", "has_words.sum()")
        ),
        WrongAnswer(
            "square of the sum",
            LOSSES,
            PENALTY,
            "return ((1 - attended) * has_words).sum(-1).square().sum() / word_count(references)",
        ),
    ],
    "hard_attention": [
        WrongAnswer(
            "reads the expectation", HARD, "context = ops.weighted_sum(selected,", "context = ops.weighted_sum(weights,"
        ),
        WrongAnswer(
            "every row samples",
            HARD,
            "context = ops.weighted_sum(selected,",
            "context = ops.weighted_sum(chosen.to(weights.dtype),",
        ),
        WrongAnswer(
            "no gradient of the probability",
            HARD,
            "log_probability = log_weights.gather(-1, location.unsqueeze(-1)).squeeze(-1)",
            "log_probability = log_weights.detach().gather(-1, location.unsqueeze(-1)).squeeze(-1)",
        ),
        WrongAnswer(
            "no gradient of the entropy",
            HARD,
            "-(weights * log_weights.clamp(min=-100)).sum(-1),",
            "-(weights * log_weights.clamp(min=-100)).sum(-1).detach(),",
        ),
        WrongAnswer("ignores relaxed samples", HARD, "if memory.gumbel_softmax is None:", "if True:"),
        WrongAnswer(
            "forgets the window's factor",
            HARD,
            "log_weights = self.add_bias(*self.logits(query, memory, step)).log_softmax(-1)  # [B, Q, L]",
            "log_weights = self.logits(query, memory, step)[0].log_softmax(-1)",
        ),
        WrongAnswer("always the most probable", HARD, LOCATION, "location = log_weights.argmax(-1)"),
        WrongAnswer(
            "sampled from even weights",
            HARD,
            LOCATION,
            LOCATION.replace("log_weights.detach()", "log_weights.detach() * 0"),
        ),
        WrongAnswer(
            "log-probability of the maximum",
            HARD,
            "log_weights.gather(-1, location.unsqueeze(-1)).squeeze(-1)",
            "log_weights.amax(-1)",
        ),
        WrongAnswer(
            "probability without logarithm",
            HARD,
            "log_weights.gather(-1, location.unsqueeze(-1)).squeeze(-1)",
            "weights.gather(-1, location.unsqueeze(-1)).squeeze(-1)",
        ),
        WrongAnswer(
            "expectation has a probability", HARD, "log_probability.masked_fill(expected, 0),", "log_probability,"
        ),
        WrongAnswer("expectation has a location", HARD, "location.masked_fill(expected, -1),", "location,"),
        WrongAnswer(
            "sign of the entropy",
            HARD,
            "-(weights * log_weights.clamp(min=-100)).sum(-1),",
            "(weights * log_weights.clamp(min=-100)).sum(-1),",
        ),
        WrongAnswer("0 times infinity", HARD, "log_weights.clamp(min=-100)", "log_weights"),
    ],
    "reinforce": [
        WrongAnswer(
            "divides by no words", REINFORCE, "words.sum(-1, keepdim=True).clamp(min=1)", "words.sum(-1, keepdim=True)"
        ),
        WrongAnswer("no baseline", REINFORCE, "        return returns - baseline\n", "        return returns\n"),
        WrongAnswer(
            "baseline added", REINFORCE, "        return returns - baseline\n", "        return returns + baseline\n"
        ),
        WrongAnswer("reward of the past", REINFORCE, "returns = _to_go(rewards)", "returns = rewards.cumsum(-1)"),
        WrongAnswer("reward of the word alone", REINFORCE, "returns = _to_go(rewards)", "returns = rewards"),
        WrongAnswer(
            "baseline not spread",
            REINFORCE,
            "return returns - baseline * _to_go(words) / words.sum(-1, keepdim=True).clamp(min=1)",
            "return returns - baseline",
        ),
        WrongAnswer("a sample in its own baseline", REINFORCE, OTHERS, "others = samples.mean(2, keepdim=True)"),
        WrongAnswer(
            "samples of different captions",
            REINFORCE,
            SAMPLES,
            "samples = returns.reshape(len(returns), config.samples, -1, returns.shape[-1]).transpose(1, 2)",
        ),
        WrongAnswer(
            "factors of the average exchanged", REINFORCE, "0.9 * baseline + 0.1 * mean", "0.1 * baseline + 0.9 * mean"
        ),
        WrongAnswer("first baseline from 0", REINFORCE, "        return mean\n", "        return 0.1 * mean\n"),
        WrongAnswer(
            "mean over all captions",
            REINFORCE,
            "mean = rewards[0] / rewards[1]",
            "mean = rewards[0] / rewards[1].clamp(min=2)",
        ),
        WrongAnswer(
            "sign of the loss",
            LOSSES,
            "return -(location_advantages * locations",
            "return (location_advantages * locations",
        ),
        WrongAnswer(
            "loss not divided by the words",
            LOSSES,
            "(location_advantages * locations.log_probability).sum() / word_count(references)",
            "(location_advantages * locations.log_probability).sum()",
        ),
        WrongAnswer(
            "advantage left out of the loss",
            LOSSES,
            "(location_advantages * locations.log_probability).sum()",
            "locations.log_probability.sum()",
        ),
    ],
    "beam": [
        WrongAnswer("no length penalty", SEARCH, RANKS, "ranks = candidates"),
        WrongAnswer("times the length", SEARCH, RANKS, RANKS.replace("candidates / (", "candidates * (")),
        WrongAnswer("finished hypotheses forgotten", SEARCH, FINISHED, "candidates[..., PAD] = -torch.inf"),
        WrongAnswer(
            "finished hypotheses go on",
            SEARCH,
            "log_probabilities.add_(totals.masked_fill(finished, -torch.inf)",
            "log_probabilities.add_(totals",
        ),
        WrongAnswer("unfinished hypotheses may stop", SEARCH, FINISHED, "candidates[..., PAD] = totals"),
        WrongAnswer(
            "the new word alone",
            SEARCH,
            "log_probabilities.add_(totals.masked_fill(finished, -torch.inf).unsqueeze(-1))",
            "log_probabilities.masked_fill(finished.unsqueeze(-1), -torch.inf)",
        ),
        WrongAnswer(
            "word and hypothesis exchanged",
            SEARCH,
            BEST,
            "return best % candidates.shape[-1], parent, " + BEST.split(", ", 2)[2],
        ),
        WrongAnswer(
            "the rank for the log-probability", SEARCH, BEST, BEST.replace("candidates.flatten(1)", "ranks.flatten(1)")
        ),
        WrongAnswer(
            "no competition between hypotheses",
            SEARCH,
            BEST,
            "own, words = candidates.max(-1)\n    return torch.arange(totals.shape[1]).expand_as(words), words, own",
        ),
        WrongAnswer(
            "of all images together",
            SEARCH,
            "best = ranks.flatten(1).topk(totals.shape[1]).indices",
            "best = ranks.flatten().topk(totals.shape[1]).indices.expand(len(totals), -1) % ranks[0].numel()",
        ),
    ],
    "bleu": [
        WrongAnswer(
            "not clipped",
            BLEU,
            MATCHES,
            MATCHES.replace("np.minimum(counts.captions.times, limit)", "counts.captions.times * (limit > 0)"),
        ),
        WrongAnswer("every n-gram once", BLEU, MATCHES, MATCHES.replace("counts.captions.times, limit", "1, limit")),
        WrongAnswer(
            "clipped by the smallest count",
            BLEU,
            "np.lexsort((counts.references.times, key))",
            "np.lexsort((-counts.references.times, key))",
        ),
        WrongAnswer(
            "references of the other images",
            BLEU,
            "    group = np.repeat(np.arange(len(captions)),",
            "    group = np.repeat(np.arange(len(captions))[::-1],",
        ),
        WrongAnswer("arithmetic mean", BLEU, "precisions.prod(-1) ** (1 / n)", "precisions.mean(-1)"),
        WrongAnswer("product without its root", BLEU, "precisions.prod(-1) ** (1 / n)", "precisions.prod(-1)"),
        WrongAnswer("always BLEU-4", BLEU, "precisions.prod(-1) ** (1 / n)", "precisions.prod(-1) ** (1 / 4)"),
        WrongAnswer("no brevity penalty", BLEU, "    if penalty:\n", "    if False:\n"),
        WrongAnswer("a bonus for length", BLEU, BREVITY, "np.exp(1 - (sums[..., 9] + SMALL) / (sums[..., 8] + TINY))"),
        WrongAnswer(
            "penalty for length",
            BLEU,
            BREVITY,
            "np.exp(np.minimum(0, 1 - (sums[..., 8] + SMALL) / (sums[..., 9] + TINY)))",
        ),
    ],
}
