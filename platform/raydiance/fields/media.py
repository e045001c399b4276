"""Pictures and films: contact sheets, PNG with metadata, turntables."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from raydiance.fields.cameras import orbit_cameras
from raydiance.fields.rendering import render_views
from raydiance.fields.voxels import VoxelField

__all__ = ["contact_sheet", "to_uint8", "turntable", "write_png", "write_video"]

IMAGE_DESCRIPTION = 0x010E  # Exif's tag
Picture = NDArray[Any] | Tensor
Pixels = NDArray[np.uint8]


def to_uint8(image: Picture) -> Pixels:
    """The image in uint8: that as it is, real numbers clamped to [0, 1] and rounded, NaN refused."""
    array: NDArray[Any] = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise ValueError(
            "an image holds a NaN or an infinity: what made it went wrong; it is not shown as black"
        )
    return np.asarray(np.round(np.clip(array, 0, 1) * 255), np.uint8)


def contact_sheet(
    images: Sequence[Picture] | Picture, columns: int, labels: Sequence[str] | None = None, *, gap: int = 2
) -> Pixels:
    """Images [H, W, 3 or 4] of one size side by side on white, uint8 [.., .., 3]; labels: one under each."""
    tiles = [_on_white(to_uint8(image)) for image in images]
    if not tiles or columns < 1:
        raise ValueError(f"a contact sheet needs images and columns >= 1, got {len(tiles)} and {columns}")
    if len({tile.shape for tile in tiles}) > 1:
        raise ValueError(f"a contact sheet needs images of one size, got {sorted({t.shape for t in tiles})}")
    if labels is not None:
        if len(labels) != len(tiles):
            raise ValueError(f"{len(tiles)} images need as many labels, got {len(labels)}")
        tiles = [_with_label(tile, label) for tile, label in zip(tiles, labels, strict=True)]
    height, width, _ = tiles[0].shape
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def write_png(path: str | Path, image: Picture, metadata: Mapping[str, str] | None = None) -> None:
    """Write [H, W], [H, W, 3] or [H, W, 4] as PNG, with the metadata as text chunks."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
    Image.fromarray(to_uint8(image)).save(path, format="PNG", pnginfo=info)


def turntable(
    field: VoxelField,
    *,
    num_frames: int = 60,
    size: int = 256,
    radius: float = 2.7,
    fov_degrees: float = 45.0,
    elevation_degrees: float = 20.0,
    num_samples: int = 128,
    background: float = 1.0,
) -> Pixels:
    """Frames uint8 [num_frames, size, size, 3] of one field, seen from a circle round it."""
    if len(field) != 1:
        raise ValueError(f"a turntable shows one field, got {len(field)}: pick one with field[i]")
    cameras = orbit_cameras(
        num_frames, size=size, radius=radius, fov_degrees=fov_degrees, elevation_degrees=elevation_degrees
    )
    with torch.no_grad():
        frames = [
            render_views(
                field, cameras, [view], num_samples=num_samples, background=background, early_stop=1e-3
            ).colour[0, 0]
            for view in range(num_frames)
        ]
    return np.stack([to_uint8(frame) for frame in frames])


def write_video(
    path: str | Path, frames: Sequence[Picture] | Picture, fps: float = 24.0, *, comment: str = ""
) -> None:
    """Write frames [H, W, 3] as .mp4 (H.264, plays everywhere) or .webp (animated, loops).

    comment: kept in the file, as MP4's comment or as the ImageDescription of WebP's Exif.
    """
    path = Path(path)
    pixels = [_on_white(to_uint8(frame)) for frame in frames]
    if not pixels or fps <= 0:
        raise ValueError(f"a video needs frames and fps > 0, got {len(pixels)} and {fps}")
    kind = path.suffix.lower()
    if kind == ".mp4":
        _write_mp4(path, pixels, fps, comment)
    elif kind == ".webp":
        first, *rest = (Image.fromarray(frame) for frame in pixels)
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = comment
        first.save(
            path,
            save_all=True,
            append_images=rest,
            duration=round(1000 / fps),
            loop=0,
            quality=85,
            exif=exif if comment else b"",
        )
    else:
        raise ValueError(f"cannot write a video as {path.name}: choose .mp4 or .webp")


def _write_mp4(path: Path, frames: Sequence[Pixels], fps: float, comment: str) -> None:
    """Feed raw frames to the ffmpeg of imageio-ffmpeg; odd sizes are padded, as yuv420p needs even ones."""
    import imageio_ffmpeg

    height, width, _ = frames[0].shape
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command += [
        "-crf",
        "18",
        "-movflags",
        "+faststart",
        *(["-metadata", f"comment={comment}"] if comment else []),
    ]
    command += [str(path)]
    raw = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
    done = subprocess.run(command, input=raw, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ffmpeg could not write {path}: {done.stderr.decode(errors='replace').strip()}")


def _on_white(image: Pixels) -> Pixels:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ValueError(f"an image needs shape [H, W], [H, W, 3] or [H, W, 4], got {image.shape}")
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:].astype(np.float32) / 255
    return np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _with_label(tile: Pixels, label: str) -> Pixels:
    height, width, _ = tile.shape
    canvas = Image.new("RGB", (width, height + 13), "white")
    canvas.paste(Image.fromarray(tile))
    ImageDraw.Draw(canvas).text((2, height + 1), label, fill="black", font=ImageFont.load_default(10))
    return np.asarray(canvas)
