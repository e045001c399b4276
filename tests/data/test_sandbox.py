"""The child that reads meshes: it reads four kinds, keeps to its limits, and a bad file costs only itself."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from tests.support.glb import Builder, simple

from raydiance.data.meshes import MeshLimits
from raydiance.data.sandbox import MeshReader, read_mesh
from raydiance.errors import DataError


@pytest.fixture(scope="module")
def reader() -> Iterator[MeshReader]:
    with MeshReader(MeshLimits()) as reader:
        yield reader


def box() -> trimesh.Trimesh:
    """A box with its lowest corner at the origin: 1 wide (x), 2 deep (y), 3 high (z)."""
    mesh = trimesh.creation.box((1, 2, 3))
    mesh.apply_translation((0.5, 1, 1.5))
    return mesh


def big_obj(path: Path, num_faces: int) -> Path:
    vertices = b"".join(b"v %d %d 0\n" % (k, k * k % 97) for k in range(1000))
    path.write_bytes(vertices + b"f 1 2 3\nf 4 5 6\nf 7 8 9\nf 10 12 11\n" * (num_faces // 4))
    return path


@pytest.mark.parametrize("suffix", ["ply", "stl", "obj", "glb"])
def test_the_four_kinds_come_out_with_z_up(reader: MeshReader, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"box.{suffix}"
    box().export(path)
    mesh = reader.read(path)
    high = (1, 0, 2) if suffix in ("obj", "glb") else (1, 2, 3)  # y-up files are turned: (x, -z, y)
    np.testing.assert_allclose(mesh.vertices.max(axis=0), high, atol=1e-6)
    assert mesh.volume() == pytest.approx(6)


def test_the_axis_that_points_up_can_be_told(tmp_path: Path) -> None:
    box().export(tmp_path / "box.obj")
    np.testing.assert_allclose(
        read_mesh(tmp_path / "box.obj", up="z").vertices.max(axis=0), (1, 2, 3), atol=1e-6
    )
    box().export(tmp_path / "box.stl")
    np.testing.assert_allclose(
        read_mesh(tmp_path / "box.stl", up="y").vertices.max(axis=0), (1, 0, 2), atol=1e-6
    )


def test_vertex_and_face_colours_of_a_ply_are_kept(reader: MeshReader, tmp_path: Path) -> None:
    coloured = box()
    coloured.visual.vertex_colors = np.tile((10, 200, 30, 255), (len(coloured.vertices), 1))
    coloured.export(tmp_path / "vertices.ply")
    assert reader.read(tmp_path / "vertices.ply").colours[0].tolist() == [10, 200, 30, 255]


def test_an_obj_takes_its_material_and_its_picture_from_its_folder(
    reader: MeshReader, tmp_path: Path
) -> None:
    Image.fromarray(np.full((4, 4, 3), (250, 120, 10), np.uint8)).save(tmp_path / "wood.png")
    (tmp_path / "table.mtl").write_text("newmtl wood\nmap_Kd wood.png\n\nnewmtl iron\nKd 0.2 0.4 0.6\n")
    (tmp_path / "table.obj").write_text(
        "mtllib table.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nvt 1 0\nvt 0 0.25\n"
        "usemtl wood\nf 1/1 2/2 3/3\nusemtl iron\nf 2 4 3\n"
    )
    mesh = reader.read(tmp_path / "table.obj")
    assert sorted(mesh.face_texture.tolist()) == [-1, 0]
    assert mesh.textures[0][0, 0].tolist() == [250, 120, 10, 255]
    painted = mesh.face_texture.tolist().index(0)
    np.testing.assert_allclose(sorted(mesh.uv[painted, :, 1]), (0.75, 1, 1))  # counted from the top
    plain = mesh.colours[mesh.faces[1 - painted]][0]
    np.testing.assert_allclose(plain, (51, 102, 153, 255), atol=1)


@pytest.mark.parametrize(
    "name",
    ["../secret.mtl", "/etc/passwd", "http://127.0.0.1:9/x.mtl", "..\\secret.mtl", "link.mtl", "run.sh"],
)
def test_an_obj_may_not_name_files_elsewhere(reader: MeshReader, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\n")
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "link.mtl").symlink_to(tmp_path / "secret.mtl")
    (folder / "chair.obj").write_text(f"mtllib {name}\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
    with pytest.raises(DataError, match="refers to"):
        reader.read(folder / "chair.obj")


def test_a_picture_beside_an_obj_is_counted_before_it_is_decoded(reader: MeshReader, tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd bomb.png\n")
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n"
    )
    with pytest.raises(DataError, match=r"limits\.texture_pixels"):
        reader.read(tmp_path / "a.obj")


PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex %d\n" + b"".join(
    b"property float %s\n" % axis for axis in (b"x", b"y", b"z")
)
BAD = {
    "empty.glb": (b"", "is empty"),
    "noise.glb": (bytes(range(256)) * 8, "no GLB file"),
    "noise.obj": (bytes(range(256)) * 8, "OBJ|no triangles"),
    "noise.ply": (bytes(range(256)) * 8, "no PLY file"),
    "noise.stl": (bytes(range(256)) * 8, "no STL file"),
    "claims.stl": (bytes(80) + (500_000_000).to_bytes(4, "little") + bytes(100), "no STL file"),
    "claims.ply": (PLY % 2_000_000_000 + b"end_header\n" + bytes(36), r"limits\.faces"),
    "short.ply": (PLY % 900 + b"end_header\n" + bytes(36), "broken PLY"),
    "points.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "OBJ|no triangles"),
    "beyond.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 900\n", "OBJ|outside|no triangles"),
    "nan.obj": (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "finite|area|broken"),
    "line.obj": (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "area"),
    "archive.zip": (b"PK\x03\x04", "is not read"),
    "archive.3mf": (b"PK\x03\x04", "is not read"),
    "zip.glb": (b"PK\x03\x04" + bytes(100), "no GLB file"),
    "zip.stl": (b"PK\x03\x04" + bytes(100), "no STL file"),
    "noname": (b"glTF", "is not read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_and_the_next_one_is_read(
    reader: MeshReader, tmp_path: Path, name: str
) -> None:
    data, reason = BAD[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.glb").write_bytes(simple())
    with pytest.raises(DataError, match=reason):
        reader.read(tmp_path / name)
    assert len(reader.read(tmp_path / "good.glb").faces) == 1


def test_what_is_no_plain_file_is_not_opened(reader: MeshReader, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.glb")  # opening it would wait for ever
    (tmp_path / "folder.glb").mkdir()
    for name in ("pipe.glb", "folder.glb"):
        with pytest.raises(DataError, match="no plain file"):
            reader.read(tmp_path / name)
    with pytest.raises(DataError, match="cannot be opened"):
        reader.read(tmp_path / "missing.glb")


def test_a_large_file_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "sparse.glb").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"1099511627776 bytes.*limits\.file_bytes"):
        read_mesh(tmp_path / "sparse.glb")


def test_a_file_that_takes_too_long_ends_the_child_and_the_next_one_is_read(tmp_path: Path) -> None:
    slow, good = big_obj(tmp_path / "slow.obj", 1_200_000), tmp_path / "good.glb"
    good.write_bytes(simple())
    with MeshReader(MeshLimits(wall_s=0.2)) as reader:
        with pytest.raises(DataError, match=r"took more than 0\.2 s to read"):
            reader.read(slow)
        assert reader._child is None
    with MeshReader(MeshLimits(cpu_s=1)) as reader:
        reader.read(good)
        first = reader._child
        with pytest.raises(DataError, match="processor time"):
            for _ in range(40):  # each is given its own second
                reader.read(slow)
        assert len(reader.read(good).faces) == 1
        assert reader._child is not first


def test_a_child_that_died_between_two_files_costs_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "good.glb").write_bytes(simple())
    with MeshReader(MeshLimits()) as reader:
        reader.read(tmp_path / "good.glb")
        assert reader._child is not None
        reader._child.kill()
        reader._child.wait()
        with pytest.raises(DataError, match="stop"):
            reader.read(tmp_path / "good.glb")
        assert len(reader.read(tmp_path / "good.glb").faces) == 1


def test_memory_is_limited_in_the_child_and_not_used_here(tmp_path: Path) -> None:
    builder = Builder()
    builder.primitive()
    builder.document["accessors"][0].update(count=90_000_000)
    del builder.document["accessors"][0]["bufferView"]  # zeros out of nothing: 1 GiB of positions
    (tmp_path / "zeros.glb").write_bytes(builder.pack())
    (tmp_path / "good.glb").write_bytes(simple())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with MeshReader(MeshLimits(memory_bytes=1 << 30, faces=1 << 30)) as reader:
        with pytest.raises(DataError, match=r"limits\.memory_bytes"):
            reader.read(tmp_path / "zeros.glb")
        assert len(reader.read(tmp_path / "good.glb").faces) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def test_a_child_that_cannot_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.glb").write_bytes(simple())
    with pytest.raises(DataError, match=r"limits\.memory_bytes"):
        read_mesh(tmp_path / "good.glb", MeshLimits(memory_bytes=1 << 20))
    monkeypatch.setattr("raydiance.data.sandbox.CHILD", "raise SystemExit(3)")
    with pytest.raises(DataError, match=r"did not start.*status 3"):
        read_mesh(tmp_path / "good.glb")


def test_the_child_knows_no_secret_and_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for the child")
    (tmp_path / "good.glb").write_bytes(simple())
    with MeshReader(MeshLimits()) as reader:
        reader.read(tmp_path / "good.glb")
        assert reader._child is not None
        process = Path(f"/proc/{reader._child.pid}")
        assert b"AWS_" not in (process / "environ").read_bytes()
        limits = (process / "limits").read_text()
        assert "Max file size             0                    0" in limits
    assert not process.exists()
