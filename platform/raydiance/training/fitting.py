"""One voxel field fitted to the views of one object: coarse to fine, by gradient descent on the grid itself.

There is no activation before the grid: after each step it is projected back onto its bounds, mean colour onto
[0, 1], density onto no less than `FieldFit.undershoot` below 0 at the last level, else 0. Below 0 counts as 0 only
between the samples, when it has been interpolated, so that a surface can run anywhere in a cell (Karnewar et al.
2022, ReLU Fields).

Adam moves all numbers alike, so it is given them in units in which a step of 1 is right for each:
p = (density * cell / density_rate, colour / colour_rate). A cell whose density has been pressed to 0 is
passed over from then on, which is what makes the fine levels cheap; each level begins with a few steps that
look at all cells.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from raydiance.errors import DataError, NonFiniteLossError
from raydiance.fields import Cameras, VoxelField, render, render_views
from raydiance.fields.harmonics import NUM_CHANNELS, basis
from raydiance.fields.voxels import Point
from raydiance.spec import spec
from raydiance.training.randomness import sample_generator

__all__ = ["FieldFit", "FittedField", "PosedImages", "fit_field", "held_out_psnr"]

FIRST_OPACITY = 0.05  # of a cell, before anything has been seen
DENSE_STEPS = 30  # of each level, which look at empty cells too
WINDOW = 50  # steps whose mean error is compared with that of the window before
VARIATION_EVERY = 4  # steps: the term is smooth, and dear on a fine grid
LAST_RATE = 0.1  # of a level, relative to its first
TRANSPARENT = 1e-3  # where a ray is left
FAINT = 0.05  # a cell of less opacity does not belong to the object
LARGEST_DEPTH = 20.0  # of a cell, optically
FLOOR = 1e-9  # mean squared error below which nothing is to be gained


@spec
class FieldFit:
    """How one field is fitted.

    resolution: cube root of the number of samples. degree: of the colour's spherical harmonics, which begin at
    the last level. levels: each has twice the resolution and twice the steps of the one before; steps: of the
    last. patience_db: a level ends when a window of 50 steps gains less than this. density_rate: opacity that a
    cell may gain in a step. total_variation: weight of squared differences of neighbours, of colour and of
    opacity per cell. sparsity: weight of the mean opacity of rays, without which a background is painted into the
    field. shrinkage, growth: optical depth that each cell loses in a step, seen or not, and the share of its own
    that it gains: what is above shrinkage / growth becomes solid unless the images object, the rest empty. Without
    them fields are a fog that looks right and has no surface. undershoot: optical depth that a cell may lie below
    empty beside a surface, at the last level; 0 for fields that are to be data, which know no less than empty.
    tight: a box round what the first level found, in cubic cells, in place of the whole box.
    """

    resolution: Annotated[int, Ge(8), Le(512)] = 64
    degree: Literal[0, 1, 2] = 0
    levels: Annotated[int, Ge(1), Le(6)] = 3
    steps: Annotated[int, Ge(1)] = 400
    rays: Annotated[int, Ge(1)] = 4096
    samples_per_cell: Annotated[float, Gt(0)] = 1.5
    density_rate: Annotated[float, Gt(0)] = 0.2
    colour_rate: Annotated[float, Gt(0)] = 0.05
    total_variation: Annotated[float, Ge(0)] = 3e-4
    sparsity: Annotated[float, Ge(0)] = 0.01
    shrinkage: Annotated[float, Ge(0)] = 0.002
    growth: Annotated[float, Ge(0)] = 0.01
    undershoot: Annotated[float, Ge(0)] = 4.0
    patience_db: Annotated[float, Ge(0)] = 0.05
    tight: bool = False

    def __post_init__(self) -> None:
        if self.resolution >> (self.levels - 1) < 8:
            raise ValueError(
                f"levels = {self.levels} would begin at {self.resolution >> (self.levels - 1)} samples along an "
                f"axis: a resolution of {self.resolution} allows at most {int(math.log2(self.resolution / 8)) + 1}"
            )


@dataclass(frozen=True)
class PosedImages:
    """Views uint8 [V, H, W, 4], sRGB with straight alpha, and the V cameras that took them.

    background: what alpha 0 means. "transparent": nothing was there, the field is to be empty. "learned": the
    pixel is unknown; what lies behind the field is learned beside it, as a function of the direction alone.
    """

    rgba: Tensor
    cameras: Cameras
    background: Literal["transparent", "learned"] = "transparent"

    def __getitem__(self, views: Sequence[int]) -> "PosedImages":
        """These views."""
        return replace(self, rgba=self.rgba[list(views)], cameras=self.cameras[views])


@dataclass(frozen=True)
class FittedField:
    """A fitted field. environment [9, 3]: harmonics of the colour behind it, if that was learned. curve: the
    mean PSNR of training rays in each window of steps, in dB, with the level it belongs to.
    """

    field: VoxelField
    environment: Tensor | None
    steps: int
    curve: tuple[tuple[int, int, float], ...]  # level, step, PSNR


def fit_field(
    views: PosedImages,
    fit: FieldFit,
    *,
    seed: int,
    lower: Point = (-1.0, -1.0, -1.0),
    upper: Point = (1.0, 1.0, 1.0),
    heard: Callable[[int, float], None] = lambda steps, psnr: None,
) -> FittedField:
    """Fit a field in the box to the views; it lies on the device of views.rgba.

    heard(steps, psnr): called after each window. Raises DataError if no pixel shows anything, and
    NonFiniteLossError.
    """
    pixels = _Pixels.of(views)
    field = _first_field(fit, lower, upper, views.rgba.device)
    environment = None
    if views.background == "learned":
        environment = torch.zeros(9, 3, device=views.rgba.device)
        environment[0] = views.rgba[..., :3].float().mean((0, 1, 2)) / 255
    steps, curve = 0, []
    for level in range(fit.levels):
        if level > 0:
            field = _finer(field, fit, level)
        for done, psnr, better in _descend(pixels, field, environment, fit, level, seed):
            field = better
            curve.append((level, done, psnr))
            heard(steps + done, psnr)
        steps += done
    grid = field.grid.clone()
    haze = (grid[..., 0] >= 0) & (grid[..., 0] * min(field.cell_size) < FIRST_OPACITY / 10)
    grid[..., 0].masked_fill_(haze, 0)  # no ray can see it
    return FittedField(replace(field, grid=grid), environment, steps, tuple(curve))


@torch.no_grad()
def held_out_psnr(fitted: FittedField, views: PosedImages) -> Tensor:
    """PSNR of each view in dB, float64 [V]: over white, or over what was learned where alpha is full."""
    scores = []
    for view in range(len(views.cameras)):
        rgba = views.rgba[view].float() / 255
        behind: Tensor | float = 1.0
        counts = torch.ones_like(rgba[..., 0], dtype=torch.bool)
        if fitted.environment is not None:
            counts = rgba[..., 3] > 0.99
            behind = _behind(fitted.environment, views.cameras.rays(view).reshape(-1).directions)
        shown = render_views(
            fitted.field,
            views.cameras,
            [view],
            num_samples=3 * max(fitted.field.resolution),
            background=behind,
            early_stop=TRANSPARENT,
        ).colour[0, 0]
        truth = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
        error = (shown.clamp(0, 1) - truth)[counts].double().square().mean()
        scores.append(-10 * torch.log10(error.clamp(min=FLOOR)))
    return torch.stack(scores)


@dataclass(frozen=True)
class _Pixels:
    """What random rays are drawn from: all pixels, or those of `known`."""

    views: PosedImages
    known: Tensor | None

    @classmethod
    def of(cls, views: PosedImages) -> "_Pixels":
        alpha = views.rgba[..., 3].reshape(-1)
        if not bool((alpha > 127).any()):
            raise DataError(
                f"none of {len(views.cameras)} views shows anything (alpha is 0 nearly everywhere): there is "
                "nothing to fit; look at the images and their masks"
            )
        known = torch.nonzero(alpha > 127)[:, 0] if views.background == "learned" else None
        return cls(views, None if known is None or len(known) == len(alpha) else known)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random pixels: views, columns and rows [N]."""
        _, height, width, _ = self.views.rgba.shape
        limit = self.views.rgba[..., 0].numel() if self.known is None else len(self.known)
        place = torch.randint(limit, (count,), generator=generator).to(self.views.rgba.device)
        if self.known is not None:
            place = self.known[place]
        return place // (height * width), place % width, place // width % height


