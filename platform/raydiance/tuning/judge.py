"""How good a plan is on a trained denoiser.

Two numbers, because neither does alone. `error` is how far a plan's samples end from those of a fine-step
teacher on the same noises, relative to the spread of the samples: what the sampler owes to the network it is
given. The noises are paired, so a few dozen suffice; but a plan that draws noise of its own ends elsewhere by
design. `frechet` is a Frechet distance between a plan's samples and the training latents, in their leading
principal components and the length of the rest: it judges every plan, and it is noisy at small numbers, hence
its spread.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from raydiance.diffusion import NoisePredictor, Preconditioning, preconditioning, sampling
from raydiance.diffusion.plans import SamplingPlan
from raydiance.generation import noise_generator
from raydiance.generation.assemble import read_latents
from raydiance.metrics import frechet_distance, frechet_spread
from raydiance.models import UNet, read_unet
from raydiance.storage import ArtifactRef, Store

__all__ = ["Features", "Judge", "Score", "load_judge"]

FIRST_SEED = 1_000_000  # noises that no one looks at: samples people ask for have small seeds


@dataclass(frozen=True)
class Score:
    """error: None for a stochastic plan. frechet_spread: its bootstrap standard error. call_ms: per network
    call and sample, in a batch.
    """

    error: float | None
    frechet: float
    frechet_spread: float
    call_ms: float


@dataclass(frozen=True)
class Features:
    """Latents [N, ...] as their leading principal components and the length of what is left, over their
    spread.
    """

    mean: Tensor
    basis: Tensor  # [F, K], orthonormal columns
    scale: float

    @classmethod
    def fit(cls, latents: Tensor, components: int) -> "Features":
        """The leading directions of latents [N, ...]; at most N - 1 of them."""
        flat = latents.flatten(1).double()
        mean = flat.mean(0)
        _, _, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        count = min(components, len(flat) - 1)
        scale = float((flat - mean).square().sum(1).mean().sqrt())
        return cls(mean, directions[:count].T, scale)

    def __call__(self, latents: Tensor) -> Tensor:
        """[N, ...] -> [N, K + 1]."""
        centred = latents.flatten(1).double() - self.mean
        leading = centred @ self.basis
        rest = (centred - leading @ self.basis.T).norm(dim=1, keepdim=True)
        return torch.cat([leading, rest], dim=1) / self.scale


@dataclass(frozen=True, eq=False)
class Judge:
    """A denoiser with the noises to try plans on, and what their samples are held against."""

    network: UNet
    preconditioning: Preconditioning
    shape: tuple[int, ...]
    num_samples: int
    batch_size: int
    features: Features
    reference: Tensor  # features of the training latents
    teacher: Tensor | None = None  # samples [N, ...] of the teacher

    @torch.inference_mode()
    def draw(self, plan: SamplingPlan, rows: range | None = None) -> Tensor:
        """The plan's samples [N, ...] on the judge's noises; noise i is the same for every plan."""
        rows = rows or range(self.num_samples)
        samples = []
        for start in range(rows.start, rows.stop, self.batch_size):
            chosen = range(start, min(start + self.batch_size, rows.stop))
            generators = [noise_generator(FIRST_SEED + row) for row in chosen]
            x = plan.start(_noise(self.shape, generators))
            samples.append(sampling.sample(self.predictor(chosen), plan, x, generator=generators))
        return torch.cat(samples)

    def noise(self, rows: range) -> Tensor:
        """The noises of these rows, [n, ...]."""
        return _noise(self.shape, [noise_generator(FIRST_SEED + row) for row in rows])

    def predictor(self, rows: range) -> NoisePredictor:
        """The denoiser, asked about these rows at once; their classes take turns, if it knows classes."""
        classes = self.network.spec.num_classes
        labels = torch.tensor([row % classes for row in rows]) if classes else None
        return self.preconditioning.noise_predictor(self.network, labels)

    def score(self, plan: SamplingPlan) -> Score:
        """Sample with the plan and judge what comes out."""
        began = time.perf_counter()
        samples = self.draw(plan)
        call_s = (time.perf_counter() - began) / (plan.nfe * self.num_samples)
        frechet, spread = self.frechet(samples)
        error = None if plan.is_stochastic or self.teacher is None else self.error(samples)
        return Score(error, frechet, spread, 1e3 * call_s)

    def error(self, samples: Tensor) -> float:
        """Root mean square distance from the teacher's samples, over their spread round their mean."""
        assert self.teacher is not None, "a judge without a teacher has no error to tell"
        spread = (self.teacher - self.teacher.mean(0)).square().mean().sqrt()
        return float((samples - self.teacher).square().mean().sqrt() / spread)

    def frechet(self, samples: Tensor) -> tuple[float, float]:
        """The Frechet distance to the training latents and its standard error over resampled samples."""
        features = self.features(samples)
        return frechet_distance(features, self.reference), frechet_spread(features, self.reference)


@lru_cache(maxsize=1)
def load_judge(
    store: Store,
    denoiser: ArtifactRef,
    latents: ArtifactRef,
    num_samples: int,
    batch_size: int,
    components: int,
    teacher: Sequence[ArtifactRef] = (),
) -> Judge:
    """The judge of a trained denoiser, once per process; `teacher` holds the parts of the teacher's
    samples.
    """
    trained, encoded = store.get(denoiser), read_latents(store.get(latents))
    network = read_unet(trained.path("spec.json"), trained.path("weights.safetensors")).requires_grad_(False)
    normalised = encoded.statistics.normalise(encoded.raw)
    features = Features.fit(normalised, components)
    return Judge(
        network=network,
        preconditioning=preconditioning.from_plain(trained.read_json("spec.json")),
        shape=tuple(normalised.shape[1:]),
        num_samples=num_samples,
        batch_size=batch_size,
        features=features,
        reference=features(normalised),
        teacher=_read_samples(store, teacher) if teacher else None,
    )


def _noise(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=each) for each in generators])


def _read_samples(store: Store, parts: Sequence[ArtifactRef]) -> Tensor:
    from safetensors.torch import load_file

    return torch.cat([load_file(store.get(part).path("samples.safetensors"))["samples"] for part in parts])
