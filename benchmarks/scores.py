"""Seconds to score captions, beside pycocoevalcap.

    python -m benchmarks.scores --data data/flickr8k.h5 [--split train] [--images 5000]
    python -m benchmarks.scores --data data/flickr8k.h5 --split val --captions RUN/captions_val.json

The captions scored are those of a run, or else the images' first references without every fourth word; the
references are all of each image. BLEU-1 to 4, ROUGE-L, CIDEr-D and METEOR by both, to six decimals; the time of both
but for METEOR, in turn, medians of some rounds. And the tokenisation of all these captions: ours, and the Java
program's, with its start.
"""

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from caption.data.dataset import CaptionDataset
from caption.evaluation import ptb
from caption.evaluation.bleu import bleu
from caption.evaluation.cider import cider_d
from caption.evaluation.coco import tokenise_captions
from caption.evaluation.meteor_spice import meteor
from caption.evaluation.ngrams import count_ngrams
from caption.evaluation.rouge import rouge_l


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", help="captions_SPLIT.json of a run")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    split = CaptionDataset(args.data, args.split)
    references = split.references()[: args.images]
    written = [" ".join(word for i, word in enumerate(texts[0].split(), 1) if i % 4) for texts in references]
    if args.captions:
        found = {entry["image_id"]: entry["caption"] for entry in json.loads(Path(args.captions).read_text())}
        written = [found[image_id] for image_id in split.image_ids[: args.images]]
    captions = tokenise_captions(references, written)
    print(f"{len(written)} captions, {sum(map(len, references))} references")
    known = {i: [" ".join(words) for words in several] for i, several in enumerate(captions.references)}
    given = {i: [" ".join(words)] for i, words in enumerate(captions.captions)}

    def ours() -> dict[str, float]:
        ngrams = list(count_ngrams(*captions))
        scores = [*bleu(*captions, ngrams), rouge_l(*captions), cider_d(*captions, ngrams)]
        return {score.name: score.value for score in scores}

    def theirs() -> dict[str, float]:
        bleu = Bleu(4).compute_score(known, given, verbose=0)[0]
        others = {"ROUGE-L": Rouge(), "CIDEr-D": Cider()}
        found = {name: scorer.compute_score(known, given)[0] for name, scorer in others.items()}
        return {name: 100 * value for name, value in [*zip(BLEU, bleu, strict=True), *found.items()]}

    a, b = ours(), theirs()
    a["METEOR"] = meteor(*captions).value
    b["METEOR"] = 100 * Meteor().compute_score(known, given)[0]
    for name, value in b.items():
        print(f"{name:8} ours {a[name]:.6f}, pycocoevalcap's {value:.6f}")
    _table("BLEU, ROUGE-L and CIDEr-D", {"ours": ours, "pycocoevalcap": theirs}, args.rounds)

    texts = [*written, *(text for several in references for text in several)]
    raw = {i: [{"caption": text}] for i, text in enumerate(texts)}

    def fresh() -> list[Any]:
        importlib.reload(ptb)  # with nothing remembered
        return [ptb.tokenise(text) for text in texts]

    tokens, wanted = fresh(), PTBTokenizer().tokenize(raw)
    alike = np.mean([" ".join(words) == wanted[i][0] for i, words in enumerate(tokens)])
    print(f"tokens alike in {alike:.2%} of {len(texts)} captions")
    _table("tokenisation", {"ours": fresh, "PTBTokenizer (Java)": lambda: PTBTokenizer().tokenize(raw)}, args.rounds)


BLEU = [f"BLEU-{n}" for n in (1, 2, 3, 4)]


def _table(what: str, jobs: dict[str, Callable[[], Any]], rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    first = statistics.median(next(iter(seconds.values())))
    print(f"{what}, median of {rounds}:")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"  {name:22}{middle:7.2f} s ({min(times):.2f}-{max(times):.2f})  {middle / first:6.1f} times ours")


if __name__ == "__main__":
    main()
