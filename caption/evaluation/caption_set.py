"""The captions of a split, with everything that metrics read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from caption.data.scenes import word_kinds
from caption.data.words import tokenise
from caption.encoders.grid import FeatureGrid
from caption.evaluation.chair import ObjectMentions, count_mentions
from caption.evaluation.coco import TokenisedCaptions, tokenise_captions
from caption.evaluation.gates import FUNCTION_WORDS
from caption.evaluation.grounding import GroundingCounts, Instances
from caption.evaluation.ngrams import NGrams, Words, count_ngrams
from caption.evaluation.scene_truth import Verdict, judge
from caption.evaluation.string_accuracy import is_string_set


@dataclass
class CaptionSet:
    """One generated caption for each of N images, their references, and what else is known of them."""

    captions: Sequence[str]
    references: Sequence[Sequence[str]]
    word_kind: str = field(default="ptb", kw_only=True)  # of both, one of WORDS
    written: Sequence[Words] | None = field(default=None, kw_only=True)  # words of the captions, if they are known
    image_ids: Sequence[int] = ()
    attention: Sequence[NDArray[np.floating]] = ()  # [T, L] for each caption
    gates: Sequence[NDArray[np.floating]] = ()  # [T] for each caption, of each word how much the image counted
    grid: FeatureGrid | None = None  # where the L locations lie
    instances: Instances | None = None
    reference_grounding: Sequence[GroundingCounts] = ()  # of each image's references, under teacher forcing
    training_captions: Sequence[Words] | None = None
    java: bool = False  # whether to compute the metrics that need Java

    @cached_property
    def words(self) -> Sequence[Words]:
        """The words of each caption, as the model wrote them."""
        if self.written is not None:
            return self.written
        return self.tokens.captions if self.word_kind == "characters" else [text.split() for text in self.captions]

    @cached_property
    def tokens(self) -> TokenisedCaptions:
        """References and captions in the tokens of COCO's caption server, or of the vocabulary (`coco`)."""
        return tokenise_captions(self.references, self.captions, self.word_kind)

    @cached_property
    def ngrams(self) -> list[NGrams]:
        return list(count_ngrams(*self.tokens))

    @cached_property
    def strings(self) -> list[list[str]]:
        """The string in each image, as its reference spells it, or nothing if references are no strings. Where every
        word is a character, nothing tells a string from a sentence."""
        if self.word_kind == "characters":
            return []
        references = [[tokenise(text, self.word_kind) for text in texts] for texts in self.references]
        return [texts[0] for texts in references] if is_string_set(references) else []

    @cached_property
    def grounding(self) -> list[GroundingCounts]:
        """The grounding of each caption, or nothing without attention or instances."""
        if not self.attention or self.instances is None or self.grid is None:
            return []
        arguments = zip(self.words, self.attention, self.image_ids, strict=True)
        return [self.instances.count(*caption, self.grid) for caption in arguments]

    @cached_property
    def object_mentions(self) -> list[ObjectMentions]:
        """The object names in each caption, or nothing without instances."""
        if self.instances is None:
            return []
        rows = zip(self.words, self.references, self.image_ids, strict=True)
        return [count_mentions(self.instances, words, map(tokenise, texts), image) for words, texts, image in rows]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdict on each caption, or nothing if the images' scenes are unknown."""
        if self.instances is None or not self.instances.has_scenes:
            return []
        scenes = map(self.instances.scene, self.image_ids)
        return [judge(words, scene) for words, scene in zip(self.words, scenes, strict=True)]

    @property
    def word_kinds(self) -> dict[str, str]:
        """The kind of a word, as far as it is known: function words of English, and what captions of scenes speak
        of."""
        english = dict.fromkeys(FUNCTION_WORDS, "function words") if self.word_kind == "ptb" else {}
        return english | (word_kinds() if self.instances and self.instances.has_scenes else {})

    @property
    def unseen(self) -> list[bool]:
        """For each scene, whether it has a combination that no training image has."""
        images = self.instances.coco.imgs if self.instances else {}
        return [bool(images.get(image_id, {}).get("unseen")) for image_id in self.image_ids]

    @property
    def notes(self) -> list[list[str]]:
        """For people: what is wrong with each caption, if the scenes are known."""
        pairs = zip(self.verdicts, self.unseen, strict=True) if self.verdicts else []
        return [v.notes + ["unseen combination"] * unseen for v, unseen in pairs] or [[] for _ in self.captions]
