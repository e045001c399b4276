"""What `evaluate` measures: reconstructions against held-out views, and sets of objects against the real
ones.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydiance.data.views import ViewDataset
from raydiance.errors import ConfigError, DataError
from raydiance.fields import Cameras, VoxelField, render_views
from raydiance.generation.assemble import Latents
from raydiance.generation.bundle import LatentModel
from raydiance.generation.sampler import decode, noise_generator
from raydiance.generation.viewsets import ViewSet, composite, field_view_set
from raydiance.metrics import (
    ImageExtractor,
    PerceptualDistance,
    SetScores,
    image_set_scores,
    psnr,
    set_scores,
    ssim,
)

__all__ = [
    "Looking",
    "SetDistances",
    "decoded",
    "direct_latents",
    "distances",
    "evenly",
    "objects_of",
    "reconstruct",
]


@dataclass(frozen=True)
class SetDistances:
    """How far a set of objects is from the real ones: by its views, scores by name, and by its shapes."""

    views: Mapping[str, float]
    shapes: SetScores

    @property
    def scores(self) -> dict[str, float]:
        """All of them by name."""
        return {
            **self.views,
            "coverage": self.shapes.coverage,
            "minimum_matching_x1e3": 1e3 * self.shapes.minimum_matching,
            "nearest_neighbour_accuracy": self.shapes.nearest_neighbour_accuracy,
            "nearest_training_x1e3": 1e3 * float(self.shapes.nearest_distance.mean()),
        }


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


@dataclass(frozen=True)
class Looking:
    """How objects are looked at: views by these cameras (those of the real objects), points, samples per
    ray.
    """

    cameras: Cameras
    num_points: int
    samples_per_ray: int

    def __call__(self, field: VoxelField) -> ViewSet:
        """The views and points of fields."""
        return field_view_set(
            field, self.cameras, num_samples=self.samples_per_ray, num_points=self.num_points
        )


def reconstruct(
    fields: Iterable[VoxelField],
    objects: Sequence[int],
    data: ViewDataset,
    look: Looking,
    *,
    perceptual: PerceptualDistance | None = None,
) -> tuple[list[dict[str, object]], ViewSet]:
    """How objects look as fields: a row with PSNR in dB and SSIM (and LPIPS) for each of them, and their view
    set.

    The scores are means over the held-out views, on which nothing was trained. Raises ConfigError if there
    are none.
    """
    held_out = data.held_out_views.tolist()
    if not held_out:
        raise ConfigError(
            "the views have none that is held out, so nothing can be said of new ones: "
            "set render.held_out_every to 2 or more and render again"
        )
    rows: list[dict[str, object]] = []
    sets = []
    for field, index in zip(fields, objects, strict=True):
        cameras = data.cameras(index)[held_out]
        seen = render_views(field, cameras, num_samples=look.samples_per_ray).colour[0]
        image, truth = seen.clamp(0.0, 1.0).permute(0, 3, 1, 2), composite(data.images(index, held_out))
        scores = {"psnr": float(psnr(image, truth).mean()), "ssim": float(ssim(image, truth).mean())}
        if perceptual is not None:
            scores["lpips"] = float(perceptual(image, truth).mean())
        rows.append({"object": data.object_ids[index], "category": data.categories[index], **scores})
        sets.append(look(field))
    return rows, ViewSet.cat(sets)


def decoded(model: LatentModel, latents: Tensor, done: Callable[[], None]) -> Iterator[VoxelField]:
    """The field of each latent, one after the other, on the CPU; `done` is called behind each."""
    for latent in latents:
        yield decode(model, latent[None]).to("cpu")
        done()


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


def distances(generated: ViewSet, real: ViewSet, extractor: ImageExtractor) -> SetDistances:
    """Both kinds of distance."""
    return SetDistances(
        image_set_scores(extractor, generated.images, real.images), set_scores(generated.points, real.points)
    )


def evenly(count: int, total: int) -> list[int]:
    """`count` indices spread evenly over 0 .. total - 1, the first and the last among them."""
    return sorted({round(float(place)) for place in np.linspace(0, total - 1, min(count, total))})
