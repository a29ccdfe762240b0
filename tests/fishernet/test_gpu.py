"""What can be known of a GPU without one: torch follows shapes and devices through a step on a pretended one."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.networks.stacked import StackedLayer
from fishernet.training import Step
from tests.fishernet.test_contract import VARIANTS


def pretended_step(variant, small, monkeypatch):
    """All of a step but autograd's own part, and what an evaluation does besides."""
    monkeypatch.setattr(StackedLayer, "initialise", lambda self, generators: None)  # no generator can be pretended
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *given: self)  # nor can what is pretended be moved
    configs = [trial_config(latent_dim=d, **small | variant) for d in (2, 3, 5)]
    with FakeTensorMode():
        with torch.device("cuda"):
            cohort = Cohort(configs, (1, 8, 8), 100, "cuda")
            images = ResidentImages(torch.empty(100, 64, dtype=torch.uint8))
            index = torch.zeros(3, 16, dtype=torch.long)
            noise = {name: torch.randn(3, 16, own.width) for name, own in cohort.model.noise(5).items()}
        step = Step(cohort, images)
        assert step.recordable == ("cg" not in variant.values())
        x = step.images.take(index)
        outcome = cohort.model(x, noise)
        for parameter in cohort.model.parameters():
            parameter.grad = torch.empty_like(parameter)
        cohort.optimisers[""].step()
        cohort.model.likelihood.observe(x, outcome.output.detach())
        restored = cohort.model.reconstruct(outcome.mean)
        return [x, *outcome.terms.values(), outcome.loss, restored, *cohort.tensors().values()]


@pytest.mark.parametrize(
    "variant",
    # torch knows of no bfloat16 autocast on a GPU where there is none, nor of derivatives there, which these have in their loss
    [
        v
        for v in VARIANTS
        if v.get("sampler") != "cg"
        and v.get("precision") != "bfloat16"
        and v["model"] != "FisherAE"
        and not v.get("stability_weight")
    ],
    ids=lambda v: "-".join(map(str, v.values())),
)
def test_a_step_on_a_gpu_mixes_no_devices_and_reads_no_number_back(variant, small, monkeypatch):
    """Either would be an error here: a CUDA graph holds no copy to the CPU and no decision by a number."""
    assert {tensor.device.type for tensor in pretended_step(variant, small, monkeypatch)} == {"cuda"}


def test_only_conjugate_gradients_look_at_their_numbers(small, monkeypatch):
    with pytest.raises(DataDependentOutputException):
        pretended_step({"model": "FisherNet", "sampler": "cg"}, small, monkeypatch)
