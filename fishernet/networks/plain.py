"""Any ``nn.Module`` as a network: built once for each member and lifted into a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, stack_module_state, vjp, vmap

from fishernet.config import TrialConfig
from fishernet.networks.stacked import Stacked

State = dict[str, Tensor]


class Plain(Stacked):
    """``build(config)`` for each member, its parameters and buffers stacked: (n_members, n, n_in) to (n_members, n, n_out).

    The module maps a batch of vectors, (n, n_in), to (n, n_out), each row by itself but for batch normalisation. Its modules
    must be of one shape, so members of one cohort have one latent_dim: the family's row says ``padded=False``. Applied by
    ``torch.func.vmap``; member by member where a module has buffers, which it may change, or where vmap refuses it. Random
    numbers of its own, such as dropout's, come from torch's global generator: such a module does not resume bit for bit.
    """

    def __init__(self, build: Callable[[TrialConfig], nn.Module], configs: Sequence[TrialConfig], n_in: int) -> None:
        super().__init__()
        self.build, self.configs = build, list(configs)
        with torch.random.fork_rng(devices=[]):
            self.module = build(configs[0])
        parameters, buffers = _stacked([self.module] * len(configs))
        for name, tensor in parameters.items():
            owner, leaf = self._owner(name)
            setattr(owner, leaf, nn.Parameter(tensor))
        for name, tensor in buffers.items():
            owner, leaf = self._owner(name)
            setattr(owner, leaf, tensor)
        self.by_vmap = not buffers
        self.padded = ()
        self.n_in = n_in

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        return self.module.get_submodule(path), leaf

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Build each member's module anew under a seed drawn from its generator."""
        modules = []
        for config, generator in zip(self.configs, generators, strict=True):
            seed = int(torch.randint(2**31, (), generator=generator))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                modules.append(self.build(config))
        own = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        for drawn in _stacked(modules):
            for name, tensor in drawn.items():
                own[name].copy_(tensor)

    def member_view(self, i: int, name: str, tensor: Tensor) -> Tensor:
        return tensor[i]

    @property
    def n_features(self) -> list[int]:
        """How many numbers the module gives, of each member: seen once on a row of zeros."""
        was, mode = self._states(), self.module.training
        self.module.eval()
        with torch.no_grad():
            width = functional_call(self.module, _of(was, 0), (torch.zeros(1, self.n_in),)).shape[1]
        self.module.train(mode)
        return [width] * len(self.configs)

    def forward(self, x: Tensor) -> Tensor:
        states = self._states()
        if self.by_vmap:
            try:
                return vmap(self._one)(states, x)
            except RuntimeError as error:
                if "out of memory" in str(error):
                    raise
                self.by_vmap = False
        # In-place changes of a buffer go through the view to the stack.
        return torch.stack([self._one(_of(states, i), own) for i, own in enumerate(x)])

    def _one(self, state: State, x: Tensor) -> Tensor:
        result: Tensor = functional_call(self.module, state, (x,))
        return result

    def _states(self) -> State:
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def linearise(self, x: Tensor) -> tuple[Tensor, Linearised]:
        """The output at x and the Jacobian there as an operator, by forward- and reverse-mode derivatives."""
        return self(x), Linearised(self._one, self._states(), x, x.shape[2])


@dataclass(frozen=True)
class Linearised:
    """The Jacobian of a ``Plain`` decoder at a batch of points whose rows do not depend on each other."""

    function: Callable[[State, Tensor], Tensor]
    state: State
    x: Tensor  # (n_members, n, d)
    n_in: int

    def part(self, members: slice, n_in: int) -> Linearised:
        """Of these members and of the first n_in inputs alone."""
        return replace(self, state={name: t[members] for name, t in self.state.items()}, x=self.x[members], n_in=n_in)

    def jacobian(self) -> Tensor:
        """J^T as tangents, (n_members, n, n_in, n_out)."""
        units = torch.eye(self.x.shape[2], dtype=self.x.dtype, device=self.x.device)[: self.n_in]

        def pushed(state: State, x: Tensor) -> Tensor:
            return vmap(lambda unit: jvp(partial(self.function, state), (x,), (unit.expand_as(x),))[1])(units)

        return vmap(pushed)(self.state, self.x).transpose(1, 2)

    def push(self, tangent: Tensor) -> Tensor:
        """J v for one v per point: (n_members, n, n_in) to (n_members, n, n_out)."""
        return vmap(lambda state, x, v: jvp(partial(self.function, state), (x,), (v,))[1])(self.state, self.x, tangent)

    def pull(self, cotangent: Tensor) -> Tensor:
        """J^T w for one w per point: (n_members, n, n_out) to (n_members, n, n_in)."""
        return vmap(lambda state, x, w: vjp(partial(self.function, state), x)[1](w)[0])(self.state, self.x, cotangent)


def _stacked(modules: Sequence[nn.Module]) -> tuple[State, State]:
    parameters, buffers = stack_module_state(list(modules))
    return {name: t.detach().clone() for name, t in parameters.items()}, dict(buffers)


def _of(state: State, i: int) -> State:
    """Member i's own, as views."""
    return {name: tensor[i] for name, tensor in state.items()}
