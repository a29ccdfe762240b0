"""What a decoder's distributions say of images: errors of their point estimates, calibration, components, bits.

Ciobanu, "Vanilla Probabilistic Autoencoder" (EPiC 79, 2021), whose L2 is 100 times the mean squared error per pixel of clipped
images, over the first 1000 test images. What the paper does not ask stands beside it: whether intervals cover what they say, how
many components of a mixture are used, and which of a t's images have a mean.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import special, stats
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import StoredSweep, config_of
from fishernet import pca
from fishernet.cohort import stream_seed
from fishernet.config import TrialConfig
from fishernet.data.images import dequantised
from fishernet.evaluation import evaluation_batch
from fishernet.families import family
from fishernet.importance import uniforms
from fishernet.likelihoods import LIKELIHOODS, emits
from fishernet.likelihoods.base import Marginals
from fishernet.likelihoods.discretised import log_mass
from fishernet.likelihoods.emitted import Mixed
from fishernet.models.base import Autoencoder

Array = npt.NDArray[np.float64]

MADE = 4  # by these rules; raised where the same model's numbers become others, so that stored ones are made anew
N_IMAGES = 1000  # the first of the test set, as in the paper
LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # of the central intervals whose coverage is counted
NAMED_LEVELS = (0.5, 0.9, 0.95)  # those that are metrics
N_NEIGHBOURS = 5  # whose labels are compared with a code's own
N_DRAWS = 50  # whose mean is the released code's reconstruction of a flow
CRPS_PIXELS = 10_000  # of mixtures of t's: a second and more for each thousand
NODES_TO, NODES_STEP = 5.5, 0.1  # of the integral between two t's
ROOT_2_PI = math.sqrt(2 * math.pi)


def emits_more(config: TrialConfig) -> bool:
    """Whether its decoder gives more than an image: a scale, a mixture, degrees of freedom, or what a flow takes further."""
    named: str = getattr(config, "likelihood", "")
    return named == "maf" or (named in LIKELIHOODS and emits(config, (1, 1, 1)) != (1, 0))  # type: ignore[arg-type]


def floors(train: Tensor, test: Tensor, d: int) -> dict[str, float]:
    """L2 in percent of what needs no model, of uint8 images (n, channels, height, width), clipped: black, the mean training
    image, the best that is constant on blocks of 2 x 2 pixels, as the paper's convolutional network draws, d principal axes.

    Components are left out of larger images, whose exact decomposition would take long.
    """
    x, mean = test.flatten(1).double() / 255, pca.mean_image(train.flatten(1))
    blocks = F.avg_pool2d(test.double() / 255, 2, ceil_mode=True, count_include_pad=False)
    height, width = test.shape[2:]
    blocks = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :height, :width].flatten(1)
    shown = {"black image": torch.zeros_like(x), "mean image": mean.expand_as(x), "constant on 2 x 2 blocks": blocks}
    if d <= x.shape[1] and (found := pca.components(train, d, pca.MOST_EXACT)):
        mean, basis = found
        shown[f"PCA, {d} components"] = mean + (x - mean) @ basis @ basis.T
    return {name: 100 * (x - f.clamp(0, 1)).square().mean().item() for name, f in shown.items()}


def tasks(stored: StoredSweep) -> Tasks:
    """Every run's scores where it lacks them, in sweeps where a decoder gives more than an image; none elsewhere."""
    if not any(map(emits_more, stored.runs["config"])):
        return Tasks([])
    lacking = [
        run
        for _, run in stored.runs.iterrows()
        if run["scores"].get("outputs", {}).get("made") != MADE and not family(run["model"]).sees_image
    ]
    labels = stored.images.test_labels
    known = None if labels is None else labels[:N_IMAGES]
    made = [
        ScoreTask(
            run, "outputs", score_outputs, partial(lambda run: (stored.model(run), config_of(run).seed, known), run)
        )
        for run in lacking
    ]
    return Tasks(made, [stored.images.test[:N_IMAGES]] if made else [])


