"""What posteriors are scored to say of images, against closed forms; and which runs are scored of which images."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.scores.information import (
    GROUP,
    accuracies,
    from_below,
    information_as_released,
    posteriors_of,
    score_information,
    tasks,
)
from fishernet import contract
from fishernet.cohort import Cohort
from fishernet.data.images import ImageData
from fishernet.families import family, trial_config

SHAPE = (1, 3, 3)
N = 40


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def config(model="VAE", d=2, **values):
    return trial_config(
        {**contract.SMALL, "hidden_width": 8, "flow_width": 8, "model": model, **values, "latent_dim": d}
    )


def grown(made):
    torch.manual_seed(0)
    return family(made.model).load()([made], SHAPE, 50).eval()


def grey(n=N):
    return torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def with_widths(model, variances):
    """The same widths for every image, and means that are the first pixels of the image less 1/2, times 4."""
    heads = model.heads_of_encoder
    heads["log_variance"].weight.data.zero_()
    heads["log_variance"].bias.data = torch.tensor([variances]).log()
    return model


def scored(model, labels=None, images=None, asked=0):
    images = grey() if images is None else images
    return score_information({"held-out": images, "training": images}, labels or {}, model, asked)


def test_a_diagonal_posteriors_scores_are_those_of_its_widths():
    """N J, KL and 1/s^2 by the textbook's formulas; an unused latent is told from the active one."""
    variances = [0.04, 0.5, 1.0]
    model = with_widths(grown(config(d=3)), variances)
    head = model.heads_of_encoder["mean"]
    head.weight.data.zero_()
    head.bias.data = torch.tensor([[0.0, 0.3, 0.0]])
    head.weight.data[0, :, 0] = 50.0  # the first latent alone varies
    found = scored(model).metrics
    v = np.array(variances)
    q = posteriors_of(model, grey())
    mean = q.mean.numpy()
    assert mean[:, 0].var() > 0.01
    assert found["information/active"] == 1
    assert found["information/precision_active"] == pytest.approx(25, rel=1e-5)
    assert found["information/precision_unused"] == pytest.approx(1.5, rel=1e-5)
    assert found["information/NJ"] == pytest.approx(np.exp(np.log(v).mean()) * (1 / v).mean(), rel=1e-5)
    assert found["information/kl"] == pytest.approx((0.5 * (mean**2 + v - 1 - np.log(v))).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("model", ["FisherNet", "FisherAE", "PixelVAE"])
def test_a_gaussians_scores_are_those_of_its_covariance(model):
    made = grown(config(model, d=3, noise_start=-2.0))
    x = grey().flatten(1).float()[None] / 255
    with torch.no_grad():
        covariance = made.posterior(x).covariance()[0].double()
    q = posteriors_of(made, grey())
    assert torch.allclose(q.information, torch.linalg.inv(covariance).diagonal(dim1=1, dim2=2).sum(1), rtol=1e-4)
    assert torch.allclose(q.entropy, 0.5 * torch.logdet(2 * math.pi * math.e * covariance), rtol=1e-4)
    trace, squares = covariance.diagonal(dim1=1, dim2=2).sum(1), q.mean.square().sum(1)
    assert torch.allclose(q.kl, 0.5 * (trace + squares - 3 - torch.logdet(covariance)), rtol=1e-4, atol=1e-5)
    whitened = torch.linalg.solve(torch.linalg.cholesky(covariance), (q.drawn - q.mean)[:, :, None])
    assert whitened.square().sum() == pytest.approx(3 * N, abs=5 * math.sqrt(6 * N))


def test_the_width_of_a_latent_is_that_of_its_marginal():
    """Of a precision with 1 off the diagonal, (M^-1)_ii is 2/3 and 1/M_ii is 1/2."""
    model = grown(config("FisherNet"))
    precision = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    model.precision = lambda mean, dtype=None: precision.to(dtype or mean.dtype).expand(1, mean.shape[1], 2, 2)
    found = scored(model).metrics
    widths = [found[name] for name in ("information/precision_active", "information/precision_unused") if name in found]
    assert widths == pytest.approx([1.5] * len(widths), rel=1e-5)
    assert found["information/NJ"] == pytest.approx(2 / math.sqrt(3), rel=1e-5)


def test_a_flow_that_is_the_identity_has_the_scores_of_its_gaussian_within_the_error_of_its_draws():
    flow, vae = grown(config("IAF")), grown(config("VAE"))
    for step in flow.steps:
        step.gate.bias.data.fill_(40.0)
        step.gate.weight.data.zero_()
    images = grey(200)
    ours, theirs = posteriors_of(flow, images), posteriors_of(vae, images)
    for name, least in (("entropy", 0.05), ("kl", 0.1), ("information", 0.5)):
        a, b = getattr(ours, name), getattr(theirs, name)
        error = 5 * (a - b).std().item() / math.sqrt(200)
        assert a.mean().item() == pytest.approx(b.mean().item(), abs=error), name
        assert error < least
    found, expected = (scored(model, images=images).metrics for model in (flow, vae))
    for name in ("precision_active", "precision_unused", "active"):
        if f"information/{name}" in expected:
            assert found[f"information/{name}"] == pytest.approx(expected[f"information/{name}"], rel=0.03), name
    assert torch.allclose(ours.covariance.mean(0), theirs.covariance.mean(0), atol=0.03)


def test_the_bound_from_below_is_0_of_equal_posteriors_ln_n_of_distinct_ones_and_near_the_truth_between():
    """z = a x + s eta, x ~ N(0, 1): I = ln(1 + a^2/s^2)/2 for each latent; a factor of two is far outside."""
    n, d = 500, 2
    covariance = 0.25 * torch.eye(d, dtype=torch.float64).expand(n, d, d)
    eta = torch.randn(n, d, dtype=torch.float64)
    equal = torch.zeros(n, d, dtype=torch.float64)
    assert from_below(equal, covariance, equal + 0.5 * eta) == pytest.approx(0, abs=1e-9)
    apart = 1000 * torch.arange(n, dtype=torch.float64)[:, None].expand(n, d)
    assert from_below(apart, covariance, apart + 0.5 * eta) == pytest.approx(math.log(n), abs=1e-9)
    exact = d * 0.5 * math.log(1 + 0.25 / 0.25)
    found = []
    for _ in range(20):
        mean = 0.5 * torch.randn(n, d, dtype=torch.float64)
        found.append(from_below(mean, covariance, mean + 0.5 * torch.randn(n, d, dtype=torch.float64)))
    error = 5 * np.std(found, ddof=1) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(exact, abs=error + 0.01)
    assert error + 0.01 < 0.2 * exact
    kl = 0.5 * d * (0.25 + 0.25 - 1 - math.log(0.25))
    assert np.mean(found) < kl


def test_what_the_released_code_calls_information_does_not_depend_on_the_means():
    """Of equal widths s: exp E[-eta^2/2] / E exp(-eta^2/2) = sqrt(2/e), whatever the posteriors know of an image."""
    n, d = 100_000, 2
    eta = torch.randn(n, d, dtype=torch.float64)
    for spread in (0, 1000):
        for s in (0.01, 3):
            mean = spread * torch.randn(n, d, dtype=torch.float64)
            covariance = s**2 * torch.eye(d, dtype=torch.float64).expand(n, d, d)
            found = information_as_released(mean, covariance, mean + s * eta)
            assert found == pytest.approx(math.sqrt(2 / math.e), abs=0.01)
            assert math.sqrt(2 / math.e) == pytest.approx(0.8578, abs=1e-4)
    widths = torch.exp(torch.randn(n, 1, 1, dtype=torch.float64))
    covariance = widths**2 * torch.eye(d, dtype=torch.float64)
    assert information_as_released(eta, covariance, eta + widths[:, 0] * torch.randn(n, d, dtype=torch.float64)) < 0.6


def test_no_model_has_more_information_than_its_bounds_allow():
    for name in ("VAE", "FisherNet", "IAF", "MAE"):
        found = scored(grown(config(name, noise_start=-4.0))).metrics
        assert found["information/from_below"] <= min(math.log(N), found["information/kl"] + 1e-6) + 0.3, name
        assert found["information/NJ"] >= 1 - 1e-6
        assert 0 < found["information/as_released"] <= 1


def test_classes_are_told_by_neighbours_and_by_a_linear_map_where_they_can_be_and_by_chance_where_not():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 600)
    centres = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    told = accuracies(centres[classes], classes, centres[classes] + 0.1 * rng.standard_normal((600, 2)), classes)
    assert told == {"nearest_neighbours": 1.0, "linear_probe": 1.0}
    ring = np.where(classes[:, None] == 0, 1.0, 3.0) * (lambda a: np.stack([np.cos(a), np.sin(a)], 1))(
        7 * rng.random(600)
    )
    inside = (classes == 0).astype(int)
    of_ring = accuracies(ring[:300], inside[:300], ring[300:], inside[300:])
    assert of_ring["nearest_neighbours"] == 1.0
    assert of_ring["linear_probe"] < 0.8
    by_chance = accuracies(rng.standard_normal((600, 2)), classes, rng.standard_normal((600, 2)), classes)
    assert all(abs(share - 1 / 3) < 0.1 for share in by_chance.values())
    assert accuracies(ring, np.zeros(600, int), ring, classes) == {}


