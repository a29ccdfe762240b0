"""FAE, MAE, IAF and PixelVAE against closed forms, and the quantities of the Fisher-Shannon plane."""

import copy
import itertools
import math
from contextlib import nullcontext

import pytest
import torch
from torch.autograd.functional import jacobian

from fishernet import contract
from fishernet.data.images import ResidentImages
from fishernet.evaluation import evaluate
from fishernet.families import BUILT_IN, family, matters, trial_config
from fishernet.models.fisher_shannon import INFORMATION
from fishernet.networks.stacked import Linear
from fishernet.posteriors import LOG_2_PI, DiagonalGaussian, PrecisionGaussian
from fishernet.training import train_epoch

CPU = torch.device("cpu")
ONE = torch.ones(1, 1, 4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def grown(shape=(1, 3, 3), dims=(2,), **values):
    """An untrained stack in float64 with its weights shaken, so that no output is at its start."""
    configs = [trial_config({**contract.SMALL, "hidden_width": 8, **values, "latent_dim": d}) for d in dims]
    return family(configs[0].model).load()(configs, shape, 50).double()


def noise_of(model, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    asked = [model.noise(d) for d in model.latent_dims]
    made = {}
    for name in asked[0]:
        made[name] = torch.zeros(len(asked), n, max(own[name].width for own in asked), dtype=torch.float64)
        for i, own in enumerate(asked):
            draw = torch.rand if own[name].kind == "uniform" else torch.randn
            made[name][i, :, : own[name].width] = draw(n, own[name].width, generator=generator, dtype=torch.float64)
    return made


def set_widths(model, log_variance):
    """Make the posterior's ln s^2 the given one for every image."""
    head = model.heads_of_encoder["log_variance"]
    head.weight.data.zero_()
    head.bias.data = torch.as_tensor(log_variance, dtype=torch.float64).expand(head.bias.shape).clone()


# --- the plane


def test_the_information_and_entropy_of_a_diagonal_posterior_are_those_that_its_draws_have():
    """tr J = E|grad ln q|^2 and H = -E ln q of torch's own density; a factor of two is far outside of the error."""
    log_variance = torch.tensor([[[0.1, 1.0, 4.0, 0.5]]], dtype=torch.float64).log()
    q = DiagonalGaussian(torch.zeros_like(log_variance), log_variance, ONE)
    known = torch.distributions.Normal(q.mean, torch.exp(0.5 * log_variance))
    z = (q.mean + torch.exp(0.5 * log_variance) * torch.randn(200_000, 1, 4, dtype=torch.float64)).requires_grad_()
    log_q = known.log_prob(z).sum(2)
    squares = torch.autograd.grad(log_q.sum(), z)[0].square().sum(2)
    for found, draws in ((q.fisher_information(), squares), (q.entropy(), -log_q.detach())):
        error = 5 * draws.std().item() / len(z) ** 0.5
        assert found.item() == pytest.approx(draws.mean().item(), abs=error)
        assert found.item() != pytest.approx(2 * draws.mean().item(), abs=error)


def plane(information, entropy, d):
    """N J of mean information and mean entropy: exp(2 H/d)/(2 pi e) tr J."""
    return math.exp(2 * entropy.mean().item() / d) / (2 * math.pi * math.e) * information.mean().item()


def test_the_product_of_entropy_power_and_information_has_its_closed_forms():
    """8.289 for variances 0.1, 1, 4; d where they are equal; the same for twice the widths; 5.05 per dimension of two images'."""

    def of(rows):
        variances = torch.tensor([rows], dtype=torch.float64)
        own = torch.ones(1, 1, variances.shape[2], dtype=torch.float64)
        q = DiagonalGaussian(torch.zeros_like(variances), variances.log(), own)
        return plane(q.fisher_information(), q.entropy(), variances.shape[2])

    assert of([[0.1, 1.0, 4.0]]) == pytest.approx(8.289, abs=5e-4)
    assert of([[0.4, 4.0, 16.0]]) == pytest.approx(of([[0.1, 1.0, 4.0]]), rel=1e-12)
    assert of([[0.3, 0.3, 0.3, 0.3]]) == pytest.approx(4, rel=1e-12)
    assert of([[0.01] * 4, [1.0] * 4]) / 4 == pytest.approx(5.05, abs=1e-3)


def test_a_precision_has_its_trace_as_information_and_what_pads_a_member_counts_for_nothing():
    half = torch.randn(2, 5, 3, 7, dtype=torch.float64)
    precision = half @ half.mT + torch.eye(3, dtype=torch.float64)
    own = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]]], dtype=torch.float64)
    q = PrecisionGaussian(torch.zeros(2, 5, 3, dtype=torch.float64), precision.to, own)
    diagonal = precision.diagonal(dim1=2, dim2=3)
    assert torch.allclose(q.fisher_information()[0], diagonal[0, :, :2].sum(1))
    assert torch.allclose(q.fisher_information()[1], diagonal[1].sum(1))
    d = DiagonalGaussian(q.mean, torch.zeros(2, 5, 3, dtype=torch.float64), own)
    assert d.fisher_information()[:, 0].tolist() == [2, 3]
    assert d.entropy()[:, 0].tolist() == pytest.approx([1 + LOG_2_PI, 1.5 * (1 + LOG_2_PI)])


