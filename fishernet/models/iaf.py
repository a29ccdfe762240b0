"""The VAE with an inverse autoregressive flow (Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, 2016)."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.models.base import Outcome
from fishernet.models.vae import VAE
from fishernet.networks.activations import ACTIVATIONS
from fishernet.networks.masked import MaskedLinear, degrees
from fishernet.networks.stacked import Linear
from fishernet.posteriors import Flow

FIRST_GATE = 2.0  # added to the gate, so that a step begins near the identity (section 4: +1 to +2)


class FlowStep(nn.Module):
    """z' = s z + (1 - s) m, (m, g) = MADE(z, h), s = sigmoid(g + 2): ln|det dz'/dz| = sum ln s (equations 12-14, section 4).

    m_i and g_i depend on the z_j before i in the order and on the image's context h. One hidden layer.
    """

    def __init__(
        self, latent_dims: Sequence[int], n_context: Sequence[int], width: int, activation: str, *, reverse: bool
    ) -> None:
        super().__init__()
        widths = [width] * len(latent_dims)
        places, hidden = degrees(latent_dims, width, reverse=reverse)
        own = places > 0
        self.context = Linear(n_context, widths)
        self.hidden = MaskedLinear(latent_dims, widths, own[:, :, None] & (hidden[:, None] >= places[:, :, None]))
        out = own[:, None] & (places[:, None] > hidden[:, :, None])
        self.shift, self.gate = (MaskedLinear(widths, latent_dims, out) for _ in range(2))
        self.activation = ACTIVATIONS[activation].function

    def forward(self, z: Tensor, context: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """z' and ln|det dz'/dz|; ``context`` is ``self.context`` of the image's features."""
        y = self.activation(self.hidden(z) + context)
        shift, gate = self.shift(y).to(z.dtype), self.gate(y).to(z.dtype) + FIRST_GATE
        keep = torch.sigmoid(gate)
        return (keep * z + (1 - keep) * shift) * own, (F.logsigmoid(gate) * own).sum(2)


class IAF(VAE):
    """A diagonal Gaussian from the encoder, moved by ``flow_steps`` steps in alternating order; loss = -ELBO at one draw.

    kl, beta and warm-up are as the VAE's, with KL = ln q(z given x) - ln p(z) at the draw. The context h of a step is linear in
    the encoder's features. The released code of the Fisher-Shannon paper has its flow commented out; its sizes are unknown.
    """

    def use_networks(self, trunk: nn.Module, decoder: nn.Module) -> None:
        super().use_networks(trunk, decoder)
        n_features: list[int] = trunk.n_features  # type: ignore[assignment]
        self.steps = nn.ModuleList(
            FlowStep(self.latent_dims, n_features, self.config.flow_width, self.config.activation, reverse=k % 2 == 1)
            for k in range(self.config.flow_steps)
        )

    def posterior(self, x: Tensor) -> Flow:  # type: ignore[override]
        with self.arithmetic():
            features = self.trunk(self.ranged(x))
            base = self.gaussian(self.heads_from(features, x.dtype))
            contexts = [cast("FlowStep", step).context(features) for step in self.steps]

        def steps(z: Tensor) -> tuple[Tensor, Tensor]:
            total = torch.zeros_like(z[:, :, 0])
            with self.arithmetic():
                for step, context in zip(self.steps, contexts, strict=True):
                    z, log_det = step(z, context, self.own)
                    total = total + log_det
            return z, total

        return Flow(base, steps)

    def posterior_mean(self, x: Tensor) -> Tensor:
        """Where the Gaussian's mean goes: a code of the image, not the mean of q."""
        return self.posterior(x).mean

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        q = self.posterior(x)
        z, log_q = q.draw(noise)
        assert log_q is not None
        log_likelihood, a = self.log_likelihood(x, z)
        kl = log_q - self.prior.log_prob(z)
        terms = {
            "log_likelihood": log_likelihood,
            "kl": kl,
            "elbo": log_likelihood - kl,
            "posterior_entropy": -log_q.detach(),
        }
        if not self.training:  # of one draw; a pass for each latent, which the loss has no use for
            terms["fisher_information"] = q.score(noise).detach().square().sum(2)
        noise_prior = self.noise_prior(kl)
        if isinstance(noise_prior, Tensor):
            terms["noise_prior"] = noise_prior
        with torch.no_grad():  # no part of the loss
            code = q.mean
        return Outcome(self.kl_factor * kl - log_likelihood + noise_prior, terms, code, a)
