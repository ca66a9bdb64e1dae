"""Estimators of hard attention's gradient: bias and variance against enumeration, cost, and training on shapes.

    python -m benchmarks.estimators [--parts gradient training] [--seeds 1 2 3] [--estimators ...]

gradient: on small random models in double precision, one for each seed, the gradient of the attention's weights that
training would take is compared with that of all paths of locations; then the time of a training step on shapes, all
estimators in turn in this process, beside soft attention. training: the preset shapes-hard with each estimator, trained
and scored. What has a line in benchmarks/estimators.jsonl is not computed again, so that the command goes on where it
was interrupted. Prints both tables.
"""

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks import runs
from caption import ops
from caption.attention import Memory, hard
from caption.captioner import Captioner
from caption.config import Config, DecoderConfig, ReinforceConfig, TrainingConfig
from caption.config.presets import PRESETS
from caption.data.dataset import Batch
from caption.data.vocabulary import END, PAD
from caption.decoders import RecurrentDecoder, build_decoder
from caption.decoders.packing import unpack
from caption.training.objective import Objective
from caption.training.reinforce import update_baseline

RESULTS = Path(__file__).with_name("estimators.jsonl")
PLAIN = {"soft_probability": 0.0, "reward": "caption", "baseline": "none"}
RELAXED = {"soft_probability": 0.0, "reward": "caption", "baseline": "moving_average"}  # defaults, which it ignores
# The fields of `training.reinforce` by which each differs from the preset shapes-hard.
ESTIMATORS: dict[str, dict[str, Any]] = {
    "reinforce": PLAIN,
    "moving_average": {**PLAIN, "baseline": "moving_average"},
    "leave_one_out": {**PLAIN, "baseline": "leave_one_out"},
    "to_go": {**PLAIN, "reward": "to_go"},
    "to_go_leave_one_out": {**PLAIN, "reward": "to_go", "baseline": "leave_one_out"},
    "soft_probability": {**PLAIN, "baseline": "moving_average", "soft_probability": 0.5},
    "straight_through": {**RELAXED, "estimator": "straight_through"},
    "straight_through_0.5": {**RELAXED, "estimator": "straight_through", "gumbel_temperature": 0.5},
    "gumbel_softmax": {**RELAXED, "estimator": "gumbel_softmax"},
    "gumbel_softmax_0.5": {**RELAXED, "estimator": "gumbel_softmax", "gumbel_temperature": 0.5},
}
BEST = "to_go_leave_one_out"  # the preset's own, with which biased ones are compared
IMAGES, LOCATIONS, D, WORDS = 4, 3, 6, 11
LENGTHS = (3, 3, 2, 2)  # words of the caption of each image, with <end>
ROWS, BATCHES = 400, 200  # samples of each caption in a batch, and batches
RESAMPLES = 1000  # of the bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/shapes.h5")
    parser.add_argument("--output", type=Path, default=Path("runs/estimators"))
    parser.add_argument("--parts", nargs="+", default=["gradient", "training"], choices=["gradient", "training"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), choices=ESTIMATORS)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    runs.make_data(args.data)
    if "gradient" in args.parts:
        compare_gradients(args.estimators, args.seeds, args.data)
    if "training" in args.parts:
        compare_trainings(args.estimators, args.seeds, args.data, args.output, args.jobs)


def compare_trainings(estimators: Sequence[str], seeds: Sequence[int], source: str, output: Path, jobs: int) -> None:
    """Train shapes-hard with each estimator, two samples of each caption, and print a table of the scores."""
    wanted = [
        runs.Run(
            {"part": "training", "estimator": name, "seed": seed},
            output / f"{name}-{seed}",
            "shapes-hard",
            ["--training.seed", str(seed), *flags(ESTIMATORS[name])],
        )
        for seed in seeds
        for name in estimators
    ]
    runs.complete(RESULTS, wanted, source, jobs)
    print(runs.header("estimator", "seeds", *runs.SCORES.values()))
    for name in estimators:
        found = [line for run in wanted if run.key["estimator"] == name for line in runs.lines(RESULTS, **run.key)]
        print(runs.row(f"`{name}`", found, runs.SCORES))


def flags(changes: dict[str, Any]) -> list[str]:
    """Return the flags of train.py that set fields of `training.reinforce`."""
    pairs = [(f"--training.reinforce.{name.replace('_', '-')}", str(value)) for name, value in changes.items()]
    return [*itertools.chain(*pairs)]


