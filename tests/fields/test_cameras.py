import json
import math

import pytest
import torch

from raydiance.fields import Cameras, look_at, orbit_cameras, spiral_cameras

SHAPE = {"size": 8, "radius": 2.5, "fov_degrees": 50.0}


def test_poses_are_rotations_that_look_at_the_origin() -> None:
    for cameras in (spiral_cameras(37, **SHAPE), orbit_cameras(5, **SHAPE, elevation_degrees=20.0)):
        rotation, position = cameras.camera_to_world[..., :3], cameras.camera_to_world[..., 3]
        torch.testing.assert_close(
            rotation.mT @ rotation, torch.eye(3).expand_as(rotation), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(len(cameras)))
        torch.testing.assert_close(position, 2.5 * rotation[..., 2])  # OpenGL: the camera looks along -z
        assert bool((rotation[:, 2, 1] > 0).all())  # image up has a positive part along +Z


def test_spiral_is_archimedean_and_covers_the_sphere() -> None:
    num_views = 200
    direction = spiral_cameras(num_views, **SHAPE).camera_to_world[..., 3].double() / 2.5
    polar = torch.arccos(direction[:, 2])
    azimuth = torch.atan2(direction[:, 1], direction[:, 0])
    slope = math.sqrt(math.pi * num_views)
    residual = torch.remainder(azimuth - slope * polar + math.pi, 2 * math.pi) - math.pi
    assert residual.abs().max() < 1e-4
    distance = torch.cdist(direction, direction) + 10 * torch.eye(num_views)
    nearest = distance.min(dim=1).values
    ideal = math.sqrt(4 * math.pi / num_views)
    assert nearest.min() > 0.6 * ideal and nearest.max() < 1.2 * ideal


def test_phase_turns_the_spiral() -> None:
    one, two = spiral_cameras(6, **SHAPE), spiral_cameras(6, **SHAPE, phase=math.pi / 2)
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(turn @ one.camera_to_world, two.camera_to_world, atol=1e-6, rtol=0)


def test_orbit_starts_at_x() -> None:
    position = orbit_cameras(4, **SHAPE, elevation_degrees=0.0).camera_to_world[..., 3]
    want = 2.5 * torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    torch.testing.assert_close(position, want, atol=1e-6, rtol=0)


def test_projection_inverts_rays() -> None:
    cameras = spiral_cameras(3, **SHAPE)
    rays = cameras.rays()
    assert rays.shape == (3, 8, 8)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(3, 8, 8))
    points = rays.origins + 1.7 * rays.directions
    for view in range(3):
        rotation, position = cameras.camera_to_world[view, :, :3], cameras.camera_to_world[view, :, 3]
        local = (points[view] - position) @ rotation
        column = cameras.focal[view, 0] * local[..., 0] / -local[..., 2] + cameras.center[view, 0]
        row = cameras.center[view, 1] - cameras.focal[view, 1] * local[..., 1] / -local[..., 2]
        torch.testing.assert_close(column, (torch.arange(8) + 0.5).expand(8, 8), atol=1e-4, rtol=0)
        torch.testing.assert_close(row, (torch.arange(8) + 0.5)[:, None].expand(8, 8), atol=1e-4, rtol=0)


def test_top_row_looks_up() -> None:
    rays = orbit_cameras(1, **SHAPE, elevation_degrees=0.0).rays(0)
    assert rays.shape == (8, 8)
    assert bool((rays.directions[0, :, 2] > 0).all()) and bool((rays.directions[-1, :, 2] < 0).all())
    assert bool((rays.directions[:, 0, 1] < 0).all())  # seen from +X, +Y lies on the right


def test_views_are_picked_in_every_way() -> None:
    cameras = spiral_cameras(5, **SHAPE)
    every = cameras.rays()
    torch.testing.assert_close(cameras.rays([3, 1]).directions, every.directions[[3, 1]])
    torch.testing.assert_close(cameras.rays(slice(1, 3)).directions, every.directions[1:3])
    torch.testing.assert_close(cameras[2].rays().directions, every.directions[2:3])
    torch.testing.assert_close(cameras[[4, 0]].rays().origins, every.origins[[4, 0]])
    views, columns, rows = torch.tensor([0, 4]), torch.tensor([7, 2]), torch.tensor([1, 3])
    picked = cameras.pixel_rays(views, columns, rows)
    torch.testing.assert_close(picked.directions, every.directions[views, rows, columns])


def test_json_keeps_every_bit() -> None:
    cameras = spiral_cameras(4, **SHAPE)
    again = Cameras.from_json(json.loads(json.dumps(cameras.to_json())))
    assert torch.equal(again.camera_to_world, cameras.camera_to_world)
    assert torch.equal(again.focal, cameras.focal) and torch.equal(again.center, cameras.center)
    assert (again.width, again.height) == (8, 8)


def test_impossible_cameras_are_refused() -> None:
    with pytest.raises(ValueError, match="fov_degrees"):
        spiral_cameras(3, size=8, radius=2.0, fov_degrees=180.0)
    with pytest.raises(ValueError, match="elevation_degrees"):
        orbit_cameras(3, **SHAPE, elevation_degrees=90.0)
    with pytest.raises(ValueError, match="along Z"):
        look_at(torch.tensor([[0.0, 0.0, 2.0]]))
    with pytest.raises(ValueError, match="focal"):
        Cameras(torch.zeros(2, 3, 4), torch.ones(1, 2), torch.ones(2, 2), 4, 4)
