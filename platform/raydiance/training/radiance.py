"""Diffusion on radiance fields themselves (DiffRF, Mueller et al. 2023): what is trained, and its loss.

    loss = L_RF + lambda_RGB omega_t L_RGB

L_RF is the error of the denoiser on the field's data, L_RGB that of views of its estimate of f_0, rendered,
against the object's true views. The paper's lambda_RGB and omega_t are not published in numbers; those here
are our own choice.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Generator, Tensor

from raydiance.data.fieldsets import FieldCode
from raydiance.data.views import ViewDataset
from raydiance.diffusion import losses
from raydiance.diffusion.preconditioning import Clean, discrete_clean
from raydiance.fields import render
from raydiance.models import UNetSpec
from raydiance.spec import spec
from raydiance.training.denoisers import DiscreteTraining
from raydiance.training.loop import Decay, LoopSpec
from raydiance.training.rays import draw_rays

__all__ = ["FieldLoop", "FieldUNetSpec", "RadianceTraining", "RenderingLoss", "ViewLoss"]

OMEGA = {"alpha_bar": 1.0, "alpha_bar_squared": 2.0, "one": 0.0}


@spec
class FieldUNetSpec(UNetSpec):
    """The U-Net of fields: it works on patches, beside a global path on the field made coarse."""

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    attention_levels: tuple[int, ...] = ()
    patch: int = 4
    resolution: int = 32
    global_width: int = 512
    global_pool: int = 4


@spec
class FieldLoop(LoopSpec):
    """How the denoiser of fields is stepped."""

    steps: int = 800
    batch_size: int = 8
    learning_rate: float = 2e-3
    decay: Decay = "linear"
    ema_decay: float = 0.99


@spec
class RenderingLoss:
    """L_RGB: the mean squared error of rays of the estimated f_0 against the object's views, over white.

    weight: lambda_RGB, 0 for none. omega: omega_t, by the share alpha_bar of signal at t. views, rays: of
    each object at each step, the rays in all.
    """

    weight: Annotated[float, Ge(0)] = 10.0
    omega: Literal["alpha_bar", "alpha_bar_squared", "one"] = "alpha_bar"
    views: Annotated[int, Ge(1)] = 2
    rays: Annotated[int, Ge(1)] = 1024
    num_samples: Annotated[int, Ge(2)] = 48


@spec
class RadianceTraining(DiscreteTraining):
    """A network of f_0.

    It estimates f_0 and not the noise: what is put into the network are patches of many numbers, few of which
    tell anything; a narrow network can say them, but not the noise of all of them. L_RF is the squared error
    of f_0.
    """

    model: FieldUNetSpec = FieldUNetSpec()
    loop: FieldLoop = FieldLoop()
    rendering: RenderingLoss = RenderingLoss()
    preview_samples: Annotated[int, Ge(1)] = 6
    preview_size: Annotated[int, Ge(16)] = 64

    @property
    def preconditioning(self) -> Clean:
        return discrete_clean(self.schedule, self.num_train_steps)

    @property
    def described(self) -> Mapping[str, object]:
        return {"schedule": self.schedule, "num_train_steps": self.num_train_steps, "predicts": "clean"}


class ViewLoss:
    """L_RGB omega_t of each item, against the views of the objects with these indices in the data set."""

    def __init__(
        self, rendering: RenderingLoss, code: FieldCode, views: ViewDataset, objects: Sequence[int]
    ) -> None:
        self.rendering, self.code, self.views, self.objects = rendering, code, views, objects

    def __call__(
        self, denoised: Tensor, sigma: Tensor, rows: Sequence[int], generators: Sequence[Generator]
    ) -> Tensor:
        """[B], of estimates of f_0 [B, 4, X, Y, Z] at noise levels sigma [B]."""
        look, objects = self.rendering, [self.objects[row] for row in rows]
        drawn = draw_rays(self.views, objects, generators, num_views=look.views, num_rays=look.rays)
        drawn = drawn.to(denoised.device)
        seen = render(
            self.code.decode(denoised),
            drawn.rays,
            num_samples=look.num_samples,
            jitter=drawn.jitter,
            skip_empty=True,  # what is below the margin has no slope
        ).colour
        error = (seen - drawn.colour).square().flatten(1).mean(1)
        return losses.power_weight(sigma, OMEGA[look.omega]) * error
