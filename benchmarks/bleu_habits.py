"""BLEU of one model's captions under the habits met in captioning code, each changed alone.

    python -m benchmarks.bleu_habits [--checkpoint pretrained/flickr8k] [--data data/flickr8k-260.h5] [--split val]

The first row is this project's BLEU: beam search, the corpus's BLEU with brevity penalty, PTB tokens, all references.
The captions of the other rows are by the same model on the same images, but for the row on training images. Intervals
are 95 % bootstrap intervals over the images, those of differences paired; a dash: the habit's function gives a number
of the whole corpus alone, or its images are others. docs/bleu.md says where each habit is met.
"""

import argparse
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu

from benchmarks import measure
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.config.cli import run
from caption.data.dataset import CaptionDataset, build_loader
from caption.data.sampler import sequential_batches
from caption.data.vocabulary import END, SPECIALS, START
from caption.decoders.packing import unpack
from caption.device import autocast, choose_device, choose_precision, to_device
from caption.errors import UserError
from caption.evaluation.bleu import bleu
from caption.evaluation.bootstrap import Interval, Score, difference_intervals, intervals, mean_score
from caption.evaluation.coco import TokenisedCaptions, tokenise_captions
from caption.evaluation.generate import generate
from caption.evaluation.ngrams import Words, count_ngrams
from caption.evaluation.results import describe_search
from caption.evaluation.signature import signature
from caption.evaluation.subject import open_model

BATCH = 32  # images of a batch, in the mean of batches too
WEIGHTS = [(1.0,), (1 / 2,) * 2, (1 / 3,) * 3, (1 / 4,) * 4]  # of BLEU-1 to 4
ROUNDED = [(1.0, 0, 0, 0), (0.5, 0.5, 0, 0), (0.3, 0.3, 0.3, 0), (0.25,) * 4]  # of a tutorial; the third sum to 0.9
START_WORD, END_WORD = SPECIALS[START], SPECIALS[END]
Scores = Sequence[Score] | Sequence[float]  # BLEU-1 to 4 in percent; numbers where there is nothing to resample


class Search(NamedTuple):
    """The captions of one search on all images."""

    best: list[Words]  # each caption
    beams: list[list[Words]]  # all that the search found, the best first


@dataclasses.dataclass
class Study:
    """The captions that one model writes for N images, and their references."""

    captioner: Captioner
    references: list[list[str]]
    searches: dict[str, Search]
    forced: list[list[Words]]  # the most probable word at every place of each reference, <end>'s place included
    own: tuple[list[list[str]], list[Words]]  # references and captions of images of the training split

    def texts(self, captions: Iterable[Words]) -> list[str]:
        return [self.captioner.vocabulary.separator.join(words) for words in captions]

    def tokens(self, search: str = "beam") -> TokenisedCaptions:
        """Return references and captions in this project's tokens."""
        return self.tokenise(self.references, self.searches[search].best)

    def tokenise(self, references: list[list[str]], captions: Sequence[Words]) -> TokenisedCaptions:
        return tokenise_captions(references, self.texts(captions), self.captioner.vocabulary.word_kind)

    def split(self, function: Callable[[str], Words]) -> TokenisedCaptions:
        """Return references and captions in the tokens of another function."""
        captions = self.texts(self.searches["beam"].best)
        return TokenisedCaptions(
            [list(map(function, texts)) for texts in self.references], list(map(function, captions))
        )

    def known(self, references: list[list[str]]) -> list[list[Words]]:
        """Return the references as the vocabulary has them, <unknown> for the words that it lacks."""
        vocabulary = self.captioner.vocabulary
        return [[vocabulary.decode(vocabulary.encode(vocabulary.tokenise(t))) for t in texts] for texts in references]


def corpus(tokens: TokenisedCaptions) -> list[Score]:
    """Return BLEU-1 to 4 of a corpus, with the brevity penalty."""
    return bleu(*tokens, list(count_ngrams(*tokens)))[:4]