def compare_gradients(estimators: Sequence[str], seeds: Sequence[int], source: str) -> None:
    """Measure each estimator on one model for each seed, then the time of a step, and print a table."""
    torch.set_num_threads(1)
    for seed in seeds:
        for name in estimators:
            key = gradient_key(name, seed)
            if not runs.lines(RESULTS, **key):
                runs.keep_line(RESULTS, key, measure_gradient(seed, reinforce_config(name)))
    preset = PRESETS["shapes-hard"][1]
    seconds = runs.step_seconds(
        {"soft": PRESETS["shapes-soft"][1], **{name: with_estimator(preset, name) for name in estimators}}, source
    )
    columns = (
        "estimator", "bias, bound, %", "bias, log p(y given a), %", "variance", "break-even, samples",
        "time of a step, soft = 1",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    best = {seed: line for seed in seeds for line in runs.lines(RESULTS, **gradient_key(BEST, seed))}
    mixture = ""
    for name in estimators:
        found = [line for seed in seeds for line in runs.lines(RESULTS, **gradient_key(name, seed))]
        cells = [percent([line[objective] for line in found]) for objective in ("bound", "likelihood")]
        cells.append(runs.cell([line["variance"] for line in found]))
        is_biased = (
            len(best) == len(found) and min(bias - radius for bias, radius in (line["bound"] for line in found)) > 0
        )
        cells.append(runs.cell([break_even(line, best[line["seed"]]) for line in found if is_biased]))
        print("| " + " | ".join([f"`{name}`", *cells, f"{seconds[name] / seconds['soft']:.2f}"]) + " |")
        if mixed := [line["mixture"] for line in found if "mixture" in line]:
            mixture = f"`{name}`, against the mixture that it optimises, %: {percent(mixed)}"
    if mixture:
        print(f"\n{mixture}")


def break_even(line: dict[str, Any], unbiased: dict[str, Any]) -> float:
    """Return the number of samples n from which on the unbiased estimator has the smaller expected squared error, of
    which the other has bias^2 + variance / n; 0 if it always has."""
    return max(0.0, unbiased["variance"] - line["variance"]) / line["bound"][0] ** 2


def gradient_key(name: str, seed: int) -> dict[str, Any]:
    """Return what a line of part gradient begins with."""
    return {"part": "gradient", "estimator": name, "seed": seed, "samples": ROWS * BATCHES}


def with_estimator(config: Config, name: str) -> Config:
    """Return the configuration with the estimator of that name."""
    reinforce = dataclasses.replace(config.training.reinforce, **ESTIMATORS[name])
    return dataclasses.replace(config, training=dataclasses.replace(config.training, reinforce=reinforce))


def reinforce_config(name: str) -> ReinforceConfig:
    """Return the estimator's configuration with the fewest samples of a caption that it allows."""
    changes = ESTIMATORS[name]
    return ReinforceConfig(**changes, samples=2 if changes["baseline"] == "leave_one_out" else 1)


class RegionCaptioner(Captioner):
    """A captioner whose images are regions already, in double precision."""

    def __init__(self, decoder: RecurrentDecoder) -> None:
        nn.Module.__init__(self)
        self.decoder = decoder

    def encode(self, images: Tensor) -> Memory:
        """Return what the decoder attends over, of regions [B, L, D]."""
        return self.decoder.prepare(images)


class Model(NamedTuple):
    """A small random model, and the exact gradients of its attention's weights [P], per word, on its images."""

    captioner: RegionCaptioner
    batch: Batch  # one caption of each image
    bound: Tensor  # of sum_s p(s | a) log p(y | s, a), eq. 10
    likelihood: Tensor  # of log p(y | a)
    soft: Tensor  # of log p(y | a) of soft attention, with the same weights


def make_model(seed: int) -> Model:
    """Return the model of a seed. Its weights are so wide that the captions depend on the locations."""
    torch.manual_seed(seed)
    config = DecoderConfig(embedding_dim=7, hidden_dim=8, attention_dim=9, attention="hard")
    decoder = build_decoder(config, D, (1, LOCATIONS), WORDS).double().eval()
    assert isinstance(decoder, RecurrentDecoder)
    for weights in decoder.parameters():
        nn.init.normal_(weights, std=0.7)
    regions, lengths = torch.randn(IMAGES, LOCATIONS, D, dtype=torch.double), torch.tensor(LENGTHS).unsqueeze(1)
    steps = torch.arange(max(LENGTHS))
    captions = torch.randint(END + 1, WORDS, (IMAGES, 1, max(LENGTHS)))
    captions = captions.masked_fill(steps == lengths[..., None] - 1, END).masked_fill(steps >= lengths[..., None], PAD)
    captioner = RegionCaptioner(decoder)
    batch = Batch([*range(IMAGES)], regions, captions, lengths)
    bound, likelihood = (gradient(captioner, value) for value in enumerate_paths(captioner, batch))
    objective = Objective(captioner, TrainingConfig(doubly_stochastic=0.0, precision="fp32"))
    return Model(captioner, batch, bound, likelihood, gradient(captioner, -objective(batch).total))


def enumerate_paths(captioner: RegionCaptioner, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the bound of eq. 10 and log p(y | a), each [] per word, by teacher forcing along every path."""
    paths = torch.tensor([*itertools.product(range(LOCATIONS), repeat=max(LENGTHS))])  # [Q, T]
    steps = iter(paths.T)

    def follow(log_weights: Tensor, argmax: bool) -> Tensor:
        return next(steps).expand(log_weights.shape[:2])

    captions, lengths = (values.repeat_interleave(len(paths), 1) for values in (batch.captions, batch.lengths))
    with mock.patch.object(hard, "sample_location", follow):
        decoded = captioner(batch.images, captions, lengths, torch.ones_like(lengths, dtype=torch.bool))
    assert decoded.sample is not None
    nll = unpack(ops.token_nll(decoded.logits, decoded.targets), decoded.positions, captions.shape)
    words, path = -nll.sum(-1), decoded.sample.log_probability.sum(-1)  # log p(y | s, a) and log p(s | a), [B, Q]
    # A path of a shorter caption occurs once for each location of the steps that it lacks.
    path = path - (max(LENGTHS) - batch.lengths) * torch.tensor(LOCATIONS).double().log()
    assert torch.allclose(path.exp().sum(-1), torch.ones(IMAGES, dtype=torch.double))
    return (path.exp() * words).sum() / sum(LENGTHS), (path + words).logsumexp(-1).sum() / sum(LENGTHS)


def gradient(captioner: Captioner, value: Tensor) -> Tensor:
    """Return d value / d the attention's weights, in one row [P]."""
    named = captioner.decoder.named_parameters()
    weights = [parameter for name, parameter in named if name.startswith("attention.")]
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, weights, retain_graph=True)])


