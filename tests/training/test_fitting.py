import math
from dataclasses import replace

import pytest
import torch
from tests.training.scenes import COLOURS, ball

from raydiance.errors import DataError
from raydiance.fields import VoxelField, render_views, spiral_cameras
from raydiance.training.fitting import FieldFit, PosedImages, fit_field, held_out_psnr

SMALL = FieldFit(resolution=24, levels=2, steps=120, rays=1024, undershoot=0)
TRAIN, HELD_OUT = [0, 1, 2, 4, 5, 6, 8, 9, 10, 11], [3, 7]


def ball_views(background: torch.Tensor | None = None, grid: torch.Tensor | None = None) -> PosedImages:
    """Twelve views of a ball of radius 0.6: transparent around it, or over a colour for each ray."""
    cameras = spiral_cameras(12, size=24, radius=2.8, fov_degrees=42.0)
    field = VoxelField(ball(COLOURS[0], 0.6) if grid is None else grid)
    seen = render_views(field, cameras, background=0.0, num_samples=3 * max(field.resolution))
    alpha = seen.opacity[0, ..., None]
    if background is None:
        rgba = torch.cat((seen.colour[0] / alpha.clamp(min=1e-6), alpha), dim=-1)
    else:
        rgba = torch.cat((seen.colour[0] + (1 - alpha) * background, torch.ones_like(alpha)), dim=-1)
    return PosedImages((rgba.clamp(0, 1) * 255).round().byte(), cameras)


def test_a_ball_is_found_again() -> None:
    views = ball_views()
    fitted = fit_field(views[TRAIN], SMALL, seed=3)
    assert float(held_out_psnr(fitted, views[HELD_OUT]).min()) > 28
    field = fitted.field
    assert field.grid.shape == (1, 24, 24, 24, 4) and fitted.environment is None
    assert float(field.grid[..., 0].min()) == 0 and float(field.grid[..., 1:].min()) >= 0
    assert float(field.grid[..., 1:].max()) <= 1
    line = torch.linspace(-1, 1, 24)
    distance = torch.stack(torch.meshgrid(line, line, line, indexing="ij")).norm(dim=0)
    assert float((field.grid[0, ..., 0][distance > 0.9] > 0).float().mean()) < 0.05  # empty, not merely faint
    assert [entry[0] for entry in fitted.curve] == sorted(entry[0] for entry in fitted.curve)


def test_a_surface_runs_inside_a_cell_where_density_may_fall_below_nothing() -> None:
    line = torch.linspace(-1, 1, 96)
    distance = torch.stack(torch.meshgrid(line, line, line, indexing="ij")).norm(dim=0)
    grid = torch.tensor([400.0, 0.8, 0.3, 0.2]).expand(1, 96, 96, 96, 4).clone()
    grid[..., 0] *= distance < 0.6
    views = ball_views(grid=grid)[TRAIN]
    soft, sharp = (fit_field(views, replace(SMALL, undershoot=depth), seed=3) for depth in (0, 4))
    assert float((held_out_psnr(sharp, views) - held_out_psnr(soft, views)).mean()) > 4  # 7
    assert -4 <= float(sharp.field.grid[..., 0].min()) * min(sharp.field.cell_size) < -0.5


def test_one_seed_is_one_field() -> None:
    views, fit = ball_views(), replace(SMALL, steps=10)
    one, two, other = (fit_field(views, fit, seed=seed).field.grid for seed in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_tight_box_holds_the_object_in_cubic_cells() -> None:
    cameras = spiral_cameras(12, size=24, radius=2.8, fov_degrees=42.0)
    grid = ball(COLOURS[1], 0.45)
    squeezed = VoxelField(grid, lower=(-1.0, -1.0, -0.4), upper=(1.0, 1.0, 0.4))
    seen = render_views(squeezed, cameras, background=0.0)
    alpha = seen.opacity[0, ..., None]
    rgba = torch.cat((seen.colour[0] / alpha.clamp(min=1e-6), alpha), dim=-1)
    views = PosedImages((rgba.clamp(0, 1) * 255).round().byte(), cameras)
    field = fit_field(views, replace(SMALL, tight=True, levels=2), seed=0).field
    assert field.lower[2] > -0.5 and field.upper[2] < 0.5 and field.lower[0] < -0.4
    assert max(field.cell_size) < 1.15 * min(field.cell_size)
    assert math.prod(field.resolution) == pytest.approx(24**3, rel=0.25)


def test_a_background_is_learned_beside_the_field() -> None:
    blue = torch.tensor([0.2, 0.3, 0.9])
    views = replace(ball_views(background=blue), background="learned")
    fitted = fit_field(views[TRAIN], SMALL, seed=0)
    assert fitted.environment is not None
    assert float(held_out_psnr(fitted, views[HELD_OUT]).min()) > 24
    axis = spiral_cameras(1, size=8, radius=3.0, fov_degrees=30.0)
    assert float(render_views(fitted.field, axis).opacity[0, 0, 4, 4]) > 0.9  # the ball is in the field


def test_what_is_level_ends_early() -> None:
    patient = fit_field(ball_views(), replace(SMALL, patience_db=0.0), seed=0)
    hasty = fit_field(ball_views(), replace(SMALL, patience_db=20.0), seed=0)
    assert hasty.steps < patient.steps


def test_harmonics_pay_where_colours_turn() -> None:
    cameras = spiral_cameras(12, size=24, radius=2.8, fov_degrees=42.0)
    grid = torch.nn.functional.pad(ball((0.5, 0.5, 0.5), 0.6), (0, 9))
    grid[..., 10] = 0.45 / 0.4886025119029199  # red grows with x of the direction
    seen = render_views(VoxelField(grid), cameras, background=0.0)
    alpha = seen.opacity[0, ..., None]
    rgba = torch.cat((seen.colour[0] / alpha.clamp(min=1e-6), alpha), dim=-1)
    views = PosedImages((rgba.clamp(0, 1) * 255).round().byte(), cameras)
    plain, turning = (
        float(
            held_out_psnr(
                fit_field(views[TRAIN], replace(SMALL, degree=degree), seed=0), views[HELD_OUT]
            ).mean()
        )
        for degree in (0, 1)
    )
    assert turning > plain + 2


def test_nothing_to_see_is_refused() -> None:
    views = ball_views()
    with pytest.raises(DataError, match="nothing to fit"):
        fit_field(replace(views, rgba=torch.zeros_like(views.rgba)), SMALL, seed=0)
    with pytest.raises(ValueError, match="allows at most 2"):
        FieldFit(resolution=16, levels=3)
