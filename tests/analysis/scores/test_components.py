"""What a mixture's components show, by a classifier that is known."""

from types import SimpleNamespace

import pytest
import torch

from analysis.scores.components import has_component_images, score_components
from fishernet.families import family, trial_config

GREYS = torch.tensor([0.1, 0.6, 0.9])  # of the three components' images; beyond 1/2 an image is bright


class Bright(torch.nn.Module):
    """Logits of dark and bright."""

    def __init__(self):
        super().__init__()
        self.edge = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([self.edge - mean, mean - self.edge], 1)


def test_components_above_a_hundredth_are_counted_and_asked_for_their_inputs_label():
    """Weights 0.495, 0.5, 0.005: of the first two one is dark and one bright, and their mean is dark."""
    config = trial_config(model="AE", components=3, latent_dim=2, hidden_layers=0, decoder_output="linear")
    model = family("AE").load()([config], (1, 2, 2), 10).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        bias = model.decoder.layers[0].bias.view(-1)
        bias[:12], bias[12:] = GREYS.repeat_interleave(4), torch.tensor([0.495, 0.5, 0.005]).log()
    classifier = SimpleNamespace(network=Bright(), fingerprint="known")
    labels = torch.tensor([3, 3, 3, 7])  # three of dark images
    black = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    one_label = black, torch.tensor([3, 3, 3, 3])
    scored = score_components(classifier, black, labels, torch.tensor([3, 7]), *one_label, model)
    assert scored.metrics == {
        "components/heavy": 2, "components/keeps_label": pytest.approx(0.5), "components/mean_keeps_label": pytest.approx(0.75),
    }  # fmt: skip


def test_a_classifier_learns_from_components_what_neither_images_nor_means_show():
    """Images with a first pixel have label 3, black ones 7. Of the former one component has the last pixel and one its negative,
    which is black when shown and cancels it in the mean. What is asked has the last pixel alone.
    """
    config = trial_config(model="AE", components=2, latent_dim=2, hidden_layers=0, decoder_output="linear")
    model = family("AE").load()([config], (1, 2, 2), 10).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.heads_of_encoder["mean"].weight[0, 0, 0] = 1
        model.decoder.layers[0].weight[0, 0, [3, 7]] = torch.tensor([1.0, -1.0])
    labels = torch.tensor([3, 7]).repeat(20)
    first, last = torch.zeros(2, 40, 1, 2, 2, dtype=torch.uint8)
    first[labels == 3, :, 0, 0], last[labels == 3, :, 1, 1] = 255, 255
    classifier = SimpleNamespace(network=Bright(), fingerprint="known")
    found = score_components(classifier, last, labels, torch.tensor([3, 7]), first, labels, model).metrics
    assert {name: found[f"components/{name}"] for name in ("accuracy", "accuracy_of_components", "accuracy_of_means")} == {
        "accuracy": 0.5, "accuracy_of_components": 1, "accuracy_of_means": 0.5,
    }  # fmt: skip


def test_images_of_components_are_of_mixtures_of_images():
    told = {
        ("gaussian", 0): False,
        ("gaussian", 1): False,
        ("student-t", 10): True,
        ("discretised-logistic", 10): False,
    }
    found = {
        (name, k): has_component_images(
            trial_config(model="AE", likelihood=name, components=k, decoder_output="linear")
        )
        for name, k in told
    }
    assert found == told