@torch.no_grad()
def score_outputs(test: Tensor, model: Autoencoder, seed: int, labels: Tensor | None = None) -> Scored:
    """Of uint8 images (n, channels, height, width), means over images and pixels; x and f in [0, 1], f clipped.

    l2_percent            100 mean (x - f)^2, f the mean of p(x given the posterior mean); of a t its location
    l2_percent_NAME       of another image f: of mixtures ``densest_mode`` and ``likeliest``, as in ``Mixed.estimates``;
                          ``released``, what the released code shows: of mixtures of t's the densest mode, of a flow the mean
                          of 50 draws, of a model with a posterior the image at one draw of it, else the mean
    bits_per_dim          8 - ELBO/(d ln 2) of (v + u)/256, u uniform, each grey value's own by the seed; of 8-bit likelihoods
                          -ELBO/(d ln 2) of v
    code_bits_per_dim     the same of ln p(x given its code), without a posterior: the code's own bits are left out
    discretised_NAME      of NAME, the two above, -ln P(v)/(d ln 2) of the mass that a density has between the edges of v, as a
                          discretised-normal has it; of normals and their mixtures whose pixels are independent in a component
    coverage_LEVEL        share of pixels within their central interval of that level, 50, 90 and 95 percent. This and what
                          follows of marginals is of x; of models trained with dequantisation of (v + u)/256, the bits' own,
                          given its code
    crps                  continuous ranked probability score, in units of x; of mixtures of t's over CRPS_PIXELS pixels drawn by
                          the seed; none where a t has no mean
    pit_deviation         largest distance of the distribution of F(x), F a pixel's own, from the uniform one
    sd_at_floor           share of emitted standard deviations, of matrix families of rows' and columns', below twice the least,
                          least_scale; of full scales of the diagonals of covariance factors, and none of precision factors,
                          whose diagonals are inverse ones
    sd_rank_correlation   Spearman's, of a pixel's sd and |x - mean|; none where all sd are equal or most are infinite
    without_mean          share of the components' weight whose t has none (df <= 1); without_variance the same of df <= 2
    df_median             median degrees of freedom of the likeliest component
    components_used       exp of the entropy of the mean weights: K where all are used alike
    largest_weight        mean over images of the largest weight
    label_information     mutual information of the likeliest component and the label, nats
    neighbour_accuracy    share of images whose label is the commonest of the 5 codes nearest to theirs
    parameters            trained numbers of the model
    """
    generator = torch.Generator().manual_seed(seed)
    n_scored = min(model.n_pixels, -(-CRPS_PIXELS // len(test)))
    pixels = np.random.default_rng(seed).integers(0, model.n_pixels, (len(test), n_scored))
    noise, u = noise_of(model, len(test), generator), uniforms(seed, range(len(test)), model.n_pixels)
    scores: dict[str, list[Array]] = {}
    kept: dict[str, list[Array]] = {}
    codes = []
    for part in _batches(len(test), model):
        x = test[part].flatten(1).float().div(255)[None]
        own_noise = {name: drawn[:, part] for name, drawn in noise.items()}
        code = model.posterior_mean(x)
        codes.append(_array(code))
        a = model.decode(code)
        distribution = model.likelihood.distribution(a)
        mean = distribution.mean()
        shown = {"": mean, **{f"_{name}": f for name, f in distribution.estimates().items()}}
        shown["_released"] = _released(model, x, shown, a, own_noise, _normals(model, seed, part, len(test)))
        own = {f"l2_percent{name}": 100 * (x - f.clamp(0, 1)).square().mean(2) for name, f in shown.items()}
        own |= _bits(model, x, u[part], own_noise)
        for name, values in own.items():
            scores.setdefault(name, []).append(_array(values))
        seen, given = x, distribution
        if model.dequantises:  # a density of these images alone
            seen = dequantised(x, u[part])
            given = model.likelihood.distribution(model.decode(model.posterior_mean(seen)))
        marginals = given.marginals()
        if marginals is not None:
            for name, array in of_marginals(marginals, seen, given.mean(), pixels[part]).items():
                kept.setdefault(name, []).append(array)
        if isinstance(distribution, Mixed) and (floored := distribution.scale.floored).numel():
            kept.setdefault("at_floor", []).append(_array((floored < 2 * model.config.least_scale).flatten(2)))
    metrics = {name: float(np.concatenate(values).mean()) for name, values in scores.items()}
    calibration = {}
    if kept:
        arrays = {name: np.concatenate(parts) for name, parts in kept.items()}
        calibration = {"coverage": [coverage(arrays["pit"], level) for level in LEVELS], "levels": list(LEVELS)}
        metrics |= {f"coverage_{100 * level:.0f}": coverage(arrays["pit"], level) for level in NAMED_LEVELS}
        metrics |= _summary(arrays)
        if "at_floor" in arrays:
            metrics["sd_at_floor"] = float(arrays["at_floor"].mean())
        if labels is not None and arrays["weights"].shape[1] > 1:
            metrics["label_information"] = float(mutual_info_score(labels, arrays["weights"].argmax(1)))
    if labels is not None and len(test) > N_NEIGHBOURS:
        metrics["neighbour_accuracy"] = neighbour_accuracy(np.concatenate(codes), labels.numpy())
    metrics["parameters"] = float(sum(parameter.numel() for parameter in model.parameters()))
    about = {"n_images": len(test), "made": MADE, **calibration}
    return Scored({f"outputs/{name}": value for name, value in metrics.items()}, about)


def of_marginals(
    marginals: Marginals, x: Tensor, mean: Tensor, pixels: npt.NDArray[np.int64] | None = None
) -> dict[str, Array]:
    """By image, what the scores of marginals are made of: pit, error, sd and crps (n, n_pixels), weights and df (n, K).

    The crps of mixtures of t's is of ``pixels`` alone, (n, how many); without, of all.
    """
    weights = _array(marginals.log_weights.exp())
    found = {
        "pit": _array(marginals.cdf(x)),
        "error": _array((x - mean).abs()),
        "sd": _array(marginals.variance().sqrt()),
        "weights": weights,
        "scale": _array(marginals.scale),
    }
    loc = _array(marginals.loc)
    if marginals.df is None:
        found["crps"] = normal_crps(weights, loc, found["scale"], _array(x))
        return found
    found["df"] = _array(marginals.df)
    if weights.shape[1] == 1:
        found["crps"] = t_crps(found["df"], loc[:, 0], found["scale"][:, 0], _array(x))
    else:
        at = np.arange(x.shape[2])[None].repeat(len(weights), 0) if pixels is None else pixels
        at_loc, at_scale = (np.take_along_axis(values, at[:, None], 2) for values in (loc, found["scale"]))
        found["crps"] = t_mixture_crps(weights, found["df"], at_loc, at_scale, np.take_along_axis(_array(x), at, 1))
    return found


def coverage(pit: Array, level: float) -> float:
    """Share of values within their central interval of that level: |F(x) - 1/2| <= level/2."""
    return float((np.abs(pit - 0.5) <= level / 2).mean())


def normal_crps(weights: Array, loc: Array, scale: Array, x: Array) -> Array:
    """Of mixtures of normals, (n, n_pixels): E|X - x| - E|X - X'|/2 (Grimit et al., Q. J. R. Meteorol. Soc. 2006).

    weights (n, K); loc and scale (n, K, n_pixels); x (n, n_pixels).
    """

    def distance(mean: Array, sd: Array) -> Array:
        """E|N(mean, sd^2)|."""
        y = mean / sd
        return np.asarray(mean * (2 * special.ndtr(y) - 1) + 2 * sd * np.exp(-0.5 * y**2) / ROOT_2_PI)

    total = np.zeros_like(x)
    for i in range(weights.shape[1]):
        w = weights[:, i, None]
        total += w * distance(x - loc[:, i], scale[:, i])
        for j in range(i + 1):
            twice = 1 if j < i else 0.5  # each pair of two is met once
            sd = np.hypot(scale[:, i], scale[:, j])
            total -= twice * w * weights[:, j, None] * distance(loc[:, i] - loc[:, j], sd)
    return total


def t_crps(df: Array, loc: Array, scale: Array, x: Array) -> Array:
    """Of t distributions, (n, n_pixels): the closed form of Jordan, Krüger, Lerch (J. Stat. Softw. 2019, appendix A).

    df (n, 1), the others (n, n_pixels). It needs a mean: of df <= 1 it is given as infinite.
    """
    nu = np.where(df > 1, df, np.nan)
    at = _t_distance(nu, (x - loc) / scale) - _half_t_spread(nu)
    return np.asarray(np.where(np.isnan(nu), np.inf, scale * at))


def t_mixture_crps(weights: Array, df: Array, loc: Array, scale: Array, x: Array) -> Array:
    """Of mixtures of t's, (n, p): E|X - x| - E|X - X'|/2, as ``normal_crps``; infinite where a component has no mean.

    weights and df (n, K); loc and scale (n, K, p); x (n, p). What two components have between them is an integral over the
    narrower one, by the trapezoidal rule in w, y = sinh(pi/2 sinh w) (Takahasi and Mori 1974), against the other's E|T - y|.
    """
    total = np.full_like(x, np.inf)
    known = ((df > 1) | (weights == 0)).all(1)
    if not known.any():
        return total
    weights, loc, scale, x = weights[known], loc[known], scale[known], x[known]
    nu = np.where(weights > 0, df[known], 2)[:, :, None]
    found = np.zeros_like(x)
    for i in range(weights.shape[1]):
        w = weights[:, i, None]
        found += w * scale[:, i] * (_t_distance(nu[:, i], (x - loc[:, i]) / scale[:, i]) - w * _half_t_spread(nu[:, i]))
        for j in range(i):
            found -= w * weights[:, j, None] * _between_ts(nu[:, [i, j]], loc[:, [i, j]], scale[:, [i, j]])
    total[known] = found
    return total


def _t_distance(nu: Array, y: Array) -> Array:
    """E|T - y| of a unit t."""
    return np.asarray(y * (2 * special.stdtr(nu, y) - 1) + 2 * stats.t.pdf(y, nu) * (nu + y**2) / (nu - 1))


def _half_t_spread(nu: Array) -> Array:
    """E|T - T'|/2 of two unit t's."""
    return np.asarray(
        2 * np.sqrt(nu) / (nu - 1) * np.exp(special.betaln(0.5, nu - 0.5) - 2 * special.betaln(0.5, nu / 2))
    )


def _between_ts(nu: Array, loc: Array, scale: Array) -> Array:
    """E|X - X'| of two t's, (n, p): nu (n, 2, 1), the others (n, 2, p)."""
    first = scale[:, 0] <= scale[:, 1]
    nu = np.broadcast_to(nu, scale.shape)
    narrow, wide = ([np.where(first == own, v[:, 0], v[:, 1]) for v in (nu, loc, scale)] for own in (True, False))
    total = np.zeros_like(narrow[1])
    for w in np.arange(-NODES_TO, NODES_TO + NODES_STEP / 2, NODES_STEP):
        y = math.sinh(math.pi / 2 * math.sinh(w))
        slope = math.pi / 2 * math.cosh(w) * math.hypot(1, y)
        away = (narrow[1] + narrow[2] * y - wide[1]) / wide[2]
        far = np.abs(away) > 1e8  # where E|T - y| is |y| to rounding, and its parts may overflow
        distance = np.where(far, np.abs(away), _t_distance(wide[0], np.where(far, 0, away)))
        total += NODES_STEP * slope * stats.t.pdf(y, narrow[0]) * distance
    return total * wide[2]


def neighbour_accuracy(codes: Array, labels: npt.NDArray[np.int64]) -> float:
    """Share of codes (n, d) whose label is the commonest of the N_NEIGHBOURS nearest others' (the smallest of equally common)."""
    nearest = NearestNeighbors(n_neighbors=N_NEIGHBOURS).fit(codes).kneighbors(return_distance=False)
    commonest = stats.mode(labels[nearest], axis=1).mode
    return float((commonest == labels).mean())


def pit_deviation(pit: Array) -> float:
    """Kolmogorov's distance of values from the uniform distribution on [0, 1]."""
    return float(stats.kstest(pit.ravel(), "uniform").statistic)


def rank_correlation(sd: Array, error: Array) -> float:
    """Spearman's over pixels whose sd is finite; NaN where these are less than half or their sd are equal."""
    finite = np.isfinite(sd)
    if finite.mean() < 0.5 or np.ptp(sd[finite]) <= 1e-6 * sd[finite].max():
        return math.nan
    return float(stats.spearmanr(sd[finite], error[finite]).statistic)


def _summary(arrays: dict[str, Array]) -> dict[str, float]:
    """Scores of all images at once."""
    weights = arrays["weights"]
    found = {
        "sd_rank_correlation": rank_correlation(arrays["sd"].ravel(), arrays["error"].ravel()),
        "pit_deviation": pit_deviation(arrays["pit"]),
    }
    if "crps" in arrays:
        found["crps"] = float(arrays["crps"].mean())
    if "df" in arrays:
        df = arrays["df"]
        found["without_mean"] = float((weights * (df <= 1)).sum(1).mean())
        found["without_variance"] = float((weights * (df <= 2)).sum(1).mean())
        found["df_median"] = float(np.median(df[np.arange(len(df)), weights.argmax(1)]))
    if weights.shape[1] > 1:
        found["components_used"] = float(np.exp(special.entr(weights.mean(0)).sum()))
        found["largest_weight"] = float(weights.max(1).mean())
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _released(
    model: Autoencoder,
    x: Tensor,
    shown: dict[str, Tensor],
    a: Tensor,
    noise: dict[str, Tensor],
    normals: Iterator[Tensor],
) -> Tensor:
    """The reconstruction of the VPAE paper's released code; ``normals`` are of the draws of a flow."""
    if LIKELIHOODS[model.config.likelihood].heavy and "_densest_mode" in shown:
        return shown["_densest_mode"]
    if model.config.likelihood == "maf":
        return torch.stack([model.likelihood.draw(a, own) for own in normals]).mean(0)
    if family(model.config.model).posterior:
        z, _ = model.posterior(x).draw(noise)
        return model.reconstruct(z)
    return shown[""]


def _bits(model: Autoencoder, x: Tensor, u: Tensor, noise: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bits per grey value of each image, by name; empty where the likelihood is of no 8-bit values."""
    discrete = model.likelihood.discrete
    if not (discrete or LIKELIHOODS[model.config.likelihood].density):
        return {}
    terms = model(x if discrete else dequantised(x, u), noise).terms
    posterior = family(model.config.model).posterior
    name, nats = ("bits_per_dim", "elbo") if posterior else ("code_bits_per_dim", "log_likelihood")
    if nats not in terms:
        return {}
    per_bit = model.n_pixels * math.log(2)
    found = {name: (0 if discrete else 8) - terms[nats] / per_bit}
    if discrete or model.config.scale == "full":
        return found
    _, terms, _, a = model(x, noise)
    marginals = model.likelihood.distribution(a).marginals()
    if marginals is not None and marginals.df is None:
        more = discretised_log_prob(marginals, x) - terms["log_likelihood"]
        found[f"discretised_{name}"] = -(terms[nats] + more) / per_bit
    return found


def discretised_log_prob(marginals: Marginals, x: Tensor) -> Tensor:
    """ln P of the grey values x = v/255 of normals, (n_members, n), nats: the mass between the edges v/256 and (v + 1)/256.

    Pixels are independent within a component. The edges are those of dequantised images, and the outermost bins are open.
    """
    masses = log_mass(x.double(), marginals.loc.double(), marginals.scale.double()).sum(3)
    return torch.logsumexp(marginals.log_weights.double() + masses, 2)


def noise_of(model: Autoencoder, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The random numbers of a pass of n images."""
    kinds: dict[str, Callable[..., Tensor]] = {"normal": torch.randn, "uniform": torch.rand}
    return {
        name: kinds[noise.kind](1, n, noise.width, generator=generator)
        for name, noise in model.noise(max(model.latent_dims)).items()
    }


def _normals(model: Autoencoder, seed: int, part: slice, n: int) -> Iterator[Tensor]:
    """N_DRAWS times standard normal numbers of a part's images, (1, len(part), n_pixels), each image's its own by the seed."""
    streams = [
        torch.Generator().manual_seed(stream_seed(seed, "draws of a flow", image)) for image in range(*part.indices(n))
    ]
    for _ in range(N_DRAWS):
        yield torch.stack([torch.randn(model.n_pixels, generator=own) for own in streams])[None]


def _batches(n: int, model: Autoencoder) -> Iterator[slice]:
    size = evaluation_batch(model.n_pixels, 1, model.likelihood.n_outputs)
    return (slice(start, start + size) for start in range(0, n, size))


def _array(values: Tensor) -> Array:
    """The one member's, in float64."""
    return values[0].double().numpy()
