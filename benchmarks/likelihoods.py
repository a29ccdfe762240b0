"""What a step of each row of the VPAE paper's Table 1 costs: ``python benchmarks/likelihoods.py``, one thread, an idle machine.

1. CPU milliseconds of a training step, batch 128 of 28 x 28 images, beside what it cannot do without: the products of both layers
   (forward, and by weights and inputs backward) on arrays of the same sizes, each number that the decoder emits read and written
   twice (value and gradient), and Adam's own step. To be at most 1.25 of that.
2. A member's step in a stack of five seeds beside the step alone, as a factor of speed. To be at least 1.5 for K = 1.
3. Value and gradient of ln p of one batch, of our densities beside those of torch.distributions, of zuko (``pip install zuko``)
   and of TensorFlow Probability on JAX (``pip install tensorflow-probability[jax]``), compiled, where these are installed.

Every figure is the smallest of several rounds, in which all of one row take turns. A table of CSV: steps, then densities.
"""

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, distributions
from torch.nn.functional import softplus

from analysis.papers.vpae import COSTLY, DIM, SHARED, TABLE_1, Line
from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.likelihoods import LIKELIHOODS, n_outputs
from fishernet.training import Step, denormals_as_zero, keep_freed_memory

SHAPE, BATCH, SEEDS, K = (1, 28, 28), 128, 5, 10
D = math.prod(SHAPE)
TRIANGLES = ("t_df_mu_diagSigma", "MN_mu_U_V", "T_df_mu_U_V", "N_mu_Sigma")  # one component, timed beside TFP's
Way = TypeVar("Way")


@denormals_as_zero()  # as in training
def least_times(ways: Mapping[Way, Callable[[], object]], rounds: int) -> dict[Way, float]:
    """CPU seconds of each, the smallest of the rounds after a first."""
    best = dict.fromkeys(ways, math.inf)
    for i in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if i:
                best[name] = min(best[name], time.process_time() - start)
    return best


def step_of(line: Line, n_seeds: int, images: ResidentImages) -> tuple[Callable[[], object], Cohort]:
    configs = [trial_config({**SHARED, **TABLE_1[line], "latent_dim": DIM, "seed": seed}) for seed in range(n_seeds)]
    cohort = Cohort(configs, SHAPE, len(images))
    step, index = Step(cohort, images), torch.arange(BATCH).expand(n_seeds, -1)
    noise = cohort.draw_noise(cohort.noise_streams("noise", 1), BATCH)
    return lambda: step(index, noise), cohort


def needed(cohort: Cohort) -> Callable[[], object]:
    """The arithmetic that no step can do without; of a flow or a posterior with its own products."""
    width = n_outputs(cohort.config, SHAPE)
    shapes = [p.shape[-2:] for name, p in cohort.model.named_parameters() if name.endswith("weight")]
    pairs = [
        (torch.randn(BATCH, min(s)), torch.randn(BATCH, max(s)), torch.randn(min(s), max(s)))
        for s in map(tuple, shapes)
    ]
    emitted = torch.zeros(BATCH, width)

    def run() -> None:
        for narrow, wide, weight in pairs:
            narrow @ weight  # forward
            narrow.T @ wide  # by the weight
            wide @ weight.T  # by the input
        for _ in range(2):
            emitted.add_(1.0)
        for optimiser in cohort.optimisers.values():
            optimiser.step()

    return run


def ours(x: Tensor, **values: object) -> Callable[[], object]:
    """Value and gradient of ln p of x by the raw numbers of a likelihood."""
    config = trial_config({"model": "AE", "decoder_output": "linear", "latent_dim": DIM, **values})
    likelihood = LIKELIHOODS[config.likelihood].load()(config, 1, SHAPE)
    a = (0.01 * torch.randn(1, len(x), likelihood.n_outputs)).requires_grad_()
    learned = [a, *likelihood.parameters()]
    return lambda: torch.autograd.grad(likelihood.log_prob(x[None], a).sum(), learned)


