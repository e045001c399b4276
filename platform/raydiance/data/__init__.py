"""What comes in: furniture out of a generator, meshes read safely, views rendered from them, shards.

Names are loaded when they are first used: the process that reads foreign meshes must start fast and small.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydiance.data.furniture import KINDS, generate
    from raydiance.data.ingest import IngestSpec, ingest
    from raydiance.data.meshes import Mesh, MeshLimits, load_mesh, save_mesh
    from raydiance.data.raycast import Pinholes, ViewArrays, render_mesh
    from raydiance.data.render import RenderSpec, render
    from raydiance.data.sandbox import MeshReader, read_mesh
    from raydiance.data.views import ViewDataset, ViewedObject, ViewsIndex, write_views

__all__ = [
    "KINDS",
    "IngestSpec",
    "Mesh",
    "MeshLimits",
    "MeshReader",
    "Pinholes",
    "RenderSpec",
    "ViewArrays",
    "ViewDataset",
    "ViewedObject",
    "ViewsIndex",
    "generate",
    "ingest",
    "load_mesh",
    "read_mesh",
    "render",
    "render_mesh",
    "save_mesh",
    "write_views",
]

_HOMES = {
    "furniture": ("KINDS", "generate"),
    "ingest": ("IngestSpec", "ingest"),
    "meshes": ("Mesh", "MeshLimits", "load_mesh", "save_mesh"),
    "raycast": ("Pinholes", "ViewArrays", "render_mesh"),
    "render": ("RenderSpec", "render"),
    "sandbox": ("MeshReader", "read_mesh"),
    "views": ("ViewDataset", "ViewedObject", "ViewsIndex", "write_views"),
}
_HOME = {name: f"raydiance.data.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
