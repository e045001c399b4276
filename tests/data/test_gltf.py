"""GLB: what is inside is read as the standard says, and nothing else is."""

import io
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image
from tests.support.glb import TRIANGLE, Builder, pack, simple

from raydiance.data.gltf import read_glb
from raydiance.data.meshes import MeshLimits, clean
from raydiance.errors import DataError

LIMITS = MeshLimits()


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def test_y_up_becomes_z_up() -> None:
    builder = Builder()
    builder.primitive(np.array([(0, 0, 0), (1, 2, 3), (0, 1, 0)]))
    mesh = read_glb(builder.pack(), LIMITS)
    np.testing.assert_allclose(mesh.vertices, [(0, 0, 0), (1, -3, 2), (0, 0, 1)], atol=1e-6)


def test_nodes_are_moved_turned_and_scaled_one_after_the_other() -> None:
    builder = Builder()
    builder.primitive()
    half = np.sqrt(0.5)
    builder.document["nodes"] = [
        {"children": [1], "translation": [10, 0, 0]},
        {"children": [2], "rotation": [0, half, 0, half]},  # a quarter about Y: x goes to -z
        {"mesh": 0, "scale": [2, 1, 1]},
    ]
    mesh = read_glb(builder.pack(), LIMITS)
    np.testing.assert_allclose(mesh.vertices, [(10, 0, 0), (10, 2, 0), (10, 0, 1)], atol=1e-6)