@pytest.mark.parametrize("model", [row.name for row in BUILT_IN if row.posterior])
def test_every_model_with_a_posterior_reports_its_entropy_and_gaussians_their_information(model):
    """FisherNet's sampler cg alone does not know its entropy."""
    grow = grown(model=model, dims=(2, 3), **({"noise_start": -2.0} if model == "FisherNet" else {}))
    x, noise = torch.rand(2, 6, 9, dtype=torch.float64), noise_of(grow, 6)
    with nullcontext() if model == "IAF" else torch.no_grad():
        terms, q = grow(x, noise).terms, grow.posterior(x)
    if model == "IAF":
        assert torch.allclose(terms["posterior_entropy"], -q.draw(noise).log_q)
        assert "fisher_information" not in terms  # in training, which has no use for its passes
        evaluated = grow.eval()(x, noise).terms["fisher_information"]
        assert torch.allclose(evaluated, q.score(noise).square().sum(2))
        for i, d in enumerate((2, 3)):
            alone = grown(model=model, dims=(d,), noise_start=-2.0)
            alone.load_state_dict(
                {
                    name: grow.state_dict()[name][i : i + 1][tuple(slice(n) for n in own.shape)]
                    for name, own in alone.state_dict().items()
                }
            )
            own_noise = {"eta": noise["eta"][i : i + 1, :, :d]}
            assert torch.allclose(alone.eval()(x[i : i + 1], own_noise).terms["fisher_information"], evaluated[i])
        return
    for i, d in enumerate((2, 3)):
        precision = torch.linalg.inv(q.covariance()[i, :, :d, :d])
        assert torch.allclose(terms["fisher_information"][i], precision.diagonal(dim1=1, dim2=2).sum(1))
        gaussian = torch.distributions.MultivariateNormal(
            torch.zeros(6, d, dtype=torch.float64), precision_matrix=precision
        )
        assert torch.allclose(terms["posterior_entropy"][i], gaussian.entropy())


# --- FAE


def test_fae_of_weight_0_is_the_vae_bit_for_bit_alone_and_in_a_cohort(images, small):
    for dims in ((3,), (2, 3)):
        cohorts = [
            contract.made([trial_config(model=model, latent_dim=d, **small | more) for d in dims], images)
            for model, more in (("VAE", {}), ("FAE", {"fisher_weight": 0.0}))
        ]
        contract.history(cohorts[0], images)
        contract.history(cohorts[1], images)
        for name, tensor in cohorts[0].tensors().items():
            assert torch.equal(tensor, cohorts[1].tensors()[name]), name


