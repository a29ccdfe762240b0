"""What every family must do, as checks that anyone's test suite may call:

    from fishernet.contract import CHECKS
    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_model_keeps_the_contract(check, tmp_path):
        check({"model": "MyAE", "my_field": 3}, tmp_path)

Each takes field values of a config, small networks and few epochs being filled in, and a folder to write to; it raises
AssertionError with what does not hold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from fishernet.cohort import Cohort, load_model
from fishernet.config import TrialConfig, Values
from fishernet.data.images import ImageData, ResidentImages
from fishernet.evaluation import evaluate, latent_means
from fishernet.families import all_fields, family, trial_config
from fishernet.networks.stacked import Stacked
from fishernet.pca import pca_test_mse
from fishernet.training import train, train_epoch

SMALL = {"hidden_width": 16, "hidden_layers": 2, "batch_size": 20, "learning_rate": 1e-3, "epochs": 3}
Metrics = dict[str, float]
CPU = torch.device("cpu")


def small_images() -> ImageData:
    """96 smooth 10x10 images to train on and 40 to test on: three latent numbers explain them nearly."""
    generator = torch.Generator().manual_seed(5)
    z, mixing = torch.randn(136, 3, generator=generator), torch.randn(3, 100, generator=generator)
    pixels = torch.sigmoid(z @ mixing).mul(255).byte().view(136, 1, 10, 10)
    labels = (z[:, 0] > 0).long()
    return ImageData("made", pixels[:96], pixels[96:], labels[:96], labels[96:], "0" * 16, "test")


def configs_of(values: Values, dims: Sequence[int], seeds: Sequence[int]) -> list[TrialConfig]:
    """Members of one cohort; a family whose members do not pad has the first latent_dim in all."""
    if not family(str(values["model"])).padded:
        dims = [dims[0]] * len(dims)
    return [trial_config({**SMALL, **values, "latent_dim": d, "seed": s}) for d, s in zip(dims, seeds, strict=True)]


def made(
    configs: Sequence[TrialConfig], images: ImageData, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Cohort:
    """A cohort for these images, before its first epoch."""
    return Cohort(configs, images.image_shape, len(images.train), device, dtype)


def history(cohort: Cohort, images: ImageData) -> list[list[Metrics | None]]:
    """Train to the end: the metrics of each epoch and member, the time it took left out."""
    return [
        [{k: v for k, v in r["metrics"].items() if "seconds" not in k} if r else None for r in records]
        for records in train(cohort, images)
    ]


def its_row_and_its_fields_say_what_they_must(values: Values, folder: Path) -> None:
    """A field that several families have means one thing and is of one type; every field says what it means."""
    row = family(str(values["model"]))
    assert issubclass(row.config, TrialConfig), f"{row.name}: its config is no TrialConfig"
    for f in fields(row.config):
        assert len(f.metadata["meaning"]) > 5, f"{f.name} does not say what it means"
        shared = all_fields()[f.name]
        assert (f.type, f.metadata["meaning"], f.metadata["choices"]) == (
            shared.type, shared.metadata["meaning"], shared.metadata["choices"],
        ), f"{f.name} means something else in another family"  # fmt: skip
        unknown = set(row.config.waits_for(f.name)) - set(row.config.names())
        assert not unknown, f"{f.name} matters by fields that there are not: {unknown}"
    config = trial_config(values)
    assert trial_config({k: str(v) for k, v in config.to_dict().items()}) == config, "it does not return from text"


def every_image_shape_gives_finite_numbers(values: Values, folder: Path) -> None:
    """Odd sides, colour, a single pixel: loss, terms, mean and output have their shapes."""
    for shape in ((1, 1, 1), (3, 5, 4), (1, 9, 2)):
        configs, n_pixels = configs_of(values, (3, 3), (0, 1)), math.prod(shape)
        model = family(configs[0].model).load()(configs, shape, 10)
        noise = {name: torch.rand(2, 4, own.width) for name, own in model.all_noise(3).items()}
        x = torch.rand(2, 4, n_pixels)
        loss, terms, mean, output = model(x, noise)
        assert loss.shape == (2, 4), f"{shape}: the loss has shape {tuple(loss.shape)}"
        assert loss.isfinite().all(), f"{shape}: the loss is not finite"
        assert all(term.shape == (2, 4) for term in terms.values()), f"{shape}: a term is not one number per image"
        assert mean.shape == (2, 4, 3), f"{shape}: the mean has shape {tuple(mean.shape)}"
        assert output.shape == (2, 4, model.likelihood.n_outputs), f"{shape}: the output is not as wide as it says"
        assert model.reconstruct(mean).shape == (2, 4, n_pixels), f"{shape}: a reconstruction is no image"


def a_member_of_a_cohort_trains_as_it_would_alone(values: Values, folder: Path) -> None:
    """In float64, after every step of two epochs: the only difference left is the order of summation."""
    values = {"cg_tolerance": 1e-12, **values}
    images, configs = small_images(), configs_of(values, (2, 5, 3), (0, 3, 0))
    train_set, test_set = (ResidentImages.of(part, CPU, torch.float64) for part in (images.train, images.test))
    together = made(configs, images, dtype=torch.float64)
    losses = torch.stack([train_epoch(together, train_set) for _ in range(2)])
    scores = evaluate(together, test_set)
    for i, config in enumerate(configs):
        alone = made([config], images, dtype=torch.float64)
        own = torch.stack([train_epoch(alone, train_set) for _ in range(2)])
        assert torch.allclose(losses[:, :, i], own[:, :, 0], rtol=1e-9), f"member {i}: losses differ"
        weights = together.member_weights(i)
        for name, tensor in alone.member_weights(0).items():
            assert torch.allclose(tensor, weights[name], rtol=1e-7, atol=1e-9), f"member {i}: {name} differs"
        # A gradient that is a multiple of its own moves Adam's weights alike. One that is 0 is so to rounding.
        gradients = {name: t for name, t in alone.tensors().items() if name.startswith("adam/exp_avg/")}
        rounding, state = 1e-12 * max(t.abs().max().item() for t in gradients.values()), together.tensors()
        for name, tensor in gradients.items():
            own = state[name][i : i + 1][tuple(slice(n) for n in tensor.shape)]
            nearly = max(1e-7 * tensor.abs().max().item(), rounding)
            assert torch.allclose(tensor, own, rtol=1e-7, atol=nearly), f"member {i}: the gradient of {name} differs"
        for name, value in evaluate(alone, test_set)[0].items():
            assert math.isclose(value, scores[i][name], rel_tol=1e-9, abs_tol=1e-9), f"member {i}: {name} differs"


def what_pads_a_member_stays_zero(values: Values, folder: Path) -> None:
    """In every head, in the latent means, and in all weights, such as a flow's and a learned prior's, after training.

    Families that do not pad have nothing to show.
    """
    images, configs = small_images(), configs_of(values, (2, 5), (0, 0))
    cohort = made(configs, images)
    history(cohort, images)
    x = ResidentImages.of(images.test, CPU).take(torch.arange(4)[None].expand(2, 4))
    for name, head in cohort.model.encode(x).items():
        surplus = head[0, :, configs[0].latent_dim :]
        assert surplus.count_nonzero() == 0, f"the padding of the encoder's {name} is no longer 0"
        assert head[1].count_nonzero() > 0, f"the encoder's {name} is 0 throughout"
    for prefix, layer in cohort.model.named_modules():
        for name in layer.padded if isinstance(layer, Stacked) else ():
            tensor = getattr(layer, name).detach()
            outside = torch.ones_like(tensor)
            for i in range(len(configs)):
                layer.member_view(i, name, outside).zero_()
            assert (tensor * outside).count_nonzero() == 0, f"the padding of {prefix}.{name} is no longer 0"


def killed_and_resumed_equals_uninterrupted(values: Values, folder: Path, device: str = "cpu") -> None:
    """Bit for bit: metrics, weights and moments, from a checkpoint after the first epoch."""
    images, configs = small_images(), configs_of(values, (2, 4), (0, 0))
    whole = made(configs, images, device)
    expected = history(whole, images)
    interrupted, file = made(configs, images, device), folder / "state.safetensors"
    for _ in train(interrupted, images):
        interrupted.save(file)
        break
    resumed = made(configs, images, device)
    resumed.load(file)
    with file.open("r+b") as damaged:  # what is loaded is no view of the file
        damaged.write(b"\xff" * file.stat().st_size)
    assert resumed.epoch == 1, f"it goes on from epoch {resumed.epoch}"
    assert history(resumed, images) == expected[1:], "its metrics are others"
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), f"{name} differs"


def the_seed_decides_every_number(values: Values, folder: Path) -> None:
    """Equal seeds give equal numbers, another seed others."""
    images = small_images()
    first, again, other = (history(made(configs_of(values, (2,), (s,)), images), images) for s in (1, 1, 2))
    assert first == again, "the same seed gives other numbers"
    assert first != other, "another seed gives the same numbers"


def evaluating_less_often_changes_no_number_that_remains(values: Values, folder: Path) -> None:
    """The last epoch is evaluated whatever the interval."""
    images = small_images()
    often, seldom = (
        history(made(configs_of({**values, "evaluate_every": every}, (2,), (0,)), images), images) for every in (1, 2)
    )
    assert "test/mse" not in (seldom[0][0] or {}), "the first epoch was evaluated"
    assert seldom[1:] == often[1:], "numbers depend on how often it is evaluated"


def evaluation_leaves_no_trace(values: Values, folder: Path) -> None:
    """Neither in the global random numbers nor in the mode nor in gradients; and it does not depend on the batch size."""
    images = small_images()
    cohort, test_set = made(configs_of(values, (2,), (0,)), images), ResidentImages.of(images.test, CPU)
    for mode in (True, False):
        cohort.model.train(mode)
        before = {name: t.clone() for name, t in cohort.tensors().items()}
        state = torch.get_rng_state()
        whole, parts = evaluate(cohort, test_set)[0], evaluate(cohort, test_set, batch_size=7)[0]
        assert torch.equal(state, torch.get_rng_state()), "it draws from the global random numbers"
        assert cohort.model.training is mode, "it leaves another mode"
        for name, value in whole.items():
            assert math.isclose(value, parts[name], rel_tol=1e-5, abs_tol=1e-6), f"{name} depends on the batch size"
        assert all(torch.equal(before[name], t) for name, t in cohort.tensors().items()), "it changes the state"
    assert all(p.grad is None for p in cohort.model.parameters()), "it leaves gradients"


def stored_weights_reopen_to_the_same_model(values: Values, folder: Path) -> None:
    """A member's own weights, without the member axis, give its latent means again; those of another size are refused."""
    images, configs = small_images(), configs_of(values, (2, 4), (0, 1))
    cohort, test_set = made(configs, images), ResidentImages.of(images.test, CPU)
    history(cohort, images)
    means = latent_means(cohort, test_set)
    for i, config in enumerate(configs):
        model = load_model(config, images.image_shape, len(images.train), cohort.member_weights(i))
        alone = model.posterior_mean(test_set.take(torch.arange(len(test_set))[None]))[0]
        assert torch.allclose(alone, means[i], rtol=1e-4, atol=1e-5), f"member {i} has other latent means"
    other = trial_config({**configs[0].to_dict(), "latent_dim": 7})
    try:
        load_model(other, images.image_shape, len(images.train), cohort.member_weights(0))
    except ValueError:
        return
    raise AssertionError("weights of another latent_dim are taken")


