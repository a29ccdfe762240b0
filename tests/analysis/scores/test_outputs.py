"""Scores of what decoders emit are their closed forms: PIT, CRPS, point estimates, bits, weights."""

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats

from analysis.scores.outputs import (
    MADE,
    coverage,
    discretised_log_prob,
    emits_more,
    neighbour_accuracy,
    normal_crps,
    of_marginals,
    pit_deviation,
    rank_correlation,
    score_outputs,
    t_crps,
    t_mixture_crps,
    tasks,
)
from fishernet.data.images import dequantised
from fishernet.families import family, trial_config
from fishernet.importance import uniforms
from fishernet.likelihoods.base import Marginals

SHAPE = (1, 4, 5)
IMAGES = torch.randint(0, 256, (60, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LOC = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
SCALE = torch.tensor([0.05, 0.2, 0.1], dtype=torch.float64)


def made(**values):
    settings = {"model": "AE", "latent_dim": 3, "hidden_layers": 0, "decoder_output": "linear"}
    config = trial_config({**settings, **values})
    torch.manual_seed(0)
    return family(config.model).load()([config], SHAPE, 10).eval()


def scores(model, images=IMAGES, seed=0):
    return score_outputs(images, model, seed).metrics


def mixture(n, df=None):
    """The same mixture of three in one pixel of n images."""
    return Marginals(
        WEIGHTS.log().expand(1, n, 3), LOC[:, None].expand(1, n, 3, 1), SCALE[:, None].expand(1, n, 3, 1),
        None if df is None else torch.tensor(df, dtype=torch.float64).expand(1, n, 3),
    )  # fmt: skip


def components(df):
    """SciPy's."""
    own = [None] * 3 if df is None else df
    return [
        stats.norm(m, s) if nu is None else stats.t(nu, m, s)
        for m, s, nu in zip(LOC.tolist(), SCALE.tolist(), own, strict=True)
    ]


@pytest.mark.parametrize("df", [None, (0.3, 3.0, 40.0)])
def test_intervals_cover_as_often_as_they_say_where_the_distribution_is_the_true_one(df):
    n, rng = 40_000, np.random.default_rng(0)
    drawn = np.stack([own.rvs(n, random_state=rng) for own in components(df)])
    x = drawn[rng.choice(3, n, p=WEIGHTS.numpy()), np.arange(n)]
    pit = mixture(n, df).cdf(torch.from_numpy(x)[None, :, None])[0].numpy()
    told = sum(w * own.cdf(x) for w, own in zip(WEIGHTS.tolist(), components(df), strict=True))
    assert pit[:, 0] == pytest.approx(told, abs=1e-9)
    for level in (0.5, 0.9, 0.95):
        assert abs(coverage(pit, level) - level) < 5 * math.sqrt(level * (1 - level) / n)


def test_crps_is_the_integral_of_the_squared_distance_of_distribution_functions():
    own = components(None)

    def squared(y, x):
        below = sum(w * c.cdf(y) for w, c in zip(WEIGHTS.tolist(), own, strict=True))
        return (below - (y >= x)) ** 2

    found = of_marginals(mixture(3), torch.tensor([[[-0.1], [0.35], [0.8]]], dtype=torch.float64), torch.zeros(1, 3, 1))
    for x, crps in zip((-0.1, 0.35, 0.8), found["crps"][:, 0], strict=True):
        integral = sum(integrate.quad(squared, a, b, args=(x,), limit=200)[0] for a, b in ((-3, x), (x, 4)))
        assert crps == pytest.approx(integral, rel=1e-6)
    alone = normal_crps(np.ones((1, 1)), np.zeros((1, 1, 1)), np.full((1, 1, 1), 2.0), np.zeros((1, 1)))
    assert alone.item() == pytest.approx(2 * (math.sqrt(2) - 1) / math.sqrt(math.pi))


@pytest.mark.parametrize("df", [1.2, 3.0, 50.0])
def test_crps_of_a_t_is_the_integral_of_the_squared_distance_of_distribution_functions(df):
    x = np.array([-0.1, 0.35, 0.8])
    found = t_crps(np.full((3, 1), df), np.full((3, 1), 0.3), np.full((3, 1), 0.2), x[:, None])[:, 0]
    own = stats.t(df, 0.3, 0.2)
    for at, crps in zip(x, found, strict=True):
        below = integrate.quad(lambda y: own.cdf(y) ** 2, -np.inf, at, limit=500)[0]
        above = integrate.quad(lambda y: own.sf(y) ** 2, at, np.inf, limit=500)[0]
        assert crps == pytest.approx(below + above, rel=1e-6)
    given = Marginals(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2), torch.full((1, 1, 1), df))
    of_one = of_marginals(given, torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))["crps"]
    assert of_one == pytest.approx(t_crps(np.full((1, 1), df), np.zeros((1, 2)), np.ones((1, 2)), np.zeros((1, 2))))
    assert np.isinf(t_crps(np.ones((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1))))


