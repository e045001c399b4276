"""Random rays of the views of objects, with what they ought to see."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from raydiance.data.views import ViewDataset
from raydiance.fields import Rays

__all__ = ["SeenRays", "draw_rays"]


@dataclass(frozen=True)
class SeenRays:
    """Rays [B, N], their colours over white [B, N, 3], the opacity [B, N] they meet, a jitter [B, N] for each."""

    rays: Rays
    colour: Tensor
    opacity: Tensor
    jitter: Tensor

    def to(self, device: torch.device) -> "SeenRays":
        """The same on a device."""
        return SeenRays(
            self.rays.to(device), self.colour.to(device), self.opacity.to(device), self.jitter.to(device)
        )


def draw_rays(
    views: ViewDataset,
    objects: Sequence[int],
    generators: Sequence[Generator],
    *,
    num_views: int,
    num_rays: int,
) -> SeenRays:
    """`num_rays` rays of at most `num_views` random training views of each object, a generator for each."""
    train_views, parts = torch.as_tensor(views.train_views), []
    for index, generator in zip(objects, generators, strict=True):
        chosen = train_views[torch.randperm(len(train_views), generator=generator)[:num_views]]
        which = torch.arange(num_rays) % len(chosen)
        columns, rows = torch.randint(views.size, (2, num_rays), generator=generator)
        rays = views.cameras(index).pixel_rays(chosen[which], columns, rows)
        rgba = views.images(index, chosen)[which, rows, columns].float() / 255
        colour = rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
        jitter = torch.rand(num_rays, generator=generator)
        parts.append((rays.origins, rays.directions, colour, rgba[:, 3], jitter))
    origins, directions, colours, opacity, jitters = (torch.stack(each) for each in zip(*parts, strict=True))
    return SeenRays(Rays(origins, directions), colours, opacity, jitters)