def a_posterior_knows_the_density_of_its_draws(values: Values, folder: Path) -> None:
    """Where the row says that there is one: draws scatter as its covariance says, and importance weights are finite.

    Of a prior that is no density there are none.
    """
    row, images = family(str(values["model"])), small_images()
    if not row.posterior:
        return
    cohort = made(configs_of(values, (3,), (0,)), images, dtype=torch.float64)
    n, block, streams = 4000, 500, cohort.noise_streams("contract", 0)  # in blocks: a Jacobian of each draw is large
    x = ResidentImages.of(images.test, CPU, torch.float64).take(torch.zeros(1, block, dtype=torch.long))
    draws = []
    with torch.no_grad():
        q = cohort.model.posterior(x)
        for _ in range(n // block):
            noise = cohort.draw_noise(streams, block)
            z, log_q = q.draw(noise)
            assert z.shape == (1, block, 3), f"a draw has shape {tuple(z.shape)}"
            assert z.isfinite().all(), "a draw is not finite"
            draws.append(z[0])
        if log_q is not None and cohort.model.prior.density:
            weights = cohort.model.log_weight(x, q, noise)
            assert weights.shape == (1, block), f"importance weights have shape {tuple(weights.shape)}"
            assert weights.isfinite().all(), "an importance weight is not finite"
        if not row.has_ellipses:
            return
        covariance = q.covariance()[0, 0]
    scattered = torch.cov(torch.cat(draws).T)
    # Of n draws a variance is known to sqrt(2/n) of itself, 2.2%; five of these errors.
    scale = covariance.diagonal().sqrt()
    assert ((scattered - covariance).abs() <= 0.11 * scale[:, None] * scale).all(), (
        "draws scatter otherwise than it says"
    )


def a_prior_draws_as_many_numbers_as_the_member_has(values: Values, folder: Path) -> None:
    """Where the row says that there is one; its density is finite at its draws. What need not be a density is left out."""
    images = small_images()
    cohort = made(configs_of(values, (2, 4), (0, 1)), images)
    if not family(str(values["model"])).prior or not cohort.model.prior.density:
        return
    for i, config in enumerate(cohort.configs):
        z = cohort.model.prior.sample(i, 6, torch.Generator().manual_seed(0))
        assert z.shape == (6, config.latent_dim), f"member {i}: a sample of 6 has shape {tuple(z.shape)}"
        assert z.isfinite().all(), f"member {i}: a sample is not finite"


def training_lowers_the_error(values: Values, folder: Path) -> None:
    """A hundred epochs bring the MSE well below the mean image's, and the loss down."""
    images = small_images()
    longer = {"epochs": 100, "learning_rate": 3e-3, "batch_size": 32, "noise_start": -4.0, "evaluate_every": 100}
    metrics = history(made(configs_of({**longer, **values}, (3,), (0,)), images), images)
    first, last = metrics[0][0], metrics[-1][0]
    assert first, "the first epoch failed"
    assert last, "the last epoch failed"
    mean_image = pca_test_mse(images.train, images.test, [0])[0]
    assert last["test/mse"] < 0.7 * mean_image, f"an MSE of {last['test/mse']:.4f}; the mean image has {mean_image:.4f}"
    assert last["train/loss"] < first["train/loss"], "the loss has not fallen"


CHECKS: tuple[Callable[..., None], ...] = (
    its_row_and_its_fields_say_what_they_must,
    every_image_shape_gives_finite_numbers,
    a_member_of_a_cohort_trains_as_it_would_alone,
    what_pads_a_member_stays_zero,
    killed_and_resumed_equals_uninterrupted,
    the_seed_decides_every_number,
    evaluating_less_often_changes_no_number_that_remains,
    evaluation_leaves_no_trace,
    stored_weights_reopen_to_the_same_model,
    a_posterior_knows_the_density_of_its_draws,
    a_prior_draws_as_many_numbers_as_the_member_has,
    training_lowers_the_error,
)