def _descend(
    pixels: _Pixels, field: VoxelField, environment: Tensor | None, fit: FieldFit, level: int, seed: int
) -> Iterator[tuple[int, float, VoxelField]]:
    """Steps of one level: after each window (steps done, PSNR, the field). The environment changes in place."""
    cell, channels = min(field.cell_size), field.grid.shape[-1]
    units = field.grid.new_tensor([fit.density_rate / cell, *[fit.colour_rate] * (channels - 1)])
    weights = units * units.new_tensor([cell, *[1.0] * (channels - 1)])  # to opacity and colour
    ceiling = torch.full_like(units, torch.inf)
    ceiling[0], ceiling[1:4] = LARGEST_DEPTH / fit.density_rate, 1 / fit.colour_rate
    floor = torch.full_like(units, -torch.inf)
    floor[:4] = 0
    if level == fit.levels - 1:
        floor[0] = -fit.undershoot / fit.density_rate
    grid = (field.grid / units).requires_grad_()
    groups = [{"params": [grid], "lr": 1.0}]
    if environment is not None:
        groups.append({"params": [environment.requires_grad_()], "lr": 0.02})
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    total = max(1, fit.steps >> (fit.levels - 1 - level))
    errors: list[float] = []
    before = math.inf
    for step in range(total):
        rate = LAST_RATE ** (step / total)
        adam.param_groups[0]["lr"] = rate
        generator = sample_generator(seed, level, step)
        now = replace(field, grid=grid * units)
        error, opacity = _error(pixels, now, environment, fit, generator, skip_empty=step >= DENSE_STEPS)
        loss = error + fit.sparsity * opacity
        if fit.total_variation and step % VARIATION_EVERY == 0:
            loss = loss + VARIATION_EVERY * fit.total_variation * _variation(grid * weights)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        with torch.no_grad():
            change = grid[..., 0] * (rate * fit.growth) - rate * fit.shrinkage / fit.density_rate
            grid[..., 0] += change * (grid[..., 0] > 0)
            torch.minimum(torch.maximum(grid, floor, out=grid), ceiling, out=grid)
        errors.append(float(error.detach()))
        if len(errors) == WINDOW or step == total - 1:
            mean = sum(errors) / len(errors)
            if not math.isfinite(mean):
                raise NonFiniteLossError(f"level {level}, step {step}: the error of the views is {mean}")
            yield step + 1, -10 * math.log10(max(mean, FLOOR)), replace(field, grid=(grid * units).detach())
            if 10 * math.log10(max(before, FLOOR) / max(mean, FLOOR)) < fit.patience_db:
                break
            before, errors = mean, []
    if environment is not None:
        environment.requires_grad_(False)