def without_penalty(tokens: TokenisedCaptions) -> list[Score]:
    return bleu(*tokens, list(count_ngrams(*tokens)))[4:8]


def change(tokens: TokenisedCaptions, function: Callable[[Words], Words]) -> TokenisedCaptions:
    """Return the tokens after a function of each text's."""
    return TokenisedCaptions([[function(t) for t in texts] for texts in tokens.references], [*map(function, tokens[1])])


def sentences(tokens: TokenisedCaptions, smoothing: str) -> list[Score]:
    """Return the mean over captions of NLTK's BLEU of a sentence."""
    smooth = getattr(SmoothingFunction(), smoothing)
    pairs = zip(*tokens, strict=True)
    values = np.array([sentence_bleu(*pair, weights=WEIGHTS, smoothing_function=smooth) for pair in pairs])  # [N, 4]
    return [mean_score(f"BLEU-{n}", values[:, n - 1]) for n in (1, 2, 3, 4)]


def whole(
    tokens: TokenisedCaptions, smoothing: str = "method0", weights: Sequence[Sequence[float]] = WEIGHTS
) -> list[float]:
    """Return NLTK's BLEU of a corpus."""
    smooth = getattr(SmoothingFunction(), smoothing)
    return [100 * value for value in corpus_bleu(*tokens, weights=list(weights), smoothing_function=smooth)]


def batches(tokens: TokenisedCaptions) -> list[float]:
    """Return the mean of the corpus BLEU of batches."""
    firsts = range(0, len(tokens.captions), BATCH)
    return [
        float(np.mean([score.formula(score.statistics[first : first + BATCH].sum(0)) for first in firsts]))
        for score in corpus(tokens)
    ]


def teacher_forced(study: Study, end: bool = False) -> list[Score]:
    """Return the corpus BLEU of what is written after each reference's own words, as many words as it has. An image's
    hypotheses, one for each of its references, stay together when images are sampled. With `end`, in the words of the
    vocabulary, <end> and <unknown> among them; without, in this project's tokens."""
    owner = np.repeat(np.arange(len(study.forced)), [len(rows) for rows in study.forced])
    texts = [study.references[image] for image in owner]
    rows = [row for rows in study.forced for row in rows]
    if end:
        ended: list[list[Words]] = [[[*words, END_WORD] for words in texts] for texts in study.known(texts)]
        scores = corpus(TokenisedCaptions(ended, rows))
    else:
        scores = corpus(study.tokenise(texts, [[word for word in row[:-1] if word != END_WORD] for row in rows]))
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    table = np.add.reduceat(scores[0].statistics, firsts)  # [N, 10], of images
    return [score._replace(statistics=table) for score in scores]


def oracle(study: Study) -> list[Score]:
    """Return the corpus BLEU of the beam that NLTK's smoothed BLEU of a sentence finds the best."""
    smooth, tokens = SmoothingFunction().method1, study.tokens()
    best = []
    for texts, beams in zip(tokens.references, study.searches["beam"].beams, strict=True):
        candidates = study.tokenise([[] for _ in beams], beams).captions
        best.append(max(candidates, key=lambda words: sentence_bleu(texts, words, smoothing_function=smooth)))
    return corpus(tokens._replace(captions=best))


def unknown_matches(study: Study) -> list[Score]:
    """Return the corpus BLEU in the words of the vocabulary, with <unknown> for all that it lacks, which a caption
    may write too."""
    return corpus(TokenisedCaptions(study.known(study.references), study.searches["<unknown> allowed"].best))


class Habit(NamedTuple):
    """A way to compute BLEU."""

    name: str
    scores: Callable[[Study], Scores]
    paired: bool = True  # of the same images as the first row


nltk_words = NLTKWordTokenizer().tokenize

