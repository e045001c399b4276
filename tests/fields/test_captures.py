import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raydiance.errors import DataError
from raydiance.fields import Cameras, spiral_cameras
from raydiance.fields.captures import Capture, Frame, normalise, read_transforms, write_transforms
from raydiance.fields.colmap import read_colmap
from raydiance.fields.photographs import load_photographs, undistorted_pixels

CAMERAS = spiral_cameras(4, size=20, radius=2.5, fov_degrees=50.0)


def save_images(folder: Path, count: int = 4, size: int = 20) -> list[Path]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths = [folder / "images" / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((size, size, 3), 40 * i, np.uint8)).save(path)
    return paths


def make_capture(folder: Path) -> Capture:
    poses = CAMERAS.camera_to_world.double().numpy()
    focal = tuple(CAMERAS.focal[0].tolist())
    frames = tuple(
        Frame(path, pose, focal, (10.0, 10.0), 20, 20)
        for path, pose in zip(save_images(folder), poses, strict=True)
    )
    return Capture(frames, np.eye(3, 4))


def write_tree(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A transforms.json with one thing about it changed."""
    path = folder / "transforms.json"
    write_transforms(make_capture(folder), path)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    return path


def same_cameras(one: Cameras, two: Cameras) -> None:
    torch.testing.assert_close(one.camera_to_world, two.camera_to_world, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.focal, two.focal, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.center, two.center)
    assert (one.width, one.height) == (two.width, two.height)


def test_transforms_come_back_as_they_went(tmp_path: Path) -> None:
    capture = make_capture(tmp_path)
    lens = replace(capture.frames[1], distortion=(0.1, -0.02, 0.001, 0.002, 0.0), focal=(20.0, 21.0))
    fish = replace(capture.frames[2], distortion=(0.1, -0.02, 0.001, 0.002), fisheye=True)
    capture = replace(capture, frames=(capture.frames[0], lens, fish))
    write_transforms(capture, tmp_path / "transforms.json")
    again = read_transforms(tmp_path / "transforms.json")
    same_cameras(again.cameras(), capture.cameras())
    for got, want in zip(again.frames, capture.frames, strict=True):
        assert (got.image, got.distortion, got.fisheye) == (
            want.image.resolve(),
            want.distortion,
            want.fisheye,
        )


def test_blender_files_are_read(tmp_path: Path) -> None:
    """camera_angle_x alone, no suffixes, no sizes: as the NeRF-synthetic scenes have them."""
    save_images(tmp_path, 1)
    matrix = [[1, 0, 0, 0.5], [0, 0, -1, -3], [0, 1, 0, 0], [0, 0, 0, 1]]  # at -Y, looking along +Y, +Z up
    tree = {
        "camera_angle_x": math.pi / 2,
        "frames": [{"file_path": "./images/0", "rotation": 0.01, "transform_matrix": matrix}],
    }
    (tmp_path / "transforms_train.json").write_text(json.dumps(tree))
    cameras = read_transforms(tmp_path / "transforms_train.json").cameras()
    assert cameras.focal.tolist() == [[10.0, 10.0]] and cameras.center.tolist() == [[10.0, 10.0]]
    rays = cameras.rays(0)
    torch.testing.assert_close(
        rays.directions.mean((0, 1)) * 1.4, torch.tensor([0, 1.0, 0]), atol=0.3, rtol=0
    )
    assert rays.directions[0, 0, 0] < 0 < rays.directions[0, 0, 2]  # the first pixel: left and up


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z: the eigenvector of Bar-Itzhack's matrix."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    x, y, z, w = np.linalg.eigh(k / 3)[1][:, -1]
    return np.array([w, x, y, z])


def write_colmap(folder: Path, kind: str, model: tuple[int, str, list[float]]) -> None:
    """The cameras as COLMAP would have written them, from its format's description."""
    index, name, parameters = model
    views = []
    for pose in CAMERAS.camera_to_world.double().numpy():
        world_to_camera = (pose[:, :3] * (1, -1, -1)).T  # OpenCV's axes
        views.append((quaternion(world_to_camera), -world_to_camera @ pose[:, 3]))
    folder.mkdir(parents=True)
    if kind == "txt":
        numbers = " ".join(map(repr, parameters))
        (folder / "cameras.txt").write_text(f"# Camera list\n7 {name} 20 20 {numbers}\n")
        rows = ["# Image list"]
        for i, (q, t) in enumerate(views):
            rows += [
                f"{i + 1} {' '.join(map(repr, map(float, (*q, *t))))} 7 {i}.png",
                "" if i % 2 else "1.5 2.5 -1",
            ]
        (folder / "images.txt").write_text("\n".join(rows) + "\n")
        (folder / "points3D.txt").write_text("1 0.1 0.2 0.3 255 0 0 0.5 1 0\n")
        return
    cameras = struct.pack("<QiiQQ", 1, 7, index, 20, 20) + struct.pack(f"<{len(parameters)}d", *parameters)
    (folder / "cameras.bin").write_bytes(cameras)
    images = struct.pack("<Q", len(views))
    for i, (q, t) in enumerate(views):
        images += struct.pack("<i7di", i + 1, *q, *t, 7) + f"{i}.png".encode() + b"\0"
        images += struct.pack("<Q2dq", 1, 1.5, 2.5, -1)
    (folder / "images.bin").write_bytes(images)
    points = struct.pack("<QQ3d3BdQii", 1, 1, 0.1, 0.2, 0.3, 255, 0, 0, 0.5, 1, 1, 0)
    (folder / "points3D.bin").write_bytes(points)


@pytest.mark.parametrize("kind", ["txt", "bin"])
@pytest.mark.parametrize("name", ["SIMPLE_PINHOLE", "PINHOLE", "OPENCV"])
def test_colmap_gives_the_same_cameras(tmp_path: Path, kind: str, name: str) -> None:
    focal = float(CAMERAS.focal[0, 0])
    models = {
        "SIMPLE_PINHOLE": (0, name, [focal, 10.0, 10.0]),
        "PINHOLE": (1, name, [focal, focal, 10.0, 10.0]),
        "OPENCV": (4, name, [focal, focal, 10.0, 10.0, 0.1, 0.01, 0.001, 0.002]),
    }
    save_images(tmp_path)
    write_colmap(tmp_path / "sparse" / "0", kind, models[name])
    capture = read_colmap(tmp_path)
    same_cameras(capture.cameras(), CAMERAS)
    assert capture.points is not None and capture.points.tolist() == [[0.1, 0.2, 0.3]]
    assert capture.frames[3].image == (tmp_path / "images" / "3.png").resolve()
    assert capture.frames[0].distortion == ((0.1, 0.01, 0.001, 0.002) if name == "OPENCV" else ())


def test_normalise_says_what_it_did(tmp_path: Path) -> None:
    capture = make_capture(tmp_path)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = tuple(
        replace(
            frame,
            camera_to_world=np.concatenate(
                (turn @ frame.camera_to_world[:, :3], 7 * turn @ frame.camera_to_world[:, 3:] + 2), axis=1
            ),
        )
        for frame in capture.frames
    )
    messy = replace(capture, frames=moved, points=np.array([[2.0, 2, 2]]))
    clean = normalise(messy, camera_distance=2.5)
    positions = np.stack([frame.camera_to_world[:, 3] for frame in clean.frames])
    np.testing.assert_allclose(np.linalg.norm(positions, axis=1), 2.5, atol=1e-5)
    np.testing.assert_allclose(clean.points, [[0, 0, 0]], atol=1e-5)
    up = np.stack([frame.camera_to_world[:, 1] for frame in clean.frames]).mean(0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0, 0, 1], atol=1e-9)
    for before, after in zip(messy.frames, clean.frames, strict=True):
        place = clean.applied[:, :3] @ before.camera_to_world[:, 3] + clean.applied[:, 3]
        np.testing.assert_allclose(place, after.camera_to_world[:, 3], atol=1e-9)
    assert clean.scale == pytest.approx(1 / 7, rel=1e-5)
    assert "scale 0.142857" in clean.describe() and "4 frames" in clean.describe()
    write_transforms(clean, tmp_path / "clean.json")
    np.testing.assert_allclose(read_transforms(tmp_path / "clean.json").applied, clean.applied, atol=1e-9)