def penalty(batch=1, **values):
    """What FAE adds to the VAE's loss."""
    model = grown(model="FAE", dims=(4,), **values)
    x = torch.rand(1, batch, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    noise = noise_of(model, batch)
    q = model.posterior(x)
    return (model(x, noise).loss - model.outcome(x, q, noise, None).loss).detach(), q, noise


@pytest.fixture
def in_float64():
    """Also what a model keeps of its config."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(usual)


def test_on_one_image_the_trace_of_f_is_the_mean_of_f_over_d_at_d_times_the_weight(in_float64):
    trace, *_ = penalty(fisher_constraint="trace", fisher_target=20.0, fisher_weight=0.1)
    mean, *_ = penalty(fisher_constraint="mean", fisher_target=5.0, fisher_weight=0.4)
    assert torch.allclose(trace, mean, rtol=1e-12, atol=1e-12)


def test_each_reading_of_the_constraint_is_its_formula():
    for constraint in ("mean", "trace", "released-conv", "released-mlp"):
        held = {} if constraint == "released-mlp" else {"fisher_target": 3.0, "fisher_weight": 0.5}
        added, q, noise = penalty(7, fisher_constraint=constraint, **held)
        v = q.log_variance.detach().exp()[0]
        expected = {
            "mean": 0.5 * ((1 / v).mean() - 3).abs().expand(7),
            "trace": 0.5 * ((1 / v).sum(1) - 3).abs(),
            "released-conv": 0.5
            * ((noise.get("fisher", noise["eta"])[0] ** 2 / v).clamp(max=88).mean() - 3).abs().expand(7),
            "released-mlp": (v.log() * torch.relu(1 - v)).mean().expand(7),
        }[constraint]
        assert torch.allclose(added[0], expected, rtol=1e-6), constraint


@pytest.mark.parametrize(("variance", "reads"), [(0.05, 18.735), (0.01, 47.617), (math.exp(-6), 66.604)])
def test_the_released_estimate_reads_what_its_clamp_leaves(variance, reads, monkeypatch):
    """E min(e^2, 88 v)/v, e standard normal: at a mean of 20 it reads 18.7; without the clamp 1/v."""
    model = grown(model="FAE", dims=(100,), fisher_constraint="released-conv")
    set_widths(model, math.log(variance))
    n = 4000
    q, noise = model.posterior(torch.rand(1, n, 9, dtype=torch.float64)), noise_of(model, n)
    readings = model.reading(q, noise)
    assert readings.mean().item() == pytest.approx(reads, abs=5 * readings.std().item() / n**0.5)
    monkeypatch.setattr("fishernet.models.fisher_shannon.LARGEST_SQUARE", math.inf)
    assert model.reading(q, noise).mean().item() == pytest.approx(1 / variance, rel=5 * math.sqrt(2 / (100 * n)))


@pytest.mark.parametrize(
    ("target", "weight", "optima"),
    [
        (0.0, 0.1, [(1 + math.sqrt(1 + 0.8)) / 2]),
        (20.0, 0.1, [1 / 20, (1 + math.sqrt(1 - 0.8)) / 2]),
        (20.0, 0.02, [(1 + math.sqrt(1 - 0.16)) / 2]),  # below (F - 1)/(2 F^2), 0.024, the narrow basin is none
        (20.0, 0.5, [1 / 20]),  # from 1/8 on there is but that one
    ],
)
def test_an_unused_dimension_has_the_widths_of_its_closed_forms_as_its_only_optima(target, weight, optima):
    """KL + lambda |1/s^2 - F| of one latent, over widths from 0.01 to 3 of so many images."""
    model = grown(model="FAE", dims=(1,), fisher_constraint="trace", fisher_target=target, fisher_weight=weight)
    log_variance = torch.linspace(math.log(0.01), math.log(3), 20_001, dtype=torch.float64).view(1, -1, 1)
    q = DiagonalGaussian(torch.zeros_like(log_variance), log_variance, model.own)
    loss = (model.prior.kl(q) + model.fisher_weight * (model.reading(q, {}) - model.fisher_target).abs())[0]
    lowest = (loss[1:-1] < loss[:-2]) & (loss[1:-1] < loss[2:])
    assert log_variance[0, 1:-1, 0][lowest].exp().tolist() == pytest.approx(optima, abs=1e-3)


def test_the_decoders_term_is_the_information_of_its_noise_and_moves_it():
    model = grown(model="FAE", likelihood="gaussian-learned", decoder_fisher_weight=0.25, decoder_fisher_target=4.0)
    model.likelihood.xi.data.fill_(1.5)
    assert model.decoder_penalty().item() == pytest.approx(0.25 * abs(9 * math.exp(-1.5) - 4), rel=1e-9)
    model.decoder_penalty().sum().backward()
    assert model.likelihood.xi.grad.item() == pytest.approx(0.25 * 9 * math.exp(-1.5), rel=1e-9)  # below F: -(d/dxi)
    plain, penalised = (
        grown(model="FAE", likelihood="gaussian-learned", decoder_fisher_weight=w)(
            torch.full((1, 3, 9), 0.5, dtype=torch.float64), {"eta": torch.zeros(1, 3, 2, dtype=torch.float64)}
        ).loss
        for w in (0.0, 1.0)
    )
    assert torch.allclose(penalised - plain, torch.full_like(plain, 9.0))


def test_a_cohort_over_f_trains_each_as_alone(images, small):
    configs = [trial_config(model="FAE", latent_dim=3, fisher_target=f, **small) for f in (0.0, 20.0)]
    together = contract.made(configs, images, dtype=torch.float64)
    resident = ResidentImages.of(images.train, CPU, torch.float64)
    losses = train_epoch(together, resident)
    for i, config in enumerate(configs):
        alone = contract.made([config], images, dtype=torch.float64)
        assert torch.allclose(losses[:, i], train_epoch(alone, resident)[:, 0], rtol=1e-9)
    assert [c.variant for c in configs] == ["FAE F=0", "FAE"]
    assert not matters("fisher_target", {**configs[0].to_dict(), "fisher_constraint": "released-mlp"})


# --- MAE


def linear_gaussian(sd=0.5, d=2, k=9):
    """MAE whose decoder is x = W z + noise of unit variance: W scaled, so that the signal counts."""
    model = grown(model="MAE", likelihood="gaussian", decoder_output="linear", hidden_layers=0, dims=(d,))
    model.decoder.layers[0].weight.data = torch.randn(1, d, k, generator=torch.Generator().manual_seed(1)).double() / sd
    return model


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_bound_on_the_information_is_tight_for_the_exact_reader_and_lower_by_the_divergence_of_a_diagonal_one(
    orthogonal,
):
    """I = ln det(1 + W W^T)/2 of a linear Gaussian decoder; the reader's mean is A x + b, its covariance S = (1 + W W^T)^-1."""
    model = linear_gaussian()
    if orthogonal:
        rows = model.decoder.layers[0].weight
        rows.data = torch.linalg.qr(rows.data.mT).Q.mT * torch.tensor([[2.0], [4.0]])
    w = model.decoder.layers[0].weight.detach()[0]
    bias = model.decoder.layers[0].bias.detach()[0]
    precision = torch.eye(2, dtype=torch.float64) + w @ w.T
    exact = 0.5 * torch.logdet(precision).item()
    gain = torch.linalg.solve(precision, w)  # S W, (2, 9)
    variances = 1 / precision.diagonal()  # the best diagonal reader at these means has the precision's diagonal
    model.reader.mean.weight.data = gain.T[None].clone()
    model.reader.mean.bias.data = -(gain @ bias)[None]
    model.reader.log_variance.weight.data.zero_()
    model.reader.log_variance.bias.data = variances.log()[None]
    n = 200_000
    noise = noise_of(model, n)
    z, image = model.imagined(noise)
    with torch.no_grad():
        information = model(torch.rand(1, n, 9, dtype=torch.float64), noise).terms["information"]
    covariance = torch.linalg.inv(precision)
    scatter = (covariance.diagonal() / variances).sum().item()
    divergence = 0.5 * (scatter - 2 + variances.log().sum().item() + torch.logdet(precision).item())
    error = 5 * information.std().item() / n**0.5
    assert information.mean().item() == pytest.approx(exact - divergence, abs=error)
    if orthogonal:  # then the exact posterior is diagonal
        assert abs(divergence) < 1e-10
        return
    assert divergence > 2 * error  # so that the exact value would be told from it
    joint = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)
    residual = z[0] - (image[0] - bias) @ gain.T
    tight = (1 + LOG_2_PI) + joint.log_prob(residual)
    assert tight.mean().item() == pytest.approx(exact, abs=5 * tight.std().item() / n**0.5)


