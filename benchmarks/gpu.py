"""The paper's sweep on one GPU, with torch alone: ``python benchmarks/gpu.py``.

Per model and precision, model-epochs per second of a cohort (d = 2-20 x seeds) and of one run at a time, by the same training
loop with evaluation each epoch; what the whole sweep of 100 epochs would take; and the FLOP/s of the steps' matrix products
(benchmarks/step_speed.py) in the time without evaluation, beside those of one large product of the same precision. A short
--train-size and one model a call keep within a time limit; every row is in the file as soon as it is measured.

What a GPU has yet to decide is a flag: how the convolutions of stacked members are computed (--convolutions), each way compared
with the product's own on a batch before it is timed, and how far latent dimensions may differ whose tangents are pushed together
(--most-padding).
"""

import argparse
import contextlib
import csv
import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from step_speed import flops, products
from torch import Tensor

from fishernet import fisher
from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data.images import ImageData, ResidentImages
from fishernet.data.loading import load_data
from fishernet.evaluation import evaluate
from fishernet.families import trial_config
from fishernet.networks.conv import Decoder as ConvDecoder
from fishernet.networks.conv import Encoder as ConvEncoder
from fishernet.networks.stacked import each_member
from fishernet.training import Step, set_arithmetic, train_epoch

EPOCHS_OF_THE_PAPER = 100
N_STREAMS = 8
EACH = ConvEncoder.forward, ConvDecoder.forward  # member by member


def grouped(memory_format: torch.memory_format) -> tuple[Any, Any]:
    """All members in one convolution, each a group of its channels."""

    def together(x: Tensor) -> Tensor:  # (n_members, n, channels, height, width) to (n, n_members x channels, ...)
        return x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=memory_format)

    def apart(x: Tensor, n_members: int) -> Tensor:
        return x.unflatten(1, (n_members, -1)).transpose(0, 1).flatten(2)

    def encode(self: ConvEncoder, x: Tensor) -> Tensor:
        n_members, x = len(x), together(x.unflatten(2, self.image_shape))
        for layer in self.layers:
            x = self.activation.overwrite(F.conv2d(x, *_flat(layer), stride=layer.stride, padding=1, groups=n_members))
        return apart(x, n_members)

    def decode(self: ConvDecoder, z: Tensor) -> Tensor:
        n_members = len(z)
        x = together(self.activation.function(self.first(z)).unflatten(2, self.first_shape))
        for layer in self.layers:
            padding = [s - ((n - 1) * layer.stride + 1) for s, n in zip(layer.size, x.shape[-2:], strict=True)]
            x = F.conv_transpose2d(
                x, *_flat(layer), stride=layer.stride, padding=1, output_padding=padding, groups=n_members
            )
            x = self.activation.overwrite(x)
        return apart(F.conv2d(x, *_flat(self.last), padding=1, groups=n_members), n_members)

    return encode, decode


def _flat(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.weight.flatten(0, 1), layer.bias.flatten()


def on_streams() -> tuple[Any, Any]:
    """Member by member, several at a time: branches of the CUDA graph."""
    streams: list[torch.cuda.Stream] = []

    def each(x: Tensor, parameters: Any, compute: Any) -> Tensor:
        streams.extend(torch.cuda.Stream() for _ in range(N_STREAMS - len(streams)))
        current, results = torch.cuda.current_stream(), []
        for stream in streams:
            stream.wait_stream(current)
        for i, (own, layers) in enumerate(zip(x, parameters, strict=True)):
            with torch.cuda.stream(streams[i % N_STREAMS]):
                results.append(compute(own, layers))
        for stream in streams:
            current.wait_stream(stream)
        return torch.stack(results)

    def encode(self: ConvEncoder, x: Tensor) -> Tensor:
        return each(x.unflatten(2, self.image_shape), each_member(self.layers), self._features)

    def decode(self: ConvDecoder, z: Tensor) -> Tensor:
        x = self.activation.function(self.first(z)).unflatten(2, self.first_shape)
        return each(x, each_member([*self.layers, self.last]), self._image)

    return encode, decode


CONVOLUTIONS = {
    "each": EACH,
    "grouped": grouped(torch.contiguous_format),
    "grouped-channels-last": grouped(torch.channels_last),
    "streams": on_streams(),
}


def use(convolutions: tuple[Any, Any]) -> None:
    ConvEncoder.forward, ConvDecoder.forward = convolutions  # type: ignore[method-assign]


def difference(way: str, config: TrialConfig, data: ImageData, device: str) -> float:
    """The largest difference of three members' gradients from the product's own, over the largest gradient."""
    set_arithmetic("float32")
    found = []
    for convolutions in (EACH, CONVOLUTIONS[way]):
        use(convolutions)
        cohort = Cohort(
            [dataclasses.replace(config, seed=s, precision="float32") for s in range(3)], data.image_shape, 64, device
        )
        images = ResidentImages.of(data.train[:64], cohort.device)
        x = images.take(cohort.draw_orders(1, 64))
        cohort.model(x, cohort.draw_noise(cohort.noise_streams("noise", 1), 64)).loss.sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in cohort.model.parameters() if p.grad is not None]))
    return float((found[0] - found[1]).abs().max() / found[0].abs().max())


