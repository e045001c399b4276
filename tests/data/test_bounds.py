"""The smallest ball: it holds every point, and a smaller one would not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raydiance.data.bounds import bounding_ball


def test_known_balls() -> None:
    cube = np.array([(x, y, z) for x in (0, 2) for y in (0, 2) for z in (0, 2)], float)
    center, radius = bounding_ball(cube)
    np.testing.assert_allclose(center, (1, 1, 1), atol=1e-9)
    assert radius == pytest.approx(np.sqrt(3))
    center, radius = bounding_ball(np.array([(0, 0, 0), (4, 0, 0), (2, 0.5, 0)]))  # the third lies inside
    np.testing.assert_allclose(center, (2, 0, 0), atol=1e-9)
    assert radius == pytest.approx(2)
    assert bounding_ball(np.ones((5, 3)))[1] == 0


def test_a_shell_is_found_with_its_centre() -> None:
    points = np.random.default_rng(0).standard_normal((5000, 3))
    points = 3 * points / np.linalg.norm(points, axis=1, keepdims=True) + (7, 8, 9)
    center, radius = bounding_ball(points)
    np.testing.assert_allclose(center, (7, 8, 9), atol=0.01)
    assert radius == pytest.approx(3, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-100, 100, width=32)))
def test_the_ball_holds_all_points_and_no_step_makes_it_smaller(points: np.ndarray) -> None:
    center, radius = bounding_ball(points)
    assert (np.linalg.norm(points - center, axis=1) <= radius * (1 + 1e-6) + 1e-9).all()
    for axis in range(3):
        for step in (-1e-2, 1e-2):
            moved = center + step * max(radius, 1e-9) * np.eye(3)[axis]
            assert np.linalg.norm(points - moved, axis=1).max() >= radius * (1 - 1e-6)
