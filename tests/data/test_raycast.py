"""Ray casting: silhouettes, depth and colours against closed forms."""

import dataclasses

import numpy as np
import pytest

from raydiance.data.meshes import Mesh, merge
from raydiance.data.pinholes import Pinholes
from raydiance.data.raycast import render_mesh
from raydiance.data.solids import box, cushion
from raydiance.fields.cameras import Cameras, orbit_cameras, spiral_cameras


def pinholes(cameras: Cameras) -> Pinholes:
    pose, focal, center = (
        part.double().numpy() for part in (cameras.camera_to_world, cameras.focal, cameras.center)
    )
    return Pinholes(pose, focal, center, cameras.width, cameras.height)


def flat(solid, rgba) -> Mesh:
    return Mesh.flat(solid.vertices, solid.faces, rgba)


def ball(radius: float, rgba=(200, 120, 60)) -> Mesh:
    return flat(cushion((-radius,) * 3, (radius,) * 3, power=2, cells=40), rgba)


def test_a_ball_has_the_silhouette_and_the_depth_of_a_ball() -> None:
    cameras = spiral_cameras(5, size=96, radius=2.5, fov_degrees=50)
    views = render_mesh(ball(0.8), pinholes(cameras), supersample=2)
    rays = cameras.rays()
    along = -(rays.origins * rays.directions).sum(-1).numpy()
    gap = (rays.origins.square().sum(-1)).numpy() - along**2
    inside = gap < 0.78**2
    outside = gap > 0.82**2
    assert (views.rgba[..., 3][inside] == 255).all()
    assert (views.rgba[outside] == 0).all() and (views.depth[outside] == 0).all()
    exact = along - np.sqrt(np.maximum(0.8**2 - gap, 0))
    steep = gap > 0.7**2  # near the rim a pixel spans a large range of depths
    np.testing.assert_allclose(views.depth[inside & ~steep], exact[inside & ~steep], atol=0.02)


def test_alpha_counts_the_rays_of_a_pixel_that_hit() -> None:
    cameras = pinholes(orbit_cameras(1, size=33, radius=2.5, fov_degrees=50, elevation_degrees=20))
    hard = render_mesh(ball(0.8), cameras, supersample=1).rgba[..., 3]
    assert set(np.unique(hard)) == {0, 255}
    soft = render_mesh(ball(0.8), cameras, supersample=4).rgba[..., 3]
    assert len(np.unique(soft)) > 6
    rim = np.tan(np.arcsin(0.8 / 2.5)) / np.tan(np.radians(25))  # its radius in half widths of the image
    assert soft.mean() / 255 == pytest.approx(np.pi * rim**2 / 4, rel=0.01)


def test_light_is_the_documented_sum_on_both_sides() -> None:
    square = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float32)
    mesh = Mesh.flat(square, np.array([(0, 1, 2), (0, 2, 3)]), (100, 100, 100))
    lights = np.array([(0.45, -0.65, 0.70), (-0.80, -0.25, 0.35), (0.15, 0.85, 0.40)])
    cosines = (lights / np.linalg.norm(lights, axis=1, keepdims=True))[:, 2]
    expected = {1: 0.42 + cosines @ (0.62, 0.22, 0.18), -1: 0.16}
    for side, light in expected.items():
        cameras = orbit_cameras(1, size=9, radius=2, fov_degrees=20, elevation_degrees=side * 80)
        pixel = render_mesh(mesh, pinholes(cameras)).rgba[0, 4, 4]
        assert pixel[0] == pytest.approx(min(100 * light ** (1 / 2.2), 255), abs=1.0)


def test_light_stays_in_the_world_so_that_views_agree() -> None:
    mesh = flat(box((-0.6, -0.6, -0.3), (0.6, 0.6, 0.3)), (180, 90, 40))
    seen = []
    for azimuth_views in (8, 16):
        cameras = orbit_cameras(azimuth_views, size=65, radius=2.5, fov_degrees=45, elevation_degrees=60)
        seen.append(render_mesh(mesh, pinholes(cameras)).rgba[:, 32, 32])
    assert np.ptp(np.concatenate(seen).astype(int), axis=0).max() <= 1


