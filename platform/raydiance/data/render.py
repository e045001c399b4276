"""The render stage: views of every ingested mesh along DiffRF's spiral, by ray casting, into shards."""

import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from raydiance.data.pinholes import Pinholes, ViewArrays
from raydiance.data.render_object import RenderTask, render_object
from raydiance.data.views import ViewDataset, ViewedObject, ViewsIndex, write_views
from raydiance.errors import DataError
from raydiance.fields.cameras import Cameras, spiral_cameras
from raydiance.fields.media import contact_sheet
from raydiance.spec import spec, to_plain
from raydiance.storage import Artifact
from raydiance.tracking import Outcome, Run, Task

__all__ = ["RenderSpec", "camera_arrays", "held_out_views", "render", "spiral", "view_sheet"]


@spec
class RenderSpec:
    """How objects in the unit ball are seen.

    size: pixels along one side of a view. radius: of the sphere the cameras stand on. supersample: its square
    is the number of rays for a pixel. held_out_every: one view of so many is never trained on, 0 for none.
    With the default radius and angle of view the unit ball just fits into the image.
    """

    size: Annotated[int, Ge(8), Le(4096)] = 64
    num_views: Annotated[int, Ge(1), Le(10_000)] = 24
    held_out_every: Annotated[int, Ge(0)] = 6
    radius: Annotated[float, Gt(1)] = 2.8
    fov_degrees: Annotated[float, Gt(0), Lt(180)] = 42.0
    supersample: Annotated[int, Ge(1), Le(8)] = 2

    def __post_init__(self) -> None:
        if self.held_out_every == 1:
            raise ValueError("held_out_every = 1 leaves no view to train on: use 0 for none, or 2 and more")
        if self.held_out_every > self.num_views:
            raise ValueError(
                f"held_out_every = {self.held_out_every} has no effect with {self.num_views} views: "
                "use 0 for none, or at most the number of views"
            )


def render(spec: RenderSpec, run: Run) -> Outcome:
    """Views of all objects of run.inputs["ingest"] as an artifact of kind "views"."""
    meshes = run.inputs["ingest"]
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(meshes, "render")
    index = _index(spec, meshes)
    cameras = camera_arrays(index.cameras)
    tasks = [RenderTask(run.store, meshes.ref, item.id, cameras, spec.supersample) for item in index.objects]
    start = time.perf_counter()
    with (
        run.store.create(
            "views", run.name, spec=spec, seeds={"seed": run.seed}, parents=[meshes.ref]
        ) as draft,
        run.progress.task("render", total=len(tasks)) as shown,
    ):
        write_views(draft.path, index, _counted(run.map(render_object, tasks), shown))
    seconds = time.perf_counter() - start
    rays = len(tasks) * spec.num_views * (spec.size * spec.supersample) ** 2
    metrics = {
        "objects": float(len(tasks)),
        "views": float(len(tasks) * spec.num_views),
        "render_s": seconds,
        "rays_per_s": rays / seconds,
    }
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("views", view_sheet(ViewDataset(draft.artifact)))
    return Outcome(artifact=draft.artifact, metrics=metrics)


def view_sheet(views: ViewDataset, *, rows: int = 8, columns: int = 8) -> NDArray[np.uint8]:
    """Objects from the whole set, each from another side, uint8 [h, w, 3]."""
    count = min(rows * columns, views.num_objects)
    objects = np.linspace(0, views.num_objects - 1, count).round().astype(int)
    pictures = [
        views.images(int(item), [7 * n % views.num_views])[0].numpy() for n, item in enumerate(objects)
    ]
    return contact_sheet(pictures, columns)


def spiral(spec: RenderSpec) -> Cameras:
    """The cameras of a spec."""
    return spiral_cameras(spec.num_views, size=spec.size, radius=spec.radius, fov_degrees=spec.fov_degrees)


def held_out_views(spec: RenderSpec) -> tuple[int, ...]:
    """The views never trained on: the middle one of every `held_out_every` along the spiral."""
    every = spec.held_out_every
    return tuple(range(every // 2, spec.num_views, every)) if every else ()


def camera_arrays(cameras: Cameras) -> Pinholes:
    """The cameras as the arrays that the ray caster reads."""
    pose, focal, center = (
        part.double().numpy() for part in (cameras.camera_to_world, cameras.focal, cameras.center)
    )
    return Pinholes(pose, focal, center, cameras.width, cameras.height)


def _index(spec: RenderSpec, meshes: Artifact) -> ViewsIndex:
    objects = tuple(
        ViewedObject(str(item["id"]), str(item["category"]), str(item["split"]), str(item.get("caption", "")))
        for item in meshes.read_json("objects.json")
    )
    if not objects:
        raise DataError(f"{meshes.ref.key}: no objects to render; run the ingest stage again")
    return ViewsIndex(objects, spiral(spec), held_out_views(spec))


def _counted(views: Iterator[ViewArrays], shown: Task) -> Iterator[ViewArrays]:
    for view in views:
        yield view
        shown.update()
