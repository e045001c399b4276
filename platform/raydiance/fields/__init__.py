"""Radiance fields: cameras, rays, voxel grids, rendering and meshing."""

from raydiance.fields.cameras import Cameras, Rays, look_at, orbit_cameras, spiral_cameras

__all__ = ["Cameras", "Rays", "look_at", "orbit_cameras", "spiral_cameras"]