def test_a_texture_is_where_its_coordinates_say() -> None:
    square = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float32)
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 3] = 255
    picture[:32, :32, 0] = 200  # the upper left quarter of the image is red
    picture[32:, 32:, 2] = 200  # the lower right one blue
    faces = np.array([(0, 1, 2), (0, 2, 3)], np.int32)
    corner_uv = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], np.float32)  # v = 0 at the top: y = 1
    mesh = dataclasses.replace(
        Mesh.flat(square, faces, (255, 255, 255)),
        uv=corner_uv[faces],
        face_texture=np.zeros(2, np.int32),
        textures=(picture,),
    )
    # the camera stands at +X, so that -X is up in the image and +Y to the right
    cameras = orbit_cameras(1, size=64, radius=3, fov_degrees=50, elevation_degrees=89)
    image = render_mesh(mesh, pinholes(cameras)).rgba[0, ..., :3].astype(int)
    colours = {(x, y): image[32 + 10 * x, 32 + 10 * y] for x in (-1, 1) for y in (-1, 1)}
    assert colours[-1, 1][0] > 100 and colours[-1, 1][2] < 20  # x < 0, y > 0: red
    assert colours[1, -1][2] > 100 and colours[1, -1][0] < 20  # x > 0, y < 0: blue
    assert colours[1, 1].max() < 20 and colours[-1, -1].max() < 20


def test_far_away_a_fine_texture_is_its_mean() -> None:
    square = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float32)
    rng = np.random.default_rng(0)
    picture = np.full((256, 256, 4), 255, np.uint8)
    picture[..., :3] = np.where(rng.uniform(size=(256, 256, 1)) < 0.5, 20, 180)
    faces = np.array([(0, 1, 2), (0, 2, 3)], np.int32)
    mesh = dataclasses.replace(
        Mesh.flat(square, faces, (255, 255, 255)),
        uv=np.array([(0, 1), (1, 1), (1, 0), (0, 0)], np.float32)[faces],
        face_texture=np.zeros(2, np.int32),
        textures=(picture,),
    )
    cameras = orbit_cameras(1, size=16, radius=3, fov_degrees=50, elevation_degrees=70)
    rgba = render_mesh(mesh, pinholes(cameras)).rgba[0]
    inner = rgba[6:10, 6:10, 0].astype(float)
    assert inner.std() < 6


def test_glass_shows_what_is_behind_it() -> None:
    glass = flat(box((-0.8, -0.8, 0.5), (0.8, 0.8, 0.52)), (255, 255, 255, 128))
    floor = flat(box((-0.9, -0.9, -0.1), (0.9, 0.9, 0.0)), (200, 0, 0))
    cameras = pinholes(orbit_cameras(1, size=33, radius=2.5, fov_degrees=40, elevation_degrees=75))
    alone, both = (
        render_mesh(glass, cameras).rgba[0, 16, 16],
        render_mesh(merge((glass, floor)), cameras).rgba[0, 16, 16],
    )
    assert 150 < alone[3] < 220  # two sheets of half glass
    assert both[3] >= 253
    assert both[0] > both[1] + 30


def test_depth_lies_behind_glass_only_where_glass_hides_less_than_half() -> None:
    clear = flat(box((-0.8, -0.8, 0.5), (0.8, 0.8, 0.52)), (255, 255, 255, 20))
    floor = flat(box((-0.9, -0.9, -0.1), (0.9, 0.9, 0.0)), (200, 0, 0))
    cameras = pinholes(orbit_cameras(1, size=33, radius=2.5, fov_degrees=40, elevation_degrees=75))
    without = render_mesh(floor, cameras).depth[0, 16, 16]
    assert render_mesh(merge((clear, floor)), cameras).depth[0, 16, 16] == pytest.approx(
        float(without), abs=0.01
    )


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = pinholes(spiral_cameras(3, size=20, radius=2.5, fov_degrees=50))
    whole = render_mesh(ball(0.7), cameras)
    monkeypatch.setattr("raydiance.data.raycast.CHUNK", 77)
    parts = render_mesh(ball(0.7), cameras)
    np.testing.assert_array_equal(whole.rgba, parts.rgba)
    np.testing.assert_array_equal(whole.depth, parts.depth)
