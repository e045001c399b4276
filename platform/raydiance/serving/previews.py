"""What a sample looks like while it is being made: the network's present x_0, decoded and drawn small."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raydiance.fields import orbit_cameras, render_views
from raydiance.generation import LatentModel, decode

__all__ = ["ELEVATION_DEGREES", "FOV_DEGREES", "RADIUS", "preview"]

SIZE, NUM_SAMPLES, QUALITY = 96, 40, 82
RADIUS, FOV_DEGREES, ELEVATION_DEGREES = 2.9, 42.0, 20.0  # the whole unit ball is in view
NUM_VIEWS, VIEW = 8, 7  # the page's first view of the finished mesh is the same


@torch.inference_mode()
def preview(model: LatentModel, x_0: Tensor) -> bytes:
    """A WebP with transparency of x_0 [C, D, H, W], as the network knows it (normalised)."""
    field = decode(model, model.statistics.denormalise(x_0[None]))
    cameras = orbit_cameras(
        NUM_VIEWS, size=SIZE, radius=RADIUS, fov_degrees=FOV_DEGREES, elevation_degrees=ELEVATION_DEGREES
    )
    seen = render_views(field, cameras, [VIEW], num_samples=NUM_SAMPLES, background=0.0, early_stop=1e-2)
    alpha = seen.opacity[0, 0][..., None].clamp(0.0, 1.0)
    colour = (seen.colour[0, 0] / alpha.clamp_min(1e-3)).clamp(0.0, 1.0)
    pixels = (torch.cat([colour, alpha], -1) * 255.0).round().nan_to_num(0.0).to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels.cpu())).save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