def measure_gradient(seed: int, config: ReinforceConfig) -> dict[str, Any]:
    """Return the bias of the mean gradient against each exact gradient, with the radius of its 95 % interval, and the
    variance per sample, the trace of the covariance: as multiples of the norm of the bound's gradient, and of its
    square.

    The estimates are gradients of the training loss itself. The radius is the 95 % quantile of the distance of
    bootstrapped means from the mean: by the triangle inequality, the bias lies within it of what is measured. With
    `soft_probability`, a mixture of the bound and of soft attention's log p(y | a) is optimised.
    """
    model = make_model(seed)
    captioner, batch = model.captioner, model.batch
    rows = ROWS // config.samples
    many = batch._replace(captions=batch.captions.expand(-1, rows, -1), lengths=batch.lengths.expand(-1, rows))
    objective = Objective(captioner, TrainingConfig(doubly_stochastic=0.0, precision="fp32", reinforce=config))
    baseline: Tensor | None = None
    estimates = []
    for number in range(-1, BATCHES):  # the first b is the mean of its own samples: that batch does not count
        result = objective(many, sample_locations=True, baseline=baseline)
        if result.reward_sum is not None:
            baseline = update_baseline(baseline, result.reward_sum)
        if number >= 0:
            estimates.append(gradient(captioner, -result.total))
    means = torch.stack(estimates)  # of the rows of each batch, [BATCHES, P]
    mean = means.mean(0)
    resampled = torch.stack([means[torch.randint(BATCHES, (BATCHES,))].mean(0) for _ in range(RESAMPLES)])
    radius = (resampled - mean).norm(dim=1).quantile(0.95)
    exact = {"bound": model.bound, "likelihood": model.likelihood}
    if config.soft_probability:
        exact["mixture"] = (1 - config.soft_probability) * model.bound + config.soft_probability * model.soft
    return {
        **{
            name: [round(float(value / model.bound.norm()), 5) for value in ((mean - target).norm(), radius)]
            for name, target in exact.items()
        },
        "variance": round(float(ROWS * means.var(0).sum() / model.bound.square().sum()), 3),
    }


def percent(biases: Sequence[Sequence[float]]) -> str:
    """Return the mean bias, the mean radius of its interval and the range of the biases over the models."""
    values = [100 * bias for bias, _ in biases]
    radius = 100 * statistics.mean(radius for _, radius in biases)
    return f"{statistics.mean(values):.1f} ± {radius:.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
