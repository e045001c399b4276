"""What one process does of the render stage. It imports little, because it starts once for each process."""

from dataclasses import dataclass

from raydiance.data.meshes import load_mesh
from raydiance.data.pinholes import Pinholes, ViewArrays
from raydiance.storage import ArtifactRef, Store

__all__ = ["RenderTask", "render_object"]


@dataclass(frozen=True)
class RenderTask:
    """One object to be seen: where its mesh lies, and by which cameras."""

    store: Store
    meshes: ArtifactRef
    object_id: str
    cameras: Pinholes
    supersample: int


def render_object(task: RenderTask) -> ViewArrays:
    """The views of one object; the function that is mapped over processes."""
    from raydiance.data.raycast import render_mesh

    path = task.store.get(task.meshes).path(f"meshes/{task.object_id}.safetensors")
    return render_mesh(load_mesh(path), task.cameras, supersample=task.supersample)
