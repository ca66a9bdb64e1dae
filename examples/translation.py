"""Attention where it was born, in translation: dates as people write them, in words and digits, to ISO 8601.

    python examples/translation.py --output runs/translation [--order bahdanau] [--scores dot general concat none]

Bahdanau et al., 2015: the decoder's previous state s_(t-1) queries the annotations h_i of a bidirectional GRU, and the
recurrence reads the context c_t = sum_i alpha_ti h_i (eq. 5 and 6). Luong et al., 2015: the current state queries them,
after the recurrence, and h~_t = tanh(W_c [c_t; h_t]) writes the character (eq. 5 to 8). Here nothing else differs: both
have the encoder of the former (the latter's goes forward alone), and both decoders are the library's own for captions,
LSTMs. A source of L words, digits and signs is to them an image of L regions; the padding of a batch is masked.

`none` has no attention: one vector, the encoder's last state, is all that the decoder reads of the source, at every
step, as in Cho et al., 2014 (in Sutskever et al., 2014, it is the first state alone). A source is one to three dates,
one after the other, to ask for more than one vector holds.
"""

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # the library beside this folder, without installation

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from caption.attention import Memory
from caption.config import DecoderConfig, SearchConfig
from caption.config.cli import parse, run
from caption.config.validation import check, require
from caption.data.vocabulary import END, PAD, Vocabulary
from caption.decoders import build_decoder
from caption.device import tune
from caption.evaluation.calibration import wilson_interval
from caption.evaluation.table import score_table
from caption.files import locked_folder, write_text
from caption.search import search
from caption.training.losses import cross_entropy
from caption.visualise.figures import save_figure

MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
ONES += "seventeen eighteen nineteen".split()
TENS = dict(zip(range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety".split(), strict=True))
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
ORDINALS |= {"twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"}
FORMATS = (
    "{d}.{m}.{yy:02}", "{dd:02}/{mm:02}/{year}", "{mon} {d}, {year}", "{dd:02}-{mon}-{yy:02}", "{d} {month} {year}",
    "{month} the {nth}, {year}", "{wd} {d} {mon} '{yy:02}", "{weekday} {d} {month} {year}", "{year}, {month} {d}",
    "the {nth} of {month} {year}", "the {ordinal} of {month} {year}", "{weekday} the {ordinal} of {month}, {year}",
    "{month} the {ordinal}, {words}", "{weekday}, {ordinal} {month} {words}",
)  # fmt: skip
SHOWN = ("{weekday} the {ordinal} of {month}, {year}", "{d}.{m}.{yy:02}")  # one after the other, in the figure
FIRST, COUNT = date(1950, 1, 1), 36525  # a century, so that two digits are enough for a year
MOST = 3  # dates of a source
Pair = tuple[str, str]  # a source, such as "4.3.87 then may 1, 2001", and its translation "1987-03-04/2001-05-01"


def spell(number: int) -> str:
    """Return a number from 0 to 99 in words."""
    if number < 20:
        return ONES[number]
    return TENS[number // 10 * 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def write_date(day: date, form: str) -> str:
    """Return a date in one of FORMATS; days come before months where both are digits."""
    month, weekday, number = MONTHS[day.month - 1], DAYS[day.weekday()], day.day
    *tens, last = spell(number).split("-")
    ordinal = "-".join([*tens, ORDINALS.get(last, f"{last}th")])
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    century, year = divmod(day.year, 100)
    words = f"{spell(century)} {spell(year)}"
    if year < 10:
        words = "two thousand" + (f" and {spell(year)}" if year else "")
    return form.format(
        d=number, dd=number, m=day.month, mm=day.month, yy=year, year=day.year, words=words, nth=f"{number}{ending}",
        ordinal=ordinal, month=month, mon=month[:3], weekday=weekday, wd=weekday[:3],
    )  # fmt: skip


def tokenise(text: str) -> list[str]:
    """Return the words, digits and signs of a text, one by one."""
    return re.findall(r"[a-z]+|\d|[^\w\s]", text)


def read_vocabulary(dates: list[date]) -> Vocabulary:
    """Return the vocabulary of dates in all formats and in ISO 8601, for both sides."""
    texts = (write_date(day, form) for day in dates for form in (*FORMATS, "{year}-{mm:02}/{dd:02} then"))
    return Vocabulary.from_counts(Counter(word for text in texts for word in tokenise(text)))


def write_pair(dates: list[date], count: int, rng: random.Random) -> Pair:
    """Return so many random dates in random formats, and in ISO 8601."""
    days = rng.choices(dates, k=count)
    return " then ".join(write_date(day, rng.choice(FORMATS)) for day in days), "/".join(map(date.isoformat, days))


def split_dates(seed: int, test: int) -> tuple[list[date], list[date]]:
    """Return the dates of a century in two disjoint lists, in random order: to train on, and `test` to test on."""
    dates = [FIRST + timedelta(n) for n in range(COUNT)]
    random.Random(seed).shuffle(dates)
    return dates[test:], dates[:test]


class Translator(nn.Module):
    """A GRU encoder, and a decoder of captions for its annotations."""

    def __init__(self, order: str, score: str, hidden: int, vocabulary: Vocabulary) -> None:
        """`score` is one of the library's, or none: the decoder attends to one vector alone."""
        super().__init__()
        self.attends, self.vocabulary = score != "none", vocabulary
        self.embedding = nn.Embedding(len(vocabulary), hidden // 2, padding_idx=PAD)
        self.encoder = nn.GRU(hidden // 2, hidden // 2, batch_first=True, bidirectional=True)  # D = H
        config = DecoderConfig(
            {"bahdanau": "show_attend_tell", "luong": "luong"}[order], hidden // 2, hidden, hidden,
            score if self.attends else "dot", state_dropout=0.0, dropout=0.0,
        )  # fmt: skip
        self.decoder = build_decoder(config, hidden, (1, 1), len(vocabulary))

    def encode(self, sources: list[str]) -> Memory:
        """Return what the decoder reads of B sources, each of at most L tokens."""
        padded = self.pad([tokenise(source) for source in sources])  # [B, L]
        mask = padded != PAD
        packed = pack_padded_sequence(self.embedding(padded), mask.sum(1), batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)  # last: [2, B, D / 2]
        annotations, _ = pad_packed_sequence(states, batch_first=True)  # h_i, [B, L, D]
        if self.attends:
            return self.decoder.prepare(annotations, mask)
        return self.decoder.prepare(last.transpose(0, 1).flatten(1).unsqueeze(1))  # [B, 1, D]

    def translate(self, sources: list[str], beam_size: int = 1) -> list[tuple[str, Tensor]]:
        """Return the best translation of each source, and the weights of its steps over the source's tokens [T, L]."""
        found = search(self.decoder, self.encode(sources), SearchConfig(beam_size, max_length=11 * MOST))
        return [("".join(self.vocabulary.decode(best.words)), best.weights) for best, *_ in found]

    def pad(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Return the tokens of texts [B, L], each followed by <end> and padding."""
        tokens = [torch.tensor([*self.vocabulary.encode(text), END]) for text in texts]
        return pad_sequence(tokens, batch_first=True, padding_value=PAD)


def train(model: Translator, dates: list[date], steps: int, batch_size: int, rate: float, seed: int) -> None:
    """Train by teacher forcing: one date in the first fifth of the steps, up to two in the second, then up to MOST."""
    generator = random.Random(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for step in range(steps):
        most = min(MOST, 1 + 5 * step // steps)  # short ones first: they are quicker, and show where to attend
        counts = sorted(generator.choices(range(1, most + 1), k=batch_size), reverse=True)  # the longest come first
        sources, targets = zip(*(write_pair(dates, count, generator) for count in counts), strict=True)
        captions = model.pad(targets).unsqueeze(1)  # [B, 1, T], one row for each source
        lengths = (captions != PAD).sum(-1)  # [B, 1]
        output = model.decoder(model.encode(list(sources)), captions, lengths, need_weights=False)
        loss: Any = cross_entropy(output)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def draw(models: dict[str, Translator], source: str, path: Path) -> None:
    """Draw the weights of each model over the tokens of a source, one row for each character that it writes."""
    tokens = [*tokenise(source), "end"]
    figure = Figure(figsize=(0.8 + 4 * len(models), 5), layout="constrained")
    axes = figure.subplots(1, len(models), squeeze=False)[0]
    for ax, (name, model) in zip(axes, models.items(), strict=True):
        written, weights = model.translate([source])[0]
        ax.imshow(weights[: len(written)], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=11)
        ax.set_yticks(range(len(written)), list(written), fontsize=11)
        ax.set_xticks([n + 0.5 for n in range(len(tokens) - 1)], minor=True)
        ax.set_yticks([n + 0.5 for n in range(len(written) - 1)], minor=True)
        ax.grid(which="minor", color="0.9", linewidth=0.5)
        ax.tick_params(which="both", length=0, labeltop=True, labelbottom=False)
        ax.set_xlabel(name, fontsize=13)
    save_figure(figure, path)


@dataclass(frozen=True)
class TranslationConfig:
    """Learn to write dates in ISO 8601, one model for each score, and draw where they attend."""

    order: Literal["bahdanau", "luong"] = "luong"
    """When attention is queried: by the previous state, before the recurrence, or by the current one, after it."""
    scores: tuple[str, ...] = ("dot", "general", "concat", "none")
    """Scores of caption/attention/scores.py; none: no attention."""
    hidden_dim: Annotated[int, "at least 1"] = 64
    """H, and D of both directions together."""
    steps: Annotated[int, "at least 1"] = 2400
    """Steps of training, of each model."""
    batch_size: Annotated[int, "at least 1"] = 64
    """Sources in a step of training."""
    learning_rate: Annotated[float, "positive"] = 3e-3
    """Peak learning rate of Adam, which falls linearly to a hundredth."""
    test_dates: Annotated[int, "at least 1"] = 2000
    """Dates that training does not see, in any format; as many sources of them test."""
    output: str = "runs/translation"
    """Folder of translation.png and exact_match.json."""
    seed: Annotated[int, "a seed, in [0, 2**32)"] = 1
    """Seed of the dates, the weights and the batches."""

    def __post_init__(self) -> None:
        check(self)
        require(len(self.scores) > 0, "scores", "empty", "one or several scores")
        require(self.hidden_dim % 2 == 0, "hidden_dim", self.hidden_dim, "even: half is of each direction")
        require(self.test_dates < COUNT, "test_dates", self.test_dates, f"below {COUNT}, the days of a century")


def main(arguments: list[str]) -> None:
    args = parse(TranslationConfig, arguments, "translation.py")
    tune(torch.device("cpu"))
    torch.set_num_threads(1)  # the products are so small that a second thread takes more time than it saves
    known, unknown = split_dates(args.seed, args.test_dates)
    vocabulary, rng = read_vocabulary(known[:2000]), random.Random(args.seed)
    tests = {count: [write_pair(unknown, count, rng) for _ in unknown] for count in range(1, MOST + 1)}
    models, exact, bounds = {}, {}, {}
    for score in args.scores:  # all, so that an unknown one is refused before the first is trained
        torch.manual_seed(args.seed)
        models[score] = Translator(args.order, score, args.hidden_dim, vocabulary)
    with locked_folder(Path(args.output)):
        for score, model in models.items():
            start = time.perf_counter()
            train(model, known, args.steps, args.batch_size, args.learning_rate, args.seed)
            model.eval()
            print(f"{args.order}, {score}: trained in {time.perf_counter() - start:.0f} s", flush=True)
            for count, pairs in tests.items():
                written = model.translate([source for source, _ in pairs])
                hits = sum(text == wanted for (text, _), (_, wanted) in zip(written, pairs, strict=True))
                name = f"{score}, {count} date{'s' * (count > 1)}"
                exact[name], (low, high) = 100 * hits / len(pairs), wilson_interval(hits, len(pairs))
                bounds[name] = 100 * low, 100 * high
        print(score_table(exact, bounds))
        write_text(Path(args.output, "exact_match.json"), json.dumps(exact, indent=2) + "\n")
        if attending := {score: model for score, model in models.items() if model.attends}:
            shown = " then ".join(write_date(day, form) for day, form in zip(unknown, SHOWN, strict=False))
            draw(attending, shown, Path(args.output, "translation.png"))


if __name__ == "__main__":
    run(main)
