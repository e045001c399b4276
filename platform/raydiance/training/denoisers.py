"""What a denoiser is and how it is trained, for each kind of data: its spec, its noise levels, what it is
told.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Generator, Tensor

from raydiance.diffusion import losses, schedules
from raydiance.diffusion.preconditioning import EDM, Epsilon, discrete_epsilon
from raydiance.models import UNetSpec
from raydiance.spec import spec
from raydiance.training.batches import Batch
from raydiance.training.loop import Decay, LoopSpec

__all__ = [
    "DiffusionLoop",
    "DiffusionTraining",
    "DiscreteTraining",
    "LatentUNetSpec",
    "PixelLoop",
    "PixelTraining",
    "PixelUNetSpec",
]

Share = Annotated[float, Interval(ge=0, le=1)]


@spec
class LatentUNetSpec(UNetSpec):
    """The U-Net of latents: a small one, beside a global path."""

    channels: int = 16
    multipliers: tuple[int, ...] = (1, 2)
    attention_levels: tuple[int, ...] = ()
    global_width: int = 512


@spec
class DiffusionLoop(LoopSpec):
    """How the denoiser is stepped."""

    steps: int = 1200
    batch_size: int = 16
    learning_rate: float = 3e-3
    decay: Decay = "linear"
    ema_decay: float = 0.99


@spec
class DiffusionTraining:
    """The denoiser and how it is trained. ln sigma is normal with mean `p_mean` and deviation `p_std`.

    Karras et al. 2022 take -1.2 and 1.2 for images; latents of aligned objects have thousands of numbers but few
    directions, so that noise must be ten times the data before it hides which object it is.
    drop_condition: the share of samples that are told nothing, for classifier-free guidance (Ho & Salimans).
    embeddings: a safetensors file with "embeddings" [N, T, model.token_dim] of the captions, made by any encoder,
    in the order of latents.json; in place of a vocabulary, whose encoder is trained here.
    """

    model: LatentUNetSpec = LatentUNetSpec()
    loop: DiffusionLoop = DiffusionLoop()
    sigma_data: float = 1.0
    p_mean: float = 1.2
    p_std: float = 1.6
    drop_condition: Share = 0.1
    embeddings: str | None = None
    preview_samples: int = 6
    preview_steps: int = 18
    preview_size: int = 64

    def __post_init__(self) -> None:
        if self.embeddings and (self.model.vocabulary or not self.model.token_dim):
            raise ValueError(
                "embeddings need model.token_dim > 0 and model.vocabulary = 0: a text is embedded beforehand "
                f"or by the network's own encoder, got {self.model.token_dim} and {self.model.vocabulary}"
            )
        if self.sigma_data <= 0 or self.p_std <= 0:
            raise ValueError(f"sigma_data and p_std must be positive, got {self.sigma_data} and {self.p_std}")

    @property
    def preconditioning(self) -> EDM:
        return EDM(self.sigma_data)

    @property
    def sigma_max(self) -> float:
        """Where previews start: one in a hundred of the noise levels trained on is larger."""
        return math.exp(self.p_mean + 2.33 * self.p_std)

    @property
    def described(self) -> Mapping[str, object]:
        """What spec.json tells beside the model: see diffusion.preconditioning.from_plain."""
        return {"sigma_data": self.sigma_data}

    def draw_sigma(self, batch: Batch, generators: Sequence[Generator]) -> Tensor:
        """Noise levels [B] of a batch, an own generator for each item."""
        normal = torch.cat([torch.randn(1, generator=g) for g in generators])
        return losses.log_normal_sigma(normal, mean=self.p_mean, std=self.p_std)


@spec
class DiscreteTraining:
    """A network at the training steps t of a schedule, each as likely, drawn evenly over a batch (stratified).

    drop_condition: as in DiffusionTraining.
    """

    schedule: Literal["linear", "quadratic", "cosine"] = "linear"
    num_train_steps: Annotated[int, Ge(2)] = 1000
    drop_condition: Share = 0.1
    preview_samples: Annotated[int, Ge(1)] = 16
    preview_steps: Annotated[int, Ge(1)] = 18

    @property
    def sigma_data(self) -> float:
        """Of a basis, which such data does not have."""
        return 1.0

    @property
    def sigma_max(self) -> float:
        """Where previews start."""
        return 80.0

    @property
    def described(self) -> Mapping[str, object]:
        """What spec.json tells beside the model: see diffusion.preconditioning.from_plain."""
        return {"schedule": self.schedule, "num_train_steps": self.num_train_steps}

    def draw_sigma(self, batch: Batch, generators: Sequence[Generator]) -> Tensor:
        """Noise levels [B] of a batch, an own generator for each item."""
        return losses.stratified_discrete_sigma(
            schedules.named(self.schedule, self.num_train_steps), batch.indices, batch.batch_size, generators
        )


@spec
class PixelUNetSpec(UNetSpec):
    """The U-Net of digits whose rows are channels. It has one level: tables ask it some hundred million
    times.
    """

    dims: int = 1
    in_channels: int = 8
    out_channels: int = 8
    channels: int = 32
    multipliers: tuple[int, ...] = (1,)
    attention_levels: tuple[int, ...] = ()
    embedding_dim: int = 64


@spec
class PixelLoop(LoopSpec):
    """How the denoiser of pixels is stepped."""

    steps: int = 8000
    batch_size: int = 128
    learning_rate: float = 2e-3
    decay: Decay = "linear"
    ema_decay: float = 0.998
    log_every: int = 50
    checkpoint_every: int = 1000
    preview_every: int = 1000


@spec
class PixelTraining(DiscreteTraining):
    """A network of the noise (Ho et al. 2020, Eq. 14)."""

    model: PixelUNetSpec = PixelUNetSpec()
    loop: PixelLoop = PixelLoop()

    @property
    def preconditioning(self) -> Epsilon:
        return discrete_epsilon(self.schedule, self.num_train_steps)
