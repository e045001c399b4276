"""Radiance fields: cameras, captures, rays, voxel grids, rendering, meshing and files."""

from raydiance.fields.baking import bake_texture
from raydiance.fields.cameras import Cameras, Rays, look_at, orbit_cameras, spiral_cameras
from raydiance.fields.captures import Capture, Frame, normalise, read_transforms, write_transforms
from raydiance.fields.colmap import read_colmap
from raydiance.fields.exporting import export_glb, export_html, export_mesh
from raydiance.fields.files import load_field, save_field
from raydiance.fields.media import contact_sheet, turntable, write_png, write_video
from raydiance.fields.meshing import extract_mesh
from raydiance.fields.photographs import Photographs, load_photographs
from raydiance.fields.rendering import Rendering, render, render_function, render_views
from raydiance.fields.voxels import VoxelField

__all__ = [
    "Cameras",
    "Capture",
    "Frame",
    "Photographs",
    "Rays",
    "Rendering",
    "VoxelField",
    "bake_texture",
    "contact_sheet",
    "export_glb",
    "export_html",
    "export_mesh",
    "extract_mesh",
    "load_field",
    "load_photographs",
    "look_at",
    "normalise",
    "orbit_cameras",
    "read_colmap",
    "read_transforms",
    "render",
    "render_function",
    "render_views",
    "save_field",
    "spiral_cameras",
    "turntable",
    "write_png",
    "write_transforms",
    "write_video",
]
