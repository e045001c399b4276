"""Views of coloured balls, rendered from known fields: a data set small enough to learn in seconds."""

import torch

from raydiance.data.pinholes import ViewArrays
from raydiance.data.views import ViewedObject, ViewsIndex, write_views
from raydiance.fields import VoxelField, render_views, spiral_cameras
from raydiance.storage import Artifact, Store

COLOURS = ((0.9, 0.1, 0.1), (0.1, 0.7, 0.2), (0.2, 0.3, 0.9))


def ball(colour: tuple[float, float, float], radius: float, resolution: int = 32) -> torch.Tensor:
    """The grid [1, R, R, R, 4] of an opaque ball."""
    axis = torch.linspace(-1, 1, resolution)
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    density = 40 * torch.sigmoid((radius - distance) * 20)
    return torch.cat([density[..., None], torch.tensor(colour).expand(*density.shape, 3)], dim=-1)[None]


def balls(store: Store, size: int = 16, *, kept_back: int = 0) -> Artifact:
    """Three balls as an artifact of kind "views"; view 2 is held out, and of the balls the last `kept_back`."""
    cameras = spiral_cameras(5, size=size, radius=2.8, fov_degrees=42.0)
    splits = ["train"] * (len(COLOURS) - kept_back) + ["test"] * kept_back
    objects = tuple(ViewedObject(f"ball-{i}", f"kind-{i % 2}", split) for i, split in enumerate(splits))

    def views(i: int) -> ViewArrays:
        seen = render_views(VoxelField(ball(COLOURS[i], 0.5 + 0.1 * i)), cameras, background=0.0)
        alpha = seen.opacity[0, ..., None]
        rgba = torch.cat([seen.colour[0] / alpha.clamp(min=1e-6), alpha], dim=-1).clamp(0, 1)
        return ViewArrays((rgba * 255).round().byte().numpy(), seen.depth[0].half().numpy())

    with store.create("views", "balls") as draft:
        write_views(draft.path, ViewsIndex(objects, cameras, (2,)), (views(i) for i in range(len(objects))))
    return draft.artifact
