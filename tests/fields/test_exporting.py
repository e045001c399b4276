import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from raydiance.fields import (
    VoxelField,
    export_glb,
    export_html,
    export_mesh,
    extract_mesh,
    render_views,
    spiral_cameras,
)


def parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON tree and the buffer of a GLB."""
    magic, version, length = struct.unpack_from("<III", data)
    assert (magic, version, length) == (0x46546C67, 2, len(data))
    size, kind = struct.unpack_from("<II", data, 12)
    assert kind == 0x4E4F534A and size % 4 == 0
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def attribute(tree: dict[str, Any], buffer: bytes, name: str) -> np.ndarray:
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][name]]
    view = tree["bufferViews"][accessor["bufferView"]]
    dtype, width = (
        {5126: "<f4", 5123: "<u2"}[accessor["componentType"]],
        {"VEC3": 3, "VEC4": 4}[accessor["type"]],
    )
    return np.frombuffer(buffer, dtype, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)


def test_the_exported_glb_looks_like_the_field(ball_field: VoxelField) -> None:
    """Cast rays at what the file holds, as a viewer would, and compare with the field's own render."""
    data = export_glb(extract_mesh(ball_field, iso=4.0))  # where grazing rays begin to be absorbed
    tree, buffer = parse(data)
    linear = attribute(tree, buffer, "COLOR_0")[:, :3] / 65535
    scene = trimesh.load(trimesh.util.wrap_as_stream(data), file_type="glb", process=False)
    mesh = scene.to_mesh()
    cameras = spiral_cameras(4, size=48, radius=2.5, fov_degrees=40.0)
    want = render_views(ball_field, cameras, num_samples=256)
    rays = cameras.rays().reshape(-1)
    to_y_up = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
    origins, directions = (v.double().numpy() @ to_y_up.T for v in (rays.origins, rays.directions))
    triangle, ray, places = mesh.ray.intersects_id(
        origins, directions, multiple_hits=False, return_locations=True
    )
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[triangle], places)
    hit = (weights[..., None] * linear[mesh.faces[triangle]]).sum(1)
    seen = np.where(hit <= 0.0031308, 12.92 * hit, 1.055 * hit ** (1 / 2.4) - 0.055)  # linear -> sRGB
    image = np.ones((len(origins), 3))
    image[ray] = seen
    expected = want.colour.reshape(-1, 3).numpy()
    covered = (want.opacity.reshape(-1) > 0.5).numpy()
    inside = (want.opacity.reshape(-1) > 0.99).numpy() & np.isin(np.arange(len(origins)), ray)
    assert inside.sum() > 1000
    difference = np.abs(image - expected)
    assert difference[inside].max() < 0.06 and difference[inside].mean() < 0.01
    assert (np.isin(np.arange(len(origins)), ray) != covered).mean() < 0.02


def test_glb_has_material_extras_and_y_up(ball_field: VoxelField, tmp_path: Path) -> None:
    grid = ball_field.grid[:, :, :, 20:]  # the upper half: z from 0 to 1
    mesh = extract_mesh(VoxelField(grid, lower=(-1.0, -1.0, 0.0)))
    extras = {"raydiance": {"seed": 7, "bundle": "bundle/furniture"}}
    data = export_glb(mesh, tmp_path / "half.glb", extras=extras)
    assert (tmp_path / "half.glb").read_bytes() == data == export_glb(mesh, extras=extras)
    tree, buffer = parse(data)
    assert tree["asset"]["extras"] == extras
    material = tree["materials"][tree["meshes"][0]["primitives"][0]["material"]]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert material["extensions"] == {"KHR_materials_unlit": {}}
    positions = attribute(tree, buffer, "POSITION")
    np.testing.assert_allclose(positions[:, 1], mesh.vertices[:, 2], atol=1e-6)  # up in glTF is +Y
    np.testing.assert_allclose(positions[:, 2], -mesh.vertices[:, 1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(attribute(tree, buffer, "NORMAL"), axis=1), 1, atol=1e-5)
    assert trimesh.load(tmp_path / "half.glb").to_mesh().volume == pytest.approx(mesh.volume, rel=1e-4)


def test_an_srgb_colour_is_stored_linear() -> None:
    box = trimesh.creation.box()
    box.visual.vertex_colors = np.tile(np.array([188, 0, 255, 255], np.uint8), (8, 1))
    tree, buffer = parse(export_glb(box, unlit=False))
    colour = attribute(tree, buffer, "COLOR_0")[0] / 65535
    np.testing.assert_allclose(colour, [0.5029, 0, 1, 1], atol=1e-4)  # sRGB 188 is half the light
    assert "extensionsUsed" not in tree


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl", ".glb"])
def test_every_format_reads_back(ball_field: VoxelField, tmp_path: Path, suffix: str) -> None:
    mesh = extract_mesh(ball_field)
    export_mesh(mesh, tmp_path / f"ball{suffix}")
    again = trimesh.load(tmp_path / f"ball{suffix}", force="mesh")
    assert len(again.faces) == len(mesh.faces)
    assert again.volume == pytest.approx(mesh.volume, rel=1e-4)
    if suffix in (".ply", ".obj"):
        np.testing.assert_allclose(again.visual.vertex_colors, mesh.visual.vertex_colors, atol=1)
        np.testing.assert_allclose(again.vertices, mesh.vertices, atol=1e-5)  # +Z stays up


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.glb, \.ply, \.obj, \.stl or \.html"):
        export_mesh(trimesh.creation.box(), tmp_path / "box.fbx")


def test_the_page_needs_no_network(ball_field: VoxelField, tmp_path: Path) -> None:
    mesh = extract_mesh(ball_field)
    export_mesh(mesh, tmp_path / "ball.html")
    page = (tmp_path / "ball.html").read_text(encoding="utf-8")
    assert "http" not in page and "src=" not in page and "{{" not in page
    assert "<title>ball</title>" in page and "<h1>a &lt;b&gt;</h1>" in export_html(mesh, title="a <b>")
