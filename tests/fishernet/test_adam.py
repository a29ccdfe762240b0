"""Adam's numbers are those of torch.optim.AdamW."""

import pytest
import torch

from fishernet.adam import Adam, Group


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torchs_adamw_to_the_last_bit(decay):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 17, 5), (3, 5), (3,)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    theirs, ours = ([torch.nn.Parameter(t.clone()) for t in starts] for _ in range(2))
    reference = torch.optim.AdamW(
        [{"params": theirs[:1], "weight_decay": decay}, {"params": theirs[1:], "weight_decay": 0.0, "lr": 1e-1}],
        lr=1e-3, fused=True,
    )  # fmt: skip
    adam = Adam([Group(ours[:1], 1e-3, decay), Group(ours[1:], 1e-1), Group([], 1.0)])
    for _ in range(5):
        for a, b in zip(theirs, ours, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        reference.step()
        adam.step()
        assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    for a, b in zip(theirs, ours, strict=True):
        own = {"step": adam.n_steps, **adam.moments(b)}
        assert all(torch.equal(value, own[name]) for name, value in reference.state[a].items())
    adam.zero_grad()
    assert all(parameter.grad is None for parameter in ours)


def test_a_parameter_of_another_optimiser_has_no_state():
    with pytest.raises(KeyError, match="does not have that parameter"):
        Adam([]).moments(torch.zeros(1))
