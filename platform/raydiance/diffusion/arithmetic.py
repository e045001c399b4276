"""The arithmetic of one row, for the loop and for batches of many plans: the same operations, so the same bits."""

import torch
from torch import Tensor

from raydiance.diffusion.plan import Form

__all__ = ["point_of"]


def point_of(form: Form, x: Tensor, history: tuple[Tensor, ...], z: Tensor | None) -> Tensor:
    """a x + sum_j b_j h_j + c z.

    Only tensors made here are written in place: those given are shared with the history and the caller.
    """
    if form.shares:
        point = history[0]
        for share, h in zip(form.shares, (*history[1 : len(form.history)], x)):
            point = torch.lerp(point, h, share) if point is history[0] else point.lerp_(h, share)
        return point if z is None or form.noise == 0 else point.add_(z, alpha=form.noise)
    point = x if form.x == 1 else x * form.x
    for b, h in zip(form.history, history):
        if b != 0:
            point = torch.add(point, h, alpha=b) if point is x else point.add_(h, alpha=b)
    if z is not None and form.noise != 0:
        point = torch.add(point, z, alpha=form.noise) if point is x else point.add_(z, alpha=form.noise)
    return point
