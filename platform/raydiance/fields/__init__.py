"""Radiance fields: cameras, rays, voxel grids, rendering and meshing."""

from raydiance.fields.cameras import Cameras, Rays, look_at, orbit_cameras, spiral_cameras
from raydiance.fields.exporting import export_glb, export_html, export_mesh
from raydiance.fields.media import contact_sheet, turntable, write_png, write_video
from raydiance.fields.meshing import extract_mesh
from raydiance.fields.rendering import Rendering, render, render_views
from raydiance.fields.voxels import VoxelField

__all__ = [
    "Cameras",
    "Rays",
    "Rendering",
    "VoxelField",
    "contact_sheet",
    "export_glb",
    "export_html",
    "export_mesh",
    "extract_mesh",
    "look_at",
    "orbit_cameras",
    "render",
    "render_views",
    "spiral_cameras",
    "turntable",
    "write_png",
    "write_video",
]
