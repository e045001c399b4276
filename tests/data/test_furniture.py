"""Furniture: closed parts, wound outwards, the same for the same seed, varied between seeds."""

import numpy as np
import pytest

from raydiance.data.furniture import KINDS, generate, generate_parts
from raydiance.data.meshes import check_mesh, open_edges
from raydiance.errors import DataError


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_closed_and_wound_outwards(kind: str) -> None:
    for seed in range(40):
        for part in generate_parts(kind, seed):
            check_mesh(part)
            assert open_edges(part.faces) == 0
            assert part.volume() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_closed_and_stands_on_the_floor(kind: str) -> None:
    for seed in range(10):
        mesh = generate(kind, seed)
        check_mesh(mesh)
        assert open_edges(mesh.faces) == 0
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        assert abs(low[2]) < 0.03
        assert 0.2 < (high - low).max() < 2.6


@pytest.mark.parametrize("kind", ["chair", "armchair", "sofa"])
def test_what_has_a_back_rest_faces_minus_y(kind: str) -> None:
    for seed in range(10):
        mesh = generate(kind, seed)
        top = mesh.vertices[:, 2] > 0.9 * mesh.vertices[:, 2].max()
        assert mesh.vertices[top, 1].mean() > mesh.vertices[:, 1].mean()  # the back rest is behind


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_one_piece_and_seeds_differ(kind: str) -> None:
    first, again, other = generate(kind, 3), generate(kind, 3), generate(kind, 4)
    for name in ("vertices", "faces", "colours", "uv", "face_texture"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert all(np.array_equal(a, b) for a, b in zip(first.textures, again.textures, strict=True))
    assert first.vertices.shape != other.vertices.shape or not np.allclose(first.vertices, other.vertices)


def test_without_a_kind_the_seed_draws_one_of_them() -> None:
    drawn = [generate(None, seed) for seed in range(40)]
    of_kind = {kind: {generate(kind, seed).vertices.tobytes() for seed in range(40)} for kind in KINDS}
    found = {kind for kind in KINDS for mesh in drawn if mesh.vertices.tobytes() in of_kind[kind]}
    assert found == set(KINDS)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'throne'.*chair, armchair"):
        generate("throne", 0)
