"""What evaluate.py writes instead of scores: how captions depend on attention."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from caption.captioner import Captioner
from caption.config.inference import EvaluationConfig
from caption.data.dataset import CaptionDataset
from caption.evaluation.bootstrap import Score
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.grounding import Instances
from caption.evaluation.knock_out import Effect, compare_effects
from caption.evaluation.metrics import score_captions
from caption.evaluation.results import describe_search
from caption.evaluation.table import comparison_table
from caption.files import write_text
from caption.search import Hypothesis


def write_knock_outs(
    args: EvaluationConfig,
    captioner: Captioner,
    split: CaptionDataset,
    instances: Instances | None,
    precision: str,
    effects: Mapping[int, Mapping[str, Effect]],
) -> None:
    """Print what every score loses by each knock-out, and the verdict; write both, and the captions, as JSON.

    `effects` are those of `knock_out`, by the number of the image in its split.
    """
    references = split.references()
    missing: list[str] = []

    def texts(hypotheses: Sequence[Hypothesis]) -> list[str]:
        return [captioner.vocabulary.separator.join(captioner.vocabulary.decode(h.words)) for h in hypotheses]

    def score(hypotheses: Sequence[Hypothesis]) -> list[Score]:
        captions = CaptionSet(
            captions=texts(hypotheses),
            references=references,
            word_kind=captioner.vocabulary.word_kind,
            written=[captioner.vocabulary.decode(h.words) for h in hypotheses],
            image_ids=split.image_ids,
            instances=instances,
            java=args.java,
        )
        evaluation = score_captions(captions)
        missing[:] = evaluation.missing
        return evaluation.scores

    ordered = [effects[index] for index in sorted(effects)]
    study = compare_effects(ordered, score, args.seed)
    search = describe_search(dataclasses.asdict(args.search), precision)
    print(f"{args.checkpoint} on {args.data}, {args.split}: {len(split)} images, {search}")
    for name, differences in study.differences.items():
        shown = [difference for difference in differences if "," not in difference.name]  # no parts of the split
        print(f"\nA: as trained, B: {name} attention\n{comparison_table(shown)}")
    print("", *missing, f"verdict: {study.verdict.word}; {study.verdict.reason}", sep="\n")
    captions = {name: texts([effect[name].hypothesis for effect in ordered]) for name in ordered[0]}
    content: dict[str, Any] = {
        **dataclasses.asdict(args),
        "precision": precision,
        "verdict": study.verdict._asdict(),
        "maximum at the border": study.border,
        "differences": {
            name: [difference._asdict() for difference in differences]
            for name, differences in study.differences.items()
        },
        "images": [
            {"image_id": split.image_ids[i], "file_name": split.file_names[i]}
            | {name or "as trained": captions[name][i] for name in captions}
            for i in range(len(ordered))
        ],
    }
    path = args.folder / f"knock_out_{args.split}.json"
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {path}")