def by_torch(x: Tensor, k: int) -> Callable[[], object]:
    """A mixture of k diagonal normals, parametrised as ours."""
    loc, raw = ((0.01 * torch.randn(len(x), k, D)).requires_grad_() for _ in range(2))
    logits = torch.zeros(len(x), k, requires_grad=True)

    def run() -> None:
        each = distributions.Independent(distributions.Normal(loc, softplus(raw) + 1e-6, validate_args=False), 1)
        mixed = distributions.MixtureSameFamily(distributions.Categorical(logits=logits), each, validate_args=False)
        torch.autograd.grad(mixed.log_prob(x).sum(), (loc, raw, logits))

    return run


def by_zuko(x: Tensor) -> Callable[[], object]:
    import zuko

    flow = zuko.flows.MAF(D, transforms=1, hidden_features=[10])
    return lambda: torch.autograd.grad(flow().log_prob(x).sum(), list(flow.parameters()))


def by_tfp(x: Tensor, k: int) -> Callable[[], object]:
    import jax
    from tensorflow_probability.substrates import jax as tfp

    def log_prob(loc, raw, logits):  # type: ignore[no-untyped-def]
        scale = jax.nn.softplus(raw) + 1e-6
        each = tfp.distributions.MultivariateNormalDiag(loc, scale)
        mixed = tfp.distributions.MixtureSameFamily(tfp.distributions.Categorical(logits=logits), each)
        return mixed.log_prob(x.numpy()).sum()

    run = jax.jit(jax.value_and_grad(log_prob, argnums=(0, 1, 2)))
    arrays = [jax.numpy.zeros((len(x), k, D)), jax.numpy.zeros((len(x), k, D)), jax.numpy.zeros((len(x), k))]
    return lambda: jax.block_until_ready(run(*arrays))


def by_tfp_alone(x: Tensor, row: str) -> Callable[[], object]:
    """Of one component: a t with a diagonal scale, a matrix normal or t by triangles of both covariances, and those of pixels."""
    import jax
    from tensorflow_probability.substrates import jax as tfp

    linear, some, n = tfp.tf2jax.linalg, tfp.distributions, len(x)
    as_matrices, side = x.numpy().reshape(n, *SHAPE[1:]), SHAPE[1]

    def triangle(raw):  # type: ignore[no-untyped-def]
        lower = jax.numpy.tril(raw, -1) + jax.nn.softplus(raw) * jax.numpy.eye(raw.shape[-1])
        return linear.LinearOperatorLowerTriangular(lower)

    def diagonal(loc, raw, df):  # type: ignore[no-untyped-def]
        scale = linear.LinearOperatorDiag(jax.nn.softplus(raw) + 1e-6)
        return some.MultivariateStudentTLinearOperator(jax.nn.softplus(df), loc, scale).log_prob(x.numpy()).sum()

    def matrix_normal(loc, u, v):  # type: ignore[no-untyped-def]
        return some.MatrixNormalLinearOperator(loc, triangle(u), triangle(v)).log_prob(as_matrices).sum()

    def matrix_t(loc, u, v, df):  # type: ignore[no-untyped-def]
        made = some.MatrixTLinearOperator(jax.nn.softplus(df), loc, triangle(u), triangle(v))
        return made.log_prob(as_matrices).sum()

    def full(loc, raw):  # type: ignore[no-untyped-def]
        return some.MultivariateNormalLinearOperator(loc, triangle(raw)).log_prob(x.numpy()).sum()

    matrices = [(n, side, side)] * 3
    log_prob, shapes = {
        "t_df_mu_diagSigma": (diagonal, [(n, D), (n, D), (n,)]),
        "MN_mu_U_V": (matrix_normal, matrices),
        "T_df_mu_U_V": (matrix_t, [*matrices, (n,)]),
        "N_mu_Sigma": (full, [(n, D), (n, D, D)]),
    }[row]
    run = jax.jit(jax.value_and_grad(log_prob, argnums=tuple(range(len(shapes)))))
    arrays = [jax.numpy.zeros(shape) for shape in shapes]
    return lambda: jax.block_until_ready(run(*arrays))


