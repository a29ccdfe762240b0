"""The VPAE paper's convolutional network, with its outputs in place and as released."""

import pytest
import torch

from fishernet import contract
from fishernet.cohort import Cohort
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from fishernet.likelihoods import n_outputs
from fishernet.records import write_records
from fishernet.training import train

RELEASED = {
    "model": "AE", "network": "pooled-cnn", "latent_dim": 320 * 196, "decoder_output": "linear", "code": "rectified",
    "initialisation": "glorot-uniform",
}  # fmt: skip
TABLE_2 = {
    ("matrix-normal", "identity", 1): 8962,
    ("matrix-normal", "diagonal", 1): 8962,
    ("matrix-normal", "full", 1): 11843,
    ("matrix-t", "identity", 1): 8962,
    ("matrix-t", "diagonal", 1): 8962,
    ("matrix-t", "full", 1): 11843,
    ("matrix-normal", "identity", 10): 34891,
    ("matrix-normal", "diagonal", 10): 34891,
    ("matrix-normal", "full", 10): 63701,
    ("matrix-t", "identity", 10): 34891,
    ("matrix-t", "diagonal", 10): 34891,
    ("matrix-t", "full", 10): 63701,
}


@pytest.mark.parametrize("row", TABLE_2, ids=lambda row: "-".join(map(str, row)))
def test_the_papers_models_have_as_many_parameters_as_its_table_2_says(row):
    likelihood, scale, k = row
    config = trial_config({**RELEASED, "likelihood": likelihood, "scale": scale, "components": k})
    cohort = Cohort([config], (1, 28, 28), 10)
    assert cohort.parameter_counts() == [TABLE_2[row]]
    assert cohort.model.decode(torch.zeros(1, 1, 62720)).shape[2] == n_outputs(config, (1, 28, 28))


def rows_seen(order, k):
    """The rows of the input that the location, of component 0, depends on; and those that its last pixel does."""
    config = trial_config(
        {**RELEASED, "latent_dim": 4 * 196, "likelihood": "matrix-normal", "components": k, "output_order": order}
    )
    model = Cohort([config], (1, 28, 28), 10, dtype=torch.float64).model
    x = torch.rand(1, 1, 784, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loc = model.likelihood.marginals(model.decode(model.posterior_mean(x))).loc[0, 0, 0]
    found = []
    for of in (loc, loc[-1:]):
        slopes = [torch.autograd.grad(pixel, x, retain_graph=True)[0].view(28, 28).abs().sum(1) for pixel in of]
        found.append(torch.stack(slopes).sum(0).nonzero().flatten().tolist())
    return found


@pytest.mark.parametrize(("k", "rows"), [(1, 19), (10, 7)])
def test_as_released_the_image_never_depends_on_the_lower_rows_of_what_it_reconstructs(k, rows):
    """Exactly: of one component on rows 19 to 27 not at all, of the first of ten on 7 to 27."""
    seen, of_last = rows_seen("channels-last", k)
    assert max(seen) < rows
    assert 0 in seen
    assert max(of_last) == max(seen)
    in_place, of_last_in_place = rows_seen("channels-first", k)
    assert in_place == [*range(28)]
    assert min(of_last_in_place) >= 23  # row 27 is of pooled row 13, of rows 12 and 13 and so of 23 to 27


def test_what_is_in_place_lies_where_it_is_shown():
    """A code of one pooled pixel lights these four pixels and their neighbours alone."""
    config = trial_config({**RELEASED, "latent_dim": 2 * 196, "likelihood": "matrix-normal", "components": 1})
    model = Cohort([config], (1, 28, 28), 10).model
    z = torch.zeros(1, 1, 392)
    z[..., 5 * 14 + 9] = 1
    lit = (model.reconstruct(z) - model.reconstruct(torch.zeros_like(z))).view(28, 28).nonzero()
    assert (lit.min(0).values.tolist(), lit.max(0).values.tolist()) == ([8, 16], [13, 21])


def test_as_released_logits_and_degrees_of_freedom_come_first_then_the_locations_of_an_array_of_channels_last():
    config = trial_config(
        {**RELEASED, "latent_dim": 4, "likelihood": "matrix-t", "components": 2, "output_order": "channels-last"}
    )
    decoder = Cohort([config], (1, 3, 4), 10).model.decoder
    position = {int(at): p for p, at in enumerate(torch.arange(3 * 12).view(3, 3, 4).permute(1, 2, 0).flatten())}
    assert [position[int(at)] for at in decoder.order] == [*range(4, 28), *range(4)]


def test_the_code_is_the_largest_activation_of_four_pixels():
    model = Cohort([trial_config({**RELEASED, "latent_dim": 3 * 6, "code": "real"})], (1, 4, 5), 10).model
    x = torch.rand(1, 1, 20)
    lit = torch.relu(model.trunk.layer(x.view(1, 1, 1, 4, 5)))[0, 0]
    code = model.posterior_mean(x).view(3, 2, 3)
    for i in range(2):
        for j in range(3):
            assert torch.equal(code[:, i, j], lit[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax((1, 2)))


@pytest.mark.parametrize("order", ["channels-first", "channels-last"])
def test_every_output_is_read_once(order):
    config = trial_config(
        {**RELEASED, "latent_dim": 8, "likelihood": "matrix-t", "scale": "full", "components": 2, "output_order": order}
    )
    decoder = Cohort([config], (3, 3, 4), 10).model.decoder
    assert len(decoder.order.unique()) == len(decoder.order) == n_outputs(config, (3, 3, 4))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"latent_dim": 32}, r"latent_dim.*196 of these images.* 196 or 392; got 32"),
        ({"latent_dim": 500}, r"latent_dim.*196 of these images.* 392 or 588; got 500"),
        ({"model": "VAE", "likelihood": "gaussian"}, "network pooled-cnn.*VAE.*the AE has it"),
    ],
)
def test_what_it_cannot_be_is_said_in_a_sentence(values, words):
    with pytest.raises(ValueError, match=words):
        Cohort([trial_config({**RELEASED, **values})], (1, 28, 28), 10)


