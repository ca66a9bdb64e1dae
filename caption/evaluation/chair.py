"""CHAIR: how many of the objects that captions name are not in the image (Rohrbach et al., 2018, *Object Hallucination
in Image Captioning*)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from caption.evaluation.bootstrap import Score, mean_score
from caption.evaluation.grounding import Instances
from caption.evaluation.ngrams import Words


class ObjectMentions(NamedTuple):
    """The object names in a caption."""

    hallucinated: int  # those of categories that neither the instances nor the references of its image have
    named: int  # all of them


def count_mentions(instances: Instances, words: Words, references: Iterable[Words], image_id: int) -> ObjectMentions:
    """Hold the object names in a caption against the annotated objects of its image and those that references name."""
    present = instances.categories(image_id)
    present |= {category for reference in references for _, _, category in instances.named(reference)}
    named = [category for _, _, category in instances.named(words)]
    return ObjectMentions(sum(category not in present for category in named), len(named))


def chair(mentions: Sequence[ObjectMentions]) -> list[Score]:
    """Return CHAIRi, the percentage of object names that are hallucinated, and CHAIRs, that of captions with one."""
    table = np.array(mentions, np.float64)
    return [Score("CHAIRi", table), mean_score("CHAIRs", (table[:, 0] > 0).astype(np.float64))]
