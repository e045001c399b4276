import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fields.conftest import ball

from raydiance.errors import DataError
from raydiance.fields import VoxelField, extract_mesh
from raydiance.fields.meshing import default_iso


def test_a_ball_becomes_a_closed_outward_sphere(ball_field: VoxelField) -> None:
    mesh = extract_mesh(ball_field, iso=40.0)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.6).max() < 0.01
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.01)  # positive: faces look outwards
    assert mesh.is_watertight and mesh.metadata["raydiance"] == {
        "iso": 40.0,
        "resolution": [40, 40, 40],
        "watertight": True,
    }


def test_vertex_colours_are_those_of_the_field(ball_field: VoxelField) -> None:
    mesh = extract_mesh(ball_field)
    want = 0.5 + 0.45 * np.asarray(mesh.vertices)
    assert np.abs(mesh.visual.vertex_colors[:, :3] / 255 - want).max() < 0.03


def test_the_level_found_casts_the_shadows_of_the_field() -> None:
    """A leg two cells wide that no cell of stops half the light by itself, under a seat that does: it stays."""
    grid = torch.zeros(1, 16, 16, 16, 4)
    cell = 2.0 / 15
    grid[0, 2:14, 2:14, 10:12, 0] = 4.0 / cell
    grid[0, 4:6, 4:6, 2:10, 0] = 0.6 / cell
    field = VoxelField(grid)
    assert default_iso(field) * cell < 0.6 < math.log(2)
    assert extract_mesh(field).bounds[0, 2] == pytest.approx(-1 + 2 * cell, abs=cell / 2)


def test_axes_and_box_are_kept() -> None:
    grid = torch.zeros(1, 4, 5, 6, 4)
    grid[0, 1:3, 2, 3, 0] = 10.0
    mesh = extract_mesh(VoxelField(grid, lower=(0.0, 0.0, 0.0), upper=(3.0, 8.0, 50.0)), iso=5.0)
    np.testing.assert_allclose(mesh.bounds, [[0.5, 3.0, 25.0], [2.5, 5.0, 35.0]], atol=1e-6)


def test_a_field_elsewhere_has_its_mesh_there(ball_field: VoxelField) -> None:
    to_world = torch.tensor([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]])
    here, there = extract_mesh(ball_field), extract_mesh(replace(ball_field, to_world=to_world))
    want = np.asarray(here.vertices) @ to_world[:, :3].numpy().T + to_world[:, 3].numpy()
    np.testing.assert_allclose(there.vertices, want, atol=1e-5)
    np.testing.assert_allclose(there.visual.vertex_colors, here.visual.vertex_colors, atol=1)


@pytest.mark.parametrize("resolution", [20, 64])
def test_any_resolution(ball_field: VoxelField, resolution: int) -> None:
    mesh = extract_mesh(ball_field, resolution=resolution, iso=40.0)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.05)


def test_what_the_box_cuts_is_closed() -> None:
    mesh = extract_mesh(VoxelField(torch.full((1, 5, 5, 5, 4), 20.0)), iso=10.0)
    assert mesh.is_watertight and mesh.volume == pytest.approx(2.25**3 + 6 * 0.125 * 4, rel=0.2)


def test_largest_component_and_cavities() -> None:
    small = ball(centre=(0.75, 0.75, 0.75), radius=0.15)
    shell = ball()
    shell[..., 0] -= ball(radius=0.3)[..., 0]
    grid = torch.cat((shell[..., :1] + small[..., :1], shell[..., 1:]), dim=-1)
    field = VoxelField(grid[None])
    solid = 4 / 3 * math.pi * 0.6**3
    hollow, crumb = 4 / 3 * math.pi * 0.3**3, 4 / 3 * math.pi * 0.15**3
    for options, want in (
        ({}, solid - hollow + crumb),
        ({"components": "largest"}, solid),
        ({"fill_cavities": True}, solid + crumb),
    ):
        mesh = extract_mesh(field, iso=40.0, **options)
        assert mesh.is_watertight and mesh.volume == pytest.approx(want, rel=0.02)


def test_simplification_keeps_shape_and_colour(ball_field: VoxelField) -> None:
    mesh = extract_mesh(ball_field, iso=40.0, max_faces=1000)
    assert 900 <= len(mesh.faces) <= 1000
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.6).max() < 0.02
    assert np.abs(mesh.visual.vertex_colors[:, :3] / 255 - (0.5 + 0.45 * mesh.vertices)).max() < 0.04


def test_a_faint_field_still_has_a_surface_by_default(ball_field: VoxelField) -> None:
    grid = ball_field.grid * torch.tensor([0.001, 1, 1, 1])
    mesh = extract_mesh(VoxelField(grid))
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.6).max() < 0.01


def test_no_surface_is_an_error(ball_field: VoxelField) -> None:
    with pytest.raises(DataError, match="between 0 and 80"):
        extract_mesh(ball_field, iso=90.0)
    with pytest.raises(DataError, match="no surface"):
        extract_mesh(VoxelField(torch.zeros(1, 4, 4, 4, 4)))
    with pytest.raises(ValueError, match="one field"):
        extract_mesh(VoxelField(torch.zeros(2, 4, 4, 4, 4)))
    with pytest.raises(DataError, match="finite"):
        extract_mesh(VoxelField(torch.full((1, 4, 4, 4, 4), math.nan)))
