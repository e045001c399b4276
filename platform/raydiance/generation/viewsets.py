"""Real and generated objects seen by the same cameras: the images and the surface points that metrics
compare.

Points are where the views' rays end: each pixel that is more than half opaque gives one, so real and
generated shapes are sampled alike, and neither is rescaled (objects fill the unit ball).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raydiance.data.views import ViewDataset
from raydiance.fields import Cameras, VoxelField, render_views

__all__ = ["ViewSet", "composite", "field_view_set", "real_view_set", "surface_points"]

ORDER_SEED = 0
HIT = 0.5  # opacity from which a pixel counts as surface


@dataclass(frozen=True)
class ViewSet:
    """Images [N * V, 3, H, W] in [0, 1] over white, V of each of N objects, and points [N, P, 3]."""

    images: Tensor
    points: Tensor

    @staticmethod
    def cat(parts: list["ViewSet"]) -> "ViewSet":
        return ViewSet(torch.cat([part.images for part in parts]), torch.cat([part.points for part in parts]))


def composite(rgba: Tensor) -> Tensor:
    """uint8 [V, H, W, 4] with straight alpha -> [V, 3, H, W] in [0, 1] over white."""
    values = rgba.float() / 255.0
    colour, alpha = values[..., :3], values[..., 3:]
    return (colour * alpha + 1.0 - alpha).permute(0, 3, 1, 2)


def real_view_set(data: ViewDataset, objects: list[int], views: list[int], num_points: int) -> ViewSet:
    """The rendered views of objects of the data set."""
    parts = []
    for index in objects:
        rgba = data.images(index, views)
        depth = data.depth(index, views).float()
        hit = (rgba[..., 3] > 255 * HIT) & (depth > 0)
        points = surface_points(data.cameras(index)[views], depth, hit, num_points)
        parts.append(ViewSet(composite(rgba), points[None]))
    return ViewSet.cat(parts)


def field_view_set(field: VoxelField, cameras: Cameras, *, num_samples: int, num_points: int) -> ViewSet:
    """The views of fields through the same cameras."""
    rendering = render_views(field, cameras, num_samples=num_samples)
    opacity = rendering.opacity
    depth = rendering.depth / opacity.clamp(min=1e-6)  # the mean distance of what was hit
    points = [surface_points(cameras, depth[i], opacity[i] > HIT, num_points) for i in range(len(field))]
    images = rendering.colour.clamp(0.0, 1.0).flatten(0, 1).permute(0, 3, 1, 2)
    return ViewSet(images, torch.stack(points))


def surface_points(cameras: Cameras, depth: Tensor, hit: Tensor, num_points: int) -> Tensor:
    """num_points random points among the ends of the rays that hit, [P, 3]; depth and hit are [V, H, W].

    The pixels have one random order for all objects, and the first that hit are taken: so one pixel more or less
    changes no other's part, and no two objects are sampled more alike than others. Some are taken again where
    there are too few. An object that no ray hits has all its points in the origin.
    """
    if not bool(hit.any()):
        return torch.zeros(num_points, 3)
    generator = torch.Generator().manual_seed(ORDER_SEED)
    order = torch.randperm(hit.numel(), generator=generator)
    chosen = order[hit.flatten()[order]][:num_points]
    if missing := num_points - len(chosen):
        chosen = torch.cat([chosen, chosen[torch.randint(len(chosen), (missing,), generator=generator)]])
    rays = cameras.rays()
    ends: Tensor = (rays.origins + depth[..., None] * rays.directions).flatten(0, 2)[chosen]
    return ends