@pytest.mark.parametrize(
    ("values", "distance"),
    [
        (
            {"model": "FAE", "fisher_target": 20.0, "fisher_weight": 0.3},
            lambda of: 0.3 * abs(of["fisher_reading"] - 20),
        ),
        ({"model": "FAE", "fisher_target": 0.0, "fisher_weight": 2.0}, lambda of: 2 * of["fisher_reading"]),
        ({"model": "FAE", "fisher_constraint": "released-mlp"}, lambda of: of["fisher_reading"]),
        (
            {"model": "MAE", "information_target": 10.0, "information_weight": 0.5},
            lambda of: 0.5 * abs(of["information"] - 10),
        ),
    ],
)
def test_the_loss_of_held_out_images_is_the_training_objective_of_their_means(values, distance, images, small):
    """By which early stopping goes: |mean - F| of all images, which no mean over batches is; beta other than 1."""
    cohort = contract.made([trial_config(latent_dim=3, kl_weight=0.7, **values, **small)], images)
    cohort.model.heads_of_encoder["log_variance"].bias.data -= 1
    for size in (7, 0):
        (of,) = evaluate(cohort, ResidentImages.of(images.test, CPU), size)
        assert of["loss"] == pytest.approx(-of["log_likelihood"] + 0.7 * of["kl"] + distance(of), rel=1e-5)
        assert abs(distance(of)) > 0.01


def test_the_trace_is_held_against_f_image_by_image(images, small):
    values = {"fisher_constraint": "trace", "fisher_target": 2.95, "fisher_weight": 2.0}
    cohort = contract.made([trial_config(model="FAE", latent_dim=3, **values, **small)], images)
    pixels = ResidentImages.of(images.test, CPU)
    (of,) = evaluate(cohort, pixels)
    with torch.no_grad():
        q = cohort.model.eval().posterior(pixels.take(torch.arange(len(pixels))[None]))
    trace = torch.exp(-q.log_variance).sum(2)
    assert (trace > 2.95).any()
    assert (trace < 2.95).any()  # so that the mean of distances is another than the distance of the mean
    assert of["fisher_reading"] == pytest.approx(trace.mean().item(), rel=1e-5)
    assert of["fisher_penalty"] == pytest.approx(2 * (trace - 2.95).abs().mean().item(), rel=1e-5)
    assert of["loss"] == pytest.approx(of["fisher_penalty"] - of["log_likelihood"] + of["kl"], rel=1e-5)


