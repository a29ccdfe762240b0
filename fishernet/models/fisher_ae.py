"""Fisher auto-encoders (Elkhalil, Hasan, Ding, Farsiu, Tarokh, 2021): the Fisher divergence where a VAE has the KL divergence."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fishernet.models.base import Outcome
from fishernet.models.vae import VAE, pull_back, stability
from fishernet.posteriors import DiagonalGaussian


class FisherAE(VAE):
    """The loss is equation 11 at one draw z = mu + sigma eta, v the noise variance and k the number of pixels:

        w |grad_z ln q(z given x) - grad_z ln p(x, z)|^2/2      posterior_divergence, grad_z ln p(x, z) = s(z) + J^T (x - f)/v
        + |x - f|^2/(2 v^2) - k/v                               hyvarinen, the score of p(x given z)
        + w' |grad_x ln q(z given x)|^2/2                       stability, z held

    It is in inverse squared units of z and x, not in nats: the Fisher divergence is not invariant to the scale of images. With
    ``pixel_range`` symmetric x and f are 2x - 1 and 2f - 1: with unit noise the first term is that of v = 1/4 in [0, 1], the
    others are a quarter of theirs.
    ``posterior_gradient`` held keeps the first term's gradient from the decoder, as the released code does. Theorem 1 asks for
    a smooth density of images that vanishes at its edge, which grey values with atoms at 0 and 1 have not. The terms kl and
    elbo, in nats, are given where the prior is a density, so that all models share a scale. ``noise`` closed-form sets v to
    |x - f|^2/k, where the term hyvarinen is least of itself; the first term, which has v too, has a say where v is learned.
    """

    pulls_back = True

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        learns, eta, config = torch.is_grad_enabled(), noise["eta"], self.config
        with torch.enable_grad():
            at = self.shown(x, noise).detach().requires_grad_()
            q = self.posterior(at)
            terms = {}
            if config.stability_weight:
                terms["stability"] = self.units * stability(q, at, eta, config.stability, learns=learns)
            z = q.sample(eta) if learns else q.sample(eta).detach().requires_grad_()
            log_likelihood, a = self.log_likelihood(x, z)
            pull = pull_back(
                [log_likelihood], z, [torch.ones_like(log_likelihood)],
                learns=learns and config.posterior_gradient == "full", keep=learns,
            )  # fmt: skip
            score_of_q = -eta * torch.exp(-0.5 * q.log_variance)
            residual = score_of_q - self.prior.score(z) - pull
            terms["posterior_divergence"] = 0.5 * (residual * self.own).square().sum(2)
            terms["hyvarinen"] = self.units * self.likelihood.hyvarinen(x, a)
            loss = config.posterior_weight * terms["posterior_divergence"] + terms["hyvarinen"]
            if config.stability_weight:
                loss = loss + config.stability_weight * terms["stability"]
        if learns:
            return Outcome(loss, terms, q.mean, a)
        terms = {name: term.detach() for name, term in terms.items()} | {"log_likelihood": log_likelihood.detach()}
        q = DiagonalGaussian(q.mean.detach(), q.log_variance.detach(), q.own)
        terms |= {"fisher_information": q.fisher_information(), "posterior_entropy": q.entropy()}
        if self.prior.density:
            terms["kl"] = self.prior.kl(q)
            terms["elbo"] = terms["log_likelihood"] - terms["kl"]
        return Outcome(loss.detach(), terms, q.mean, a.detach())
