"""Latents that agree with what is given: views of an object, or a single picture of one.

Legend: x_0 [C, D, H, W] a latent as the network knows it (normalised), z another one, sigma the noise level.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydiance.fields import Cameras, VoxelField, render
from raydiance.generation.bundle import LatentModel
from raydiance.generation.execution import call_sizes, in_calls, noise_network

__all__ = ["Pictures", "box_mask", "fit_latent", "reconstruct"]

RAYS, NUM_SAMPLES = 1024, 48
FIT_STEPS, FIT_RATE, PRIOR = 160, 0.08, 1e-4
INNER, MU, LEVELS = 6, 0.003, (1.0, -1.0)  # steps for each call; log10 of the first and last noise level


@dataclass(frozen=True)
class Pictures:
    """What is to be seen: colours over white [V, H, W, 3] in [0, 1], by these cameras."""

    colour: Tensor
    cameras: Cameras

    def draw(self, generator: torch.Generator, count: int) -> tuple[Tensor, ...]:
        """Views, columns, rows and colours [count, 3] of pixels at random."""
        views, height, width, _ = self.colour.shape
        v, i, j = (torch.randint(size, (count,), generator=generator) for size in (views, height, width))
        return v, j, i, self.colour[v, i, j]


def fit_latent(
    model: LatentModel, given: Pictures, *, seed: int = 0, step: Callable[[int, int], None] | None = None
) -> Tensor:
    """The latent [C, D, H, W] whose field looks like the pictures, with a weak pull to zero.

    step: called with the steps done and all steps; it may raise to give up.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z = torch.zeros(1, *model.latent_shape, requires_grad=True)
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.Adam([z], lr=FIT_RATE, betas=(0.9, 0.95))
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, FIT_STEPS, FIT_RATE / 20)
        for done in range(FIT_STEPS):
            optimiser.zero_grad()
            (_error(model, z, given, generator) + PRIOR * z.square().mean()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
            if step is not None:
                step(done + 1, FIT_STEPS)
    return z.detach()[0]


def reconstruct(
    model: LatentModel,
    given: Pictures,
    *,
    calls: int,
    seed: int,
    label: int | None = None,
    words: Tensor | None = None,
    step: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """A latent x_0 [C, D, H, W] that looks like the pictures and like the data.

    Adam on |y - render(z)|^2 + mu |z - D(z + sigma n; sigma)|^2 (means), where the denoiser D is asked `calls`
    times at ever lower sigma with fresh noise n and no gradient goes through it (Mardani et al. 2023, RED-diff,
    Eq. 9 with its stop of gradients). words: numbers [1, T] of a text's. step: as in fit_latent, with z.
    """
    generator = torch.Generator().manual_seed(seed)
    network, sizes = noise_network(model), call_sizes(model.device)
    labels = None if label is None else torch.tensor([label])
    with torch.inference_mode(False), torch.enable_grad():
        z = torch.zeros(1, *model.latent_shape, requires_grad=True)
        optimiser = torch.optim.Adam([z], lr=FIT_RATE, betas=(0.9, 0.95))
        for done, sigma in enumerate(torch.logspace(*LEVELS, calls), 1):
            with torch.no_grad():
                x = z + sigma * torch.randn(z.shape, generator=generator)
                x_0 = x - sigma * in_calls(network, sizes, x, sigma[None], labels, words)
            for _ in range(INNER):
                optimiser.zero_grad()
                loss = _error(model, z, given, generator) + MU * (z - x_0).square().mean()
                loss.backward()
                optimiser.step()
            if step is not None:
                step(done, calls, z.detach()[0])
    return z.detach()[0]


def box_mask(
    latent_shape: tuple[int, ...], resolution: int, lower: tuple[float, ...], upper: tuple[float, ...]
) -> Tensor:
    """1 for the cells of a latent whose centre lies within a box of the world, else 0: [1, D, H, W].

    A cell is the voxels that it is decoded to, of a field of this resolution over [-1, 1]^3.
    """
    inside = torch.ones(latent_shape[1:])
    for axis, size in enumerate(latent_shape[1:]):
        voxels = resolution / size
        centre = -1 + 2 * (torch.arange(size) * voxels + (voxels - 1) / 2) / (resolution - 1)
        within = (centre >= lower[axis]) & (centre <= upper[axis])
        inside = inside * within.view([-1 if each == axis else 1 for each in range(3)])
    return inside[None]


def _error(model: LatentModel, z: Tensor, given: Pictures, generator: torch.Generator) -> Tensor:
    """Mean squared error of colours at pixels drawn at random."""
    views, columns, rows, truth = given.draw(generator, RAYS)
    field = VoxelField(model.decoder(model.statistics.denormalise(z)))
    rays = given.cameras.pixel_rays(views, columns, rows)
    seen = render(field, rays, num_samples=NUM_SAMPLES, background=1.0, generator=generator)
    return (seen.colour[0] - truth).square().mean()
