"""FisherNet: the posterior's precision is the decoder's Fisher information (Zacherl, Frank, Enßlin, Entropy 23:1640, 2021)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fishernet.config import TrialConfig
from fishernet.families import CG_RESIDUAL, LARGEST_PRECISION
from fishernet.fisher import MOST_PADDING, alike, latent_precision, padded
from fishernet.likelihoods.base import Root
from fishernet.models.base import Autoencoder, Noise, Outcome
from fishernet.networks.stacked import Jacobian
from fishernet.posteriors import LOG_2_PI, ImplicitPrecisionGaussian, PrecisionGaussian


class FisherNet(Autoencoder):
    """Posterior N(mu, M^-1): the precision is the decoder's Fisher information at the encoded mean, plus 1.

    Loss, equation 25 with S = 1, per image:
        (|z*|^2 + xi^2/p + k xi + |x - f(z*)|^2 exp(-xi)) / 2,    z* = mu + residual,
    M held constant in the gradient. objective eq24 adds ln|M|/2 and the gradient through M; with a linear decoder and the
    exact mu it then is -ln p(x) up to the constant (d - k ln 2 pi)/2, while eq25 is no variational objective.
    With another likelihood the last two terms are its -ln p(x given z*) less the constant.
    kl_weight beta multiplies what the loss keeps of KL(N(mu, M^-1) || p(z)) = E|z*|^2/2 + (ln|M| - d)/2: |z*|^2/2, and with
    eq24 also ln|M|/2. The term elbo stays the ELBO.
    """

    by_information = True
    decoder: Any  # has ``linearise``
    largest: Tensor

    def __init__(self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int], n_train: int) -> None:
        super().__init__(configs, image_shape, n_train)
        self.register_buffer("largest", torch.zeros(len(configs)), persistent=False)

    @property
    def extremes(self) -> dict[str, Tensor]:
        """Of cg the largest residual it stopped at; else the largest number on M's diagonal."""
        return {CG_RESIDUAL if self.config.sampler == "cg" else LARGEST_PRECISION: self.largest}

    def _note(self, values: Tensor) -> None:
        if self.training:
            torch.maximum(self.largest, values.detach(), out=self.largest)  # in place: a recorded step keeps its memory

    @property
    def recordable(self) -> bool:  # type: ignore[override]
        """Conjugate gradients stop when they look at their residuals."""
        return bool(self.config.sampler != "cg")

    def noise(self, latent_dim: int) -> dict[str, Noise]:
        eta = {"eta": Noise(latent_dim)}
        return eta | {"n_star": Noise(self.likelihood.n_rows)} if self.config.sampler == "cg" else eta

    def root_information(self, mean: Tensor) -> tuple[Jacobian, Root]:
        """The decoder's Jacobian at mean, and a root of the likelihood's Fisher information about its output."""
        a, jacobian = self.decoder.linearise(mean)
        return jacobian, self.likelihood.root_information(a.to(mean.dtype))

    def precision(self, mean: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """M at mean, (n_members, n, d, d): equation 20. What pads a smaller member has the prior's 1."""
        with self.arithmetic():
            linearised, root = self.root_information(mean)
        blocks = []
        for members, d in alike(self.latent_dims, MOST_PADDING[mean.device.type]):
            with self.arithmetic():
                jacobian = linearised.part(members, d).jacobian()
            # Outside: Cholesky needs more digits than bfloat16 has.
            blocks.append(latent_precision(root.part(members).push(jacobian), dtype))
        return torch.cat([padded(block, mean.shape[2]) for block in blocks]) if len(blocks) > 1 else blocks[0]

    def posterior(self, x: Tensor) -> PrecisionGaussian | ImplicitPrecisionGaussian:
        """N(mu, M^-1) (section 2.4); eq25 holds M constant in the gradient."""
        mean = self.posterior_mean(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.objective != "eq25"):
            form = partial(self.precision, mean)
            if self.config.sampler == "cg":
                tolerance, limit = self.config.cg_tolerance, self.config.cg_iterations
                return ImplicitPrecisionGaussian(
                    mean, form, *self.root_information(mean), self.own, tolerance=tolerance, max_iterations=limit,
                    note=self._note,
                )  # fmt: skip
            q = PrecisionGaussian(
                mean, form, self.own, torch.float64 if self.config.sampler == "cholesky-float64" else None
            )
            self._note(q.precision.diagonal(dim1=-2, dim2=-1).amax((1, 2)).to(mean.dtype))
            return q

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        q = self.posterior(x)
        residual, log_det = q.residual(noise)
        z = q.mean + residual
        log_likelihood, a = self.log_likelihood(x, z)
        terms = {"log_likelihood": log_likelihood, "half_squared_z": 0.5 * z.square().sum(2)}
        terms |= self.likelihood.parts(log_likelihood)
        noise_prior = self.noise_prior(log_likelihood)
        terms["noise_prior"] = torch.zeros_like(log_likelihood) + noise_prior
        loss = self.kl_factor * terms["half_squared_z"] - log_likelihood - self.likelihood.constant + noise_prior
        if log_det is not None:
            terms["half_log_det"] = 0.5 * log_det
            # ln q(z*) = (ln|M| - |eta|^2 - d ln 2 pi)/2, as residual^T M residual = |eta|^2 to the factor's rounding.
            log_ratio = 0.5 * (log_det - noise["eta"].square().sum(2)) + terms["half_squared_z"]
            terms["elbo"] = log_likelihood - log_ratio
            if self.config.objective == "eq24":
                loss = loss + self.kl_factor * terms["half_log_det"]
            terms["fisher_information"] = q.fisher_information().detach()
            terms["posterior_entropy"] = 0.5 * (self.own.sum(2) * (1 + LOG_2_PI) - log_det.detach())
        return Outcome(loss, terms, q.mean, a)
