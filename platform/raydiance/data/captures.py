"""Posed captures as a source: found in a folder, brought into the unit box, split into training and held out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from raydiance.errors import DataError
from raydiance.fields import Capture, Photographs, load_photographs, normalise, read_colmap, read_transforms
from raydiance.spec import spec

__all__ = ["CaptureSpec", "PosedCapture", "open_capture"]

FILES = ("transforms.json", "transforms_train.json")
OPAQUE = 0.02  # share of pixels with alpha 0 up to which a capture counts as photographs with a background


@spec
class CaptureSpec:
    """What is read of a capture.

    source: a transforms.json, a folder with one, or a folder of COLMAP. images: the photographs of a COLMAP
    model that lie elsewhere. max_side: pixels; larger images are shrunk by a whole number. camera_distance: the
    farthest camera is brought to this distance from what all look at; the field fills the box from -extent to
    extent. held_out_every: one frame of so many is never trained on, 0 for none. background: what alpha 0
    means; "auto" takes it for emptiness where more than 2 % of the pixels have it.
    """

    source: str = ""
    images: str | None = None
    max_side: Annotated[int, Ge(16)] = 256
    camera_distance: Annotated[float, Gt(0)] = 2.5
    extent: Annotated[float, Gt(0)] = 1.0
    held_out_every: Annotated[int, Ge(0)] = 8
    background: Literal["auto", "transparent", "learned"] = "auto"

    def __post_init__(self) -> None:
        if self.held_out_every == 1:
            raise ValueError("held_out_every = 1 leaves no frame to train on: use 0 for none, or 2 and more")


@dataclass(frozen=True)
class PosedCapture:
    """A capture in the unit box with its pixels; background as in CaptureSpec, decided."""

    capture: Capture
    photographs: Photographs
    background: Literal["transparent", "learned"]
    train: tuple[int, ...]
    held_out: tuple[int, ...]


def open_capture(spec: CaptureSpec) -> PosedCapture:
    """Read, normalise and load a capture. Raises DataError, by name, for what cannot be used."""
    if not spec.source:
        raise DataError("source: which capture is to be fitted? Give source=FOLDER or source=FILE.json")
    capture = normalise(_read(Path(spec.source), spec.images), camera_distance=spec.camera_distance)
    longest = max(max(frame.width, frame.height) for frame in capture.frames)
    photographs = load_photographs(capture, shrink=-(-longest // spec.max_side))
    every, count = spec.held_out_every, len(capture.frames)
    held_out = tuple(range(every // 2, count, every)) if every else ()
    train = tuple(view for view in range(count) if view not in held_out)
    if len(train) < 2:
        raise DataError(f"{spec.source}: {count} frames leave {len(train)} to train on, and two are needed")
    background = spec.background
    if background == "auto":
        empty = float((photographs.rgba[..., 3] == 0).float().mean())
        background = "transparent" if empty > OPAQUE else "learned"
    return PosedCapture(capture, photographs, background, train, held_out)


def _read(source: Path, images: str | None) -> Capture:
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    if source.is_file():
        return read_transforms(source)
    for name in FILES:
        if (source / name).is_file():
            return read_transforms(source / name)
    return read_colmap(source, images)
