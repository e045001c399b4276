"""Solids: closed, wound outwards, of the volume that geometry says."""

import numpy as np
import pytest

from raydiance.data.meshes import Mesh, open_edges
from raydiance.data.solids import Solid, box, cushion, panel, pole, rod, tube

BEND = np.array([(0, 0, 0), (0, 0, 1), (0.5, 0.5, 1.5), (1, 1, 1.5)], float)
SOLIDS = {
    "box": box((-1, -2, 0), (1, 2, 0.5)),
    "sharp box": box((0, 0, 0), (1, 1, 1), bevel=0),
    "panel": panel(1, 0.5, 0.03, radius=0.2, bevel=0.01),
    "cushion": cushion((0, 0, 0), (2, 1, 0.5)),
    "pole": pole([(0, 0.2), (0.5, 0.1), (1, 0.3)]),
    "pole downwards": pole([(1, 0.3), (0, 0.2)]),
    "rod": rod((0, 0, 0), (1, 1, 1), (0.1, 0.2)),
    "square rod": rod((0, 0, 0), (0, 0, 1), 0.1, sides=4),
    "tube": tube(BEND, 0.1),
    "turned": box((0, 0, 0), (1, 1, 1)).turned(0, 30).turned(1, -50).turned(2, 200),
    "bent": panel(1, 0.5, 0.03).bent(0, 2, 0.1),
    "moved": box((0, 0, 0), (1, 1, 1)).moved(1, 2, 3),
}


def volume(solid: Solid) -> float:
    return Mesh.flat(solid.vertices, solid.faces, (0, 0, 0)).volume()


@pytest.mark.parametrize("name", SOLIDS)
def test_a_solid_is_closed_and_wound_outwards(name: str) -> None:
    assert open_edges(SOLIDS[name].faces) == 0
    assert volume(SOLIDS[name]) > 0
    assert set(SOLIDS[name].faces.ravel()) == set(range(len(SOLIDS[name].vertices)))


def test_volumes_are_those_of_geometry() -> None:
    assert volume(box((0, 0, 0), (2, 3, 4), bevel=1e-6)) == pytest.approx(24, rel=1e-3)
    assert volume(rod((0, 0, 0), (0, 0, 1), 0.1, sides=4)) == pytest.approx(0.04, rel=1e-5)
    assert volume(pole([(0, 0.5), (2, 0.5)], sides=400)) == pytest.approx(np.pi / 2, rel=1e-3)
    assert volume(pole([(0, 1.0), (1, 1e-6)], sides=400)) == pytest.approx(np.pi / 3, rel=1e-3)
    ball = cushion((-1, -1, -1), (1, 1, 1), power=2, cells=24)
    assert volume(ball) == pytest.approx(4 * np.pi / 3, rel=0.01)


def test_a_missing_or_flipped_face_is_seen() -> None:
    faces = box((0, 0, 0), (1, 1, 1)).faces
    assert open_edges(faces[1:]) > 0
    flipped = faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert open_edges(flipped) > 0