def _error(
    pixels: _Pixels,
    field: VoxelField,
    environment: Tensor | None,
    fit: FieldFit,
    generator: torch.Generator,
    *,
    skip_empty: bool,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of random rays, over white and random colours or over the environment; mean opacity."""
    device = field.grid.device
    views, columns, rows = pixels.draw(fit.rays, generator)
    rays = pixels.views.cameras.pixel_rays(views, columns, rows)
    rgba = pixels.views.rgba[views, rows, columns].float() / 255
    target = rgba[:, :3]
    if environment is None:
        behind = torch.rand(fit.rays, 3, generator=generator).to(device)
        behind[::2] = 1  # white is what views and samples are shown on
        target = target * rgba[:, 3:] + behind * (1 - rgba[:, 3:])
    else:
        behind = _behind(environment, rays.directions)
    result = render(
        field,
        rays,
        num_samples=max(2, round(fit.samples_per_cell * max(field.resolution))),
        background=behind,
        jitter=torch.rand(1, fit.rays, generator=generator).to(device),
        early_stop=TRANSPARENT,
        skip_empty=skip_empty,
    )
    return (result.colour[0] - target).square().mean(), result.opacity.mean()


def _behind(environment: Tensor, directions: Tensor) -> Tensor:
    """The colour [N, 3] that was learned for these directions."""
    return basis(directions, 2) @ environment


def _variation(values: Tensor) -> Tensor:
    """Mean squared difference of neighbours [1, X, Y, Z, C] along the three axes, summed over channels."""
    parts = [values.diff(dim=axis).square().mean() for axis in (1, 2, 3)]
    return values.shape[-1] * torch.stack(parts).sum()


def _first_field(fit: FieldFit, lower: Point, upper: Point, device: torch.device) -> VoxelField:
    size = fit.resolution >> (fit.levels - 1)
    channels = NUM_CHANNELS[fit.degree if fit.levels == 1 else 0]
    grid = torch.zeros(1, size, size, size, channels, device=device)
    grid[..., 1:4] = 0.5
    field = VoxelField(grid, lower, upper)
    grid[..., 0] = FIRST_OPACITY / min(field.cell_size)
    return field


def _finer(field: VoxelField, fit: FieldFit, level: int) -> VoxelField:
    """The field on the grid of the next level; in a tighter box, with more harmonics, where that is asked."""
    samples = fit.resolution >> (fit.levels - 1 - level)
    lower, upper, size = field.lower, field.upper, (samples,) * 3
    if fit.tight:
        if level == 1:
            lower, upper = _tight_box(field)
        edges = [b - a for a, b in zip(lower, upper, strict=True)]
        cell = (math.prod(edges) / samples**3) ** (1 / 3)
        size = tuple(max(4, round(edge / cell) + 1) for edge in edges)
    finer = field.resampled(size, lower, upper, outside="border")
    grid = finer.grid
    if level == fit.levels - 1:
        grid = F.pad(grid, (0, NUM_CHANNELS[fit.degree] - grid.shape[-1]))
    return replace(finer, grid=grid)


def _tight_box(field: VoxelField) -> tuple[Point, Point]:
    """The box of all samples that are not faint, and a cell more on each side."""
    solid = torch.nonzero(field.grid[0, ..., 0] * min(field.cell_size) > FAINT)
    if len(solid) == 0:
        return field.lower, field.upper
    low, high = solid.min(0).values.tolist(), solid.max(0).values.tolist()
    lower, upper = [], []
    for axis in range(3):
        start, cell, end = field.lower[axis], field.cell_size[axis], field.upper[axis]
        lower.append(max(start, start + (low[axis] - 1) * cell))
        upper.append(min(end, start + (high[axis] + 1) * cell))
    return (lower[0], lower[1], lower[2]), (upper[0], upper[1], upper[2])