def stored(*configs, has=None, labels=True):
    runs = pd.DataFrame([
        {"config": c, "model": c.model, "variant": c.variant, "latent_dim": 2, "seed": 0, "scores": {GROUP: has} if has else {}}
        for c in configs
    ])  # fmt: skip
    own = torch.arange(N) % 2 if labels else None
    data = ImageData("made", grey(), grey(), own, own, "0", "test", ())
    return SimpleNamespace(
        runs=runs, images=data, sweep=SimpleNamespace(configs=configs), model=lambda run: grown(run["config"])
    )


def test_every_model_with_a_posterior_is_scored_and_no_other():
    models = ("FisherNet", "VAE", "CVAE", "FisherAE", "FAE", "MAE", "IAF", "PixelVAE", "AE", "WAE")
    lines = [*(config(model) for model in models), config("FisherNet", sampler="cg")]
    asked = tasks(stored(*lines), information_images=20)
    assert [task.run["variant"] for task in asked.tasks] == [*models[:8], "FisherNet cg"]
    for task in asked.tasks:
        found = task.function(*asked.shared, *task.arguments())
        names = {name.removeprefix("information/") for name in found.metrics}
        assert names >= {"NJ", "active", "kl", "from_below", "as_released", "nearest_neighbours", "linear_probe"}
        assert found.metrics["information/from_below"] <= math.log(20)
        assert found.about == {"images": 20, "asked": 20, "training_images": N, "classified": N, "untrained": True}
    same = [dict(tasks(stored(config()), information_images=20).tasks[0].function(*asked.shared, grown(config()), 20).metrics)
            for _ in range(2)]  # fmt: skip
    assert same[0] == same[1]


