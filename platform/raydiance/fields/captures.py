"""Posed captures: photographs and the cameras that took them, in the files that others use.

Poses are camera-to-world with OpenGL axes (x right, y up, looking along -z), pixel centres at +0.5: the
convention of nerfstudio, instant-ngp and Blender's transforms.json. The world's axes are the file's own until
`normalise` turns and scales them; what was done to them is kept in `Capture.applied`, told by `describe` and
written with the poses.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from raydiance.errors import DataError
from raydiance.fields.cameras import Cameras

__all__ = ["Capture", "Frame", "checked_pose", "normalise", "read_transforms", "write_transforms"]

Array = NDArray[Any]
IDENTITY = np.eye(3, 4)
PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Frame:
    """One photograph.

    camera_to_world: float64 [3, 4]. focal, center: pixels, (x, y). distortion: OpenCV's k1, k2, p1, p2, k3,
    or for a fisheye k1, k2, k3, k4; none: a pinhole. mask: white is kept. depth: along the camera's axis, 0
    unknown.
    """

    image: Path
    camera_to_world: Array
    focal: tuple[float, float]
    center: tuple[float, float]
    width: int
    height: int
    distortion: tuple[float, ...] = ()
    fisheye: bool = False
    mask: Path | None = None
    depth: Path | None = None


@dataclass(frozen=True)
class Capture:
    """Frames in one world.

    applied [3, 4]: similarity from the file's world to this one. depth_unit: what an integer depth counts, in
    the file's units. points [P, 3]: sparse points, where the file has any.
    """

    frames: tuple[Frame, ...]
    applied: Array
    depth_unit: float = 0.001
    points: Array | None = None

    @property
    def scale(self) -> float:
        """Length here of what had length 1 in the file."""
        return float(np.cbrt(np.linalg.det(self.applied[:, :3])))

    def cameras(self) -> Cameras:
        """The cameras of all frames as pinholes: where a lens distorts, those of the undistorted pictures."""
        sizes = {(frame.width, frame.height) for frame in self.frames}
        if len(sizes) != 1:
            raise DataError(f"frames of several sizes {sorted(sizes)}: bring the images to one size first")
        ((width, height),) = sizes
        return Cameras(
            torch.tensor(np.stack([frame.camera_to_world for frame in self.frames]), dtype=torch.float32),
            torch.tensor([frame.focal for frame in self.frames], dtype=torch.float32),
            torch.tensor([frame.center for frame in self.frames], dtype=torch.float32),
            width,
            height,
        )

    def describe(self) -> str:
        """What was read and how its world was moved, for people."""
        places = np.stack([frame.camera_to_world[:, 3] for frame in self.frames])
        sizes = sorted({(frame.width, frame.height) for frame in self.frames})
        lenses = {
            "fisheye" if f.fisheye else "OpenCV" if any(f.distortion) else "pinhole" for f in self.frames
        }
        rows = "\n".join("  " + " ".join(f"{value:12.6f}" for value in row) for row in self.applied)
        return (
            f"{len(self.frames)} frames, {', '.join(f'{w} x {h}' for w, h in sizes)} pixels, "
            f"{' and '.join(sorted(lenses))}; axes: OpenGL cameras, +Z up\n"
            f"cameras between {places.min(0).round(3).tolist()} and {places.max(0).round(3).tolist()}\n"
            f"applied to the file's world (scale {self.scale:.6g}):\n{rows}"
        )


def checked_pose(matrix: Any, where: str) -> Array:
    """A camera-to-world matrix as float64 [3, 4] with an exact rotation; DataError if it has none."""
    try:
        pose = np.asarray(matrix, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: the pose is no matrix of numbers") from error
    if pose.shape not in ((4, 4), (3, 4)) or not np.isfinite(pose).all():
        raise DataError(f"{where}: the pose needs 4 x 4 or 3 x 4 finite numbers, got shape {pose.shape}")
    rotation, singular = pose[:3, :3], np.linalg.svd(pose[:3, :3], compute_uv=False)
    if singular[-1] < 1e-6 * max(singular[0], 1e-30):
        raise DataError(f"{where}: the pose is singular (singular values {singular.round(6).tolist()})")
    if np.linalg.det(rotation) < 0 or abs(singular[0] - 1) > 0.01 or abs(singular[-1] - 1) > 0.01:
        raise DataError(
            f"{where}: the pose holds no rotation (determinant {np.linalg.det(rotation):.4g}, singular "
            f"values {singular.round(4).tolist()}): take scale and mirroring out of it"
        )
    u, _, v = np.linalg.svd(rotation)
    return np.concatenate((u @ v, pose[:3, 3:]), axis=1)


def read_transforms(path: str | Path) -> Capture:
    """Read a transforms.json of nerfstudio, instant-ngp or Blender (NeRF-synthetic).

    Intrinsics may stand at the top, in each frame, or as camera_angle_x; sizes that are not given are those
    of the images. DataError names the frame and what is wrong: no file, singular pose, unknown camera
    model.
    """
    path = Path(path)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        entries = list(tree["frames"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a transforms.json with frames: {error}") from error
    if not entries:
        raise DataError(f"{path}: it lists no frames")
    frames = tuple(_frame(path, tree, entry) for entry in entries)
    applied = np.asarray(tree.get("applied_transform", IDENTITY), np.float64)[:3] * tree.get(
        "applied_scale", 1.0
    )
    return Capture(frames, applied, depth_unit=float(tree.get("depth_unit_scale_factor", 0.001)))


def write_transforms(capture: Capture, path: str | Path) -> None:
    """Write a transforms.json that nerfstudio and instant-ngp read, with intrinsics in each frame."""
    path = Path(path)
    folder = path.parent.resolve()

    def relative(file: Path) -> str:
        file = file.resolve()
        return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()

    frames = []
    for frame in capture.frames:
        entry: dict[str, Any] = {
            "file_path": relative(frame.image),
            "transform_matrix": [*frame.camera_to_world.tolist(), [0.0, 0.0, 0.0, 1.0]],
            **dict(zip(("fl_x", "fl_y", "cx", "cy"), (*frame.focal, *frame.center), strict=True)),
            "w": frame.width,
            "h": frame.height,
            "camera_model": "OPENCV_FISHEYE" if frame.fisheye else "OPENCV",
            **dict(zip(_distortion_keys(frame.fisheye), frame.distortion, strict=False)),
        }
        if frame.mask is not None:
            entry["mask_path"] = relative(frame.mask)
        if frame.depth is not None:
            entry["depth_file_path"] = relative(frame.depth)
        frames.append(entry)
    tree = {
        "camera_model": frames[0]["camera_model"],
        "applied_transform": (capture.applied / capture.scale).tolist(),
        "applied_scale": capture.scale,
        "depth_unit_scale_factor": capture.depth_unit,
        "frames": frames,
    }
    path.write_text(json.dumps(tree, indent=1, allow_nan=False), encoding="utf-8")


def normalise(capture: Capture, *, camera_distance: float = 2.5) -> Capture:
    """The capture with +Z up, what the cameras look at in the origin, and the farthest camera at
    camera_distance.

    The centre is the point nearest to all optical axes; up is the mean of the cameras' own up.
    """
    poses = np.stack([frame.camera_to_world for frame in capture.frames])
    up = poses[:, :, 1].mean(0)
    if np.linalg.norm(up) < 1e-6:
        raise DataError("the cameras have no common 'up': turn the capture by hand")
    rotation = _rotation_to_z(up / np.linalg.norm(up))
    across = np.eye(3) - poses[:, :, 2, None] * poses[:, None, :, 2]  # projections across the optical axes
    system = across.sum(0)
    if np.linalg.cond(system) > 1e6:
        raise DataError("all cameras look in parallel, at no common point: centre the capture by hand")
    centre = np.linalg.solve(system, (across @ poses[:, :, 3:]).sum(0))[:, 0]
    scale = camera_distance / np.linalg.norm(poses[:, :, 3] - centre, axis=1).max()
    turn = scale * rotation
    move = np.concatenate((turn, (-turn @ centre)[:, None]), axis=1)
    moved = tuple(
        replace(
            frame,
            camera_to_world=np.concatenate(
                (rotation @ pose[:, :3], (turn @ pose[:, 3] + move[:, 3])[:, None]), axis=1
            ),
        )
        for frame, pose in zip(capture.frames, poses, strict=True)
    )
    applied = move[:, :3] @ capture.applied
    applied[:, 3] += move[:, 3]
    points = None if capture.points is None else capture.points @ turn.T + move[:, 3]
    return replace(capture, frames=moved, applied=applied, points=points)


def _rotation_to_z(up: Array) -> Array:
    """The smallest rotation that takes a unit vector to +Z (Rodrigues' formula)."""
    axis, cosine = np.cross(up, (0, 0, 1)), up[2]
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation: Array = np.eye(3) + cross + cross @ cross / (1 + cosine)
    return rotation


def _distortion_keys(fisheye: bool) -> tuple[str, ...]:
    return ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")


def _frame(path: Path, tree: Mapping[str, Any], entry: Mapping[str, Any]) -> Frame:
    name = str(entry.get("file_path", "a frame without file_path"))
    where = f"{path}, frame {name}"
    image = _file(path.parent, name, where, suffixes=IMAGE_SUFFIXES)
    both = {**{key: value for key, value in tree.items() if key != "frames"}, **entry}
    model = str(both.get("camera_model", "OPENCV")).upper()
    fisheye = model in ("OPENCV_FISHEYE", "FISHEYE") or bool(both.get("is_fisheye", False))
    if not fisheye and model not in PINHOLE_MODELS:
        raise DataError(
            f"{where}: camera model {model} is not known; undistort the images to OPENCV or PINHOLE"
        )
    try:
        width, height = (int(both[key]) for key in ("w", "h")) if "w" in both else _image_size(image)
        if "fl_x" in both:
            focal_x = float(both["fl_x"])
        else:
            focal_x = 0.5 * width / math.tan(0.5 * float(both["camera_angle_x"]))
        focal = focal_x, float(both.get("fl_y", focal_x))
        center = float(both.get("cx", width / 2)), float(both.get("cy", height / 2))
        distortion = tuple(float(both.get(key, 0.0)) for key in _distortion_keys(fisheye))
        pose = checked_pose(entry["transform_matrix"], where)
    except (KeyError, TypeError, OSError) as error:
        raise DataError(f"{where}: {error!r} is missing or cannot be read") from error
    if not (
        width > 0
        and height > 0
        and min(focal) > 0
        and all(map(math.isfinite, (*focal, *center, *distortion)))
    ):
        raise DataError(f"{where}: needs positive sizes and focal lengths, got {width} x {height}, {focal}")
    mask, depth = entry.get("mask_path"), entry.get("depth_file_path")
    return Frame(
        image, pose, focal, center, width, height,
        distortion=distortion if any(distortion) else (),
        fisheye=fisheye,
        mask=None if mask is None else _file(path.parent, str(mask), where),
        depth=None if depth is None else _file(path.parent, str(depth), where),
    )  # fmt: skip


def _file(folder: Path, name: str, where: str, suffixes: tuple[str, ...] = ()) -> Path:
    """A file of the capture; it must exist and lie within the capture's folder."""
    folder = folder.resolve()
    for suffix in ("", *suffixes):  # Blender's files leave the suffix out
        file = (folder / (name + suffix)).resolve()
        if file.is_file():
            if not file.is_relative_to(folder):
                raise DataError(f"{where}: {name} lies outside of {folder}; move the files together")
            return file
    raise DataError(f"{where}: {folder / name} is missing")


def _image_size(image: Path) -> tuple[int, int]:
    with Image.open(image) as opened:
        return opened.size
