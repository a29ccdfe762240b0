"""What the models of the Fisher-Shannon plane cost beside the VAE: ``python benchmarks/fisher_shannon.py``, one thread.

1. A training step of each, 5 layers of 300 each way, d = 40, 100 images of 28 x 28, as a ratio to the VAE's.
2. The VAE's step where three units in ten have died, with the denormal moments of their weights as zero and as they are.
3. The likelihood by importance sampling, seconds an image at 5000 draws.
Of steps and likelihood the share that their products take at the speed of sgemm, as in ``step_speed.py``: the hardware's is 1.
Every figure is the smallest of several repetitions, the models taking turns. To be run on an idle machine.
"""

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.likelihoods import least_times
from benchmarks.step_speed import Product, Products, bare
from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.importance import drawn_at_once, evidence
from fishernet.training import Step, denormals_as_zero, keep_freed_memory

SHAPE, BATCH = (1, 28, 28), 100
# The ratios that are aimed at; the masked convolutions of PixelVAE are another order.
MODELS = {"VAE": 1.0, "FAE": 1.1, "IAF": 1.8, "MAE": 2.5, "PixelVAE": math.inf}
COMMON = {
    "hidden_layers": 5, "hidden_width": 300, "latent_dim": 40, "batch_size": BATCH, "learning_rate": 1e-3,
    "initialisation": "he-normal", "optimiser": "adam-normalised", "binarisation": "dynamic",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--channels", type=int, default=16, help="of PixelVAE's convolutions")
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--out", type=Path, help="also write the numbers to this CSV file")
    args = parser.parse_args()
    table: list[tuple[object, ...]] = [("what", "model", "ms", "as_vae", "aimed_at", "share_of_sgemm")]
    torch.set_num_threads(1)
    keep_freed_memory()
    images = ResidentImages(torch.randint(256, (BATCH, math.prod(SHAPE)), dtype=torch.uint8))
    steps, cohorts = {}, {}
    for model in MODELS:
        own = {"pixel_channels": args.channels, "pixel_layers": 4} if model == "PixelVAE" else {}
        cohort = Cohort([trial_config(model=model, **COMMON, **own)], SHAPE, 50_000)
        noise = cohort.draw_noise(cohort.noise_streams("noise", 1), BATCH)
        noise["thresholds"] = cohort.draw_thresholds(cohort.streams("binarisation", 1), BATCH, math.prod(SHAPE))
        steps[model] = partial(Step(cohort, images), torch.arange(BATCH)[None], noise)
        cohorts[model] = cohort
    found = {model: _products(step) for model, step in steps.items()}
    alone = {f"{model}'s products": bare(found[model]) for model in steps}
    best = least_times({**steps, **alone}, args.repetitions)
    for model in steps:
        aim = "" if math.isinf(MODELS[model]) else f", aimed at {MODELS[model]:.1f}"
        seconds, share = best[model], best[f"{model}'s products"] / best[model]
        ratio = f"{seconds / best['VAE']:.2f}"
        table.append(("step", model, f"{1e3 * seconds:.1f}", ratio, f"{MODELS[model]:g}", f"{share:.2f}"))
        print(
            f"step of {model}: {1e3 * seconds:.1f} ms, {ratio} of the VAE's{aim}; {share:.2f} of sgemm",
            flush=True,
        )
    dying = {
        how: _dying(Cohort([trial_config(model="VAE", **COMMON)], SHAPE, 50_000)) for how in ("as zero", "as they are")
    }
    dead = {how: partial(Step(cohort, images), *steps["VAE"].args) for how, cohort in dying.items()}
    dead = least_times(dead | {"as zero": denormals_as_zero()(dead["as zero"])}, args.repetitions)
    table += [(f"step, dead units, denormals {how}", "VAE", f"{1e3 * dead[how]:.1f}", "", "", "") for how in dead]
    print(
        f"step of VAE, 0.3 of its units dead: {1e3 * dead['as zero']:.1f} ms; "
        f"with denormals as they are {dead['as they are'] / dead['as zero']:.1f} times that",
        flush=True,
    )
    n = drawn_at_once(math.prod(SHAPE))
    some = ResidentImages(torch.randint(256, (n, math.prod(SHAPE)), dtype=torch.uint8))
    few = min(args.draws, 200)

    def likelihood() -> None:
        next(evidence(cohorts["VAE"].model, some, few, at_once=n))

    best = least_times({"likelihood": likelihood, "products": bare(_products(likelihood))}, 3)
    seconds, share = best["likelihood"] / n * args.draws / few, best["products"] / best["likelihood"]
    table.append(
        (f"likelihood of an image, {args.draws} draws", "VAE", f"{1e3 * seconds:.1f}", "", "60", f"{share:.2f}")
    )
    print(
        f"likelihood at {args.draws} draws: {seconds:.3f} s an image, by {few} of them; {share:.2f} of sgemm",
        flush=True,
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("".join(",".join(map(str, row)) + "\n" for row in table), encoding="utf-8")


def _dying(cohort: Cohort, share: float = 0.3, moment: float = 1e-40) -> Cohort:
    """Units that no image reaches, and the first moments that some thousand steps leave of the weights into and out of them."""
    for name, bias in cohort.model.named_parameters():
        if name.endswith("bias") and bias.shape[1] == COMMON["hidden_width"]:
            bias.data[:, : int(share * bias.shape[1])] = -1e6
    for optimiser in cohort.optimisers.values():
        for group in optimiser.groups:
            for first in group.exp_avg:
                first.fill_(moment)  # those of living units grow at the next step
    return cohort


def _products(run: Callable[[], object]) -> list[Product]:
    with Products() as noted:
        run()
    return noted.found


if __name__ == "__main__":
    main()