@pytest.mark.parametrize("target", [0.0, 50.0])
def test_the_reader_ascends_its_bound_whether_the_information_is_to_rise_or_to_fall(target, images, small):
    cohort = contract.made([trial_config(model="MAE", latent_dim=3, information_target=target, **small)], images)
    model = cohort.model
    x = ResidentImages.of(images.train, CPU).take(torch.arange(96)[None])
    noise = cohort.draw_noise(cohort.noise_streams("noise", 1), 96)
    player, loss = next(model.updates(x, noise))
    assert player == INFORMATION
    z, image = model.imagined(noise)
    reader = list(model.reader.parameters())
    found = torch.autograd.grad(loss.mean(), reader)
    expected = torch.autograd.grad(-model.log_reading(z, image.detach(), held=False).mean(), reader)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)
    assert {name.split(".")[0] for name, _ in model.named_parameters() if model.player_of(name)} == {"reader"}


@pytest.mark.parametrize("network", ["fae-28", "fisherae-28"])
def test_running_statistics_are_of_codes_of_images_and_not_of_imagined_ones(network):
    """In one step MAE decodes twice and reads twice. Its decoder's statistics are those of the VAE's one pass over the same
    codes, its reader's those of one pass over what it reads.
    """
    made = {}
    for name in ("VAE", "MAE"):
        torch.manual_seed(0)
        config = trial_config(model=name, latent_dim=2, network=network, batch_size=3)
        made[name] = family(name).load()([config], (1, 28, 28), 50).double().train()
    vae, mae = made.values()
    x, noise, read = torch.rand(1, 3, 784, dtype=torch.float64).round(), noise_of(mae, 3), []
    alone = copy.deepcopy(mae.reader)
    mae.reader.register_forward_pre_hook(lambda module, given: read.append(given[0].detach()))
    for model in made.values():
        assert len(list(model.updates(x, noise))) == (2 if model is mae else 1)
    assert len(read) == 2
    alone(read[0])

    def statistics(network):
        found = {name: buffer for name, buffer in network.named_buffers() if "running" in name}
        assert found
        return found

    for own, of_vae in ((mae.decoder, vae.decoder), (mae.trunk, vae.trunk), (mae.reader, alone)):
        before = {name: torch.full_like(b, float("var" in name)) for name, b in statistics(own).items()}
        for name, buffer in statistics(own).items():
            assert torch.equal(buffer, statistics(of_vae)[name]), name
            assert not torch.equal(buffer, before[name]), name


def test_what_reads_the_imagined_images_sees_them_in_the_range_of_the_encoder():
    """Pixels in [-1, 1]: reader and encoder are given 2 x - 1."""
    model = grown(model="MAE", likelihood="gaussian", pixel_range="symmetric")
    seen = []
    model.reader.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    image = torch.rand(1, 4, 9, dtype=torch.float64)
    model.log_reading(torch.zeros(1, 4, 2, dtype=torch.float64), image, held=False)
    assert torch.equal(seen[0], 2 * image - 1)


def test_the_term_moves_the_decoder_and_neither_encoder_nor_reader():
    model = grown(model="MAE", information_weight=2.0)
    x, noise = torch.rand(1, 5, 9, dtype=torch.float64), noise_of(model, 5)
    with_term = model(x, noise).loss
    plain = with_term - model.batch_penalty(model(x, noise).terms["information"].mean(1, keepdim=True))
    assert torch.allclose(plain, super(type(model), model).forward(x, noise).loss)
    term = (with_term - super(type(model), model).forward(x, noise).loss).sum()
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(term, list(named.values()), allow_unused=True)
    moved = {
        name.split(".")[0] for name, g in zip(named, gradients, strict=True) if g is not None and g.abs().max() > 1e-12
    }
    assert moved == {"decoder"}


def test_straight_through_images_are_black_and_white_with_the_gradient_of_the_mean():
    model = grown(model="MAE")
    z, image = model.imagined(noise_of(model, 4000))
    f = model.likelihood.mean(model.decode(z))
    assert torch.allclose(image, image.round(), atol=1e-12)
    error = 5 * (f * (1 - f)).sum().sqrt().item()
    assert abs((image - f).sum().item()) < error
    weight = model.decoder.layers[0].weight
    assert torch.allclose(*(torch.autograd.grad(t.sum(), weight, retain_graph=True)[0] for t in (image, f)))


