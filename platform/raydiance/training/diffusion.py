"""Training the denoiser of latents: EDM's preconditioning and loss. Karras et al. 2022, Table 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from raydiance.data.latents import RobustStatistics
from raydiance.diffusion import grids, plans, sampling, schedules
from raydiance.diffusion.preconditioning import EDM
from raydiance.errors import ConfigError
from raydiance.fields import VoxelField, orbit_cameras, render_views
from raydiance.models import FieldDecoder, UNet, UNetSpec, read_decoder, save_weights
from raydiance.spec import spec, to_plain
from raydiance.storage import ArtifactRef, write_json
from raydiance.tracking import Outcome, Run, Worker
from raydiance.training.loop import Batch, Decay, LoopSpec, Objective, fit
from raydiance.training.randomness import sample_generator, seeded
from raydiance.training.rates import rates_by_fan_in

__all__ = [
    "DiffusionLoop",
    "DiffusionObjective",
    "DiffusionTraining",
    "LatentUNetSpec",
    "train_diffusion",
]

REFERENCE_FAN_IN = (
    1024  # a 3 x 3 x 3 convolution of 38 channels; the global path's first layer has 4096 and more
)


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
    """

    model: LatentUNetSpec = LatentUNetSpec()
    loop: DiffusionLoop = DiffusionLoop()
    sigma_data: float = 1.0
    p_mean: float = 1.2
    p_std: float = 1.6
    preview_samples: int = 6
    preview_steps: int = 18
    preview_size: int = 64

    def __post_init__(self) -> None:
        if self.sigma_data <= 0 or self.p_std <= 0:
            raise ValueError(f"sigma_data and p_std must be positive, got {self.sigma_data} and {self.p_std}")


