"""Articulated objects: rigid parts on hinges, in poses that are told."""

import numpy as np
import pytest

from raydiance.data.articulated import KINDS, Articulated, Hinge, in_pose, perform, surface_points
from raydiance.data.meshes import Mesh, check_mesh, open_edges
from raydiance.data.solids import box
from raydiance.errors import DataError


def part(low: float) -> Mesh:
    solid = box((low, 0, 0), (low + 1, 1, 1))
    return Mesh.flat(solid.vertices, solid.faces, (200, 100, 50))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_closed_and_move_rigidly_within_the_unit_ball(kind: str) -> None:
    one = perform(kind, 3, 5)
    assert len(one.parts) == len(one.names) == one.poses.shape[1]
    for mesh in one.parts:
        check_mesh(mesh)
        assert open_edges(mesh.faces) == 0 and mesh.volume() > 0
    rotations = one.poses[..., :3]
    np.testing.assert_allclose(
        rotations @ rotations.swapaxes(-1, -2), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    reach = max(
        float(np.linalg.norm(in_pose(one.parts, poses).vertices, axis=-1).max()) for poses in one.poses
    )
    assert reach == pytest.approx(0.95, abs=1e-5)
    again, other = perform(kind, 3, 5), perform(kind, 4, 5)
    assert (again.poses == one.poses).all() and not np.allclose(other.poses, one.poses)
    np.testing.assert_array_equal(again.parts[-1].vertices, one.parts[-1].vertices)


def test_a_hinge_keeps_its_axis_and_its_child_keeps_its_place_on_it() -> None:
    shoulder, elbow = Hinge((0, 0, 0), 1, -90, 90), Hinge((1, 0, 0), 1, -90, 90, parent=0)
    arm = Articulated(("upper", "lower"), (part(0), part(1)), (shoulder, elbow))
    upper, lower = arm.poses((35.0, -70.0))
    for y in (-1.0, 0.0, 2.0):
        on_the_elbow = np.array((1.0, y, 0.0, 1.0))
        np.testing.assert_allclose(lower @ on_the_elbow, upper @ on_the_elbow, atol=1e-12)
    np.testing.assert_allclose(
        shoulder.turn(90) @ np.array((0, 0, 1, 1)), (1, 0, 0), atol=1e-12
    )  # z to x, about y
    np.testing.assert_allclose(
        lower[:, :3], Hinge((0, 0, 0), 1, 0, 0).turn(-35)[:, :3], atol=1e-12
    )  # angles add


def test_points_on_parts_lie_on_them() -> None:
    points = surface_points([part(0), part(4)], 200, seed=0)
    assert points.shape == (2, 200, 3)
    inside = points - np.array((((0, 0, 0),), ((4, 0, 0),)))
    assert inside.min() > -1e-6 and inside.max() < 1 + 1e-6
    to_a_side = np.minimum(inside, 1 - inside).min(axis=-1)
    assert to_a_side.max() < 0.013  # bevelled edges
    assert len(np.unique(inside.argmin(axis=-1))) == 3  # on all sides


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(DataError, match="no articulated 'table': choose of lamp, door"):
        perform("table", 0, 1)
