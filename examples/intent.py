"""Attention that reads one sentence: which words say what is wanted.

    python examples/intent.py --output runs/intent

Lin et al., 2017, "A structured self-attentive sentence embedding": r hops, each a learnt query, weigh the words of a
sentence, A = softmax(scores), and the sentence is M = A H, r vectors for a linear layer (their eq. 6 and 7). The scores
are the library's: by default Vaswani et al.'s, (W_q q) . (W_k h_i) / sqrt(A). H are embeddings of the words alone,
without an LSTM around them, so that a weight is that of a word. Hops are the library's rows Q, and padding is masked.

`intents.json` has the sentences, made from templates. Neither the templates nor the words that fill them in the test
are those of training; words never seen there are one and the same unknown word.
"""

import json
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # the library beside this folder, without installation

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from caption.attention import build_attention
from caption.config import DecoderConfig
from caption.config.cli import parse, run
from caption.config.validation import check
from caption.data.vocabulary import PAD, UNKNOWN, Vocabulary
from caption.device import tune
from caption.evaluation.bootstrap import Score, compare, intervals, mean_score
from caption.evaluation.table import comparison_table, score_table
from caption.files import locked_folder, write_text
from caption.visualise.figures import save_figure

DATA = json.loads(Path(__file__).with_name("intents.json").read_text())
INTENTS = list(DATA["intents"])
Split = Literal["train", "test"]
Example = tuple[list[str], int]  # words, and the number of the intent


def write_sentence(template: str, split: Split, rng: random.Random) -> list[str]:
    """Return the words of a template, each slot filled by one of the split's choices."""
    choices = {slot: rng.choice(words[split]) for slot, words in DATA["slots"].items()}
    return "{opening} {} {closing}".format(template.format(**choices), **choices).split()


def write_examples(split: Split, fillings: int, seed: int) -> list[Example]:
    """Return so many sentences of each template of the split, one template after the other."""
    rng = random.Random(seed)
    templates = [(template, n) for n, intent in enumerate(INTENTS) for template in DATA["intents"][intent][split]]
    return [(write_sentence(template, split, rng), n) for template, n in templates for _ in range(fillings)]


class Classifier(nn.Module):
    """Embeddings of words, weighed by r hops, and a linear layer over the r sums."""

    def __init__(self, words: int, width: int, hops: int, score: str, even: bool) -> None:
        """With `even`, every word of a sentence has the same weight, whatever the hops: a bag of embeddings."""
        super().__init__()
        self.even = even
        self.embedding = nn.Embedding(words, width, padding_idx=PAD)
        self.hops = nn.Parameter(torch.randn(hops, width))
        config = DecoderConfig(hidden_dim=width, attention_dim=width, score=score)
        self.attention = build_attention(config, width, (1, 1))
        self.output = nn.Linear(hops * width, len(INTENTS))

    def forward(self, words: Tensor, even: bool = False) -> tuple[Tensor, Tensor]:
        """Return logits [B, intents] and weights [B, r, L] of words [B, L]; with `even`, of even weights."""
        memory = self.attention.prepare(self.embedding(words), words != PAD)
        if even or self.even:
            memory = memory._replace(forced=torch.full((len(words), 1, 1, 1, words.shape[1]), 1 / words.shape[1]))
        attended = self.attention(self.hops.expand(len(words), -1, -1), memory)  # M = A H, [B, r, E]
        return self.output(attended.context.flatten(1)), attended.weights


def pad(sentences: list[list[str]], vocabulary: Vocabulary) -> Tensor:
    """Return the words of sentences, padded at their ends [B, L]."""
    return pad_sequence([torch.tensor(vocabulary.encode(words)) for words in sentences], True, PAD)


