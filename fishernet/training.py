"""The one training loop: a generator that trains a cohort and yields one record per member and epoch."""

import ctypes
import functools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fishernet.cohort import Cohort
from fishernet.data import ImageData
from fishernet.evaluation import evaluate
from fishernet.state import Record

DIVERGED = "diverged: "  # how the reason begins of a member that training again would only stop again


@dataclass(frozen=True)
class ResidentImages:
    """An image set on the device as uint8, (n, n_pixels), moved there once."""

    pixels: Tensor

    @classmethod
    def of(cls, images: Tensor, device: torch.device) -> "ResidentImages":
        return cls(images.flatten(1).to(device))

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: Tensor) -> Tensor:
        """Images as grey values in [0, 1]: index (n_members, n) to (n_members, n, n_pixels)."""
        return self.pixels[index].float().div_(255)


@functools.cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: returning and re-faulting a convolution's activations at every step costs a quarter of it.

    The numbers name M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3). Nothing happens where the C library has none.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)
            mallopt(-1, (1 << 31) - 1)


def train(cohort: Cohort, data: ImageData) -> Iterator[list[Record | None]]:
    """Train from the epoch the cohort is at to its last, and yield after each epoch one record per member.

    A record is {"epoch", "time" (unix seconds), "metrics"}; None stands for a member that has failed (its reason is in
    ``cohort.failures``). Between two yields the cohort is at rest and may be saved. Ends early when no member is left.
    Data order and noise depend on (seed, epoch) alone, so neither stopping nor evaluating changes what follows.
    """
    keep_freed_memory()
    train_images = ResidentImages.of(data.train, cohort.device)
    test_images = ResidentImages.of(data.test, cohort.device)
    while cohort.epoch < cohort.config.epochs and len(cohort.failures) < len(cohort):
        started = time.perf_counter()
        losses = train_epoch(cohort, train_images)
        _stop_diverged_members(cohort, losses)
        train_seconds = time.perf_counter() - started
        metrics = _train_metrics(cohort, losses, len(train_images))
        if cohort.epoch % cohort.config.evaluate_every == 0 or cohort.epoch == cohort.config.epochs:
            scores = evaluate(cohort, test_images)
            metrics = [
                {f"{data.held_out}/{name}": value for name, value in own.items()} | member
                for own, member in zip(scores, metrics, strict=True)
            ]
            _stop_members_without_scores(cohort, metrics)
        seconds = time.perf_counter() - started
        records: list[Record | None] = [None] * len(cohort)
        for i, values in enumerate(metrics):
            if i not in cohort.failures:
                # A stacked epoch trains all members at once; each is given its share of the time.
                values |= {"epoch_seconds": seconds / len(cohort), "train_seconds": train_seconds / len(cohort)}
                record = {"epoch": cohort.epoch, "time": time.time(), "metrics": values}
                cohort.history[i].append(record)
                records[i] = record
        yield records


def train_epoch(cohort: Cohort, images: ResidentImages) -> Tensor:
    """One pass over the images; the summed loss of every step, (n_steps, n_members)."""
    model, epoch, batch_size = cohort.model.train(), cohort.epoch + 1, cohort.config.batch_size
    order = cohort.draw_orders(epoch, len(images))
    noise_streams = cohort.streams("noise", epoch)
    losses = []
    for index in order.split(batch_size, dim=1):  # the last batch may be smaller
        x = images.take(index)
        outcome = model(x, cohort.draw_noise(noise_streams, index.shape[1]))
        cohort.optimiser.zero_grad()
        # Each member's own mean loss: members share no parameter, so the sum gives every one its own gradient.
        outcome.loss.mean(1).sum().backward()
        cohort.optimiser.step()
        model.likelihood.observe(x, outcome.output.detach())
        losses.append(outcome.loss.detach().sum(1))
    cohort.epoch = epoch
    return torch.stack(losses)


def _stop_diverged_members(cohort: Cohort, losses: Tensor) -> None:
    for i, finite in enumerate(losses.isfinite().T.cpu()):
        if i not in cohort.failures and not finite.all():
            step = int((~finite).nonzero()[0])
            value = losses[step, i].item()
            cohort.stop_member(
                i, f"{DIVERGED}the loss became {value} in epoch {cohort.epoch}, step {step + 1} of {len(losses)}"
            )


def _stop_members_without_scores(cohort: Cohort, metrics: list[dict[str, float]]) -> None:
    """The last step's damage shows in no training loss, but in the scores."""
    for i, values in enumerate(metrics):
        bad = [f"{name} became {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad and i not in cohort.failures:
            cohort.stop_member(i, f"{DIVERGED}{bad[0]} in epoch {cohort.epoch}")


def _train_metrics(cohort: Cohort, losses: Tensor, n_images: int) -> list[dict[str, float]]:
    # float64: a sum of many float32 losses loses digits
    means = (losses.double().sum(0) / n_images).cpu()
    metrics = [{"train/loss": mean.item()} for mean in means]
    if (variance := cohort.model.noise_variance) is not None:
        for member, value in zip(metrics, variance.cpu(), strict=True):
            member["noise_variance"] = value.item()
    return metrics