@pytest.mark.parametrize("df", [(1.3, 3.0, 40.0), (2.5, 2.5, 2.5)])
@pytest.mark.parametrize("narrow", [1.0, 1e-4])
def test_crps_of_a_mixture_of_ts_is_the_integral_of_the_squared_distance_of_distribution_functions(df, narrow):
    """Of three components, the first of them narrow as at a floor; the integral piece by piece between their locations."""
    scale = SCALE * torch.tensor([narrow, 1, 1])
    own = [stats.t(nu, m, s) for nu, m, s in zip(df, LOC.tolist(), scale.tolist(), strict=True)]

    def mixed(y, of):
        return sum(w * getattr(c, of)(y) for w, c in zip(WEIGHTS.tolist(), own, strict=True)) ** 2

    x = [-0.1, 0.35, 0.8]
    given = Marginals(
        WEIGHTS.log().expand(1, 3, 3), LOC[:, None].expand(1, 3, 3, 1), scale[:, None].expand(1, 3, 3, 1),
        torch.tensor(df, dtype=torch.float64).expand(1, 3, 3),
    )  # fmt: skip
    found = of_marginals(given, torch.tensor(x, dtype=torch.float64)[None, :, None], torch.zeros(1, 3, 1))["crps"]
    for at, crps in zip(x, found[:, 0], strict=True):
        near = [m + step * s for m, s in zip(LOC.tolist(), scale.tolist(), strict=True) for step in (-20, -1, 0, 1, 20)]
        exact = 0.0
        for of, low, high in (("cdf", -math.inf, at), ("sf", at, math.inf)):
            ends = [low, *sorted(p for p in (*near, -50.0, 50.0) if low < p < high), high]
            exact += sum(integrate.quad(mixed, a, b, args=(of,), limit=500)[0] for a, b in pairwise(ends))
        assert crps == pytest.approx(exact, rel=1e-5)


def test_a_mixture_has_no_crps_where_a_component_of_some_weight_has_no_mean():
    one = np.ones((1, 2, 1))
    for weights, df, finite in (
        ((0.5, 0.5), (0.9, 3), False),
        ((0.0, 1.0), (0.9, 3), True),
        ((0.5, 0.5), (1.5, 3), True),
    ):
        found = t_mixture_crps(np.array([weights]), np.array([df], dtype=float), 0 * one, one, np.zeros((1, 1)))
        assert np.isfinite(found[0, 0]) == finite
    alone = t_crps(np.full((1, 1), 3.0), np.zeros((1, 1)), np.ones((1, 1)), np.full((1, 1), 0.4))
    halves = t_mixture_crps(np.full((1, 2), 0.5), np.full((1, 2), 3.0), 0 * one, one, np.full((1, 1), 0.4))
    assert halves == pytest.approx(alone, rel=1e-8)


def test_the_crps_of_some_pixels_is_theirs():
    given, x = mixture(4, (2.0, 3.0, 40.0)), torch.rand(1, 4, 6, dtype=torch.float64)
    wide = Marginals(*(v if v.dim() == 3 else v.expand(1, 4, 3, 6) for v in given))
    pixels = np.array([[0, 5], [3, 3], [1, 2], [4, 0]])
    whole, some = (of_marginals(wide, x, x, at)["crps"] for at in (None, pixels))
    assert some == pytest.approx(np.take_along_axis(whole, pixels, 1))


def test_the_deviation_of_values_is_their_largest_distance_from_uniform_ones():
    assert pit_deviation(np.array([[0.1, 0.3], [0.5, 0.9]])) == pytest.approx(
        0.25
    )  # just above 1/2, where 3/4 are below


def test_codes_of_two_clusters_have_neighbours_of_their_own_label():
    rng = np.random.default_rng(0)
    codes, labels = rng.normal(size=(40, 2)), np.arange(40) % 2
    assert neighbour_accuracy(codes + 100 * labels[:, None], labels) == 1
    assert neighbour_accuracy(codes + 100 * labels[:, None], np.where(np.arange(40) < 2, 1 - labels, labels)) == 38 / 40


