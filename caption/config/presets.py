"""Named experiments, with the time and the score of those that were run (docs/results.md)."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import tyro

from caption.config import Config
from caption.config.cli import parse
from caption.errors import UserError

PRESETS: dict[str, tuple[str, Config]] = {}  # the description is shown by `train.py --help`


def _replace(config: Any, changes: dict[str, Any]) -> Any:
    """Return the configuration with these fields changed; a dict holds the changes of a section."""
    sections = {name: value for name, value in changes.items() if isinstance(value, dict)}
    return dataclasses.replace(
        config, **changes | {name: _replace(getattr(config, name), value) for name, value in sections.items()}
    )


def _add(name: str, description: str, base: str = "", **changes: dict[str, Any]) -> None:
    """Add a preset: another one, or the defaults, with these fields of its sections changed."""
    config = PRESETS[base][1] if base else Config(data=tyro.MISSING, output=tyro.MISSING)
    PRESETS[name] = (description, _replace(config, changes))


_add(
    "shapes-soft",
    "Coloured shapes, small CNN from scratch, soft attention: two minutes on two cores, 99 % of captions true.",
    encoder={"name": "small_cnn", "finetune_from": "all"},
    decoder={"embedding_dim": 128, "hidden_dim": 128, "attention_dim": 64, "state_dropout": 0.2, "dropout": 0.1},
    training={
        "epochs": 3,
        "batch_by": "mixed",
        "curriculum_epochs": 1,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "encoder_learning_rate": 3e-3,
        "warmup_steps": 100,
        "doubly_stochastic": 0.0,  # most of an image is empty: attention should not reach it
        "precision": "fp32",  # too small to gain from bfloat16
    },
)
_add(
    "strings-soft",
    "Strings to read, recurrent CNN from scratch, soft attention: 35 minutes on one core, 97.5 % read exactly.",
    base="shapes-soft",
    encoder={"name": "recurrent_cnn"},
    decoder={"embedding_dim": 32, "state_dropout": 0.5},
    training={
        "epochs": 5,
        "batch_by": "images",
        "curriculum_epochs": 0,
        "learning_rate": 2e-3,
        "encoder_learning_rate": 2e-3,
        "warmup_steps": 300,
    },
    search={"beam_size": 1, "max_length": 8},
)
_add(
    "flickr8k-soft",
    "Flickr8k, frozen MobileNetV2, soft attention: 44 minutes on two cores with bfloat16, BLEU-4 20.2 on dev.",
    encoder={"name": "mobilenet_v2", "weights": "IMAGENET1K_V1"},
    training={"epochs": 12, "doubly_stochastic": 0.1, "label_smoothing": 0.1},
)
_add(
    "flickr8k-transformer",
    "Flickr8k, frozen MobileNetV2, Transformer of two layers: BLEU-4 18.5 on dev.",
    base="flickr8k-soft",
    decoder={
        "name": "transformer",
        "embedding_dim": 256,
        "hidden_dim": 1024,
        "attention_dim": 256,
        "state_dropout": 0.3,
        "dropout": 0.3,
        "tie_embeddings": True,
        "transformer": {"layers": 2},
    },
    training={"learning_rate": 5e-4, "warmup_steps": 750, "doubly_stochastic": 0.0},
)
_add(
    "flickr8k-lite2",
    "Flickr8k, EfficientNet-Lite2 of timm at 260 pixels, soft attention: fine-tuned BLEU-4 24.5 on dev.",
    base="flickr8k-soft",
    encoder={"name": "timm/tf_efficientnet_lite2", "weights": "DEFAULT"},
)
_add(
    "flickr30k-soft",
    "Flickr30k, the paper's VGG-19 (14x14x512, frozen), soft attention; for a GPU, not yet run.",
    encoder={"name": "vgg19", "weights": "IMAGENET1K_V1"},
    training={"epochs": 20, "batch_size": 32, "workers": 4},
)
_add(
    "coco-soft",
    "COCO, ResNet-101 at 14x14x1024, soft attention, fine-tuned after 10 epochs; for a GPU, not yet run.",
    encoder={"name": "resnet101", "weights": "IMAGENET1K_V2", "layer": "layer3", "finetune_from": "layer3"},
    training={"epochs": 20, "batch_size": 32, "finetune_epoch": 11, "workers": 8},
)
_add(
    "coco-dinov2",
    "COCO, frozen DINOv2 of timm (ViT-B/14 with registers; 16x16 regions at --size 224), soft attention; not yet run.",
    encoder={"name": "timm/vit_base_patch14_reg4_dinov2", "weights": "DEFAULT"},
    training={"epochs": 20, "batch_size": 32, "workers": 8},
)


def _hard(
    name: str,
    description: str,
    epochs: int,
    attention: str = "hard",
    soft_probability: float = 0.0,
    doubly_stochastic: float = 0.0,
) -> None:
    """Add a preset beside a soft one: the same with hard attention or another that samples locations.

    The first half of the epochs uses the expectation, since samples teach little before the locations mean anything.
    Then follows the exact gradient of the bound, with the least variance that `ReinforceConfig` offers. docs/results.md
    lists what else was tried; docs/does-it-look.md says where it helps to read the expectation for half of the captions
    (`soft_probability`) and to keep the doubly stochastic penalty.
    """
    reinforce = {
        "soft_probability": soft_probability,
        "first_epoch": epochs // 2 + 1,
        "samples": 2,
        "reward": "to_go",
        "baseline": "leave_one_out",
    }
    training = {"epochs": epochs, "doubly_stochastic": doubly_stochastic, "reinforce": reinforce}
    _add(f"{name}-{attention}", description, f"{name}-soft", decoder={"attention": attention}, training=training)


_hard("shapes", "Coloured shapes, hard attention after two epochs of soft: 97 % of captions true.", 4)
_hard(
    "flickr8k",
    "Flickr8k, frozen MobileNetV2, hard attention after six epochs of soft: BLEU-4 19.8 on dev.",
    12,
    soft_probability=0.5,
    doubly_stochastic=0.1,
)
_hard("flickr30k", "Flickr30k, the paper's VGG-19 (14x14x512, frozen), hard attention; for a GPU, not yet run.", 20)
_hard("coco", "COCO, ResNet-101 at 14x14x1024, hard attention from epoch 11 on; for a GPU, not yet run.", 20)
_hard("shapes", "Coloured shapes, retina of RAM, its centre for two epochs (docs/attention.md).", 4, "retina")
_add(
    "strings-recursive",
    "Strings to read, recursive CNN, which does not add its input again; not yet run (docs/strings.md).",
    base="strings-soft",
    encoder={"name": "recursive_cnn"},
)
_add(
    "shapes-self-critical",
    "Coloured shapes, soft attention, the last of three epochs self-critical (docs/attention.md).",
    base="shapes-soft",
    training={"self_critical": {"first_epoch": 3, "temperature": 0.5}},
)


def _variant(suffix: str, description: str, **decoder: Any) -> None:
    """Add shapes-soft with another decoder and nothing else changed."""
    _add(f"shapes-{suffix}", f"Coloured shapes, {description} (docs/attention.md).", "shapes-soft", decoder=decoder)


_variant("dot", "dot score: a region is as wide as the LSTM state", score="dot")
_variant("general", "general (bilinear) score", score="general")
_variant("scaled-dot", "scaled dot score", score="scaled_dot")
_variant("luong", "attention with the current state (Luong et al., 2015)", name="luong")
_variant("adaptive", "adaptive attention with a visual sentinel (Lu et al., 2017)", name="adaptive")
_variant("up-down", "one LSTM attends, another writes (Anderson et al., 2018)", name="up_down")
_variant("multi-head", "four heads of scaled dot products", score="multi_head", heads=4)
_variant("local-m", "window that moves by one region per word", window="local_m")
_variant("local-p", "window at a predicted location", window="local_p")
_variant("draw", "Gaussian grid of DRAW", attention="draw")
_variant(
    "transformer",
    "Transformer of two layers instead of the LSTM",
    name="transformer",
    hidden_dim=256,
    attention_dim=128,
    heads=4,
    state_dropout=0.1,
    transformer={"layers": 2},
)
_add(
    "flickr8k-multi-head",
    "Flickr8k, frozen MobileNetV2, eight heads of scaled dot products: BLEU-4 18.7 on dev (docs/flickr8k.md).",
    base="flickr8k-soft",
    decoder={"score": "multi_head"},
)


def parse_preset(arguments: Sequence[str], program: str, description: str) -> Config:
    """Read a preset's name and the flags that change it. Raises UserError; `--help` shows the presets and the flags."""
    presets = tyro.extras.subcommand_type_from_defaults(
        {name: config for name, (_, config) in PRESETS.items()},
        {name: description for name, (description, _) in PRESETS.items()},
    )
    if arguments and not arguments[0].startswith("-") and arguments[0] not in PRESETS:
        raise UserError(f"unknown preset {arguments[0]!r}; known: {', '.join(PRESETS)}")
    if list(arguments) in (["--help"], ["-h"]):  # the presets, then the flags, which all presets share
        with contextlib.suppress(SystemExit):
            parse(presets, arguments, program, description)
        arguments = [next(iter(PRESETS)), "--help"]
    return parse(presets, arguments, program)
