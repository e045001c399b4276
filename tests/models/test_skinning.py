"""Volumetric linear blend skinning: what is true of it whatever the weights."""

import dataclasses

import pytest
import torch
from torch import Tensor

from raydiance.models import ArticulatedField, ArticulatedSpec
from raydiance.models.articulated import candidates

SPEC = ArticulatedSpec(resolutions=(4, 8), weight_resolutions=(4, 8))
OBJECT = torch.tensor([0])


def field(*num_parts: int, spec: ArticulatedSpec = SPEC) -> ArticulatedField:
    """Random volumes."""
    model, generator = ArticulatedField(spec, torch.tensor(num_parts)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def motions(count: int, seed: int = 1) -> Tensor:
    """[1, P, 3, 4] rigid motions."""
    generator = torch.Generator().manual_seed(seed)
    rotations, _ = torch.linalg.qr(torch.randn(1, count, 3, 3, generator=generator))
    rotations = rotations * torch.linalg.det(rotations)[..., None, None]
    return torch.cat((rotations, 0.3 * torch.randn(1, count, 3, 1, generator=generator)), dim=-1)


def places(seed: int = 2) -> Tensor:
    return 1.6 * torch.rand(1, 7, 5, 3, generator=torch.Generator().manual_seed(seed)) - 0.8


def halves(model: ArticulatedField) -> None:
    """Weights that give x < 0 to part 0 and x > 0 to part 1, surely."""
    assert model.weights is not None
    with torch.no_grad():
        for level in model.weights.levels:
            side = torch.linspace(-1, 1, level.shape[2]).sign()[:, None, None].expand(level.shape[2:])
            level[0, 0], level[0, 1] = -200 * side, 200 * side


@pytest.mark.parametrize("num_parts", [1, 3])
def test_in_the_rest_pose_the_warp_is_the_identity_whatever_the_weights(num_parts: int) -> None:
    model, points = field(num_parts), places()
    rest = torch.eye(3, 4).expand(1, num_parts, 3, 4)
    where, weights = model.warp(OBJECT, rest, points)
    torch.testing.assert_close(where, points)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 7, 5))
    still = field(num_parts, spec=dataclasses.replace(SPEC, skinning=False))
    still.volumes.load_state_dict(model.volumes.state_dict())
    torch.testing.assert_close(
        model.look_up(OBJECT, rest, points), still.look_up(OBJECT, motions(num_parts), points)
    )


def test_a_field_of_one_part_moves_as_a_rigid_body() -> None:
    model, points, pose = field(1), places(), motions(1)
    moved = points @ pose[0, 0, :, :3].mT + pose[0, 0, :, 3]
    rest = torch.eye(3, 4).expand(1, 1, 3, 4)
    torch.testing.assert_close(candidates(pose, moved)[:, 0], points)
    torch.testing.assert_close(model.look_up(OBJECT, pose, moved), model.look_up(OBJECT, rest, points))


def test_the_motion_of_a_part_moves_its_points_and_no_others() -> None:
    """Part 1 (x > 0) slides away along x; what is part 0's stays, and the gap is filled from nowhere else."""
    model = field(2)
    halves(model)
    rest = torch.eye(3, 4).repeat(1, 2, 1, 1)
    slid = rest.clone()
    slid[0, 1, 0, 3] = 0.25
    left, right = places(), places(3)
    left[..., 0], right[..., 0] = -left[..., 0].abs() - 0.15, 0.2 + 0.5 * right[..., 0].abs()
    before = [model.look_up(OBJECT, rest, points) for points in (left, right)]
    torch.testing.assert_close(model.look_up(OBJECT, slid, left), before[0])
    torch.testing.assert_close(model.look_up(OBJECT, slid, right + torch.tensor((0.25, 0, 0))), before[1])
    assert not torch.allclose(model.look_up(OBJECT, slid, right), before[1])


def test_parts_that_an_object_does_not_have_are_never_believed() -> None:
    model, points = field(3, 2), places()
    poses = motions(3)
    _, weights = model.warp(torch.tensor([1]), poses, points)
    assert (weights[..., 2] == 0).all() and (weights[..., :2] > 0).all()
    elsewhere = poses.clone()
    elsewhere[:, 2] = motions(1, seed=9)[:, 0]
    torch.testing.assert_close(
        model.look_up(torch.tensor([1]), poses, points), model.look_up(torch.tensor([1]), elsewhere, points)
    )


def test_gradients_of_weights_poses_and_volumes_are_those_of_differences() -> None:
    model, points, poses = (
        field(2).double(),
        places().double()[:, :2, :2],
        motions(2).double().requires_grad_(),
    )
    parameters = [*model.parameters()]
    model.look_up(OBJECT, poses, points).sum().backward()
    generator = torch.Generator().manual_seed(4)
    for tensor in (poses, *parameters):
        assert tensor.grad is not None and tensor.grad.abs().max() > 0
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor += sign * 1e-6 * direction
                values.append(model.look_up(OBJECT, poses, points).sum())
                tensor -= sign * 1e-6 * direction
        slope = float(values[0] - values[1]) / 2e-6
        assert float((tensor.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_sizes_that_do_not_grow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight_resolutions must be sizes .* got \(8, 8\)"):
        ArticulatedSpec(weight_resolutions=(8, 8))