def test_a_component_for_each_label_says_all_of_it_and_one_alone_nothing(monkeypatch):
    model = made(components=2)
    labels = torch.arange(len(IMAGES)) % 2
    distribution = model.likelihood.distribution

    def of_label(a):
        at = distribution(a)
        at.log_weights = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()[labels][None]
        return at

    monkeypatch.setattr(model.likelihood, "distribution", of_label)
    assert score_outputs(IMAGES, model, 0, labels).metrics["outputs/label_information"] == pytest.approx(math.log(2))
    labels = 0 * labels
    assert score_outputs(IMAGES, model, 0, labels).metrics["outputs/label_information"] == pytest.approx(0, abs=1e-12)


COVARIANCE = {"scale": "full", "cholesky_of": "covariance"}


# Of 20 pixels, rows 4 and columns 5: how many numbers the floor bounds, and where they begin among the decoder's.
@pytest.mark.parametrize(
    ("values", "n", "places"),
    [
        ({"scale": "diagonal"}, 20, [*range(20, 40)]),
        ({"likelihood": "matrix-normal", "scale": "diagonal"}, 9, [*range(20, 29)]),
        ({"likelihood": "student-t", **COVARIANCE}, 20, [*range(21, 41)]),
        (COVARIANCE, 20, [*range(20, 40)]),
        ({"likelihood": "matrix-t", **COVARIANCE}, 9, [*range(21, 25), *range(31, 36)]),
    ],
    ids=str,
)  # fmt: skip
def test_the_share_at_the_floor_is_of_the_numbers_that_it_bounds_and_are_below_twice_the_least(values, n, places):
    model = made(least_scale=0.1, **values)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        bias = next(p for name, p in model.decoder.named_parameters() if name.endswith("bias"))
        bias.view(-1)[places[-3:]] = -10  # softplus is 5e-5 there, else ln 2
    assert len(places) == n
    assert scores(model)["outputs/sd_at_floor"] == pytest.approx(3 / n)
    assert "outputs/sd_at_floor" not in scores(made())


@pytest.mark.parametrize("likelihood", ["gaussian", "matrix-t"])
def test_a_factor_of_the_precision_matrix_has_no_share_at_the_floor(likelihood):
    """Its diagonal is of inverse standard deviations, whose floor bounds those from above."""
    assert "outputs/sd_at_floor" not in scores(made(likelihood=likelihood, scale="full"))
    assert "outputs/sd_at_floor" in scores(made(likelihood=likelihood, **COVARIANCE))


@pytest.mark.parametrize(("dequantisation", "covered"), [("uniform-noise", 0.9), ("off", 0.0)])
def test_intervals_of_a_model_of_dequantised_images_are_asked_of_these(dequantisation, covered):
    """Black pixels are uniform on [0, 1/256] there: the middle 90% of it hold 90%, and the grey value 0 lies outside."""
    model = made(scale="diagonal", dequantisation=dequantisation)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        bias = next(p for name, p in model.decoder.named_parameters() if name.endswith("bias"))
        sd = torch.tensor(0.45 / 256 / stats.norm.ppf(0.95), dtype=torch.float64)
        bias.view(-1)[:20], bias.view(-1)[20:] = 0.5 / 256, sd.expm1().log()
    black = torch.zeros(200, *SHAPE, dtype=torch.uint8)
    assert abs(scores(model, black)["outputs/coverage_90"] - covered) < 5 * math.sqrt(0.09 / black.numel())


@pytest.mark.parametrize("likelihood", ["gaussian", "student-t"])
def test_errors_of_point_estimates_are_those_of_each_image_alone(likelihood):
    model = made(likelihood=likelihood, scale="diagonal", components=4)
    found = scores(model)
    sums = dict.fromkeys(("", "_densest_mode", "_likeliest"), 0.0)
    for image in IMAGES:
        x = image.reshape(1, 1, -1) / 255
        with torch.no_grad():
            at = model.likelihood.distribution(model.decode(model.posterior_mean(x)))
        modes, weights = at.loc[0, 0], at.log_weights[0, 0].exp()
        densities = torch.stack([at.log_prob(mode[None, None])[0, 0] for mode in modes])
        shown = (weights @ modes, modes[densities.argmax()], modes[weights.argmax()])
        for name, f in zip(sums, shown, strict=True):
            sums[name] += 100 * (x[0, 0] - f.clamp(0, 1)).square().mean().item() / len(IMAGES)
    for name, value in sums.items():
        assert found[f"outputs/l2_percent{name}"] == pytest.approx(value, rel=1e-5)
    assert len({round(value, 3) for value in sums.values()}) == 3
    released = "_densest_mode" if likelihood == "student-t" else ""
    assert found["outputs/l2_percent_released"] == found[f"outputs/l2_percent{released}"]


