"""The stage `articulate`: articulated objects in random poses, each pose seen by all cameras.

An artifact of kind "views" in which each pose of each object counts as an object of its own, "test" where it is
never trained on; beside the views lie articulation.json (objects, parts) and articulation.safetensors:
poses float32 [N, P, 3, 4] from rest to the pose of each of the N entries (identity beyond an object's own parts),
object int64 [N], surface float32 [O, P, S, 3] (points on the parts at rest; 0 beyond an object's own parts).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from safetensors import numpy as safetensors
from safetensors.torch import load_file

from raydiance.data.articulated import KINDS, Array, Performance, in_pose, perform, surface_points
from raydiance.data.meshes import Mesh
from raydiance.data.pinholes import Pinholes, ViewArrays
from raydiance.data.render import RenderSpec, camera_arrays, held_out_views, spiral, view_sheet
from raydiance.data.views import ViewDataset, ViewedObject, ViewsIndex, write_views
from raydiance.errors import ArtifactError
from raydiance.spec import spec, to_plain
from raydiance.storage import Artifact, write_json
from raydiance.tracking import Outcome, Run

__all__ = ["ArticulateSpec", "ArticulatedViews", "articulate"]

SURFACE_POINTS = 256  # of each part
SEEDS = 1000  # of objects, for each seed of a run


@spec
class ArticulateSpec:
    """Objects: `per_kind` of each of the kinds. Poses: num_poses to train on, num_unseen to be tested on."""

    kinds: tuple[str, ...] = KINDS
    per_kind: Annotated[int, Ge(1), Le(SEEDS)] = 1
    num_poses: Annotated[int, Ge(1)] = 24
    num_unseen: Annotated[int, Ge(1)] = 6
    look: RenderSpec = RenderSpec(num_views=12, held_out_every=4)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(
                f"kinds must be some of {', '.join(KINDS)}, each once, got {', '.join(self.kinds) or 'none'}"
            )


@dataclass(frozen=True)
class _Task:
    """One pose of one object to be seen, by a process that gets nothing else."""

    parts: tuple[Mesh, ...]
    poses: Array
    cameras: Pinholes
    supersample: int


def articulate(spec: ArticulateSpec, run: Run) -> Outcome:
    """Views of articulated objects in random poses, with those poses."""
    run.tracker.log_params(to_plain(spec))
    seeds = [run.seed * SEEDS + number for number in range(spec.per_kind)]
    total = spec.num_poses + spec.num_unseen
    objects = [perform(kind, seed, total) for kind in spec.kinds for seed in seeds]
    names = [f"{each.kind}-{number % spec.per_kind:03d}" for number, each in enumerate(objects)]
    entries = tuple(
        ViewedObject(f"{name}-pose{pose:03d}", each.kind, "train" if pose < spec.num_poses else "test")
        for name, each in zip(names, objects, strict=True)
        for pose in range(total)
    )
    cameras = spiral(spec.look)
    index = ViewsIndex(entries, cameras, held_out_views(spec.look))
    tasks = [
        _Task(each.parts, poses, camera_arrays(cameras), spec.look.supersample)
        for each in objects
        for poses in each.poses
    ]
    with (
        run.store.create("views", run.name, spec=spec, seeds={"seed": run.seed}) as draft,
        run.progress.task("articulate", total=len(tasks)) as shown,
    ):

        def counted() -> Iterator[ViewArrays]:
            for seen in run.map(_see, tasks):
                yield seen
                shown.update()

        write_views(draft.path, index, counted())
        safetensors.save_file(_arrays(objects), draft.path("articulation.safetensors"))
        described = [{"id": n, "parts": list(each.names)} for n, each in zip(names, objects, strict=True)]
        write_json(draft.path("articulation.json"), {"objects": described})
    metrics = {"objects": float(len(objects)), "poses": float(len(tasks))}
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("views", view_sheet(ViewDataset(draft.artifact)))
    return Outcome(draft.artifact, metrics)


def _see(task: _Task) -> ViewArrays:
    from raydiance.data.raycast import render_mesh  # here, because it compiles

    return render_mesh(in_pose(task.parts, task.poses), task.cameras, supersample=task.supersample)


def _arrays(objects: list[Performance]) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    most = max(len(each.parts) for each in objects)
    total = len(objects[0].poses)
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (len(objects) * total, most, 1, 1))
    surface = np.zeros((len(objects), most, SURFACE_POINTS, 3), np.float32)
    for number, each in enumerate(objects):
        count = len(each.parts)
        poses[number * total : (number + 1) * total, :count] = each.poses
        surface[number, :count] = surface_points(each.parts, SURFACE_POINTS, seed=number)
    return {"poses": poses, "surface": surface, "object": np.repeat(np.arange(len(objects)), total)}


class ArticulatedViews(ViewDataset):
    """Views of O objects in N poses in all; each pose counts as an object of the data set.

    poses [N, P, 3, 4], objects [N]: of which object each pose is; num_parts, names, part_names [O].
    surface [O, P, S, 3]: points on the parts at rest.
    """

    def __init__(self, artifact: Artifact) -> None:
        try:
            described = artifact.read_json("articulation.json")["objects"]
            tensors = load_file(artifact.path("articulation.safetensors"))
        except ArtifactError as error:
            raise ArtifactError(
                f"{artifact.ref.key}: these views tell no poses of parts; run the stage articulate ({error})"
            ) from error
        super().__init__(artifact)
        self.names: list[str] = [each["id"] for each in described]
        self.part_names: list[list[str]] = [each["parts"] for each in described]
        self.poses, self.objects, self.surface = tensors["poses"], tensors["object"], tensors["surface"]
        self.num_parts = torch.tensor([len(parts) for parts in self.part_names])
