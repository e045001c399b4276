"""What `evaluate` measures: reconstructions against held-out views, and sets of objects against the real
ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydiance.data.views import ViewDataset
from raydiance.errors import DataError
from raydiance.fields import VoxelField, render_views
from raydiance.generation.assemble import Latents
from raydiance.generation.bundle import LatentModel
from raydiance.generation.sampler import decode, noise_generator
from raydiance.generation.viewsets import ViewSet, composite, field_view_set
from raydiance.metrics import (
    SetScores,
    ViewFeatures,
    frechet_distance,
    kernel_distance,
    psnr,
    set_scores,
    ssim,
)

__all__ = ["SetDistances", "direct_latents", "distances", "latent_view_set", "objects_of", "reconstruct"]

KERNEL_SEED = 0  # the subsets of the kernel distance are always the same ones


@dataclass(frozen=True)
class SetDistances:
    """How far a set of objects is from the real ones: by its views, and by its shapes."""

    fd_views: float
    kd_views: float
    shapes: SetScores


def objects_of(data: ViewDataset, latents: Latents) -> list[int]:
    """The index in the data set of each latent's object. DataError if the two do not belong together."""
    index = {name: i for i, name in enumerate(data.object_ids)}
    missing = [name for name in latents.object_ids if name not in index]
    if missing:
        raise DataError(
            f"the latents are of objects such as {missing[0]!r}, which are not among the views: "
            "give the render artifact that the autodecoder was trained on"
        )
    return [index[name] for name in latents.object_ids]


@torch.inference_mode()
def reconstruct(
    model: LatentModel,
    data: ViewDataset,
    latents: Latents,
    *,
    samples_per_ray: int,
    done: Callable[[int], None],
) -> list[dict[str, object]]:
    """PSNR in dB and SSIM of each object, the means over its held-out views, never trained on."""
    rows: list[dict[str, object]] = []
    held_out = data.held_out_views.tolist()
    for latent, index in zip(latents.raw, objects_of(data, latents), strict=True):
        cameras = data.cameras(index)[held_out]
        shown = render_views(decode(model, latent[None]), cameras, num_samples=samples_per_ray).colour[0]
        image = shown.clamp(0.0, 1.0).permute(0, 3, 1, 2).cpu()
        truth = composite(data.images(index, held_out))
        rows.append(
            {
                "object": data.object_ids[index],
                "category": data.categories[index],
                "psnr": float(psnr(image, truth).mean()),
                "ssim": float(ssim(image, truth).mean()),
            }
        )
        done(1)
    return rows


def direct_latents(raw: Tensor, seeds: Sequence[int]) -> Tensor:
    """Samples [B, ...] of the Gaussian with the mean and the covariance (n - 1) of the latents [N, ...].

    Direct latent sampling: what one gets without a diffusion model. The covariance has rank N - 1 at most,
    so a sample is the mean plus a random combination of the deviations, each weighted 1 / sqrt(N - 1).
    """
    mean: Tensor = raw.mean(0)
    weights = torch.stack([torch.randn(len(raw), generator=noise_generator(seed)) for seed in seeds])
    deviations = (raw - mean) / math.sqrt(len(raw) - 1)
    sampled: Tensor = mean + torch.tensordot(weights, deviations, dims=1)
    return sampled


def latent_view_set(
    model: LatentModel,
    latents: Tensor,
    data: ViewDataset,
    views: Sequence[int],
    *,
    samples_per_ray: int,
    num_points: int,
    batch_size: int,
    done: Callable[[int], None],
) -> ViewSet:
    """The objects of latents, seen by the cameras that saw the first real object."""
    cameras = data.cameras(0)[list(views)]
    parts = []
    for field in _fields(model, latents, batch_size):
        parts.append(field_view_set(field, cameras, num_samples=samples_per_ray, num_points=num_points))
        done(len(field))
    return ViewSet.cat(parts)


def distances(generated: ViewSet, real: ViewSet, features: ViewFeatures) -> SetDistances:
    """Both kinds of distance; `features` is the network behind fd_views and kd_views."""
    ours, theirs = _features(generated.images, features), _features(real.images, features)
    kernel = kernel_distance(ours, theirs, generator=torch.Generator().manual_seed(KERNEL_SEED))
    return SetDistances(
        frechet_distance(ours, theirs), kernel.mean, set_scores(generated.points, real.points)
    )


def _fields(model: LatentModel, latents: Tensor, batch_size: int) -> Iterator[VoxelField]:
    for chunk in torch.split(latents, batch_size):
        yield decode(model, chunk).to("cpu")


def _features(images: Tensor, features: ViewFeatures) -> Tensor:
    return torch.cat([features(chunk) for chunk in torch.split(images, 64)])


def evenly(count: int, total: int) -> list[int]:
    """`count` indices spread evenly over 0 .. total - 1, the first and the last among them."""
    return sorted({round(float(place)) for place in np.linspace(0, total - 1, min(count, total))})