def test_of_the_mean_image_the_bound_has_no_limit():
    """A reader that is exact up to a width w reads -ln w more for each latent, without end; of draws it does not."""
    model = linear_gaussian()
    w = model.decoder.layers[0].weight.detach()[0]
    model.reader.mean.weight.data = torch.linalg.pinv(w)[None].clone()
    model.reader.mean.bias.data = -(model.decoder.layers[0].bias.detach() @ torch.linalg.pinv(w))
    model.reader.log_variance.weight.data.zero_()
    noise = noise_of(model, 200)
    found = {}
    for log_variance in (-10.0, -20.0):
        model.reader.log_variance.bias.data.fill_(log_variance)
        for sampled in (True, False):
            z, image = model.imagined(noise if sampled else {"prior": noise["prior"]})
            found[sampled, log_variance] = model.log_reading(z, image, held=True).mean().item()
    assert found[False, -20.0] - found[False, -10.0] == pytest.approx(10, abs=1e-3)
    assert found[True, -20.0] < found[True, -10.0] < 0


# --- IAF


def shaken(model, scale=1.0, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Linear):
                for i, shape in enumerate(layer.shapes):
                    layer.weight[i, : shape[0], : shape[1]] += scale * torch.randn(shape, generator=generator).double()
    return model


def test_a_steps_jacobian_is_triangular_in_its_own_order_and_its_log_determinant_is_the_sum_it_says():
    model = shaken(grown(model="IAF", dims=(4, 6), flow_width=30, flow_steps=3, activation="softplus"), 0.3)
    context = torch.randn(2, 1, 30, dtype=torch.float64)
    for k, step in enumerate(model.steps):
        z = torch.randn(2, 1, 6, dtype=torch.float64) * model.own
        own = jacobian(lambda z, step=step: step(z, context, model.own)[0].flatten(), z).view(12, 12)
        said = step(z, context, model.own)[1]
        for i, d in enumerate((4, 6)):
            block = own[6 * i : 6 * i + d, 6 * i : 6 * i + d]
            triangular = block.triu(1) if k % 2 == 0 else block.tril(-1)
            assert triangular.abs().max() == 0
            assert (block - triangular).abs().count_nonzero() == d * (d + 1) / 2  # and nothing else is hidden
            assert torch.linalg.slogdet(block).logabsdet.item() == pytest.approx(said[i, 0].item(), abs=1e-10)
        assert own[:6, 6:].abs().max() == 0


def test_every_latents_step_depends_on_the_image():
    model = shaken(grown(model="IAF", dims=(3,), flow_width=12, activation="softplus"), 0.3)
    z, context = torch.randn(1, 1, 3, dtype=torch.float64), torch.randn(1, 1, 12, dtype=torch.float64)
    for step in model.steps:
        own = jacobian(lambda c, step=step: step(z, c, model.own)[0][0, 0], context)[:, 0, 0]
        assert (own.abs().sum(1) > 1e-6).all()