def scene_colour(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """uint8 colours of a far wall, smooth in the slopes of the line of sight."""
    return np.stack((128 + 100 * np.sin(3 * x), 128 + 100 * np.cos(4 * y), 128 + 60 * x + 40 * y), -1).round()


@pytest.mark.parametrize("fisheye", [False, True])
def test_a_lens_is_taken_out(tmp_path: Path, fisheye: bool) -> None:
    size, focal = 64, 40.0
    distortion = (0.08, -0.03, 0.01, 0.002) if fisheye else (-0.15, 0.05, 0.003, -0.002, 0.01)
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(path)
    frame = Frame(path, np.eye(3, 4), (focal, focal), (31.0, 33.0), size, size, distortion, fisheye)
    there = undistorted_pixels(frame).numpy()  # of each straight pixel, its place in the photograph
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    x, y = (columns - 31) / focal, (rows - 33) / focal
    u, v = columns.copy(), rows.copy()  # of each pixel of the photograph, the straight place: by iteration
    for _ in range(50):
        map_x = bilinear(there[..., 0] - columns, u, v)
        map_y = bilinear(there[..., 1] - rows, u, v)
        u, v = columns - map_x, rows - map_y
    photograph = scene_colour((u - 31) / focal, (v - 33) / focal)
    Image.fromarray(photograph.astype(np.uint8)).save(path)
    got = load_photographs(Capture((frame,), np.eye(3, 4))).rgba[0].numpy()
    inside = np.zeros((size, size), bool)
    inside[8:-8, 8:-8] = True
    assert (got[inside, 3] == 255).all()
    assert np.abs(got[inside, :3] - scene_colour(x, y)[inside]).max() <= 3
    assert np.abs(photograph - scene_colour(x, y))[inside].max() > 6  # the lens did something


def bilinear(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = values.shape
    x, y = (np.clip(c - 0.5, 0, n - 1.001) for c, n in ((x, width), (y, height)))
    i, j = y.astype(int), x.astype(int)
    a, b = y - i, x - j
    top = values[i, j] * (1 - b) + values[i, j + 1] * b
    return top * (1 - a) + (values[i + 1, j] * (1 - b) + values[i + 1, j + 1] * b) * a


def test_masks_and_depths(tmp_path: Path) -> None:
    capture = make_capture(tmp_path)
    mask = np.zeros((20, 20), np.uint8)
    mask[:, :10] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    depth = np.full((20, 20), 1500, np.uint16)
    depth[0] = 0
    Image.fromarray(depth).save(tmp_path / "depth.png")
    first = replace(capture.frames[1], mask=tmp_path / "mask.png", depth=tmp_path / "depth.png")
    capture = replace(capture, frames=(first, capture.frames[2]))
    write_transforms(capture, tmp_path / "transforms.json")
    capture = read_transforms(tmp_path / "transforms.json")
    loaded = load_photographs(capture)
    assert loaded.rgba[0, 3, 3].tolist() == [40, 40, 40, 255] and loaded.rgba[0, 3, 12, 3] == 0
    assert loaded.depth is not None and loaded.depth[0, 0, 0] == 0 and not loaded.depth[1].any()
    assert loaded.depth[0, 5, 5] == pytest.approx(1.5)
    small = load_photographs(normalise(capture, camera_distance=5.0), shrink=2)
    assert small.rgba.shape == (2, 10, 10, 4) and small.cameras.focal[0, 0] == loaded.cameras.focal[0, 0] / 2
    assert small.depth is not None and small.depth[0, 5, 5] == pytest.approx(3.0, rel=1e-3)  # twice the size


def set_matrix(rows: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["frames"][2].update(transform_matrix=rows)


SINGULAR = [[1, 0, 0, 1], [0, 1, 0, 2], [1, 1, 0, 3], [0, 0, 0, 1]]
MIRRORED = [[-1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_matrix(SINGULAR), r"images/2\.png: the pose is singular"),
        (set_matrix(MIRRORED), r"images/2\.png: the pose holds no rotation"),
        (set_matrix([[1, 2], [3]]), r"images/2\.png: the pose is no matrix"),
        (lambda tree: tree["frames"][1].update(file_path="images/9.png"), r"9\.png is missing"),
        (lambda tree: tree["frames"][1].update(file_path="../secret.png"), "lies outside"),
        (
            lambda tree: tree["frames"][0].update(camera_model="EQUIRECTANGULAR"),
            "EQUIRECTANGULAR is not known",
        ),
        (lambda tree: tree["frames"][0].update(fl_x=float("nan")), "positive sizes and focal lengths"),
        (lambda tree: tree["frames"][0].pop("transform_matrix"), "transform_matrix"),
        (lambda tree: tree.update(frames=[]), "lists no frames"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    save_images(tmp_path / "capture")
    (tmp_path / "secret.png").write_bytes(b"")
    path = write_tree(tmp_path / "capture", change)
    with pytest.raises(DataError, match=message):
        read_transforms(path)


def test_mixed_sizes_and_bad_pixels_are_refused_by_name(tmp_path: Path) -> None:
    capture = make_capture(tmp_path)
    mixed = replace(capture, frames=(capture.frames[0], replace(capture.frames[1], width=30)))
    with pytest.raises(DataError, match=r"several sizes \[\(20, 20\), \(30, 20\)\]"):
        mixed.cameras()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(capture.frames[1].image)
    with pytest.raises(DataError, match=r"1\.png has 9 x 9 pixels, its camera 20 x 20"):
        load_photographs(capture)
    capture.frames[1].image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png: the image cannot be read"):
        load_photographs(capture)
    depth = np.ones((20, 20), np.float32)
    depth[3, 4] = np.nan
    np.save(tmp_path / "depth.npy", depth)
    nan = replace(capture, frames=(replace(capture.frames[0], depth=tmp_path / "depth.npy"),))
    with pytest.raises(DataError, match=r"depth\.npy: depths must be finite"):
        load_photographs(nan)


def test_a_broken_colmap_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no cameras and images"):
        read_colmap(tmp_path)
    save_images(tmp_path)
    model = tmp_path / "sparse"
    write_colmap(model, "bin", (1, "PINHOLE", [20.0, 20.0, 10.0, 10.0]))
    whole = (model / "images.bin").read_bytes()
    (model / "images.bin").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="cut off"):
        read_colmap(tmp_path)
    (model / "images.bin").write_bytes(whole.replace(b"2.png", b"x.png"))
    with pytest.raises(DataError, match=r"x\.png is missing"):
        read_colmap(tmp_path)
    (model / "cameras.bin").write_bytes(struct.pack("<QiiQQ", 1, 7, 9, 20, 20))
    with pytest.raises(DataError, match="camera model 9 is not known"):
        read_colmap(tmp_path)
