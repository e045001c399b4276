"""What comes in: furniture, meshes read safely, views rendered from them, shards, latents encoded."""

from raydiance.data.digits import DigitsSpec, digits
from raydiance.data.encode import EncodeSpec, encode
from raydiance.data.furniture import generate
from raydiance.data.ingest import IngestSpec, ingest
from raydiance.data.latents import RobustStatistics
from raydiance.data.meshes import Mesh, MeshLimits, load_mesh, save_mesh
from raydiance.data.raycast import Pinholes, ViewArrays, render_mesh
from raydiance.data.render import RenderSpec, render
from raydiance.data.sandbox import MeshReader, read_mesh
from raydiance.data.views import ViewDataset, ViewedObject, ViewsIndex, write_views

__all__ = [
    "DigitsSpec",
    "EncodeSpec",
    "IngestSpec",
    "Mesh",
    "MeshLimits",
    "MeshReader",
    "Pinholes",
    "RenderSpec",
    "RobustStatistics",
    "ViewArrays",
    "ViewDataset",
    "ViewedObject",
    "ViewsIndex",
    "digits",
    "encode",
    "generate",
    "ingest",
    "load_mesh",
    "read_mesh",
    "render",
    "render_mesh",
    "save_mesh",
    "write_views",
]
