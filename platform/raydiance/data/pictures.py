"""Pictures that come with meshes, decoded within limits, and the sRGB curve."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raydiance.data.meshes import Bytes, MeshLimits
from raydiance.errors import DataError

__all__ = ["PictureBudget", "as_texture", "encode_srgb"]

FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass
class PictureBudget:
    """Decodes pictures until their pixels together exceed the limit."""

    limits: MeshLimits
    pixels: int = 0

    def decode(self, data: bytes) -> Bytes:
        """The picture as uint8 [h, w, 4], sRGB. DataError if it is none, or if it is one too many."""
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                self.spend(*image.size)
                return as_texture(image, self.limits.texture_side)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"a texture cannot be decoded as one of {', '.join(FORMATS)}: {error}") from error

    def spend(self, width: int, height: int) -> None:
        """Counts a picture before it is decoded. DataError if there are too many pixels."""
        self.pixels += width * height
        if self.pixels > self.limits.texture_pixels:
            raise DataError(
                f"textures of {self.pixels} pixels and more, the limit is {self.limits.texture_pixels}; "
                "raise limits.texture_pixels to read it"
            )


def as_texture(image: Image.Image, side: int) -> Bytes:
    """The picture as uint8 [h, w, 4] of its own, made smaller if a side is longer than `side`."""
    rgba = image.convert("RGBA")
    if max(rgba.size) > side:
        width, height = (max(1, round(length * side / max(rgba.size))) for length in rgba.size)
        rgba = rgba.resize((width, height), Image.Resampling.BOX)
    return np.array(rgba)


def encode_srgb(linear: NDArray[np.floating]) -> NDArray[np.float64]:
    """sRGB-encoded values of linear ones in 0..1 (IEC 61966-2-1)."""
    linear = np.clip(np.asarray(linear, np.float64), 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.power(linear, 1 / 2.4) - 0.055)