def test_the_density_of_a_flow_is_that_of_its_draws_and_integrates_to_one():
    """By inverting it on a grid: d = 2, and the base within 9 standard deviations."""
    model = shaken(grown(model="IAF", dims=(2,), flow_width=10), 0.3)
    q = model.posterior(torch.rand(1, 1, 9, dtype=torch.float64))
    eta = torch.linspace(-9, 9, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(eta, eta)[None]
    log_q = q.draw({"eta": grid}).log_q
    # The volume that a cell of the base fills: |det dz/deta| by differences, without the flow's own log-determinant.
    h = 1e-5
    columns = [
        (q.draw({"eta": grid + h * e})[0] - q.draw({"eta": grid - h * e})[0]) / (2 * h) for e in torch.eye(2).double()
    ]
    volume = torch.linalg.det(torch.stack(columns, dim=-1)).abs() * (eta[1] - eta[0]) ** 2
    assert (log_q.exp() * volume).sum().item() == pytest.approx(1, abs=1e-6)


def inverted(step, z, context, own):
    """What a step moves to z: pass after pass, another latent in its order is right."""
    before = z.clone()
    for _ in range(z.shape[2]):
        y = step.activation(step.hidden(before) + context)
        keep = torch.sigmoid(step.gate(y) + 2.0)
        before = (z - (1 - keep) * step.shift(y)) / keep
    assert torch.allclose(step(before, context, own)[0], z, rtol=0, atol=1e-10)
    return before


def test_the_information_of_a_flow_is_that_of_its_density_on_a_grid():
    """tr J = integral of q |grad ln q|^2 over z by differences, q from the inverse of the steps; of draws by their scores."""
    model = shaken(grown(model="IAF", dims=(2,), flow_width=10), 0.6, seed=4).eval()
    x = torch.rand(1, 1, 9, dtype=torch.float64)
    with torch.no_grad():
        q = model.posterior(x)
        features = model.trunk(x)
        centre, n = q.mean[0, 0], 1201
        spread = q.draw({"eta": torch.randn(1, 4000, 2, dtype=torch.float64)}).z[0].std(0)
        axes = [
            torch.linspace(c - 8 * s, c + 8 * s, n, dtype=torch.float64) for c, s in zip(centre, spread, strict=True)
        ]
        z = torch.cartesian_prod(*axes)[None]
        log_q = torch.zeros(1, n * n, dtype=torch.float64)
        for step in reversed(model.steps):
            z = inverted(step, z, step.context(features), model.own)
            log_q -= step(z, step.context(features), model.own)[1]
        base = torch.distributions.Normal(q.base.mean, torch.exp(0.5 * q.base.log_variance))
        log_q = (log_q + base.log_prob(z).sum(2)).view(n, n)
    h = [axis[1] - axis[0] for axis in axes]
    density = log_q.exp() * h[0] * h[1]
    assert density.sum().item() == pytest.approx(1, abs=1e-4)
    exact = (density * sum(g.square() for g in torch.gradient(log_q, spacing=[float(s) for s in h]))).sum().item()
    squares = q.score({"eta": torch.randn(1, 100_000, 2, dtype=torch.float64)}).square().sum(2)
    error = 5 * squares.std().item() / squares.numel() ** 0.5
    assert error < 0.02 * exact
    assert squares.mean().item() == pytest.approx(exact, abs=0.01 * exact + error)
    eta = torch.linspace(-8, 8, 401, dtype=torch.float64)  # and by a sum over the noise, without an error of draws
    weight = torch.distributions.Normal(0, 1).log_prob(eta).exp() * (eta[1] - eta[0])
    squares = q.score({"eta": torch.cartesian_prod(eta, eta)[None]}).square().sum(2)
    assert (squares * torch.outer(weight, weight).flatten()).sum().item() == pytest.approx(exact, rel=0.01)


def test_a_flow_whose_gate_is_shut_has_no_finite_information_and_raises_nothing():
    model = grown(model="IAF").eval()
    for step in model.steps:
        step.gate.bias.data.fill_(-2000.0)
        step.gate.weight.data.zero_()
    terms = model(torch.rand(1, 3, 9, dtype=torch.float64), noise_of(model, 3)).terms
    assert not terms["fisher_information"].isfinite().any()


def test_a_flow_that_is_the_identity_has_the_vaes_loss_with_the_divergence_at_its_draw():
    model, vae = grown(model="IAF"), grown(model="VAE")
    for step in model.steps:
        step.gate.bias.data.fill_(40.0)  # keeps all of z
        step.gate.weight.data.zero_()
    x, noise = torch.rand(1, 6, 9, dtype=torch.float64), noise_of(vae, 6)
    ours, theirs = model(x, noise), vae(x, noise)
    q = vae.posterior(x)
    z, log_q = q.draw(noise)
    assert torch.allclose(ours.terms["log_likelihood"], theirs.terms["log_likelihood"], rtol=1e-9)
    assert torch.allclose(ours.terms["kl"], log_q - vae.prior.log_prob(z), rtol=1e-9)
    assert torch.allclose(ours.mean, theirs.mean)


# --- PixelVAE


@pytest.mark.parametrize("mask", ["image", "released"])
def test_a_pixel_sees_the_pixels_before_it_alone_and_with_the_whole_map_all_of_z(mask):
    model = grown(model="PixelVAE", shape=(2, 4, 3), pixel_layers=4, pixel_channels=6, pixel_mask=mask).eval()
    x, z = torch.rand(1, 1, 24, dtype=torch.float64), torch.randn(1, 1, 2, dtype=torch.float64)
    latents = model.decode(z)
    of_image = jacobian(lambda x: model.pixel_outputs(x, latents)[0, 0], x)[:, 0, 0].view(2, 12, 2, 12)
    seen = of_image.abs().amax((0, 2)) > 0
    assert seen.triu().sum() == 0  # neither itself nor what follows
    left, far_back, above_to_the_right = seen[5, 4], seen[11, 0], seen[4, 2]
    assert torch.stack([left, far_back, above_to_the_right]).all()
    of_map = jacobian(lambda m: model.pixel_outputs(x, m)[0, 0], latents.relu() + 0.1)[:, 0, 0].view(2, 12, 2, 12)
    assert bool((of_map.abs().amax((0, 2))[0] > 0).any()) == (mask == "image")


def test_the_probabilities_of_all_images_sum_to_one():
    """512 images of 3 x 3 pixels, each scored in one pass."""
    model = grown(model="PixelVAE", pixel_layers=3, pixel_channels=5).eval()
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64)[None]
    z = torch.randn(1, 1, 2, dtype=torch.float64).expand(1, 512, 2)
    assert model.log_likelihood(every, z)[0].exp().sum().item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(
    ("shape", "more"),
    [((1, 3, 3), {}), ((1, 8, 9), {}), ((3, 7, 6), {}), ((1, 8, 9), {"pixel_mask": "released"})],
)
def test_a_reconstruction_without_the_image_is_drawn_pixel_by_pixel(shape, more):
    """Given what it made itself, teacher-forced, it is the same: each pixel was told the rounded ones before it."""
    model = grown(shape, model="PixelVAE", pixel_layers=2, pixel_channels=5, **more).eval()
    for network in (model.pixels, model.decoder):  # so that all there is counts
        for p in network.parameters():
            p.data += 0.5 * torch.randn_like(p)
    z = torch.randn(1, 4, 2, dtype=torch.float64)
    f = model.reconstruct(z)
    assert torch.allclose(model.reconstruction(f.round(), z), f, atol=1e-12)


