"""Adam's numbers are those of torch.optim.AdamW."""

import pytest
import torch

from fishernet import adam
from fishernet.adam import Adam, Group


def test_torch_has_the_fused_kernel_that_is_called():
    """Where it has gone, steps are right and slower."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    adam._fused_step(Group([parameter], 0.1), (0.9, 0.999), torch.ones(()))
    torch.testing.assert_close(parameter.detach(), torch.full((3,), -0.1))  # the first step is the rate


def of_another_signature(*, parameters: list[torch.Tensor]) -> None:
    """As a kernel of a later torch may be."""


@pytest.mark.parametrize(
    "kernel", [adam._fused_step, lambda group, betas, n_steps: of_another_signature(group.parameters)]
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torchs_adamw_to_the_last_bit(decay, kernel, monkeypatch):
    """Also where its fused kernel is no longer the one that is called here."""
    monkeypatch.setattr(adam, "_fused_step", kernel)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 17, 5), (3, 5), (3,)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    theirs, ours = ([torch.nn.Parameter(t.clone()) for t in starts] for _ in range(2))
    reference = torch.optim.AdamW(
        [{"params": theirs[:1], "weight_decay": decay}, {"params": theirs[1:], "weight_decay": 0.0, "lr": 1e-1}],
        lr=1e-3, fused=True,
    )  # fmt: skip
    own_adam = Adam([Group(ours[:1], 1e-3, decay), Group(ours[1:], 1e-1), Group([], 1.0)])
    for _ in range(5):
        for a, b in zip(theirs, ours, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        reference.step()
        own_adam.step()
        assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    for a, b in zip(theirs, ours, strict=True):
        own = {"step": own_adam.n_steps, **own_adam.moments(b)}
        assert all(torch.equal(value, own[name]) for name, value in reference.state[a].items())
    own_adam.zero_grad()
    assert all(parameter.grad is None for parameter in ours)


def test_a_parameter_of_another_optimiser_has_no_state():
    with pytest.raises(KeyError, match="does not have that parameter"):
        Adam([]).moments(torch.zeros(1))
