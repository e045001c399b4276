"""Volume rendering of radiance fields: one signature, several backends.

Each ray is cut into S equal segments of length dt between the faces of the field's box, with one sample in
each:

    tau_i   = sigma(x_i) dt                     optical depth of segment i
    T_i     = exp(-sum_{j < i} tau_j)           what reaches it
    w_i     = T_i (1 - exp(-tau_i))             what it adds
    colour  = sum_i w_i c(x_i) + (1 - opacity) background,   opacity = sum_i w_i,   depth = sum_i w_i t_i
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from raydiance.fields import torch_backend
from raydiance.fields.cameras import Cameras, Rays, ViewIndex
from raydiance.fields.voxels import VoxelField, normal_field, soft_unit

__all__ = ["Backend", "LookUp", "Rendering", "render", "render_function", "render_views"]

Backend = Literal["auto", "torch", "numba", "triton"]
Background = float | tuple[float, float, float] | Tensor
LookUp = Callable[
    [Tensor], Tensor
]  # points [B, N, S, 3] of the world -> density and colour there [B, N, S, 4]


@dataclass(frozen=True)
class Rendering:
    """What N rays saw of B fields.

    colour [B, N, 3]: over the background. opacity [B, N]: in [0, 1]. depth [B, N]: sum_i w_i t_i, in world
    units along the ray; 0 where nothing is hit, and the mean distance once divided by the opacity. normals
    [B, N, 3], if asked for: sum_i w_i n_i brought to unit length (shorter below an opacity of about 0.001, 0
    where nothing is hit).
    """

    colour: Tensor
    opacity: Tensor
    depth: Tensor
    normals: Tensor | None = None

    def reshape(self, *shape: int) -> "Rendering":
        """The same in another shape (given without the colour axis)."""
        return Rendering(
            self.colour.reshape(*shape, 3),
            self.opacity.reshape(shape),
            self.depth.reshape(shape),
            None if self.normals is None else self.normals.reshape(*shape, 3),
        )


def render(
    field: VoxelField,
    rays: Rays,
    *,
    num_samples: int = 64,
    background: Background = 1.0,
    backend: Backend = "auto",
    generator: torch.Generator | None = None,
    jitter: Tensor | None = None,
    early_stop: float = 0.0,
    skip_empty: bool | None = None,
    normals: bool = False,
) -> Rendering:
    """Render B fields along rays [N] (the same for all objects) or [B, N], unit directions in the world.

    background: a number, a colour, or a tensor that broadcasts to [B, N, 3]. jitter [B, N] in [0, 1): where
    in its segment each sample of a ray lies (0.5 everywhere if neither it nor a generator to draw it from is
    given). early_stop: leave a ray as soon as its transmittance is below this. skip_empty: pass over cells
    without density (None: when the grid needs no gradient). It leaves values as they are, but takes the
    density of empty cells for constant: with gradients it is exact behind an activation such as ReLU, which
    has no slope where it is 0. backend: auto takes numba for a float32 grid on the CPU, torch otherwise.
    Gradients flow to field.grid in all backends, and to the background; a grid that needs none must be finite
    (DataError). normals: march a second time, for the normals of `normal_field`.
    """
    num_objects, num_rays = _check(field, rays, num_samples, jitter, generator, early_stop)
    if jitter is None and generator is not None:
        jitter = torch.rand(num_objects, num_rays, generator=generator, device=generator.device)
    needs_grad = torch.is_grad_enabled() and field.grid.requires_grad
    if not needs_grad:
        field.check_finite()
    march = _marcher(backend, field.grid, (not needs_grad) if skip_empty is None else skip_empty)
    rays = field.bring_in(rays)
    raw = march(field, rays, num_samples, jitter, early_stop)
    opacity = raw[..., 3]
    behind = torch.as_tensor(background, dtype=raw.dtype, device=raw.device)
    colour = raw[..., :3] + (1 - opacity)[..., None] * behind
    if not normals:
        return Rendering(colour, opacity, raw[..., 4])
    seen = march(normal_field(field), rays, num_samples, jitter, early_stop)[..., :3]
    return Rendering(colour, opacity, raw[..., 4], field.bring_out(soft_unit(seen, 1e-4), points=False))


def render_views(
    field: VoxelField,
    cameras: Cameras,
    views: ViewIndex | None = None,
    *,
    num_samples: int = 64,
    background: Background = 1.0,
    backend: Backend = "auto",
    early_stop: float = 0.0,
    normals: bool = False,
) -> Rendering:
    """All pixels of the views (None: all), as `render`; the parts of the result are [B, V, H, W, ...]."""
    rays = cameras.rays(views)
    result = render(
        field,
        rays.reshape(-1).to(field.grid.device),
        num_samples=num_samples,
        background=background,
        backend=backend,
        early_stop=early_stop,
        normals=normals,
    )
    return result.reshape(len(field), *(rays.shape if len(rays.shape) == 3 else (1, *rays.shape)))


def render_function(
    look_up: LookUp,
    rays: Rays,
    *,
    num_samples: int = 64,
    background: Background = 1.0,
    jitter: Tensor | None = None,
) -> Rendering:
    """Render what `look_up` finds within [-1, 1]^3 along rays [B, N], as `render` does, in plain torch.

    Gradients flow to whatever `look_up` reads.
    """
    offset = torch.full_like(rays.origins[..., 0], 0.5) if jitter is None else jitter
    corner = rays.origins.new_ones(3)
    points, t, step = torch_backend.segments(rays, -corner, corner, num_samples, offset)
    raw = torch_backend.composite(look_up(points), t, step)
    behind = torch.as_tensor(background, dtype=raw.dtype, device=raw.device)
    return Rendering(raw[..., :3] + (1 - raw[..., 3:4]) * behind, raw[..., 3], raw[..., 4])


def _check(
    field: VoxelField,
    rays: Rays,
    num_samples: int,
    jitter: Tensor | None,
    generator: torch.Generator | None,
    early_stop: float,
) -> tuple[int, int]:
    """B and N, once the arguments fit together."""
    num_objects, shape = len(field), tuple(rays.shape)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != num_objects):
        raise ValueError(f"rays need shape [N] or [B, N] with B = {num_objects}, got {shape}: reshape them")
    if num_samples < 1 or not 0 <= early_stop < 1:
        raise ValueError(f"need num_samples >= 1 and 0 <= early_stop < 1, got {num_samples} and {early_stop}")
    if jitter is not None and generator is not None:
        raise ValueError("give either a jitter or a generator to draw it from, not both")
    if jitter is not None and tuple(jitter.shape) != (num_objects, shape[-1]):
        raise ValueError(f"jitter needs shape {(num_objects, shape[-1])}, got {tuple(jitter.shape)}")
    return num_objects, shape[-1]


def _marcher(backend: Backend, grid: Tensor, skip_empty: bool) -> Callable[..., Tensor]:
    """march(field, rays, num_samples, jitter, early_stop) of the backend that is to be used for this grid."""
    fits = grid.device.type == "cpu" and grid.dtype == torch.float32
    if backend == "torch" or (backend == "auto" and not fits):
        return torch_backend.march
    if backend == "triton":
        from raydiance.fields import triton_backend

        if reason := triton_backend.why_not(grid.device, grid.dtype):
            raise ValueError(f"the triton backend cannot be used: {reason}; use backend='auto'")
        return partial(triton_backend.march, skip_empty=skip_empty)
    if not fits:
        raise ValueError(
            f"the numba backend takes float32 grids on the CPU, got {grid.dtype} on {grid.device}: "
            "use backend='torch'"
        )
    from raydiance.fields import numba_backend  # here, because importing numba takes its time

    return partial(numba_backend.march, skip_empty=skip_empty)
