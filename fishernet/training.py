"""The one training loop: a generator that trains a cohort and yields one record per member and epoch."""

import contextlib
import ctypes
import functools
import itertools
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fishernet.cohort import DRAWN_NUMBERS, Cohort
from fishernet.data.images import ImageData, ResidentImages
from fishernet.evaluation import evaluate
from fishernet.state import Record

# Noise is drawn for so many steps at once: on a GPU a draw for each member and step would cost more than the step.
STEPS_PER_DRAW = 64
THRESHOLDS = "thresholds"  # beside the noise that a model asks for: of images that are drawn anew in every epoch
STEPS_BEFORE_RECORDING = 3  # torch's own advice for CUDA graphs
DIVERGED = "diverged: "  # how the reason begins of a member that training again would only stop again


@functools.cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: returning and re-faulting a convolution's activations at every step costs a quarter of it.

    The numbers name M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3). Nothing happens where the C library has none.
    """
    if mallopt := _of_c_library("mallopt"):
        mallopt(-3, 1 << 30)
        mallopt(-1, (1 << 31) - 1)


def give_freed_memory_back() -> None:
    """Give the system all that ``keep_freed_memory`` has kept: after work that took more than what follows (malloc_trim(3))."""
    if trim := _of_c_library("malloc_trim"):
        trim(ctypes.c_size_t(0))


def _of_c_library(name: str) -> Callable[..., int] | None:
    """A function of the C library, where that is Linux's and has it."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Within, float32 numbers of less than 1.2e-38 are 0 on the CPU (torch.set_flush_denormal), in this thread.

    Where a unit has died, its weights' first moments decay by 0.9 a step into that range and stay there. A CPU is much
    slower with such numbers: Adam's kernel takes more than ten times as long on them alone. Such a moment moves a weight by
    less than 1e-30, so that the weights are the same (benchmarks/fisher_shannon.py).
    """
    before = (torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float32) / 2).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def set_arithmetic(precision: str) -> None:
    """Let float32 products use TF32 where "tf32" asks for it (torch's own default uses it in convolutions alone).

    And let cuDNN sum in one order at every run, without which resumed runs on a GPU would give other numbers.
    """
    torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def train(cohort: Cohort, data: ImageData) -> Iterator[list[Record | None]]:
    """Train from the epoch the cohort is at to its last, and yield after each epoch one record per member.

    A record is {"epoch", "time" (unix seconds), "metrics"}; None stands for a member that has failed (its reason is in
    ``cohort.failures``) or stopped early (``cohort.stopped``), whose last record then scores its best weights, as does that of
    the last epoch. Between two yields the cohort is at rest and may be saved. Ends early when no member is left.
    Data order and noise depend on (seed, epoch) alone, so neither stopping nor evaluating changes what follows.
    """
    keep_freed_memory()
    train_images = ResidentImages.of(data.train, cohort.device, cohort.dtype)
    test_images = ResidentImages.of(data.test, cohort.device, cohort.dtype)
    stopping_images = _stopping_images(cohort, data)
    set_arithmetic(cohort.config.precision)
    step = Step(cohort, train_images)
    while not cohort.ended:
        started = time.perf_counter()
        losses = train_epoch(cohort, train_images, step)
        _stop_diverged_members(cohort, losses)
        train_seconds = time.perf_counter() - started
        before = set(cohort.stopped)
        stopping = _stop_early(cohort, stopping_images) if stopping_images else [{}] * len(cohort)
        metrics = _train_metrics(cohort, losses, len(train_images))
        due = cohort.epoch % cohort.config.evaluate_every == 0 or cohort.epoch == cohort.config.epochs
        if due or before < set(cohort.stopped):
            scores = evaluate(cohort, test_images)
            metrics = [
                {f"{data.held_out}/{name}": value for name, value in own.items() if due or i in cohort.stopped}
                | member
                | of_stopping
                for i, (own, member, of_stopping) in enumerate(zip(scores, metrics, stopping, strict=True))
            ]
        else:
            metrics = [member | of_stopping for member, of_stopping in zip(metrics, stopping, strict=True)]
        _stop_members_without_scores(cohort, metrics)
        seconds = time.perf_counter() - started
        records: list[Record | None] = [None] * len(cohort)
        for i, values in enumerate(metrics):
            if i not in cohort.failures and i not in before:
                # A stacked epoch trains all members at once; each is given its share of the time.
                values |= {"epoch_seconds": seconds / len(cohort), "train_seconds": train_seconds / len(cohort)}
                record: Record = {"epoch": cohort.epoch, "time": time.time(), "metrics": values}
                cohort.history[i].append(record)
                records[i] = record
        if cohort.ended:  # those that stopped before have trained along since
            cohort.put_best_back(*range(len(cohort)))
        yield records


class Step:
    """One optimiser step of a cohort. On a GPU it is recorded as a CUDA graph after the first few and replayed from then on.

    A graph is one launch instead of hundreds, and does what was recorded, on the same memory: so the batch is copied into
    place, the last and smaller one is trained without it, and a step that looks at its numbers (cg's stopping) has none.
    """

    def __init__(self, cohort: Cohort, images: ResidentImages) -> None:
        self.cohort, self.images = cohort, images
        self.recordable = cohort.device.type == "cuda" and cohort.model.recordable
        if self.recordable and cohort.device.index is not None:
            torch.cuda.set_device(cohort.device)  # streams and graphs are the current device's
        self.n_calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Train on the images of index, (n_members, n), and return the loss summed over them, (n_members,)."""
        if not self.recordable or index.shape[1] < self.cohort.config.batch_size:
            return self._train(index, noise)
        self.n_calls += 1
        if self.n_calls <= STEPS_BEFORE_RECORDING:
            return self._on_a_stream_of_its_own(index, noise)
        if self.graph is None and (problem := self._record(index, noise)):
            self.recordable = False
            warnings.warn(f"training without a CUDA graph, which is slower: {problem}", stacklevel=2)
            return self._train(index, noise)
        assert self.graph is not None
        self.index.copy_(index)
        for name, kept in self.noise.items():
            kept.copy_(noise[name])
        self.graph.replay()
        return self.loss.clone()

    def _train(self, index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        x = self.cohort.model.seen(self.images.take(index, noise.get(THRESHOLDS)), noise)
        losses = {}
        for player, loss in self.cohort.model.updates(x, noise):
            optimiser = self.cohort.optimisers[player]
            optimiser.zero_grad()
            # Each member's own mean loss: members share no parameter, so the sum gives every one its own gradient.
            loss.mean(1).sum().backward(inputs=optimiser.parameters)
            optimiser.step()
            losses[player] = loss.detach().sum(1)
        return losses[""]

    def _on_a_stream_of_its_own(self, index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Libraries set up their workspaces at the first calls, which must not be recorded."""
        stream, current = _side_stream(torch.cuda.current_device()), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            loss = self._train(index, noise)
        current.wait_stream(stream)
        return loss

    def _record(self, index: Tensor, noise: Mapping[str, Tensor]) -> str:
        """Record the step as ``self.graph``; returns why it cannot be, or nothing.

        In words alone, as the error's frames hold the memory of the half-recorded step.
        """
        self.index, self.noise = index.clone(), {name: t.clone() for name, t in noise.items()}
        # Gradients that are made while recording have a fixed place in the graph's own memory.
        self._forget_gradients()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.loss = self._train(self.index, self.noise)
        except RuntimeError as error:
            self._forget_gradients()
            return str(error)
        self.graph = graph
        return ""

    def _forget_gradients(self) -> None:
        for optimiser in self.cohort.optimisers.values():
            optimiser.zero_grad()


@denormals_as_zero()
def train_epoch(cohort: Cohort, images: ResidentImages, step: Step | None = None) -> Tensor:
    """One pass over the images; the summed loss of every step, (n_steps, n_members)."""
    cohort.model.train()
    for largest in cohort.model.extremes.values():
        largest.zero_()
    epoch, step = cohort.epoch + 1, step or Step(cohort, images)
    cohort.model.begin_epoch(epoch)
    order, streams = cohort.draw_orders(epoch, len(images)), cohort.noise_streams("noise", epoch)
    at_once = cohort.images_per_draw()
    # One array, made before the steps: a small one kept of each would lie in the hole that a large one leaves, which the next
    # large one then would not fit, and of 784 x 784 covariances the process grew by a GB in 30 steps.
    losses = torch.empty(
        math.ceil(len(images) / cohort.config.batch_size), len(cohort), dtype=cohort.dtype, device=cohort.device
    )
    done = itertools.count()
    bits = cohort.streams("binarisation", epoch) if cohort.config.binarisation == "dynamic" else []
    if bits:
        at_once = min(at_once, DRAWN_NUMBERS // images.pixels.shape[1])
    steps = max(1, min(STEPS_PER_DRAW, at_once // cohort.config.batch_size))
    for block in order.split(cohort.config.batch_size * steps, dim=1):
        noise = cohort.draw_noise(streams, block.shape[1])
        if bits:
            noise[THRESHOLDS] = cohort.draw_thresholds(bits, block.shape[1], images.pixels.shape[1])
        batches = zip(*(t.split(cohort.config.batch_size, dim=1) for t in (block, *noise.values())), strict=True)
        # The epoch's last batch may be smaller.
        for index, *own in batches:
            losses[next(done)] = step(index, dict(zip(noise, own, strict=True)))
    cohort.epoch = epoch
    return losses


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for all cohorts of a process: cuBLAS keeps a workspace for every stream that it has seen."""
    return torch.cuda.Stream(device)


def _stopping_images(cohort: Cohort, data: ImageData) -> ResidentImages | None:
    if not cohort.config.patience:
        return None
    if data.stopping is None:
        raise ValueError("patience needs images to stop by: give load_data the config's stopping_size")
    return ResidentImages.of(data.stopping, cohort.device, cohort.dtype)


def _stop_early(cohort: Cohort, images: ResidentImages) -> list[dict[str, float]]:
    """Score the stopping images; members that have waited long enough, and all where training ends, get their best weights.

    Each member's loss, at the full weight of its KL divergence, and the epoch of its lowest so far.
    """
    losses = [scores["loss"] for scores in evaluate(cohort, images)]
    cohort.note_stopping_losses(losses)
    if cohort.ended:
        cohort.put_best_back(*range(len(cohort)))
    epochs = cohort.best["best/epoch"].tolist()
    return [{"stopping/loss": loss, "stopping/best_epoch": epoch} for loss, epoch in zip(losses, epochs, strict=True)]


def _stop_diverged_members(cohort: Cohort, losses: Tensor) -> None:
    for i, finite in enumerate(losses.isfinite().T.cpu()):
        if i in cohort.stopped and not finite.all():
            cohort.let_finite(i)
        elif i not in cohort.failures and not finite.all():
            step = int((~finite).nonzero()[0])
            value = losses[step, i].item()
            cohort.stop_member(
                i, f"{DIVERGED}the loss became {value} in epoch {cohort.epoch}, step {step + 1} of {len(losses)}"
            )


def _stop_members_without_scores(cohort: Cohort, metrics: list[dict[str, float]]) -> None:
    """The last step's damage shows in no training loss, but in the scores."""
    for i, values in enumerate(metrics):
        bad = [f"{name} became {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad and i not in cohort.failures and i not in cohort.stopped:
            cohort.stop_member(i, f"{DIVERGED}{bad[0]} in epoch {cohort.epoch}")


def _train_metrics(cohort: Cohort, losses: Tensor, n_images: int) -> list[dict[str, float]]:
    # float64: a sum of many float32 losses loses digits
    means = (losses.double().sum(0) / n_images).cpu()
    metrics = [{"train/loss": mean.item()} for mean in means]
    if (variance := cohort.model.likelihood.noise_variance) is not None:
        for member, value in zip(metrics, variance.cpu(), strict=True):
            member["noise_variance"] = value.item()
    for name, values in cohort.model.extremes.items():
        for member, value in zip(metrics, values.cpu(), strict=True):
            member[name] = value.item()
    return metrics
