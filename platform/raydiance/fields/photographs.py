"""The pixels of a capture: images, masks and depths, with the lens taken out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from raydiance.errors import DataError
from raydiance.fields.cameras import Cameras
from raydiance.fields.captures import Capture, Frame

__all__ = ["Photographs", "load_photographs", "undistorted_pixels"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Photographs:
    """rgba: uint8 [V, H, W, 4], alpha 0 where masked or outside of the lens. depth: float32 [V, H, W] along
    the cameras' axes in the capture's units, 0 unknown; None if no frame has any. cameras: V pinholes.
    """

    rgba: Tensor
    depth: Tensor | None
    cameras: Cameras


def load_photographs(capture: Capture, *, shrink: int = 1) -> Photographs:
    """Read all images of a capture, undistort them, and make them `shrink` times smaller (a whole number).

    DataError, by the file's name, for an image that is broken or of another size than its camera, and for
    depths that are not numbers.
    """
    if shrink < 1:
        raise ValueError(f"need shrink >= 1, got {shrink}")
    cameras = capture.cameras()
    rgba, depths = [], []
    for frame in capture.frames:
        where = undistorted_pixels(frame) if any(frame.distortion) else None
        rgba.append(_colours(frame, where, shrink))
        depths.append(_depths(frame, capture, where, shrink))
    height, width = rgba[0].shape[:2]
    known = next((depth for depth in depths if depth is not None), None)
    stacked = None
    if known is not None:
        stacked = torch.stack([torch.zeros_like(known) if depth is None else depth for depth in depths])
    small = Cameras(
        cameras.camera_to_world, cameras.focal / shrink, cameras.center / shrink, width=width, height=height
    )
    return Photographs(torch.stack(rgba), stacked, small)


def undistorted_pixels(frame: Frame) -> Tensor:
    """Where each pixel of the undistorted picture lies in the photograph: float64 [H, W, 2], (x, y) in
    pixels.

    OpenCV's models: radial and tangential with k1, k2, p1, p2, k3, or the fisheye's polynomial in the angle.
    """
    rows, columns = torch.meshgrid(
        torch.arange(frame.height, dtype=torch.float64) + 0.5,
        torch.arange(frame.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    x, y = (columns - frame.center[0]) / frame.focal[0], (rows - frame.center[1]) / frame.focal[1]
    r2 = x * x + y * y
    k = (*frame.distortion, *[0.0] * 5)
    if frame.fisheye:
        r = r2.sqrt().clamp(min=1e-12)
        angle = torch.atan(r)
        a2 = angle * angle
        bent = angle * (1 + a2 * (k[0] + a2 * (k[1] + a2 * (k[2] + a2 * k[3])))) / r
        x, y = x * bent, y * bent
    else:
        radial = 1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))
        p1, p2 = k[2], k[3]
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )
    return torch.stack((x * frame.focal[0] + frame.center[0], y * frame.focal[1] + frame.center[1]), dim=-1)


def _open(path: Path, frame: Frame, mode: str | None) -> Array:
    """The pixels of an image file that has the size of its camera."""
    try:
        with Image.open(path) as image:
            if image.size != (frame.width, frame.height):
                raise DataError(
                    f"{path} has {image.size[0]} x {image.size[1]} pixels, "
                    f"its camera {frame.width} x {frame.height}"
                )
            return np.asarray(image if mode is None else image.convert(mode))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be read: {error}") from error


def _colours(frame: Frame, where: Tensor | None, shrink: int) -> Tensor:
    pixels = torch.from_numpy(_open(frame.image, frame, "RGBA").astype(np.float32))
    if frame.mask is not None:
        mask = torch.from_numpy(_open(frame.mask, frame, "L").astype(np.float32))
        pixels[..., 3] *= mask / 255
    premultiplied = torch.cat((pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]), dim=-1)
    premultiplied = _resample(premultiplied, where, "bilinear")
    premultiplied = _reduce(premultiplied, shrink)
    alpha = premultiplied[..., 3:]
    straight = torch.where(alpha > 0, premultiplied[..., :3] * 255 / alpha.clamp(min=1e-6), 0)
    return torch.cat((straight, alpha), dim=-1).round().clamp(0, 255).to(torch.uint8)


def _depths(frame: Frame, capture: Capture, where: Tensor | None, shrink: int) -> Tensor | None:
    """Depths in the capture's units; of a block that becomes one pixel, the one in its middle."""
    if frame.depth is None:
        return None
    if frame.depth.suffix == ".npy":
        values = np.load(frame.depth, allow_pickle=False).astype(np.float32)
    else:
        values = _open(frame.depth, frame, None).astype(np.float32) * np.float32(capture.depth_unit)
    if values.shape != (frame.height, frame.width):
        raise DataError(f"{frame.depth}: needs depths {frame.height} x {frame.width}, got {values.shape}")
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError(f"{frame.depth}: depths must be finite and >= 0, with 0 for unknown")
    depth = _resample(torch.from_numpy(values * np.float32(capture.scale))[..., None], where, "nearest")[
        ..., 0
    ]
    height, width = (n // shrink * shrink for n in depth.shape)
    return depth[shrink // 2 : height : shrink, shrink // 2 : width : shrink]


def _resample(pixels: Tensor, where: Tensor | None, mode: str) -> Tensor:
    """Pixels [H, W, C] at places (x, y) in pixels, 0 outside."""
    if where is None:
        return pixels
    height, width = pixels.shape[:2]
    grid = 2 * where / torch.tensor([width, height], dtype=where.dtype) - 1
    sampled = F.grid_sample(
        pixels.permute(2, 0, 1)[None],
        grid[None].float(),
        mode=mode,
        padding_mode="zeros",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0)


def _reduce(pixels: Tensor, shrink: int) -> Tensor:
    """The mean of blocks of shrink^2 pixels; what is left over at the right and below is cut off."""
    if shrink == 1:
        return pixels
    return F.avg_pool2d(pixels.permute(2, 0, 1)[None], shrink)[0].permute(1, 2, 0)