def test_a_matrix_is_column_major() -> None:
    builder = Builder()
    builder.primitive()
    builder.document["nodes"] = [{"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]}]
    np.testing.assert_allclose(read_glb(builder.pack(), LIMITS).vertices[0], (5, -7, 6), atol=1e-6)


def test_a_mirrored_node_still_faces_outwards() -> None:
    builder = Builder()
    box = trimesh.creation.box()
    builder.primitive(box.vertices, box.faces)
    builder.document["nodes"] = [{"mesh": 0, "scale": [-1, 1, 1]}]
    assert read_glb(builder.pack(), LIMITS).volume() == pytest.approx(1)


def test_a_mesh_used_twice_is_there_twice() -> None:
    builder = Builder()
    builder.primitive()
    builder.document["nodes"] = [{"mesh": 0}, {"mesh": 0, "translation": [0, 0, 1]}]
    builder.document["scenes"] = [{"nodes": [0, 1]}]
    assert len(read_glb(builder.pack(), LIMITS).faces) == 2


def test_the_base_colour_is_linear_and_becomes_srgb() -> None:
    builder = Builder()
    builder.primitive(material=0)
    builder.document["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [0.2140, 1.0, 0.0, 0.3]}}]
    assert read_glb(builder.pack(), LIMITS).colours[0].tolist() == [127, 255, 0, 255]  # opaque: no alpha
    builder.document["materials"][0]["alphaMode"] = "BLEND"
    assert read_glb(builder.pack(), LIMITS).colours[0, 3] in (76, 77)


@pytest.mark.parametrize("dtype", ["<f4", "u1", "<u2"])
def test_vertex_colours_are_linear_and_may_be_integers(dtype: str) -> None:
    top = 1 if dtype == "<f4" else np.iinfo(dtype).max
    linear = np.array([(0.5, 0, 1), (1, 1, 1), (0, 0, 0)])
    values = (linear * top).astype(dtype)
    if dtype == "u1":
        values = np.concatenate(
            (values, np.full((3, 1), 255, "u1")), axis=1
        )  # RGBA, so that rows are aligned
    builder = Builder()
    colour = builder.accessor(values, normalized=dtype != "<f4")
    if dtype == "<u2":
        builder.document["accessors"][colour]["normalized"] = True
    builder.primitive()["attributes"]["COLOR_0"] = colour
    colours = read_glb(builder.pack(), LIMITS).colours
    assert abs(int(colours[0, 0]) - 188) <= 1
    assert colours[1].tolist() == [255] * 4 and colours[2].tolist() == [0, 0, 0, 255]


def textured(**material: object) -> Builder:
    builder = Builder()
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0], image[0, 1], image[1, 0], image[1, 1] = (
        (255, 0, 0, 255),
        (0, 255, 0, 200),
        (0, 0, 255, 100),
        0,
    )
    view = builder.view(png(image))
    builder.document["images"] = [{"bufferView": view, "mimeType": "image/png"}]
    builder.document["textures"] = [{"source": 0}]
    builder.document["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, **material}]
    uv = builder.accessor(np.array([(0, 0), (1, 0), (0, 1)], "<f4"))
    builder.primitive(material=0)["attributes"]["TEXCOORD_0"] = uv
    return builder


@pytest.mark.parametrize(
    ("mode", "alphas"),
    [("OPAQUE", [255, 255, 255, 255]), ("MASK", [255, 255, 0, 0]), ("BLEND", [255, 200, 100, 0])],
)
def test_a_texture_comes_with_its_coordinates_and_its_alpha(mode: str, alphas: list[int]) -> None:
    mesh = read_glb(textured(alphaMode=mode).pack(), LIMITS)
    assert mesh.face_texture.tolist() == [0]
    assert mesh.textures[0][0, 0, :3].tolist() == [255, 0, 0]
    assert mesh.textures[0][..., 3].ravel().tolist() == alphas
    np.testing.assert_array_equal(mesh.uv[0], [(0, 0), (1, 0), (0, 1)])


def test_a_texture_transform_moves_the_coordinates() -> None:
    builder = textured()
    change = {"offset": [0.5, 0.25], "scale": [2, 3], "rotation": np.pi / 2}
    base = builder.document["materials"][0]["pbrMetallicRoughness"]
    base["baseColorTexture"]["extensions"] = {"KHR_texture_transform": change}
    # counter-clockwise on a picture whose v runs downwards: u goes to -v, v goes to u
    np.testing.assert_allclose(
        read_glb(builder.pack(), LIMITS).uv[0], [(0.5, 0.25), (0.5, -1.75), (3.5, 0.25)], atol=1e-6
    )


def test_large_pictures_are_made_smaller() -> None:
    builder = Builder()
    view = builder.view(png(np.full((64, 200, 3), 99, np.uint8)))
    builder.document["images"] = [{"bufferView": view}]
    builder.document["textures"] = [{"source": 0}]
    builder.document["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    uv = builder.accessor(np.zeros((3, 2), "<f4"))
    builder.primitive(material=0)["attributes"]["TEXCOORD_0"] = uv
    (texture,) = read_glb(builder.pack(), MeshLimits(texture_side=50)).textures
    assert texture.shape == (16, 50, 4) and (texture[..., :3] == 99).all()


@pytest.mark.parametrize(("mode", "faces"), [(5, [(0, 1, 2), (2, 1, 3)]), (6, [(0, 1, 2), (0, 2, 3)])])
def test_strips_and_fans_are_triangles(mode: int, faces: list[tuple[int, ...]]) -> None:
    builder = Builder()
    builder.primitive(np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]), mode=mode)
    assert read_glb(builder.pack(), LIMITS).faces.tolist() == [list(face) for face in faces]


def test_lines_and_points_are_passed_over() -> None:
    builder = Builder()
    builder.primitive(mode=1)
    with pytest.raises(DataError, match="no triangles"):
        read_glb(builder.pack(), LIMITS)
    builder.primitive()
    assert len(read_glb(builder.pack(), LIMITS).faces) == 1


def test_interleaved_and_sparse_arrays() -> None:
    rows = np.zeros(3, [("position", "<f4", 3), ("rest", "<f4", 2)])
    rows["position"], rows["rest"] = TRIANGLE, 99
    builder = Builder()
    view = builder.view(rows.tobytes(), byteStride=20)
    sparse = {
        "count": 1,
        "indices": {"bufferView": builder.view(np.array([2], "<u2").tobytes()), "componentType": 5123},
        "values": {"bufferView": builder.view(np.array([(0, 9, 0)], "<f4").tobytes())},
    }
    entry = {"bufferView": view, "componentType": 5126, "count": 3, "type": "VEC3", "sparse": sparse}
    builder.document["accessors"].append(entry)
    builder.document["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}})
    np.testing.assert_allclose(read_glb(builder.pack(), LIMITS).vertices, [(0, 0, 0), (1, 0, 0), (0, 0, 9)])


def test_what_trimesh_writes_is_read_with_the_same_shape() -> None:
    scene = trimesh.Scene()
    for number in range(3):
        part = trimesh.creation.icosphere(subdivisions=2)
        scene.add_geometry(
            part, transform=trimesh.transformations.random_rotation_matrix() @ np.diag((1, 2, 3, 1))
        )
        scene.apply_translation((number, 0, 0))
    mesh = read_glb(scene.export(file_type="glb"), LIMITS)
    other = scene.to_geometry()
    np.testing.assert_allclose(mesh.volume(), other.volume, rtol=1e-4)
    low, high = other.bounds
    np.testing.assert_allclose(mesh.vertices.min(axis=0), (low[0], -high[2], low[1]), atol=1e-4)
    np.testing.assert_allclose(mesh.vertices.max(axis=0), (high[0], -low[2], high[1]), atol=1e-4)


def changed(**parts: object) -> bytes:
    builder = Builder()
    builder.primitive()
    builder.document.update(parts)
    return builder.pack()


def accessor(**parts: object) -> bytes:
    builder = Builder()
    builder.primitive()
    builder.document["accessors"][0].update(parts)
    return builder.pack()


def chain(length: int) -> bytes:
    nodes = [{"children": [index + 1]} for index in range(length)]
    return changed(nodes=[*nodes, {"mesh": 0}])


def json_only(text: bytes) -> bytes:
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


BROKEN = {
    "no glTF": (b"PK\x03\x04" + bytes(100), "no GLB file"),
    "empty": (b"", "no GLB file"),
    "version 1": (b"glTF\x01\0\0\0" + bytes(20), "version 1"),
    "truncated": (simple()[:-40], "truncated"),
    "no JSON": (pack({})[:12] + b"\x04\0\0\0JSON????", "broken glTF"),
    "deep JSON": (json_only(b"[" * 200_000), "broken glTF"),
    "JSON of a number": (json_only(b"7   "), "no object"),
    "no scene": (changed(scenes=[]), None),
    "external buffer": (changed(buffers=[{"uri": "../../etc/passwd", "byteLength": 9}]), "outside itself"),
    "remote buffer": (
        changed(buffers=[{"uri": "http://169.254.169.254/x", "byteLength": 9}]),
        "outside itself",
    ),
    "external image": (changed(images=[{"uri": "/etc/shadow"}]), "outside itself"),
    "draco": (changed(extensionsRequired=["KHR_draco_mesh_compression"]), "KHR_draco_mesh_compression"),
    "circle": (changed(nodes=[{"children": [0]}]), "circle"),
    "tree of nodes": (changed(nodes=[{"children": [k + 1] * 9} for k in range(9)] + [{"mesh": 0}]), "nodes"),
    "many nodes": (changed(nodes=[{}] * 20_000), "more than 10000 nodes"),
    "long chain": (chain(20_000), "more than 10000 nodes"),
    "billions of vertices": (accessor(count=1 << 40), "values in one array"),
    "zeros out of nothing": (accessor(count=4_000_000, bufferView=None), "broken glTF"),
    "beyond the buffer": (accessor(count=100), "beyond the end"),
    "negative offset": (accessor(byteOffset=-12), "broken glTF: -12"),
    "negative mesh": (changed(nodes=[{"mesh": -1}]), "broken glTF: -1"),
    "wrong type": (accessor(type="MAT4"), "broken glTF"),
    "positions of text": (accessor(count="many"), "broken glTF"),
    "nodes of text": (changed(nodes="xyz"), "broken glTF"),
    "rotation of length 0": (changed(nodes=[{"mesh": 0, "rotation": [0, 0, 0, 0]}]), "rotation"),
    "no node": (changed(scenes=[{"nodes": [7]}]), "broken glTF"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(name: str) -> None:
    data, reason = BROKEN[name]
    if reason is None:
        assert len(read_glb(data, LIMITS).faces) == 1
        return
    with pytest.raises(DataError, match=reason):
        read_glb(data, LIMITS)


def test_an_index_beyond_the_vertices_is_refused() -> None:
    builder = Builder()
    builder.primitive(TRIANGLE, np.array([0, 1, 3]))
    with pytest.raises(DataError, match="index 3 of 3"):
        read_glb(builder.pack(), LIMITS)


def test_faces_are_counted_before_they_are_made_and_over_all_copies() -> None:
    builder = Builder()
    builder.primitive(np.tile(TRIANGLE, (50, 1)))
    builder.document["nodes"] = [{"mesh": 0}] * 3
    builder.document["scenes"] = [{"nodes": [0, 1, 2]}]
    assert len(read_glb(builder.pack(), MeshLimits(faces=150)).faces) == 150
    with pytest.raises(DataError, match=r"limits\.faces"):
        read_glb(builder.pack(), MeshLimits(faces=149))


def test_a_picture_that_unpacks_to_too_much_is_refused_before_that() -> None:
    builder = textured()
    bomb = png(np.zeros((9000, 9000), np.uint8))  # a hundred kilobytes, 81 million pixels
    assert len(bomb) < 200_000
    builder.document["images"][0]["bufferView"] = builder.view(bomb)
    with pytest.raises(DataError, match=r"81000000 pixels.*limits\.texture_pixels"):
        read_glb(builder.pack(), LIMITS)


def test_a_picture_that_is_none_is_refused() -> None:
    builder = textured()
    builder.document["images"][0]["bufferView"] = builder.view(b"GIF89a" + bytes(50))
    with pytest.raises(DataError, match="cannot be decoded"):
        read_glb(builder.pack(), LIMITS)


def test_faces_without_area_and_lonely_vertices_go_and_nothing_left_is_an_error() -> None:
    builder = Builder()
    points = np.concatenate((TRIANGLE, [(1, 1, 0), (500, 500, 500)]))
    builder.primitive(points, np.array([(0, 1, 2), (0, 0, 1), (1, 1, 3)]))
    mesh = clean(read_glb(builder.pack(), LIMITS))
    assert (len(mesh.faces), len(mesh.vertices)) == (1, 3)
    builder = Builder()
    builder.primitive(points, np.array([(0, 0, 1)]))
    with pytest.raises(DataError, match="no faces with an area"):
        clean(read_glb(builder.pack(), LIMITS))


def test_coordinates_that_are_no_numbers_are_refused() -> None:
    builder = Builder()
    builder.primitive(np.array([(0, 0, 0), (np.nan, 0, 0), (0, 1, 0)]))
    with pytest.raises(DataError, match="not finite"):
        clean(read_glb(builder.pack(), LIMITS))