HABITS = (
    Habit("this project", lambda s: corpus(s.tokens())),
    Habit("teacher forcing, argmax, the reference's length", teacher_forced),
    Habit("  also vocabulary's words, <unknown>, <end> counted", lambda s: teacher_forced(s, end=True)),
    Habit("greedy search", lambda s: corpus(s.tokens("greedy"))),
    Habit("beams ranked without length penalty", lambda s: corpus(s.tokens("no length penalty"))),
    Habit("oracle: the best of all beams", oracle),
    Habit("no brevity penalty", lambda s: without_penalty(s.tokens())),
    Habit(f"mean of batches of {BATCH}", lambda s: batches(s.tokens())),
    Habit("mean of sentences", lambda s: sentences(s.tokens(), "method0")),
    Habit("mean of sentences, smoothing 1", lambda s: sentences(s.tokens(), "method1")),
    Habit("mean of sentences, smoothing 2", lambda s: sentences(s.tokens(), "method2")),
    Habit("mean of sentences, smoothing 4", lambda s: sentences(s.tokens(), "method4")),
    Habit("mean of sentences, smoothing 7", lambda s: sentences(s.tokens(), "method7")),
    Habit("corpus by NLTK", lambda s: whole(s.tokens())),
    Habit("corpus by NLTK, smoothing 1", lambda s: whole(s.tokens(), "method1")),
    Habit("corpus by NLTK, smoothing 4", lambda s: whole(s.tokens(), "method4")),
    Habit("corpus by NLTK, smoothing 7", lambda s: whole(s.tokens(), "method7")),
    Habit("corpus by NLTK, weights .3, .3, .3 for BLEU-3", lambda s: whole(s.tokens(), weights=ROUNDED)),
    Habit("one reference, the first", lambda s: corpus(s.tokens()._replace(references=[t[:1] for t in s.tokens()[0]]))),
    Habit("words of the vocabulary", lambda s: corpus(s.split(s.captioner.vocabulary.tokenise))),
    Habit("split at spaces", lambda s: corpus(s.split(str.split))),
    Habit("split at spaces, lower case", lambda s: corpus(s.split(lambda text: text.lower().split()))),
    Habit("NLTK's word tokens", lambda s: corpus(s.split(nltk_words))),
    Habit("NLTK's word tokens, lower case", lambda s: corpus(s.split(lambda text: nltk_words(text.lower())))),
    Habit("characters", lambda s: corpus(s.split(list))),
    Habit("words of one letter dropped", lambda s: corpus(change(s.tokens(), lambda t: [w for w in t if len(w) > 1]))),
    Habit("<end> counted", lambda s: corpus(change(s.tokens(), lambda t: [*t, END_WORD]))),
    Habit("<start> and <end> counted", lambda s: corpus(change(s.tokens(), lambda t: [START_WORD, *t, END_WORD]))),
    Habit("<unknown> counted as a match", unknown_matches),
    Habit("images of the training split", lambda s: corpus(s.tokenise(*s.own)), paired=False),
)  # fmt: skip


def write(
    captioner: Captioner,
    data: CaptionDataset,
    indices: Sequence[int],
    config: SearchConfig,
    device: torch.device,
    precision: str,
) -> Search:
    """Return the captions of the images with these indices, in their order."""
    loader = build_loader(data, [[*indices[i : i + BATCH]] for i in range(0, len(indices), BATCH)])
    found = {image: hypotheses for image, hypotheses, _ in generate(captioner, loader, config, device, precision)}
    beams: list[list[Words]] = [[captioner.vocabulary.decode(h.words) for h in found[index]] for index in indices]
    return Search([captions[0] for captions in beams], beams)


@torch.inference_mode()
def force(captioner: Captioner, data: CaptionDataset, device: torch.device, precision: str) -> list[list[Words]]:
    """Return for each caption of each image, the longest first, the most probable word at every place, <end>'s
    included, after the caption's own words before it."""
    words = captioner.vocabulary.words
    found: dict[int, list[Words]] = {}
    for batch in build_loader(data, sequential_batches(len(data), BATCH)):
        captions = to_device(batch.captions, device)
        with autocast(device, precision):
            output = captioner(to_device(batch.images, device), captions, batch.lengths)
        shape = output.weights.shape[:3]  # T is padded where steps are replayed
        table = unpack(output.logits.argmax(-1), output.positions, shape).tolist()
        for index, rows, lengths in zip(batch.indices, table, batch.lengths.tolist(), strict=True):
            pairs = zip(rows, lengths, strict=True)
            found[index] = [[words[word] for word in row[:length]] for row, length in pairs if length]
    return [found[index] for index in range(len(data))]