def epoch_seconds(configs: list[TrialConfig], data: ImageData, device: str, epochs: int) -> tuple[float, float, bool]:
    """Training and evaluation of the fastest of the epochs, after one to warm up; and whether steps were a CUDA graph's."""
    set_arithmetic(configs[0].precision)
    cohort = Cohort(configs, data.image_shape, len(data.train), device)
    images, test_images = (ResidentImages.of(part, cohort.device) for part in (data.train, data.test))
    step, seconds = Step(cohort, images), []
    for _ in range(epochs + 1):
        started = time.perf_counter()
        train_epoch(cohort, images, step).cpu()
        trained = time.perf_counter()
        evaluate(cohort, test_images)  # its numbers come back to the CPU, so it waits for the GPU
        seconds.append((trained - started, time.perf_counter() - trained))
    return *min(seconds[1:], key=sum), step.graph is not None


def peak(precision: str, device: str) -> float:
    """FLOP/s of a large product."""
    n = 8192 if device != "cpu" else 1024
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    set_arithmetic(precision)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["FisherNet", "VAE", "CVAE"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "tf32", "bfloat16"])
    parser.add_argument("--latent-dims", nargs=2, type=int, default=[2, 20], metavar=("FIRST", "LAST"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="that are timed, after one that is not")
    parser.add_argument("--train-size", type=int, default=0)
    parser.add_argument("--convolutions", nargs="+", choices=CONVOLUTIONS, default=["each"])
    parser.add_argument("--most-padding", type=float, default=fisher.MOST_PADDING["cuda"])
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    if args.device == "cpu" and "streams" in args.convolutions:
        parser.error("--convolutions streams needs a GPU")
    data = load_data("fashion-mnist", args.data_dir, train_size=args.train_size)
    dims = range(args.latent_dims[0], args.latent_dims[1] + 1)
    fisher.MOST_PADDING[torch.device(args.device).type] = args.most_padding
    with contextlib.ExitStack() as stack:
        files = [sys.stdout]
        if args.out:
            files.append(stack.enter_context(args.out.open("w", newline="", encoding="utf-8")))
        write(files, "model", "convolutions", "precision", "members", "graph", "train_s", "evaluate_s", "model_epochs_per_s",
              "one_at_a_time", "times", "minutes_of_100_epochs", "tflops", "share_of_peak")  # fmt: skip
        for model, precision in itertools.product(args.models, args.precisions):
            settings: dict[str, Any] = {"model": model, "precision": precision, "train_size": args.train_size}
            configs = [trial_config(latent_dim=d, seed=s, **settings) for d in dims for s in range(args.seeds)]
            work = sum(flops(products(c)) / c.batch_size for c in configs) * len(data.train)
            use(EACH)
            alone = sum(epoch_seconds([configs[len(configs) // 2]], data, args.device, args.epochs)[:2])
            for way in args.convolutions if model == "CVAE" else [""]:
                if way not in ("", "each") and (far := difference(way, configs[0], data, args.device)) > 1e-4:
                    sys.exit(f"{way} convolutions give other gradients: {far:.1e} of the largest")
                use(CONVOLUTIONS[way or "each"])
                train_s, evaluate_s, graph = epoch_seconds(configs, data, args.device, args.epochs)
                together = train_s + evaluate_s
                write(files, model, way, precision, len(configs), graph, f"{train_s:.2f}", f"{evaluate_s:.2f}",
                      f"{len(configs) / together:.2f}", f"{1 / alone:.2f}", f"{len(configs) * alone / together:.1f}",
                      f"{EPOCHS_OF_THE_PAPER * together / 60:.1f}", f"{work / train_s / 1e12:.2f}",
                      f"{work / train_s / peak(precision, args.device):.2f}")  # fmt: skip


def write(files: list[TextIO], *row: object) -> None:
    for file in files:
        csv.writer(file, lineterminator="\n").writerow(row)
        file.flush()


if __name__ == "__main__":
    main()
