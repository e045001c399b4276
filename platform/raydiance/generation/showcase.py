"""What a person looks at after an evaluation: sheets of samples, figures, and samples to turn with the
mouse.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from raydiance.data.views import ViewDataset
from raydiance.errors import DataError
from raydiance.fields import (
    Cameras,
    VoxelField,
    contact_sheet,
    export_html,
    extract_mesh,
    orbit_cameras,
    write_png,
)
from raydiance.generation.assemble import Latents
from raydiance.generation.bundle import LatentModel
from raydiance.generation.measure import objects_of
from raydiance.generation.sampler import decode, views
from raydiance.generation.viewsets import composite
from raydiance.metrics import SetScores
from raydiance.storage import Draft
from raydiance.tracking import Tracker

if TYPE_CHECKING:
    import trimesh
    from matplotlib.figure import Figure

__all__ = ["Showcase", "arrange", "write_showcase"]

Images = NDArray[np.uint8]
RADIUS, FOV_DEGREES, ELEVATION_DEGREES = 3.0, 40.0, 22.0
PAIRS = 8  # objects on the sheets that set two pictures against each other
SPACING = 2.1  # between objects that stand side by side: each fits into the unit ball


@dataclass(frozen=True)
class Showcase:
    """What there is to show: samples are fields of one object each, their seeds in the same order."""

    model: LatentModel
    data: ViewDataset
    latents: Latents
    samples: Sequence[VoxelField]
    seeds: Sequence[int]
    shapes: SetScores
    sets: Sequence[Mapping[str, object]]
    plan_points: Sequence[Mapping[str, object]]


def write_showcase(
    show: Showcase,
    draft: Draft,
    tracker: Tracker,
    *,
    sheet_samples: int,
    sheet_size: int,
    viewer_samples: int,
    viewer_resolution: int,
) -> None:
    """Write and log samples.png, reconstructions.png, nearest.png, the figures and samples.html."""
    from raydiance.generation import figures

    sheets = {
        "samples": sample_sheet(show, sheet_samples, sheet_size),
        "reconstructions": reconstruction_sheet(show),
        "nearest": nearest_sheet(show),
    }
    for name, sheet in sheets.items():
        write_png(draft.path(f"{name}.png"), sheet)
        tracker.log_image(name, sheet)
    for name, figure in _figures(show).items():
        tracker.log_figure(f"{name}.png", figure)
        for palette, text in zip(("light", "dark"), figures.svg_pair(figure), strict=True):
            draft.path(f"figures/{name}-{palette}.svg").write_text(text, encoding="utf-8")
    page = viewer_page(show, viewer_samples, viewer_resolution)
    draft.path("samples.html").write_text(page, encoding="utf-8")
    tracker.log_text("samples.html", page)


def sample_sheet(show: Showcase, count: int, size: int) -> Images:
    """The first samples from one side, each with its seed."""
    images = [views(field, _three_quarter(size), num_samples=96)[0, 0] for field in show.samples[:count]]
    labels = [f"seed {seed}" for seed in show.seeds[: len(images)]]
    return contact_sheet(images, columns=_columns(len(images)), labels=labels)


def reconstruction_sheet(show: Showcase) -> Images:
    """Held-out views of training objects: the truth above, the reconstruction below."""
    objects = objects_of(show.data, show.latents)
    chosen = np.linspace(0, len(objects) - 1, min(PAIRS, len(objects))).round().astype(int).tolist()
    view = int(show.data.held_out_views[0])
    truth = [_real(show.data, objects[i], view) for i in chosen]
    field = decode(show.model, show.latents.raw[chosen])
    ours = views(field, show.data.cameras(objects[0])[view], num_samples=96)[:, 0]
    return contact_sheet([*truth, *ours], columns=len(chosen))


def nearest_sheet(show: Showcase) -> Images:
    """Samples above, below each the training object whose shape is nearest: are they copies?"""
    objects = objects_of(show.data, show.latents)
    count = min(PAIRS, len(show.samples))
    view = int(show.data.train_views[len(show.data.train_views) // 3])
    camera = show.data.cameras(objects[0])[view]
    ours = [views(field, camera, num_samples=96)[0, 0] for field in show.samples[:count]]
    theirs = [_real(show.data, objects[int(i)], view) for i in show.shapes.nearest[:count]]
    distance = show.shapes.nearest_distance[:count].tolist()
    labels = [f"seed {seed}" for seed in show.seeds[:count]] + [f"{1e3 * each:.1f} away" for each in distance]
    return contact_sheet([*ours, *theirs], columns=count, labels=labels)


def viewer_page(show: Showcase, count: int, resolution: int) -> str:
    """A page that shows the first samples side by side and lets one turn them; a sample without surface is
    left out.
    """
    meshes = []
    for field in show.samples[:count]:
        with suppress(DataError):
            meshes.append(extract_mesh(field, resolution=resolution))
    if not meshes:
        return "<!DOCTYPE html><title>Samples</title><p>None of the samples has a surface.</p>\n"
    return export_html(arrange(meshes), title=f"Samples, from seed {show.seeds[0]} on")


def arrange(meshes: Sequence["trimesh.Trimesh"]) -> "trimesh.Trimesh":
    """The meshes as one, standing in rows on the XY plane."""
    import trimesh

    columns = _columns(len(meshes))
    placed = []
    for i, mesh in enumerate(meshes):
        row, column = divmod(i, columns)
        ground = -float(mesh.bounds[0, 2])
        placed.append(mesh.copy().apply_translation((SPACING * row, SPACING * column, ground)))
    together = trimesh.util.concatenate(placed)
    assert isinstance(together, trimesh.Trimesh)  # meshes in, mesh out
    return together


def _figures(show: Showcase) -> dict[str, "Figure"]:
    from raydiance.generation import figures

    normalised = show.latents.statistics.normalise(show.latents.raw).numpy()
    drawn = {"latents": figures.latents(normalised), "distances": figures.distances(show.sets)}
    if show.plan_points:
        drawn["plans"] = figures.plan_front(show.plan_points)
    return drawn


def _three_quarter(size: int) -> Cameras:
    """One camera that sees an object from its side and a little from above."""
    cameras = orbit_cameras(
        8, size=size, radius=RADIUS, fov_degrees=FOV_DEGREES, elevation_degrees=ELEVATION_DEGREES
    )
    return cameras[1]


def _real(data: ViewDataset, index: int, view: int) -> Images:
    image = composite(data.images(index, [view]))[0].permute(1, 2, 0)
    return (image * 255.0).round().to(torch.uint8).numpy()


def _columns(count: int) -> int:
    """Columns of a sheet a little wider than high; full rows where the count allows it."""
    wanted = math.sqrt(1.6 * count)
    full = [columns for columns in range(1, count + 1) if count % columns == 0]
    best = min(full, key=lambda columns: abs(columns - wanted))
    return best if abs(best - wanted) <= 2 else math.ceil(wanted)
