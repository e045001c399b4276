from pathlib import Path

import numpy as np
import pytest
import trimesh

from raydiance.fields import VoxelField, export_glb, export_mesh, extract_mesh
from raydiance.fields.baking import bake_texture


def test_a_baked_texture_shows_the_field(ball_field: VoxelField, tmp_path: Path) -> None:
    mesh = extract_mesh(ball_field, iso=40.0, max_faces=600)
    baked = bake_texture(ball_field, mesh, size=256)
    assert baked.area == pytest.approx(mesh.area, rel=1e-4) and baked.volume == pytest.approx(
        mesh.volume, rel=1e-4
    )
    export_glb(baked, tmp_path / "ball.glb", extras={"seed": 3})
    again = trimesh.load(tmp_path / "ball.glb").to_mesh()
    points, face = trimesh.sample.sample_surface(again, 2000, seed=1)
    weights = trimesh.triangles.points_to_barycentric(again.triangles[face], points)
    uv = (again.visual.uv[again.faces[face]] * weights[..., None]).sum(1)
    image = np.asarray(again.visual.material.baseColorTexture.convert("RGB")) / 255
    height, width, _ = image.shape
    row, column = ((1 - uv[:, 1]) * height).astype(int), (uv[:, 0] * width).astype(int)
    seen = image[row.clip(0, height - 1), column.clip(0, width - 1)]
    world = points[:, [0, 2, 1]] * (1, -1, 1)  # glTF's axes -> +Z up
    assert np.abs(seen - (0.5 + 0.45 * world)).max() < 0.05


def test_a_textured_obj_brings_its_files(ball_field: VoxelField, tmp_path: Path) -> None:
    baked = bake_texture(ball_field, extract_mesh(ball_field, max_faces=300), size=64)
    export_mesh(baked, tmp_path / "ball.obj")
    assert "ball.mtl" in {path.name for path in tmp_path.iterdir()}
    again = trimesh.load(tmp_path / "ball.obj", force="mesh")
    assert again.visual.material.image.size == (64, 64)
    np.testing.assert_allclose(again.bounds, baked.bounds, atol=1e-4)


def test_a_texture_has_a_size(ball_field: VoxelField) -> None:
    with pytest.raises(ValueError, match="16 x 16"):
        bake_texture(ball_field, extract_mesh(ball_field), size=1)