# Sides of 10 are pooled to 25 pixels. Members of other filters are padded as those of other latent_dims.
@pytest.mark.parametrize("check", [
    contract.a_member_of_a_cohort_trains_as_it_would_alone, contract.what_pads_a_member_stays_zero,
    contract.killed_and_resumed_equals_uninterrupted, contract.stored_weights_reopen_to_the_same_model,
], ids=lambda check: check.__name__)  # fmt: skip
def test_it_keeps_the_contract(check, tmp_path, monkeypatch):
    configs_of = contract.configs_of
    monkeypatch.setattr(
        contract, "configs_of", lambda values, dims, seeds: configs_of(values, [25 * d for d in dims], seeds)
    )
    other = {7: 175}  # the latent_dim whose weights must be refused
    monkeypatch.setattr(
        contract, "trial_config",
        lambda values: trial_config({**values, "latent_dim": other.get(values["latent_dim"], values["latent_dim"])}),
    )  # fmt: skip
    check(
        {"model": "AE", "network": "pooled-cnn", "likelihood": "matrix-t", "components": 2, "code": "rectified"},
        tmp_path,
    )


def test_codes_larger_than_any_file_should_be_are_not_written(images, tmp_path):
    for latent_dim in (25, 4125):
        config = trial_config({**RELEASED, "latent_dim": latent_dim, "batch_size": 20})
        cohort = contract.made([config], images)
        write_records(tmp_path, cohort, images)
        written = {path.name for path in (tmp_path / config.run_name).iterdir()}
        assert written == {
            "config.json", "record.json", "weights.safetensors", "pictures.npz", *(["latents.npz"] if latent_dim < 4096 else []),
        }  # fmt: skip


@pytest.mark.long
def test_with_outputs_in_their_places_it_reaches_the_best_of_2_by_2_blocks_and_as_released_not_the_mean_image():
    """Each number of the decoder is shown four times, so that images constant on blocks are the best it can do."""
    data = load_data("digits")
    x = data.test.float() / 255
    blocks = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    mean_image = data.train.float().mean(0) / 255
    errors = {}
    for order in ("channels-first", "channels-last"):
        config = trial_config(
            model="AE", network="pooled-cnn", output_order=order, likelihood="matrix-normal", components=1,
            decoder_output="linear", initialisation="glorot-uniform", latent_dim=16 * 8, dataset="digits", epochs=10,
            evaluate_every=10, learning_rate=1e-2, batch_size=32,
        )  # fmt: skip
        *_, (last,) = train(Cohort([config], data.image_shape, len(data.train)), data)
        errors[order] = last["metrics"]["test/mse"]
    assert errors["channels-first"] == pytest.approx((x - blocks).square().mean().item(), rel=0.05)
    assert errors["channels-last"] > (x - mean_image).square().mean().item()