def full_by_torch(x: Tensor) -> Callable[[], object]:
    loc, raw = torch.zeros(len(x), D, requires_grad=True), torch.zeros(len(x), D, D, requires_grad=True)

    def run() -> None:
        triangle = raw.tril(-1) + torch.diag_embed(softplus(raw.diagonal(dim1=1, dim2=2)))
        made = distributions.MultivariateNormal(loc, scale_tril=triangle, validate_args=False)
        torch.autograd.grad(made.log_prob(x).sum(), (loc, raw))

    return run


HEADER = ("what", "row", "components", "by", "ms", "needed_ms", "ratio", "stacked_gain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    names = list(dict.fromkeys(name for name, _ in TABLE_1))
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="rows of Table 1; default: all")
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    images = ResidentImages(torch.randint(256, (BATCH, D), dtype=torch.uint8))
    # Steps of full covariances are timed by full_covariance.py.
    lines = [line for line in TABLE_1 if line not in COSTLY and line[0] in args.rows]
    table: list[tuple[object, ...]] = []

    def add(*row: object) -> None:
        table.append(row)
        print(*row, sep=",", flush=True)

    add(*HEADER)
    for line in lines:
        (alone, cohort), (together, _) = step_of(line, 1, images), step_of(line, SEEDS, images)
        found = least_times({"step": alone, "needed": needed(cohort), "stacked": together}, args.rounds)
        step, least = found["step"], found["needed"]
        gain = SEEDS * step / found["stacked"]
        add("step", *line, "ours", f"{1e3 * step:.2f}", f"{1e3 * least:.2f}", f"{step / least:.2f}", f"{gain:.2f}")
    x = torch.rand(BATCH, D)
    of_k = {"scale": "diagonal", "components": K}
    ways: dict[tuple[str, int, str], Callable[[], Callable[[], object]]] = {
        ("N_mu_diagSigma", K, "ours"): lambda: ours(x, likelihood="gaussian", **of_k),
        ("N_mu_diagSigma", K, "torch.distributions"): lambda: by_torch(x, K),
        ("N_mu_diagSigma", K, "TFP on JAX"): lambda: by_tfp(x, K),
        ("MAF", 1, "ours"): lambda: ours(x, likelihood="maf"),
        ("MAF", 1, "zuko"): lambda: by_zuko(x),
        ("N_mu_Sigma", 1, "torch.distributions"): lambda: full_by_torch(x),
    }
    for row in TRIANGLES:
        values = {
            name: value for name, value in TABLE_1[row, 1].items() if name in ("likelihood", "scale", "components")
        }
        # TFP's is the first.
        factors = ("covariance", "precision-matrix") if values["scale"] == "full" else ("covariance",)
        for factor in factors:
            by = "ours" if len(factors) == 1 else f"ours by the {factor}"
            ways[row, 1, by] = partial(ours, x, cholesky_of=factor, **values)
        ways[row, 1, "TFP on JAX"] = partial(by_tfp_alone, x, row)
    # Those of one density take turns; all of them would evict each other's memory, as full covariances fill 300 MB an array.
    for row, k in dict.fromkeys((name[0], name[1]) for name in ways if name[0] in args.rows):
        made = {}
        for name, make in ways.items():
            if name[:2] != (row, k):
                continue
            try:
                made[name] = make()
            except ImportError as error:
                print(f"{row} by {name[2]}: not timed, as {error.name} is not installed", file=sys.stderr)
        for name, seconds in least_times(made, args.rounds).items():
            add("density", *name, f"{1e3 * seconds:.2f}", "", "", "")
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
