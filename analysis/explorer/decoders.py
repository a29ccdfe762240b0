"""What the page needs of a trained model: its decoder's layers, how its output becomes an image, and its information.

Only what the shown image depends on: of a likelihood with scales or degrees of freedom their outputs are left out.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fishernet.likelihoods.base import Likelihood
from fishernet.likelihoods.discretised import Discretised
from fishernet.likelihoods.emitted import Emitting
from fishernet.likelihoods.logistic import LEAST_MEAN, Logistic
from fishernet.likelihoods.maf import MAF
from fishernet.likelihoods.pixels import Bernoulli, Gaussian
from fishernet.models.base import Autoencoder
from fishernet.networks import conv, dense
from fishernet.networks.activations import gated_layers

Array = npt.NDArray[np.float32]


def decoder_of(model: Autoencoder, image_shape: Sequence[int]) -> dict[str, Any] | None:
    """The decoder as ``decoder.js`` reads it, numbers as base64 of little-endian float32; None where that cannot compute it."""
    kind = type(model)
    if kind.reconstruct is not Autoencoder.reconstruct or kind.decode is not Autoencoder.decode:
        return None
    shown = _shown(model.likelihood)
    if shown is None or type(model.decoder) not in (dense.Decoder, conv.Decoder):
        return None
    maps, n_others, mean = shown
    layers, others = (_dense if isinstance(model.decoder, dense.Decoder) else _conv)(model, image_shape, maps, n_others)
    gated = gated_layers(model.config)
    return {
        "layers": layers,
        "others": others,
        "activation": "gated" if gated else model.config.activation,
        "mean": mean | {"sigmoid": model.likelihood.sigmoid, "n_pixels": model.n_pixels},
        "information": information_of(model),
    }


def information_of(model: Autoencoder) -> dict[str, float] | None:
    """What makes M = sum over pixels of I J^T J, plus 1, with I = (f (1 - f))^slopes precision, where it is the posterior's.

    None for posteriors that are none of M, and for likelihoods whose information is not of one number a pixel.
    """
    likelihood = model.likelihood
    if not model.by_information or not isinstance(likelihood, Bernoulli | Gaussian | MAF):
        return None
    if isinstance(likelihood, Bernoulli):
        return {"slopes": 1, "precision": 1.0}
    precision = float(torch.exp(-likelihood.log_variance[0].detach())) if isinstance(likelihood, Gaussian) else 1.0
    return {"slopes": 2 * likelihood.sigmoid, "precision": precision}


def _shown(likelihood: Likelihood) -> tuple[list[int], int, dict[str, Any]] | None:
    """Which numbers per pixel and how many per image the mean is made of, and how; None where the page does not know."""
    if isinstance(likelihood, Bernoulli | Gaussian):
        return [0], 0, {"kind": "plain"}
    if isinstance(likelihood, Logistic):
        return [0], 0, {"kind": "plain", "within": [LEAST_MEAN, 1 - LEAST_MEAN]}
    if isinstance(likelihood, MAF):
        hidden, last = likelihood.hidden, likelihood.last
        flow = {
            "degrees": likelihood.degrees,
            "hidden": _layer("dense", hidden.weight[0] * hidden.mask[0], hidden.bias[0]),
            "last": _layer("dense", last.weight[0] * last.mask[0], last.bias[0]),
        }
        return [0], 0, {"kind": "flow"} | flow
    if isinstance(likelihood, Emitting | Discretised):
        k, mixed = likelihood.n_components, likelihood.mixed
        own = isinstance(likelihood, Discretised)  # each pixel has weights of its own, and locations within [0, 1]
        mean: dict[str, Any] = {"kind": "mixture" if mixed else "plain", "components": k, "of_pixels": own}
        mean |= {"within": [0, 1]} if own else {}
        maps = [*range(k), *(range(2 * k, 3 * k) if own and mixed else ())]
        return maps, k * (mixed and not own), mean
    return None


def _dense(model: Any, image_shape: Sequence[int], maps: Sequence[int], n_others: int) -> tuple[list[Any], None]:
    n, all_maps = model.n_pixels, model.likelihood.maps
    columns = np.concatenate([np.arange(m * n, (m + 1) * n) for m in maps] + [all_maps * n + np.arange(n_others)])
    *hidden, last = model.decoder.layers
    layers = [_layer("dense", layer.weight[0], layer.bias[0]) for layer in hidden]
    return [*layers, _layer("dense", last.weight[0][:, columns], last.bias[0][columns])], None


def _conv(
    model: Any, image_shape: Sequence[int], maps: Sequence[int], n_others: int
) -> tuple[list[Any], dict[str, Any] | None]:
    """Images have their channels last, so that each step adds a row of weights to a row of numbers."""
    decoder, channels = model.decoder, image_shape[0]
    first, size = decoder.first, decoder.first_shape[1:]
    order = torch.arange(first.bias.shape[1]).unflatten(0, (-1, *decoder.first_shape)).permute(0, 2, 3, 1).flatten()
    layers = [_layer("dense", first.weight[0][:, order], first.bias[0][order])]
    for layer in decoder.layers:
        made = _layer("up", layer.weight[0].permute(0, 2, 3, 1), layer.bias[0])
        layers.append(made | {"stride": layer.stride, "from": list(size), "to": list(layer.size)})
        size = layer.size
    kept = np.concatenate([np.arange(m * channels, (m + 1) * channels) for m in maps])
    # A convolution is a transposed one whose kernel is turned round.
    last = _layer("up", decoder.last.weight[0][kept].flip(2, 3).permute(1, 2, 3, 0), decoder.last.bias[0][kept])
    layers.append(last | {"stride": 1, "from": list(size), "to": list(size)})
    if not n_others:
        return layers, None
    others = decoder.others
    return layers, _layer("dense", others.weight[0][:, :n_others], others.bias[0][:n_others])


def _layer(kind: str, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, Any]:
    """A weight (n_in, n_out) of dense, (n_in, 3, 3, n_out) of up."""
    return {"kind": kind, "n_in": len(weight), "n_out": len(bias), "weight": packed(weight), "bias": packed(bias)}


def packed(numbers: torch.Tensor | Array) -> str:
    """Numbers as base64 of little-endian float32."""
    array = numbers.detach().cpu().numpy() if isinstance(numbers, torch.Tensor) else numbers
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()