class DiffusionObjective(Objective):
    """The network against normalised latents [N, C, *] at random noise levels."""

    model: UNet

    def __init__(
        self,
        training: DiffusionTraining,
        latents: Tensor,
        seed: int,
        *,
        labels: Tensor | None = None,
        statistics: RobustStatistics | None = None,
        decoder: FieldDecoder | None = None,
    ) -> None:
        super().__init__()
        if latents.shape[1] != training.model.in_channels:
            raise ConfigError(
                f"train_diffusion.model.in_channels is {training.model.in_channels}, but the latents have "
                f"{latents.shape[1]} channels: set in_channels and out_channels to {latents.shape[1]}"
            )
        self.training_spec, self.edm = training, EDM(training.sigma_data)
        self.latents, self.labels = latents, labels
        self.statistics, self.decoder = statistics, [decoder] if decoder else []  # a list: not trained
        self.seed = seed
        with seeded(seed):
            self.model = UNet(training.model)

    def parameter_groups(self) -> Sequence[Mapping[str, Any]]:
        return rates_by_fan_in(self.model, REFERENCE_FAN_IN)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows, generators = batch.items(len(self.latents)), batch.generators()
        device = next(self.model.parameters()).device
        x_0 = self.latents[rows].to(device)
        normal = torch.cat([torch.randn(1, generator=g) for g in generators]).to(device)
        noise = torch.stack([torch.randn(x_0.shape[1:], generator=g) for g in generators]).to(device)
        sigma = (self.training_spec.p_mean + self.training_spec.p_std * normal).exp()
        condition = None if self.labels is None else self.labels[rows].to(device)
        return {"loss": self.edm.loss(self.model, x_0, sigma, noise, condition).mean()}

    @torch.no_grad()
    def preview(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Samples of the given weights, decoded and seen from one side; the same seeds at every step."""
        if not self.decoder or self.statistics is None:
            return {}
        training = self.training_spec
        network = UNet(training.model)
        network.load_state_dict(dict(weights))
        network.eval()
        schedule = schedules.edm()
        plan = plans.heun(schedule, grids.karras(schedule, training.preview_steps))
        x = plan.sigma_max * torch.stack(
            [
                torch.randn(self.latents.shape[1:], generator=sample_generator(self.seed, -2, index))
                for index in range(training.preview_samples)
            ]
        )
        latents = sampling.sample(self.edm.noise_predictor(network), plan, x)
        field = VoxelField(self.decoder[0](self.statistics.denormalise(latents.float())))
        camera = orbit_cameras(
            1, size=training.preview_size, radius=3.0, fov_degrees=40.0, elevation_degrees=25.0
        )
        views = render_views(field, camera, num_samples=64).colour[:, 0]
        sheet = views.permute(1, 0, 2, 3).reshape(training.preview_size, -1, 3)
        return {"samples": (sheet.clamp(0, 1) * 255).round().byte().numpy()}


@dataclass(frozen=True)
class Payload:
    """What a worker needs to train; it can be pickled."""

    training: DiffusionTraining
    latents: ArtifactRef
    autodecoder: ArtifactRef | None
    run_name: str
    seed: int


def train_diffusion(training: DiffusionTraining, run: Run) -> Outcome:
    """Train on inputs["encode"]: artifact kind "denoiser" (averaged weights, spec).

    With inputs["train_autodecoder"] samples are decoded and shown while training.
    """
    latents, autodecoder = run.inputs["encode"], run.inputs.get("train_autodecoder")
    run.tracker.log_params(to_plain(training))
    run.tracker.log_input(latents, "training")
    payload = Payload(training, latents.ref, autodecoder.ref if autodecoder else None, run.name, run.seed)
    ref = run.launch(_train, payload)
    assert ref is not None, "rank 0 writes the artifact"
    artifact = run.store.get(ref)
    metrics = artifact.read_json("metrics.json")
    run.tracker.log_metrics(metrics)
    return Outcome(artifact, metrics)


def _train(payload: Payload, worker: Worker) -> ArtifactRef | None:
    training, artifact = payload.training, worker.store.get(payload.latents)
    raw = load_file(artifact.path("latents.safetensors"))
    statistics = RobustStatistics(raw["center"], raw["scale"])
    described = artifact.read_json("latents.json")
    classes = sorted(set(described["categories"]))
    decoder = None
    if payload.autodecoder:
        trained = worker.store.get(payload.autodecoder)
        decoder = read_decoder(trained.path("spec.json"), trained.path("weights.safetensors"))
    objective = DiffusionObjective(
        training,
        statistics.normalise(raw["latents"]),
        payload.seed,
        labels=_labels(training, described["categories"], classes),
        statistics=statistics,
        decoder=decoder,
    )
    state = fit(objective, training.loop, worker=worker, run_name=payload.run_name, seed=payload.seed)
    if worker.rank > 0:
        return None
    objective.model.load_state_dict(state.averaged())
    with worker.store.create(
        "denoiser",
        payload.run_name,
        spec=training,
        seeds={"seed": payload.seed},
        parents=[payload.latents],
        meta={"step": state.step},
    ) as draft:
        save_weights(draft.path("weights.safetensors"), state.averaged())
        write_json(
            draft.path("spec.json"),
            {"model": to_plain(training.model), "sigma_data": training.sigma_data, "classes": classes},
        )
        write_json(draft.path("metrics.json"), {"denoising_loss": denoising_loss(objective)})
    return draft.artifact.ref


@torch.no_grad()
def denoising_loss(objective: DiffusionObjective, *, num_batches: int = 8, batch_size: int = 32) -> float:
    """The averaged network's loss, over fixed draws: comparable between runs on the same latents."""
    objective.model.eval()
    losses = [
        float(objective(Batch(-1, step, range(batch_size), batch_size))["loss"])
        for step in range(num_batches)
    ]
    return sum(losses) / num_batches


def _labels(training: DiffusionTraining, categories: list[str], classes: list[str]) -> Tensor | None:
    if not training.model.num_classes:
        return None
    if training.model.num_classes != len(classes):
        raise ConfigError(
            f"train_diffusion.model.num_classes is {training.model.num_classes}, but the latents have the "
            f"{len(classes)} categories {classes}: set it to {len(classes)}, or to 0"
        )
    return torch.tensor([classes.index(category) for category in categories])