def train(model: Classifier, examples: list[Example], vocabulary: Vocabulary, args: "IntentConfig", seed: int) -> None:
    """Train with words dropped at random, so that an unknown word has an embedding that says nothing."""
    rng = random.Random(seed)
    optimizer = torch.optim.Adam(model.parameters(), args.learning_rate, fused=True)
    for _ in range(args.steps):
        sentences, intents = zip(*rng.choices(examples, k=args.batch_size), strict=True)
        words = pad(list(sentences), vocabulary)
        words = words.masked_fill((torch.rand(words.shape) < args.word_dropout) & (words != PAD), UNKNOWN)
        loss: Any = nn.functional.cross_entropy(model(words)[0], torch.tensor(intents))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def draw(models: list[Classifier], examples: list[Example], vocabulary: Vocabulary, path: Path) -> None:
    """Draw sentences with each word shaded by its weight, mean over the models and hops, and the models' vote."""
    figure = Figure(figsize=(9.4, 0.33 * len(examples) + 0.6))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-12, 9.4 * 72 / 6.02 - 12), ylim=(len(examples) + 0.6, -1.2))
    ax.set_axis_off()  # a unit of x is the width of a character, 6.02 points
    found = [model(pad([words for words, _ in examples], vocabulary)) for model in models]
    weights = torch.stack([weights for _, weights in found]).mean((0, 2))  # [B, L]
    votes = torch.stack([logits.softmax(-1) for logits, _ in found]).mean(0).argmax(-1).tolist()
    for row, ((words, intent), weight, vote) in enumerate(zip(examples, weights.tolist(), votes, strict=True)):
        if row == 0 or examples[row - 1][1] != intent:
            ax.text(-1.5, row, INTENTS[intent], ha="right", va="center", weight="bold", fontsize=11)
            ax.axhline(row - 0.5, color="0.85", linewidth=0.8)
        column = 0.0
        for word, shade in zip(words, weight, strict=False):
            known = vocabulary.encode([word])[0] != UNKNOWN
            ax.text(
                column, row, word, va="center", family="monospace", fontsize=10, style="normal" if known else "italic",
                color="white" if shade > 0.6 else "black",
                bbox={"facecolor": colormaps["Blues"](shade), "edgecolor": "none", "boxstyle": "square,pad=0.2"},
            )  # fmt: skip
            column += len(word) + 1.2
        if vote != intent:
            ax.text(99, row, f"taken for {INTENTS[vote]}", ha="right", va="center", color="#b2182b", fontsize=10)
    note = "the darker, the more weight; italic: a word that training never saw"
    ax.text(0, len(examples) + 0.1, note, va="center", fontsize=9, color="0.4")
    save_figure(figure, path)


@dataclass(frozen=True)
class IntentConfig:
    """Learn which of eight things a sentence asks for, with attention and without it, and draw the weights of words."""

    score: str = "scaled_dot"
    """One of caption/attention/scores.py."""
    hops: Annotated[int, "at least 1"] = 1
    """r, weightings of a sentence."""
    width: Annotated[int, "at least 1"] = 32
    """E, width of an embedding."""
    word_dropout: Annotated[float, "in [0, 1)"] = 0.3
    """Fraction of words that training replaces by the unknown word: the fraction of such words in the test."""
    steps: Annotated[int, "at least 1"] = 300
    """Steps of training."""
    batch_size: Annotated[int, "at least 1"] = 64
    """Sentences in a step of training."""
    learning_rate: Annotated[float, "positive"] = 5e-3
    """Learning rate of Adam."""
    runs: Annotated[int, "at least 1"] = 5
    """Trainings of each model, from different random weights; accuracies are their mean."""
    output: str = "runs/intent"
    """Folder of intent.png and accuracy.json."""
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of the sentences and of the first training; each further training has the next."""

    def __post_init__(self) -> None:
        check(self)


FILLINGS = {"train": 50, "test": 25}  # sentences of a template
COLUMNS = {
    "attention": (False, False),
    "attention with even weights": (False, True),
    "trained with even weights": (True, False),
}


def accuracy(models: list[Classifier], examples: list[Example], vocabulary: Vocabulary, even: bool) -> Score:
    """Return the accuracy of the mean model; its unit is a template, since sentences of one are hardly independent."""
    words, intents = pad([words for words, _ in examples], vocabulary), torch.tensor([n for _, n in examples])
    hits = torch.stack([(model(words, even)[0].argmax(-1) == intents).float() for model in models]).mean(0)
    return mean_score("accuracy", hits.view(-1, FILLINGS["test"]).mean(1).tolist())


def main(arguments: list[str]) -> None:
    args = parse(IntentConfig, arguments, "intent.py")
    tune(torch.device("cpu"))
    examples, tests = (write_examples(split, FILLINGS[split], args.seed) for split in ("train", "test"))
    vocabulary = Vocabulary.from_counts(Counter(word for words, _ in examples for word in words), word_kind="unicode")
    unknown = [word not in vocabulary.word_to_index for words, _ in tests for word in words]
    print(f"{len(examples)} sentences to train on, {len(vocabulary)} words; {len(tests)} sentences to test")
    print(f"of the test's words, {100 * sum(unknown) / len(unknown):.0f} % are unknown")
    models: dict[bool, list[Classifier]] = {False: [], True: []}
    with locked_folder(Path(args.output)):
        for seed in range(args.seed, args.seed + args.runs):
            for even, trained in models.items():
                torch.manual_seed(seed)
                model = Classifier(len(vocabulary), args.width, args.hops, args.score, even)
                train(model, examples, vocabulary, args, seed)
                trained.append(model.eval())
        with torch.no_grad():
            scores = {
                name: accuracy(models[trained_even], tests, vocabulary, even)
                for name, (trained_even, even) in COLUMNS.items()
            }
            shown = tests[:: 2 * FILLINGS["test"]]  # the first of every other template
            draw(models[False], shown, vocabulary, Path(args.output, "intent.png"))
        values = {name: score.value for name, score in scores.items()}
        print(score_table(values, dict(zip(values, intervals(list(scores.values())), strict=True))))
        for name in list(COLUMNS)[1:]:
            print(f"A: attention, B: {name}")
            print(comparison_table(compare([scores["attention"]], [scores[name]])))
        write_text(Path(args.output, "accuracy.json"), json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
