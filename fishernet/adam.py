"""Adam with decoupled weight decay as one kernel call for many tensors."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch.optim.AdamW names them
NORM_FLOOR = 1e-7  # beside a gradient's norm, where it is divided by that: of the Fisher-Shannon paper's code
EPSILON = 1e-8  # Kingma and Ba 2015; torch's default as well


@dataclass
class Group:
    """Parameters of one rate and decay with their moments, each of its parameter's shape."""

    parameters: list[Tensor]
    learning_rate: float
    weight_decay: float = 0.0
    exp_avg: list[Tensor] = field(init=False)
    exp_avg_sq: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.exp_avg, self.exp_avg_sq = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))


class Adam:
    """Kingma and Ba 2015, algorithm 1, with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    The numbers are torch.optim.AdamW's to the last bit, whose fused kernel this calls. That class spends up to a
    tenth of a millisecond more a step on its generality (benchmarks/step_speed.py).
    ``normalised`` first divides each member's gradient of each tensor, (n_members, ...), by its norm (AdamNormGrad of
    vae_vampprior, Tomczak and Welling 2018, which the Fisher-Shannon paper trains with).
    """

    def __init__(
        self, groups: list[Group], betas: tuple[float, float] = (0.9, 0.999), *, normalised: bool = False
    ) -> None:
        self.betas, self.normalised = betas, normalised
        self.groups = [group for group in groups if group.parameters]
        # On the device, as a CUDA graph needs it there; one for all parameters, where torch counts for each.
        self.n_steps = torch.zeros((), device=self.groups[0].parameters[0].device) if self.groups else torch.zeros(())

    @property
    def parameters(self) -> list[Tensor]:
        return [parameter for group in self.groups for parameter in group.parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self.n_steps.add_(1)
        for group in self.groups:
            if self.normalised:
                for parameter in group.parameters:
                    gradient = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad[:, None]  # type: ignore[union-attr, index]
                    gradient.div_(torch.linalg.vector_norm(gradient, dim=1, keepdim=True) + NORM_FLOOR)
            try:
                _fused_step(group, self.betas, self.n_steps)
            except (AttributeError, TypeError):  # before it has changed anything
                _torch_step(group, self.betas, self.n_steps)

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """The parameter's own moments by name."""
        for group in self.groups:
            for i, own in enumerate(group.parameters):
                if own is parameter:
                    return {name: getattr(group, name)[i] for name in MOMENTS}
        raise KeyError("this optimiser does not have that parameter")


def _fused_step(group: Group, betas: tuple[float, float], n_steps: Tensor) -> None:
    """Torch's kernel, which is private: seen in torch 2.15. Raises AttributeError or TypeError where it is another."""
    torch._fused_adamw_(
        group.parameters, [p.grad for p in group.parameters],  # type: ignore[misc] # all have one
        group.exp_avg, group.exp_avg_sq, [], [n_steps] * len(group.parameters),
        lr=group.learning_rate, beta1=betas[0], beta2=betas[1], weight_decay=group.weight_decay, eps=EPSILON,
        amsgrad=False, maximize=False,
    )  # fmt: skip


def _torch_step(group: Group, betas: tuple[float, float], n_steps: Tensor) -> None:
    """The same numbers by the public class, on the group's own moments; ``n_steps`` counts this one."""
    on_gpu = group.parameters[0].is_cuda
    optimiser = torch.optim.AdamW(
        group.parameters, group.learning_rate, betas, EPSILON, group.weight_decay, fused=True, capturable=on_gpu
    )
    for parameter, *moments in zip(group.parameters, group.exp_avg, group.exp_avg_sq, strict=True):
        optimiser.state[parameter] = {"step": n_steps - 1, **dict(zip(MOMENTS, moments, strict=True))}
    optimiser.step()
