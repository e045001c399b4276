"""COLMAP's sparse models, text and binary: cameras, images and points3D.

COLMAP stores world-to-camera poses with OpenCV axes (x right, y down, z forwards) and pixel centres at +0.5.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydiance.errors import DataError
from raydiance.fields.captures import Capture, Frame, checked_pose

__all__ = ["read_colmap"]

Array = NDArray[Any]
MODELS = {  # id: name, number of parameters
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
}


class _Camera(NamedTuple):
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


class _Image(NamedTuple):
    quaternion: tuple[float, ...]  # w, x, y, z
    translation: tuple[float, ...]
    camera: int
    name: str


def read_colmap(folder: str | Path, images: str | Path | None = None) -> Capture:
    """Read a sparse model: cameras, images and, if there, points3D, as .bin or .txt.

    folder: the model's, or the project's (sparse/0 or sparse is looked for). images: the photographs' folder
    (None: `images` beside or above the model). DataError names the file, and the frame, that cannot be used.
    """
    model = next(
        (p for p in (Path(folder), *(Path(folder) / s for s in ("sparse/0", "sparse"))) if _has_model(p)),
        None,
    )
    if model is None:
        raise DataError(f"{folder}: no cameras and images of COLMAP (.bin or .txt) here or in sparse/0")
    kind = ".bin" if (model / "cameras.bin").is_file() else ".txt"
    readers = (
        (_cameras_bin, _images_bin, _points_bin)
        if kind == ".bin"
        else (_cameras_txt, _images_txt, _points_txt)
    )
    try:
        cameras, views = readers[0](model / f"cameras{kind}"), readers[1](model / f"images{kind}")
        points = readers[2](model / f"points3D{kind}") if (model / f"points3D{kind}").is_file() else None
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{model}: the model's files are cut off or not COLMAP's: {error}") from error
    if not views:
        raise DataError(f"{model}: no image has a pose")
    pictures = _image_folder(model) if images is None else Path(images)
    frames = (_frame(model, cameras, view, pictures) for view in sorted(views, key=lambda view: view.name))
    return Capture(tuple(frames), np.eye(3, 4), points=points)


def _has_model(folder: Path) -> bool:
    return any(
        (folder / f"cameras{kind}").is_file() and (folder / f"images{kind}").is_file()
        for kind in (".bin", ".txt")
    )


def _image_folder(model: Path) -> Path:
    for above in (model, *model.resolve().parents[:2]):
        if (above / "images").is_dir():
            return above / "images"
    raise DataError(f"{model}: no folder 'images' beside or above the model: give it as images=...")


def _frame(model: Path, cameras: dict[int, _Camera], view: _Image, pictures: Path) -> Frame:
    where = f"{model}, image {view.name}"
    file = (pictures / view.name).resolve()
    if not file.is_relative_to(pictures.resolve()) or not file.is_file():
        raise DataError(f"{where}: {file} is missing or lies outside of {pictures}")
    if view.camera not in cameras:
        raise DataError(f"{where}: camera {view.camera} is not in the model")
    camera = cameras[view.camera]
    focal, center, distortion = _intrinsics(camera, where)
    rotation, translation = _rotation(view.quaternion, where), np.array(view.translation)
    pose = np.concatenate((rotation.T * (1, -1, -1), (-rotation.T @ translation)[:, None]), axis=1)
    return Frame(
        file, checked_pose(pose, where), focal, center, camera.width, camera.height,
        distortion=distortion if any(distortion) else (),
        fisheye=camera.model == "OPENCV_FISHEYE",
    )  # fmt: skip


def _intrinsics(
    camera: _Camera, where: str
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, ...]]:
    """Focal lengths, centre and distortion (k1, k2, p1, p2, or k1 .. k4 of a fisheye)."""
    p = camera.parameters
    if not np.isfinite(p).all() or p[0] <= 0 or camera.width < 1 or camera.height < 1:
        raise DataError(
            f"{where}: a camera needs finite parameters, got {p} for {camera.width} x {camera.height}"
        )
    if camera.model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE"):
        return (p[0], p[1]), (p[2], p[3]), p[4:]
    return (p[0], p[0]), (p[1], p[2]), p[3:]  # SIMPLE_PINHOLE, SIMPLE_RADIAL, RADIAL


def _rotation(quaternion: tuple[float, ...], where: str) -> Array:
    w, x, y, z = quaternion
    norm = w * w + x * x + y * y + z * z
    if not norm > 1e-12:
        raise DataError(f"{where}: the rotation's quaternion {quaternion} is zero or no number")
    s = 2 / norm
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
            [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
            [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
        ]
    )


def _known(path: Path, model: int | str) -> tuple[str, int]:
    found = next((entry for key, entry in MODELS.items() if model in (key, entry[0])), None)
    if found is None:
        raise DataError(f"{path}: camera model {model} is not known; run colmap image_undistorter first")
    return found


def _rows(path: Path) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split()


def _cameras_txt(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for row in filter(None, _rows(path)):
        name, count = _known(path, row[1])
        parameters = tuple(float(value) for value in row[4:])
        if len(parameters) != count:
            raise DataError(
                f"{path}: camera {row[0]}, a {name}, needs {count} parameters, got {len(parameters)}"
            )
        cameras[int(row[0])] = _Camera(name, int(row[2]), int(row[3]), parameters)
    return cameras


def _images_txt(path: Path) -> list[_Image]:
    rows = list(_rows(path))
    while rows and not rows[-1]:
        rows.pop()
    views = []
    for row in rows[::2]:  # the second line of each pair lists 2D points, and may be empty
        numbers = tuple(float(value) for value in row[1:8])
        views.append(_Image(numbers[:4], numbers[4:], int(row[8]), " ".join(row[9:])))
    return views


def _points_txt(path: Path) -> Array:
    return np.array([[float(v) for v in row[1:4]] for row in filter(None, _rows(path))]).reshape(-1, 3)


class _Reader:
    """Little-endian records from the front of a file."""

    def __init__(self, path: Path) -> None:
        self.data, self.place = path.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.place)
        self.place += struct.calcsize("<" + layout)
        return values

    def text(self) -> str:
        end = self.data.index(b"\0", self.place)
        text = self.data[self.place : end].decode("utf-8")
        self.place = end + 1
        return text

    def skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self.data):
            raise ValueError(f"{size} bytes are missing at the end")


def _cameras_bin(path: Path) -> dict[int, _Camera]:
    reader, cameras = _Reader(path), {}
    for _ in range(reader.take("Q")[0]):
        index, model, width, height = reader.take("iiQQ")
        name, count = _known(path, model)
        cameras[index] = _Camera(name, width, height, reader.take(f"{count}d"))
    return cameras


def _images_bin(path: Path) -> list[_Image]:
    reader, views = _Reader(path), []
    for _ in range(reader.take("Q")[0]):
        _, *numbers, camera = reader.take("i7di")
        views.append(_Image(tuple(numbers[:4]), tuple(numbers[4:]), camera, reader.text()))
        reader.skip(24 * reader.take("Q")[0])
    return views


def _points_bin(path: Path) -> Array:
    reader, points = _Reader(path), []
    for _ in range(reader.take("Q")[0]):
        points.append(reader.take("Q3d3Bd")[1:4])
        reader.skip(8 * reader.take("Q")[0])
    return np.array(points).reshape(-1, 3)
