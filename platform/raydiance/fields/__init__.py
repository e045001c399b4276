"""Radiance fields: cameras, rays, voxel grids, rendering and meshing."""

from raydiance.fields.cameras import Cameras, Rays, look_at, orbit_cameras, spiral_cameras
from raydiance.fields.rendering import Rendering, render, render_views
from raydiance.fields.voxels import VoxelField

__all__ = [
    "Cameras",
    "Rays",
    "Rendering",
    "VoxelField",
    "look_at",
    "orbit_cameras",
    "render",
    "render_views",
    "spiral_cameras",
]