@pytest.mark.parametrize(
    "values",
    [
        {"likelihood": "student-t", "components": 2},
        {"likelihood": "maf"},
        {"model": "VAE", "likelihood": "gaussian", "scale": "diagonal"},
        {"model": "FisherNet", "likelihood": "gaussian", "sampler": "cg"},
    ],
    ids=lambda values: values.get("model", "AE"),
)
def test_scores_do_not_depend_on_the_size_of_a_batch(values, monkeypatch):
    model = made(**values)
    whole = scores(model)
    monkeypatch.setattr("analysis.scores.outputs.evaluation_batch", lambda *_: 7)
    assert scores(model) == pytest.approx(whole, rel=1e-5)


def test_what_spreads_the_grey_values_is_the_seeds_whatever_else_a_model_draws(monkeypatch):
    """Of models of one seed, each image's; another seed's are others."""
    seen = []
    for seed, values in ((3, {}), (3, {"likelihood": "maf"}), (3, {"model": "VAE", "likelihood": "gaussian"}), (4, {})):
        monkeypatch.setattr(
            "analysis.scores.outputs.dequantised", lambda x, u: seen.append(u.clone()) or dequantised(x, u)
        )
        scores(made(**values), seed=seed)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])
    assert torch.equal(seen[0], uniforms(3, range(len(IMAGES)), 20))


def test_bits_of_unit_variance_are_8_and_half_the_logarithm_of_2_pi_and_the_error():
    model = made()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    images = IMAGES.repeat(20, 1, 1, 1)
    squares = ((images.double() + 0.5) ** 2 + 1 / 12).mean().item() / 256**2  # of (v + u)/256 over u
    exact = 8 + 0.5 * math.log2(2 * math.pi) + squares / (2 * math.log(2))
    assert scores(model, images)["outputs/code_bits_per_dim"] == pytest.approx(exact, abs=1e-4)
    assert "outputs/bits_per_dim" in scores(made(model="VAE", likelihood="gaussian", scale="diagonal"))
    assert "outputs/code_bits_per_dim" in scores(made(likelihood="discretised-logistic"))


@pytest.mark.parametrize(
    ("values", "nats", "name"), [({}, 0, "code_bits_per_dim"), ({"model": "VAE"}, 1, "bits_per_dim")], ids=["AE", "VAE"]
)
def test_a_normals_mass_between_edges_is_what_the_discretised_normal_has_with_the_same_weights(values, nats, name):
    density = made(likelihood="gaussian", scale="diagonal", least_scale=0.05, **values)
    discrete = made(likelihood="discretised-normal", least_scale=0.05, **values)
    discrete.load_state_dict(density.state_dict())
    found, own = scores(density), scores(discrete)
    assert found[f"outputs/discretised_{name}"] == pytest.approx(own[f"outputs/{name}"], rel=1e-5)
    assert f"outputs/discretised_{name}" not in own
    # By Jensen's inequality, up to what u does to the code.
    assert found[f"outputs/{name}"] > found[f"outputs/discretised_{name}"] - 1e-3


@pytest.mark.parametrize("log_weights", [[0.0], [math.log(0.3), math.log(0.7)]], ids=["one", "mixture"])
def test_the_masses_of_all_values_sum_to_1_and_are_differences_of_distribution_functions(log_weights):
    """Two pixels that share the component: all 65,536 images."""
    k = len(log_weights)
    loc, scale = torch.tensor([[0.3, 0.95], [0.01, 0.5]])[:k], torch.tensor([[0.1, 0.003], [1e-5, 2.0]])[:k]
    values = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    n = len(values)
    given = Marginals(torch.tensor(log_weights).expand(1, n, k), loc.expand(1, n, k, 2), scale.expand(1, n, k, 2))
    found = discretised_log_prob(given, (values / 255)[None])[0].exp()
    assert found.sum().item() == pytest.approx(1, abs=1e-6)
    for v in ((76, 243), (0, 255), (2, 128)):
        edges = [(-math.inf if at == 0 else at / 256, math.inf if at == 255 else (at + 1) / 256) for at in v]
        masses = [
            math.exp(w)
            * math.prod(np.diff(stats.norm(m, s).cdf(edge))[0] for edge, m, s in zip(edges, own, of, strict=True))
            for w, own, of in zip(log_weights, loc.tolist(), scale.tolist(), strict=True)
        ]
        assert found[256 * v[0] + v[1]].item() == pytest.approx(sum(masses), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "there"),
    [
        ({}, True), ({"components": 3}, True), ({"likelihood": "gaussian-learned"}, True),
        ({"likelihood": "matrix-normal", "scale": "diagonal"}, True), ({"scale": "full"}, False),
        ({"likelihood": "student-t"}, False), ({"likelihood": "matrix-normal", "scale": "full"}, False),
        ({"likelihood": "maf"}, False), ({"likelihood": "discretised-logistic"}, False),
    ],
    ids=str,
)  # fmt: skip
def test_only_pixels_that_are_independent_in_a_component_have_masses(values, there):
    assert ("outputs/discretised_code_bits_per_dim" in scores(made(**values))) == there


