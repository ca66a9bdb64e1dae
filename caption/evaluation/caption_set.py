"""The captions of a split, with everything that metrics read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from caption.data.vocabulary import tokenise
from caption.encoders.grid import FeatureGrid
from caption.evaluation.coco import TokenisedCaptions, tokenise_captions
from caption.evaluation.grounding import GroundingCounts, Instances
from caption.evaluation.ngrams import NGrams, Words, count_ngrams
from caption.evaluation.scene_truth import Verdict, judge
from caption.evaluation.string_accuracy import is_string_set

Need = Literal["attention", "instances", "reference grounding", "scenes", "strings", "java"]


@dataclass
class CaptionSet:
    """One generated caption for each of N images, and their references.

    The other fields may be missing; metrics that need them are then left out.
    """

    captions: Sequence[str]
    references: Sequence[Sequence[str]]
    image_ids: Sequence[int] = ()
    attention: Sequence[NDArray[np.floating]] = ()  # [T, L] for each caption
    grid: FeatureGrid | None = None  # where the L locations lie
    instances: Instances | None = None  # objects of the images
    reference_grounding: Sequence[GroundingCounts] = ()  # of each image's references, under teacher forcing
    training_captions: Sequence[Words] | None = None
    java: bool = False  # whether to run the metrics that need Java

    @cached_property
    def words(self) -> list[list[str]]:
        """The words of each caption."""
        return [caption.split() for caption in self.captions]

    @cached_property
    def reference_words(self) -> list[list[list[str]]]:
        """The words of each reference, as the vocabulary splits them."""
        return [[tokenise(text) for text in texts] for texts in self.references]

    @cached_property
    def tokens(self) -> TokenisedCaptions:
        """References and captions in the tokens of COCO's caption server."""
        return tokenise_captions(self.references, self.captions)

    @cached_property
    def ngrams(self) -> list[NGrams]:
        """The n-grams of `tokens`."""
        return list(count_ngrams(*self.tokens))

    @cached_property
    def grounding(self) -> list[GroundingCounts]:
        """The grounding of each caption. Needs "attention" and "instances"."""
        assert self.instances is not None and self.grid is not None
        arguments = zip(self.words, self.attention, self.image_ids, strict=True)
        return [self.instances.count(*each, self.grid) for each in arguments]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdict on each caption of a drawn scene. Needs "scenes"."""
        assert self.instances is not None
        scenes = map(self.instances.scene, self.image_ids)
        return [judge(words, scene) for words, scene in zip(self.words, scenes, strict=True)]

    @cached_property
    def unseen(self) -> list[bool]:
        """Whether each drawn scene has a combination that is in no training image. Needs "scenes"."""
        assert self.instances is not None
        return [bool(self.instances.coco.imgs[image_id].get("unseen")) for image_id in self.image_ids]

    @property
    def notes(self) -> list[list[str]]:
        """Remarks on each caption for people to read: what is wrong with it, if its scene is known."""
        if not self.has("scenes"):
            return [[] for _ in self.captions]
        pairs = zip(self.verdicts, self.unseen, strict=True)
        return [verdict.notes + ["unseen combination"] * unseen for verdict, unseen in pairs]

    def has(self, need: Need) -> bool:
        """Whether the set has what a metric needs."""
        match need:
            case "attention":
                return bool(self.attention)
            case "instances":
                return self.instances is not None
            case "reference grounding":
                return bool(self.reference_grounding)
            case "scenes":
                return self.instances is not None and self.instances.has_scenes
            case "strings":
                return is_string_set(self.reference_words)
            case "java":
                return self.java