def table(study: Study, seed: int) -> str:
    """Return the BLEU-1 to 4 of every habit, then their differences from the first row, each with its interval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK's, of sentences without a match
        found = {habit: habit.scores(study) for habit in HABITS}
    first = found[HABITS[0]]
    width = max(len(habit.name) for habit in HABITS) + 2
    heads = [f"{'':{width}}" + "".join(f"{f'BLEU-{n}':>8}{'95 % interval':>17}" for n in (1, 2, 3, 4))]
    values, differences = heads.copy(), [heads[0]]
    for habit, scores in found.items():
        numbers = [score.value if isinstance(score, Score) else score for score in scores]
        own = [score for score in scores if isinstance(score, Score)]
        base = [score for score in first if isinstance(score, Score)]
        spans = intervals(own, seed) if own else []
        values.append(row(habit.name, width, numbers, spans, ""))
        gains = [value - score.value for value, score in zip(numbers, base, strict=True)]
        paired = difference_intervals(base, own, seed) if own and habit.paired else []
        differences.append(row(habit.name, width, gains, paired, "+"))
    return "\n".join([*values, "", "differences from the first row:", *differences[:1], *differences[2:]])


def row(name: str, width: int, values: Sequence[float], spans: Sequence[Interval], sign: str) -> str:
    """Return a line of the table; a dash stands where there are no intervals."""

    def show(value: float, decimals: int) -> str:
        return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"  # 0.0 for -0.0

    cells = [f"{show(low, 1)} to {show(high, 1)}" for low, high in spans] or ["-"] * len(values)
    return f"{name:{width}}" + "".join(f"{show(v, 2):>8}{cell:>17}" for v, cell in zip(values, cells, strict=True))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="pretrained/flickr8k")
    parser.add_argument("--data", default="data/flickr8k-260.h5")
    parser.add_argument("--split", default="val")
    parser.add_argument("--training-images", type=int, default=1000, help="of the last row, sampled by the seed")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--length-penalty", type=float, default=0.7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--seed", type=int, default=1, help="of the intervals and of the training images")
    args = parser.parse_args(arguments)
    if args.training_images < 1:
        raise UserError(f"--training-images is {args.training_images}, but must be 1 or more; leave it out for 1000")
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    captioner = open_model(args.checkpoint, args.data, device)
    data, training = CaptionDataset(args.data, args.split), CaptionDataset(args.data, "train")
    for split in (data, training):
        split.check_captioned("give a data file of captioned images")
    config = SearchConfig(args.beam_size, length_penalty=args.length_penalty)
    searches = {
        "beam": config,
        "greedy": dataclasses.replace(config, beam_size=1),
        "no length penalty": dataclasses.replace(config, length_penalty=0.0),
        "<unknown> allowed": dataclasses.replace(config, suppress_unknown=False),
    }
    captions = {
        name: write(captioner, data, range(len(data)), search, device, precision) for name, search in searches.items()
    }
    count = min(args.training_images, len(training))
    sampled = sorted(np.random.default_rng(args.seed).choice(len(training), count, replace=False).tolist())
    references = training.references()
    own = [references[index] for index in sampled], write(captioner, training, sampled, config, device, precision).best
    study = Study(captioner, data.references(), captions, force(captioner, data, device, precision), own)
    summary = describe_search(dataclasses.asdict(config), precision, args.seed)
    print(measure.machine(device))
    print(f"{args.checkpoint} on {args.data}, {args.split}: {len(data)} images, {summary}; {count} images of train")
    print(table(study, args.seed))
    print("signature:", signature(args.data, args.split, study.references, summary))


if __name__ == "__main__":
    run(main)
