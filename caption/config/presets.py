"""Named experiments, with the time and the score of those that were run (docs/results.md)."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import tyro

from caption.config import (
    Config,
    DecoderConfig,
    EncoderConfig,
    ReinforceConfig,
    SearchConfig,
    SelfCriticalConfig,
    TrainingConfig,
    TransformerConfig,
)
from caption.config.cli import parse
from caption.errors import UserError

# The description is shown by `train.py --help`.
PRESETS: dict[str, tuple[str, Config]] = {
    "shapes-soft": (
        "Coloured shapes, small CNN from scratch, soft attention: three minutes on two cores, BLEU-4 86.",
        Config(
            data=tyro.MISSING,
            output=tyro.MISSING,
            encoder=EncoderConfig(name="small_cnn", finetune_from="all"),
            decoder=DecoderConfig(embedding_dim=128, hidden_dim=128, attention_dim=64, state_dropout=0.6, dropout=0.1),
            training=TrainingConfig(
                epochs=6,
                batch_size=8,
                learning_rate=2e-3,
                encoder_learning_rate=2e-3,
                warmup_steps=300,
                doubly_stochastic=0.0,  # most of an image is empty: attention should not reach it
                precision="fp32",  # too small to gain from bfloat16
            ),
            search=SearchConfig(beam_size=3),
        ),
    ),
    "strings-soft": (
        "Strings to read, recurrent CNN from scratch, soft attention: 35 minutes on one core, 97.5 % read exactly.",
        Config(
            data=tyro.MISSING,
            output=tyro.MISSING,
            encoder=EncoderConfig(name="recurrent_cnn", finetune_from="all"),
            decoder=DecoderConfig(embedding_dim=32, hidden_dim=128, attention_dim=64, state_dropout=0.5, dropout=0.1),
            training=TrainingConfig(
                epochs=5,
                batch_size=16,
                learning_rate=2e-3,
                encoder_learning_rate=2e-3,
                warmup_steps=300,
                doubly_stochastic=0.0,  # most of an image is background
                precision="fp32",
            ),
            search=SearchConfig(beam_size=1, max_length=8),
        ),
    ),
    "flickr8k-soft": (
        "Flickr8k, frozen MobileNetV2, soft attention: 44 minutes on two cores with bfloat16, BLEU-4 20.2 on dev.",
        Config(
            data=tyro.MISSING,
            output=tyro.MISSING,
            encoder=EncoderConfig(name="mobilenet_v2", weights="IMAGENET1K_V1"),
            decoder=DecoderConfig(),
            training=TrainingConfig(epochs=12, batch_size=16, doubly_stochastic=0.1, label_smoothing=0.1),
            search=SearchConfig(beam_size=3),
        ),
    ),
    "flickr8k-transformer": (
        "Flickr8k, frozen MobileNetV2, Transformer of two layers: BLEU-4 18.5 on dev.",
        Config(
            data=tyro.MISSING,
            output=tyro.MISSING,
            encoder=EncoderConfig(name="mobilenet_v2", weights="IMAGENET1K_V1"),
            decoder=DecoderConfig(
                name="transformer",
                embedding_dim=256,
                hidden_dim=1024,
                attention_dim=256,
                state_dropout=0.3,
                dropout=0.3,
                tie_embeddings=True,
                transformer=TransformerConfig(layers=2),
            ),
            training=TrainingConfig(
                epochs=12,
                batch_size=16,
                learning_rate=5e-4,
                warmup_steps=750,
                doubly_stochastic=0.0,
                label_smoothing=0.1,
            ),
            search=SearchConfig(beam_size=3),
        ),
    ),
    "flickr30k-soft": (
        "Flickr30k, the paper's VGG-19 (14x14x512, frozen), soft attention; for a GPU, not yet run.",
        Config(
            data=tyro.MISSING,
            output=tyro.MISSING,
            encoder=EncoderConfig(name="vgg19", weights="IMAGENET1K_V1"),
            training=TrainingConfig(epochs=20, batch_size=32, workers=4),
        ),
    ),
    "coco-soft": (
        "COCO, ResNet-101 at 14x14x1024, soft attention, fine-tuned after 10 epochs; for a GPU, not yet run.",
        Config(
            data=tyro.MISSING,
            output=tyro.MISSING,
            encoder=EncoderConfig(name="resnet101", weights="IMAGENET1K_V2", layer="layer3", finetune_from="layer3"),
            training=TrainingConfig(epochs=20, batch_size=32, finetune_epoch=11, workers=8),
        ),
    ),
}


def _with_decoder(config: Config, **changes: Any) -> Config:
    """Return the experiment with these fields of the decoder changed."""
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **changes))


def _hard(name: str, description: str, epochs: int, attention: Literal["hard", "retina"] = "hard") -> None:
    """Add a preset beside a soft one: the same with hard attention or another that samples locations.

    The first half of the epochs uses the expectation, since samples teach little before the locations mean anything.
    Then follows the exact gradient of the bound, with the least variance that `ReinforceConfig` offers, and no doubly
    stochastic penalty. docs/results.md lists what else was tried.
    """
    soft = PRESETS[f"{name}-soft"][1]
    reinforce = ReinforceConfig(
        soft_probability=0.0, first_epoch=epochs // 2 + 1, samples=2, reward="to_go", baseline="leave_one_out"
    )
    training = dataclasses.replace(soft.training, epochs=epochs, doubly_stochastic=0.0, reinforce=reinforce)
    config = dataclasses.replace(_with_decoder(soft, attention=attention), training=training)
    PRESETS[f"{name}-{attention}"] = (description, config)


_hard("shapes", "Coloured shapes, hard attention after four epochs of soft: BLEU-4 87.5, the mean of three seeds.", 8)
_hard("flickr8k", "Flickr8k, frozen MobileNetV2, hard attention after six epochs of soft: BLEU-4 18.7 on dev.", 12)
_hard("flickr30k", "Flickr30k, the paper's VGG-19 (14x14x512, frozen), hard attention; for a GPU, not yet run.", 20)
_hard("coco", "COCO, ResNet-101 at 14x14x1024, hard attention from epoch 11 on; for a GPU, not yet run.", 20)
_hard("shapes", "Coloured shapes, retina of RAM, its centre for four epochs (docs/attention.md).", 8, "retina")


_soft = PRESETS["strings-soft"][1]
PRESETS["strings-recursive"] = (
    "Strings to read, recursive CNN, which does not add its input again; not yet run (docs/strings.md).",
    dataclasses.replace(_soft, encoder=dataclasses.replace(_soft.encoder, name="recursive_cnn")),
)


_soft = PRESETS["shapes-soft"][1]
PRESETS["shapes-self-critical"] = (
    "Coloured shapes, soft attention, the last two of eight epochs self-critical (docs/attention.md).",
    dataclasses.replace(
        _soft,
        training=dataclasses.replace(
            _soft.training, epochs=8, self_critical=SelfCriticalConfig(first_epoch=7, temperature=0.5)
        ),
    ),
)


def _variant(suffix: str, description: str, **decoder: Any) -> None:
    """Add shapes-soft with another decoder and nothing else changed."""
    PRESETS[f"shapes-{suffix}"] = (
        f"Coloured shapes, {description} (docs/attention.md).",
        _with_decoder(PRESETS["shapes-soft"][1], **decoder),
    )


_variant("dot", "dot score: a region is as wide as the LSTM state", score="dot")
_variant("general", "general (bilinear) score", score="general")
_variant("scaled-dot", "scaled dot score", score="scaled_dot")
_variant("luong", "attention with the current state (Luong et al., 2015)", name="luong")
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
    transformer=TransformerConfig(layers=2),
)
PRESETS["flickr8k-multi-head"] = (
    "Flickr8k, frozen MobileNetV2, eight heads of scaled dot products: BLEU-4 18.7 on dev (docs/flickr8k.md).",
    _with_decoder(PRESETS["flickr8k-soft"][1], score="multi_head"),
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
    config: Config = parse(presets, arguments, program)
    return config
