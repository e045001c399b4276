"""Guidance: wrappers that make one noise predictor out of another. The sampler never knows.

Legend: x the point, eps the predicted noise, x_0 = x - sigma eps the prediction of the data.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydiance.diffusion.preconditioning import NoisePredictor, expand
from raydiance.errors import ConfigError

__all__ = ["classifier_free", "clip_dynamic", "clip_static", "loss_guided"]


def classifier_free(
    conditional: NoisePredictor,
    unconditional: NoisePredictor,
    scale: float | Tensor,
    *,
    sigma_min: float = 0.0,
    sigma_max: float = float("inf"),
) -> NoisePredictor:
    """eps_u + scale (eps_c - eps_u) for noise levels within [sigma_min, sigma_max], eps_c elsewhere.

    scale: one number, or one per item [B]; 1 is the conditional prediction. (Ho & Salimans 2022, Eq. 6, with
    scale = 1 + w; the interval: Kynkaanniemi et al. 2024.) Both predictors are called in every step, so that
    no step waits for a value.
    """
    if not 0 <= sigma_min < sigma_max:
        raise ConfigError(f"classifier_free: need 0 <= sigma_min < sigma_max, got {sigma_min}, {sigma_max}")

    def predict_noise(x: Tensor, sigma: Tensor) -> Tensor:
        eps_c, eps_u = conditional(x, sigma), unconditional(x, sigma)
        inside = (sigma >= sigma_min) & (sigma <= sigma_max)
        strength = torch.where(inside, scale, 1.0)
        return torch.lerp(eps_u, eps_c, expand(strength.to(eps_c.dtype), x))

    return predict_noise


def loss_guided(
    predict_noise: NoisePredictor, loss: Callable[[Tensor], Tensor], scale: float | Tensor
) -> NoisePredictor:
    """Steer towards a small loss(x_0) [B] by its gradient: eps + scale sigma d loss / d x.

    With scale = 1 and loss = -ln p(y | x_0) this is the noise of the posterior, as far as x_0 stands for its
    distribution (Dhariwal & Nichol 2021, Algorithm 2; Chung et al. 2023). The gradient goes through the
    network. Any callable will do: a rendering error, a classifier, a distance.
    """

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            point = x.detach().clone().requires_grad_()
            eps = predict_noise(point, sigma.clone())
            values = loss(point - expand(sigma.to(point.dtype), point) * eps)
            (gradient,) = torch.autograd.grad(values.sum(), point)
        return eps.detach() + expand((scale * sigma).to(x.dtype), x) * gradient

    return guided


def clip_static(predict_noise: NoisePredictor, low: float = -1.0, high: float = 1.0) -> NoisePredictor:
    """The noise that belongs to x_0 clipped to [low, high] (DDPM's own sampler); for data that is known to be
    bounded.
    """
    if not low < high:
        raise ConfigError(f"clip_static: need low < high, got {low} and {high}")

    def clipped(x: Tensor, sigma: Tensor) -> Tensor:
        s = expand(sigma, x).to(x.dtype)
        return (x - (x - s * predict_noise(x, sigma)).clamp(low, high)) / s

    return clipped


def clip_dynamic(
    predict_noise: NoisePredictor, quantile: float = 0.995, bound: float = 1.0
) -> NoisePredictor:
    """The noise that belongs to x_0 clipped at its own quantile of |x_0|, item by item, and scaled back to
    `bound` (Saharia et al. 2022, section 2.3). Items whose quantile lies within the bound are only clipped to
    it.
    """
    if not (0 < quantile <= 1 and bound > 0):
        raise ConfigError(f"clip_dynamic: need 0 < quantile <= 1 and bound > 0, got {quantile} and {bound}")

    def clipped(x: Tensor, sigma: Tensor) -> Tensor:
        s = expand(sigma, x).to(x.dtype)
        x_0 = x - s * predict_noise(x, sigma)
        sizes = x_0.flatten(1).abs().sort(dim=1).values  # torch.quantile takes no more than 2^24 elements
        at = min(round(quantile * (sizes.shape[1] - 1)), sizes.shape[1] - 1)
        limit = expand(sizes[:, at].clamp(min=bound), x)
        return (x - x_0.clamp(-limit, limit) * (bound / limit)) / s

    return clipped
