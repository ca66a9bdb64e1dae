"""METRICS declares every score of captions, for training, evaluate.py, its --compare and the report page alike.

To add one, write its function in a file of this package and add one line to METRICS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from caption.errors import UserError
from caption.evaluation.bleu import bleu
from caption.evaluation.bootstrap import Score
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.chair import chair
from caption.evaluation.cider import cider_d
from caption.evaluation.coco import TokenisedCaptions
from caption.evaluation.diversity import diversity
from caption.evaluation.gates import gate_scores
from caption.evaluation.grounding import attended_regions, attention_entropy, grounding_scores
from caption.evaluation.meteor_spice import Unavailable, meteor, spice
from caption.evaluation.rouge import rouge_l
from caption.evaluation.scene_truth import truth_scores
from caption.evaluation.string_accuracy import string_accuracy


@dataclass(frozen=True)
class Metric:
    """A function of captions that returns scores, or plain values that have no confidence interval."""

    name: str
    compute: Callable[[CaptionSet], Sequence[Score] | Mapping[str, float]]
    needs: str = "captions"  # the attribute of CaptionSet without which it is left out
    validation: bool = False  # also computed after every epoch of training
    sort_by: str = ""  # the score by which the report page can sort


def _truth(c: CaptionSet) -> list[Score]:
    """Score all captions, then those of scenes with and without an unseen combination, if there are both."""
    scores = truth_scores(c.verdicts)
    if len(set(c.unseen)) == 2:
        for suffix, wanted in ((", seen", False), (", unseen", True)):
            subset = truth_scores(c.verdicts, [unseen == wanted for unseen in c.unseen])
            scores += [score._replace(name=score.name + suffix) for score in subset]
    return scores


def _english(c: CaptionSet) -> TokenisedCaptions:
    """Return the tokens for METEOR and SPICE. Raises Unavailable where words are not made for English: the stems,
    synonyms and weights of METEOR's program, and the parser of SPICE's, are English whatever the text."""
    if c.word_kind != "ptb":
        raise Unavailable(f"METEOR and SPICE are left out: they know English alone, and words are {c.word_kind}")
    return c.tokens


METRICS = (
    Metric("BLEU", lambda c: bleu(*c.tokens, c.ngrams), validation=True, sort_by="BLEU-4"),
    Metric("ROUGE-L", lambda c: [rouge_l(*c.tokens)], validation=True, sort_by="ROUGE-L"),
    Metric("CIDEr-D", lambda c: [cider_d(*c.tokens, c.ngrams)], validation=True, sort_by="CIDEr-D"),
    Metric("METEOR", lambda c: [meteor(*_english(c))], "java", sort_by="METEOR"),
    Metric("SPICE", lambda c: [spice(*_english(c))], "java", sort_by="SPICE"),
    Metric("strings", lambda c: string_accuracy(c.words, c.strings), "strings"),
    Metric("CHAIR", lambda c: chair(c.object_mentions), "object_mentions"),
    Metric("attention", lambda c: [attention_entropy(c.attention), attended_regions(c.attention)], "attention"),
    Metric("grounding", lambda c: grounding_scores(c.grounding), "grounding"),
    Metric(
        "reference grounding",
        lambda c: grounding_scores(c.reference_grounding, suffix=", references"),
        "reference_grounding",
    ),
    Metric("gates", lambda c: gate_scores(c.words, c.gates, c.word_kinds), "gates"),
    Metric("truth", _truth, "verdicts"),
    Metric("diversity", lambda c: diversity(c.words, c.training_captions, c.word_kind == "ptb")),
)

VALIDATION = tuple(metric.name for metric in METRICS if metric.validation)
# CIDEr-D first, by which the report page is sorted when it opens.
SORTS = sorted((metric.sort_by for metric in METRICS if metric.sort_by), key=lambda name: name != "CIDEr-D")


class Evaluation(NamedTuple):
    """The scores of a set of captions."""

    scores: list[Score]  # with intervals, and comparable between two models
    statistics: dict[str, float]  # plain values of all captions together
    missing: list[str]  # why a metric could not be computed, and what to install

    @property
    def values(self) -> dict[str, float]:
        """The value of every score by its name."""
        return {score.name: score.value for score in self.scores} | self.statistics


def score_captions(captions: CaptionSet, names: Sequence[str] | None = None) -> Evaluation:
    """Compute the named metrics, or else all for which `captions` has what they need.

    Raises UserError for an unknown name.
    """
    metrics = {metric.name: metric for metric in METRICS}
    if unknown := [name for name in names or () if name not in metrics]:
        raise UserError(f"unknown metric {unknown[0]!r}; known: {', '.join(metrics)}")
    evaluation = Evaluation([], {}, [])
    for metric in [metrics[name] for name in (metrics if names is None else names)]:
        if not getattr(captions, metric.needs):
            continue
        try:
            result = metric.compute(captions)
        except Unavailable as error:
            if str(error) not in evaluation.missing:  # METEOR and SPICE need the same programs
                evaluation.missing.append(str(error))
            continue
        if isinstance(result, Mapping):
            evaluation.statistics.update(result)
        else:
            evaluation.scores.extend(result)
    return evaluation