def test_drawn_images_have_the_probabilities_that_the_model_gives_them():
    """Of 2 x 2 pixels all 16 images; a greedy decoder would give one of them alone."""
    model = grown((1, 2, 2), model="PixelVAE", pixel_layers=2, pixel_channels=5).eval()
    n = 20_000
    z = torch.randn(1, 1, 2, dtype=torch.float64).expand(1, n, 2)
    drawn = model.image_of(z, torch.Generator().manual_seed(1))[0]
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    expected = model.log_likelihood(every[None], z[:, :16])[0].exp()[0]
    places = (drawn @ torch.tensor([8.0, 4, 2, 1], dtype=torch.float64)).long()
    found = torch.bincount(places, minlength=16) / n
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()
    assert expected.max() < 0.9


def test_normalisation_in_training_is_torchs_and_keeps_its_running_statistics():
    from fishernet.networks.normalisation import BatchNorm

    ours, theirs = BatchNorm(2, 3), torch.nn.BatchNorm2d(3)
    x = torch.randn(5, 3, 4, 4)
    for _ in range(3):
        assert torch.allclose(ours(x, 1), theirs(x), atol=1e-6)
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x, 1), theirs(x), atol=1e-6)
    assert ours.running_mean[0].count_nonzero() == 0


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"model": "FAE", "decoder_fisher_weight": 1.0}, ["decoder_fisher_weight 1", "gaussian-learned", "bernoulli"]),
        ({"model": "FAE", "fisher_target": -1.0}, ["fisher_target", "at least 0", "-1.0"]),
        ({"model": "PixelVAE", "pixel_layers": 0}, ["pixel_layers", "from 1 to 100"]),
        (
            {"model": "FAE", "fisher_target": 5, "fisher_weight": 0},
            ["fisher_target 5", "without a weight", "fisher_weight is 0"],
        ),
        ({"model": "FAE", "decoder_fisher_target": 5}, ["decoder_fisher_target 5", "decoder_fisher_weight is 0"]),
        (
            {"model": "MAE", "information_target": 0, "information_weight": 0},
            ["information_target 0", "information_weight is 0"],
        ),
        (
            {"model": "FAE", "fisher_constraint": "released-mlp", "fisher_target": 5},
            ["fisher_target 5", "released-mlp"],
        ),
        (
            {"model": "FAE", "fisher_constraint": "released-mlp", "fisher_weight": 5},
            ["fisher_weight 5", "released-mlp"],
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused_in_a_sentence(values, parts):
    with pytest.raises(ValueError, match=r".") as error:
        trial_config(values)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("model", "target", "weight"),
    [
        ("FAE", "fisher_target", "fisher_weight"), ("MAE", "information_target", "information_weight"),
        ("FAE", "decoder_fisher_target", "decoder_fisher_weight"),
    ],
)  # fmt: skip
def test_a_target_matters_where_its_weight_is_above_zero(model, target, weight):
    """So no search asks for one that would be refused, and a line with the usual target may go without its term."""
    values = {"model": model, "likelihood": "gaussian-learned"}
    assert not matters(target, trial_config(values, **{weight: 0}).to_dict())
    assert matters(target, trial_config(values, **{weight: 0.5}).to_dict())
