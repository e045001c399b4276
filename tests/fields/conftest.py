"""A solid ball with smooth colours, which every test can look at from any side."""

import pytest
import torch

from raydiance.fields import VoxelField


def ball(
    resolution: int = 40, radius: float = 0.6, centre: tuple[float, float, float] = (0, 0, 0)
) -> torch.Tensor:
    """Grid [R, R, R, 4]: dense inside the radius; red grows along x, green along y, blue along z."""
    line = torch.linspace(-1, 1, resolution)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2).sqrt()
    density = 80 * ((radius - distance) * resolution / 4 + 0.5).clamp(0, 1)
    return torch.stack((density, 0.5 + 0.45 * x, 0.5 + 0.45 * y, 0.5 + 0.45 * z), dim=-1)


@pytest.fixture
def ball_field() -> VoxelField:
    return VoxelField(ball()[None])
