"""Distances between point sets, by hand and by invariance."""

import pytest
import torch

from raydiance.metrics import chamfer_distances, set_scores


def clouds(count: int, seed: int, points: int = 64) -> torch.Tensor:
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(seed))


def test_chamfer_of_two_single_points_is_twice_their_squared_distance() -> None:
    x, y = torch.tensor([[[0.0, 0.0, 0.0]]]), torch.tensor([[[1.0, 2.0, 2.0]]])
    assert float(chamfer_distances(x, y)) == pytest.approx(18.0)


def test_chamfer_agrees_with_the_double_loop_and_uses_means() -> None:
    x, y = clouds(2, 0, 5), clouds(3, 1, 7)
    expected = torch.empty(2, 3)
    for i in range(2):
        for j in range(3):
            squared = torch.cdist(x[i], y[j]).square()
            expected[i, j] = squared.min(1).values.mean() + squared.min(0).values.mean()
    torch.testing.assert_close(chamfer_distances(x, y), expected, rtol=1e-4, atol=1e-5)
    doubled = torch.cat([y, y], dim=1)
    torch.testing.assert_close(chamfer_distances(x, doubled), expected, rtol=1e-4, atol=1e-5)


def test_chamfer_is_blind_to_the_order_of_points_and_to_a_common_motion() -> None:
    x, y = clouds(2, 2), clouds(2, 3)
    rotation, _ = torch.linalg.qr(clouds(1, 4, 3)[0])
    distances = chamfer_distances(x, y)
    torch.testing.assert_close(chamfer_distances(x.flip(1), y), distances, rtol=1e-4, atol=1e-5)
    moved = chamfer_distances(x @ rotation + 1, y @ rotation + 1)
    torch.testing.assert_close(moved, distances, rtol=1e-3, atol=1e-4)


def test_copies_of_the_reference_cover_it_at_no_distance() -> None:
    reference = clouds(6, 7)
    scores = set_scores(reference.flip(0), reference)
    assert scores.coverage == 1.0
    assert scores.minimum_matching == pytest.approx(0.0, abs=1e-5)
    assert scores.nearest.tolist() == [5, 4, 3, 2, 1, 0]
    assert scores.nearest_neighbour_accuracy == 0.0  # each shape's nearest is its copy in the other set


def test_one_shape_repeated_covers_one_reference_only() -> None:
    reference = clouds(8, 8)
    repeated = reference[:1] + 1e-3 * clouds(8, 9)
    scores = set_scores(repeated, reference)
    assert scores.coverage == pytest.approx(1 / 8)


def test_sets_that_lie_apart_are_told_apart_and_equal_distributions_are_not() -> None:
    centres = 2.0 * clouds(80, 10, 1)
    shapes = centres + 0.3 * clouds(1, 11)
    mixed = set_scores(shapes[::2], shapes[1::2])
    apart = set_scores(shapes[::2] + 20.0, shapes[1::2])
    assert apart.nearest_neighbour_accuracy == 1.0
    assert 0.3 < mixed.nearest_neighbour_accuracy < 0.7
    assert mixed.coverage > apart.coverage


def test_points_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[A, P, 3\]"):
        chamfer_distances(torch.zeros(2, 5, 2), torch.zeros(2, 5, 3))