def test_the_untrained_model_is_the_one_that_training_began_with():
    """Of the config's seed, whatever the trained weights became."""
    asked = tasks(stored(config()), information_images=20)
    score = partial(asked.tasks[0].function, *asked.shared)
    began, other = Cohort([config()], SHAPE, N).model, grown(config())
    other.heads_of_encoder["mean"].weight.data *= 1000
    as_it_began, trained = (score(model, 20).metrics for model in (began, other))
    for name in ("active", "nearest_neighbours"):
        assert as_it_began[f"information/{name}"] == as_it_began[f"information/untrained/{name}"]
        assert trained[f"information/untrained/{name}"] == as_it_began[f"information/{name}"]
    assert trained["information/active"] != as_it_began["information/active"]


def test_images_without_labels_and_a_prior_that_is_no_density_leave_out_what_they_cannot_have():
    bare = stored(config("FisherAE", prior="exponential", prior_order=3, prior_top="free"), labels=False)
    asked = tasks(bare)
    found = asked.tasks[0].function(*asked.shared, *asked.tasks[0].arguments()).metrics
    assert not {"information/kl", "information/nearest_neighbours", "information/linear_probe"} & set(found)
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize(
    ("has", "asked", "again"),
    [
        ({"asked": 1000, "untrained": True}, 1000, False),
        ({"asked": 0, "untrained": True}, 5000, False),
        ({"asked": 1000, "untrained": True}, 2000, True),
        ({"asked": 1000, "untrained": True}, 0, True),
        ({"asked": 1000}, 1000, True),  # of a version without the untrained model's
    ],
)
def test_what_a_run_has_is_computed_again_where_more_images_are_asked_for(has, asked, again):
    assert len(tasks(stored(config(), has=has), information_images=asked).tasks) == again