def test_weights_and_degrees_of_freedom_are_counted_by_weight():
    """All images get logits (0, ln 3) and df 0.5 and 1.5: a quarter of the weight has no mean, and all of it no variance."""
    model = made(likelihood="student-t", components=2)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        bias = next(p for name, p in model.decoder.named_parameters() if name.endswith("bias"))
        raw_df = torch.expm1(torch.tensor([0.5, 1.5])).log()
        bias.view(-1)[-4:] = torch.cat([torch.tensor([0.0, math.log(3)]), raw_df])
    found = scores(model)
    assert found["outputs/without_mean"] == pytest.approx(0.25)
    assert found["outputs/without_variance"] == pytest.approx(1)
    assert found["outputs/df_median"] == pytest.approx(1.5, rel=1e-5)
    assert found["outputs/largest_weight"] == pytest.approx(0.75)
    assert found["outputs/components_used"] == pytest.approx(math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)))
    assert "outputs/sd_rank_correlation" not in found  # no sd is finite


def test_every_score_has_a_row_in_the_documentation():
    labels = torch.arange(len(IMAGES)) % 3
    told = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    named = {
        name
        for values in (
            {"likelihood": "student-t", "components": 3, "scale": "diagonal"}, {"scale": "diagonal"},
            {"model": "VAE", "likelihood": "gaussian", "scale": "diagonal"}, {"components": 3},
        )
        for name in score_outputs(IMAGES, made(**values), 0, labels).metrics
    }  # fmt: skip
    assert len(named) > 20
    assert [name for name in sorted(named) if f"`{name}`" not in told] == []


def test_a_flow_has_no_marginals_and_its_released_image_is_a_mean_of_draws():
    model = made(likelihood="maf")
    found = scores(model)
    named = {"l2_percent", "l2_percent_released", "code_bits_per_dim", "parameters"}
    assert set(found) == {f"outputs/{name}" for name in named}
    assert found["outputs/parameters"] == 20 * 3 + 3 + 3 * 20 + 20 + 20 * 10 + 10 + 10 * 40 + 40  # the flow's 20-10-40
    assert scores(model, seed=1)["outputs/l2_percent_released"] != found["outputs/l2_percent_released"]


def test_the_rank_correlation_is_of_finite_sd_and_none_of_equal_ones():
    sd = np.array([1.0, 2.0, 3.0, math.inf])
    assert rank_correlation(sd, np.array([0.1, 0.3, 0.2, -9])) == pytest.approx(0.5)
    assert math.isnan(rank_correlation(np.ones(4), np.arange(4.0)))
    assert math.isnan(rank_correlation(np.array([1.0, math.inf, math.inf]), np.arange(3.0)))


def test_a_decoder_gives_more_than_an_image_where_its_likelihood_says_so():
    told = {"bernoulli": False, "gaussian": False, "gaussian-learned": False, "student-t": True, "maf": True}
    found = {name: emits_more(trial_config(model="VAE", likelihood=name)) for name in told}
    assert found == told
    assert emits_more(trial_config(model="AE", components=1))
    assert emits_more(trial_config(model="AE", scale="diagonal"))


def test_scores_that_older_rules_made_are_made_anew_and_todays_stay():
    """Else one table had numbers of both."""
    model = made(scale="diagonal", components=1)
    today = score_outputs(IMAGES, model, 0).about
    assert today["made"] == MADE
    stored_scores = [{}, {"outputs": {"n_images": 60}}, {"outputs": {**today, "made": MADE - 1}}, {"outputs": today}]
    runs = pd.DataFrame(
        [
            {"run_id": str(i), "model": "AE", "config": model.config, "scores": own}
            for i, own in enumerate(stored_scores)
        ]
    )
    wanted = tasks(SimpleNamespace(runs=runs, images=SimpleNamespace(test=IMAGES, test_labels=None))).tasks
    assert [task.run["run_id"] for task in wanted] == ["0", "1", "2"]
