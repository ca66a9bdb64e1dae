"""Measure where the time of a training step of `shapes-soft` goes: by its parts, and by operation.

    python -m benchmarks.small_step [--data data/shapes.h5] [--rounds 7] [--device cpu]

A step takes the batches of the preset's last epoch. Its parts run one after the other, as in training: both networks
forward, the loss with the gradients of the decoder, those of the encoder, and clipping with Adam.
"""

import itertools
import statistics
import time
from typing import Any

import torch

from benchmarks import measure
from caption import ops
from caption.captioner import Captioner
from caption.config.presets import PRESETS
from caption.data import dataset, hdf5
from caption.training import loop, schedule

PARTS = ("encoder forward", "decoder forward", "loss, decoder backward", "encoder backward", "clipping, Adam")
BATCHES = 20  # of a round


class Step:
    """A step of training that notes when each of its parts ends."""

    def __init__(self, source: str, device: torch.device) -> None:
        config = PRESETS["shapes-soft"][1]
        image, vocabulary = hdf5.read_image_config(source), hdf5.read_vocabulary(source)
        self.captioner = Captioner(image, config.encoder, config.decoder, vocabulary).to(device).train()
        self.optimizer = schedule.build_optimizer(self.captioner, config.training)
        split = dataset.CaptionDataset(source, "train")
        rows, batches = dataset.training_batches(split, config.training.batch_by, config.training.batch_size, seed=1)
        batches.set_epoch(config.training.epochs)
        loader = dataset.build_loader(rows, batches)
        self.batches = [batch for _, batch in zip(range(BATCHES), loader, strict=False)]
        self.max_norm, self.device = config.training.max_grad_norm, device

    def __call__(self, batch: dataset.Batch) -> list[float]:
        """Return the seconds of each of PARTS."""
        ends = [time.perf_counter()]

        def end_part() -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

        decoder, encoder = self.captioner.decoder, self.captioner.encoder
        regions = encoder(batch.images.to(self.device))
        end_part()
        inputs: Any = regions.detach().requires_grad_()  # the gradient waits here for the encoder's part
        output = decoder(decoder.prepare(inputs), batch.captions.to(self.device), batch.lengths, need_weights=False)
        end_part()
        self.optimizer.zero_grad(set_to_none=True)
        loss: Any = ops.token_nll(output.logits, output.targets).mean()
        loss.backward()
        end_part()
        regions.backward(inputs.grad)
        end_part()
        loop.scale_gradients(self.captioner, 1.0, self.max_norm)
        self.optimizer.step()
        end_part()
        return [after - before for before, after in itertools.pairwise(ends)]

    def epoch(self) -> list[list[float]]:
        """Return the seconds of each of PARTS for every batch."""
        return [self(batch) for batch in self.batches]


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--data", default="data/shapes.h5")
    args, device = measure.begin(parser)
    print(measure.machine(device))
    step = Step(args.data, device)
    step.epoch()  # compiles kernels and reserves memory
    taken = [each for _ in range(args.rounds) for each in step.epoch()]
    total = statistics.median(map(sum, taken))
    captions = statistics.mean(int((batch.lengths > 0).sum()) for batch in step.batches)
    print(f"a step: {1e3 * total:.1f} ms (median of {len(taken)}), {captions / total:.0f} captions/s")
    for part, values in zip(PARTS, zip(*taken, strict=True), strict=True):
        median = statistics.median(values)
        print(f"{part:24}{1e3 * median:7.1f} ms  {median / total:6.1%}")
    print(f"\n{BATCHES} steps:\n{measure.top_ten(step.epoch, device)}")


if __name__ == "__main__":
    main()
