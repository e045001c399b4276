"""Training a denoiser: of latents with EDM's preconditioning, of pixels towards the noise as in DDPM, of
radiance fields towards the fields themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from raydiance.data.fieldsets import FieldCode
from raydiance.data.latents import RobustStatistics
from raydiance.data.views import ViewDataset
from raydiance.diffusion import grids, plans, sampling, schedules
from raydiance.diffusion.preconditioning import expand
from raydiance.errors import ConfigError
from raydiance.fields import VoxelField, orbit_cameras, render_views, turntable
from raydiance.generation.radiance import RadianceModel
from raydiance.models import (
    Condition,
    FieldDecoder,
    GaussianPath,
    UNet,
    read_decoder,
    save_weights,
)
from raydiance.spec import to_plain
from raydiance.storage import Artifact, ArtifactRef, Draft, Store, write_json
from raydiance.tracking import Outcome, Run, Worker
from raydiance.training.batches import Batch
from raydiance.training.claim_draws import DrawSpec, judge_fields
from raydiance.training.denoisers import DiffusionTraining, PixelTraining
from raydiance.training.jobs import Payload, fit_and_keep, launch
from raydiance.training.loop import Objective
from raydiance.training.precision import exact
from raydiance.training.radiance import RadianceTraining, ViewLoss
from raydiance.training.randomness import sample_generator, seeded
from raydiance.training.rates import rates_by_fan_in
from raydiance.training.texts import read_texts
from raydiance.training.yardstick import relative_error

__all__ = ["DiffusionObjective", "train_diffusion"]

Training: TypeAlias = DiffusionTraining | PixelTraining | RadianceTraining
Show: TypeAlias = Callable[[Tensor], dict[str, NDArray[np.uint8]]]
Judged: TypeAlias = Callable[[UNet], dict[str, float]]

EXAMINED = 32  # items of the data
DRAWN = DrawSpec(num_samples=48, calls=16)  # of fields, to be examined
FRAMES = 24  # of a turntable
REFERENCE_FAN_IN = (
    1024  # a 3 x 3 x 3 convolution of 38 channels; the global path's first layer has 4096 and more
)


class DiffusionObjective(Objective):
    """The network against normalised latents [N, C, *] at random noise levels.

    show: makes pictures and films of denoised samples [B, C, *]; without it there are no previews. view_loss: of
    the estimate of the data at a noise level, beside the loss on the data itself, with its weight. judged: tells
    how good the samples of a network are, to compare trainings.
    """

    model: UNet

    def __init__(
        self,
        training: Training,
        latents: Tensor,
        seed: int,
        *,
        labels: Tensor | None = None,
        tokens: Tensor | None = None,
        show: Show | None = None,
        view_loss: ViewLoss | None = None,
        judged: Judged | None = None,
    ) -> None:
        super().__init__()
        if latents.ndim != training.model.dims + 2 or latents.shape[1] != training.model.in_channels:
            raise ConfigError(
                f"train_diffusion.model takes {training.model.in_channels} channels in {training.model.dims} "
                f"dimensions, but the data is {list(latents.shape)}: set dims to {latents.ndim - 2}, in_channels "
                f"and out_channels to {latents.shape[1]}"
            )
        self.training_spec, self.preconditioning = training, training.preconditioning
        self.latents, self.labels, self.tokens, self.show = latents, labels, tokens, show
        self.seed, self.view_loss, self.judged = seed, view_loss, judged
        with seeded(seed):
            self.model = UNet(training.model)
        if isinstance(self.model.whole, GaussianPath):
            self.model.whole.fit(latents.flatten(1), training.sigma_data)

    def parameter_groups(self) -> Sequence[Mapping[str, Any]]:
        return rates_by_fan_in(self.model, REFERENCE_FAN_IN)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows, generators = batch.items(len(self.latents)), batch.generators()
        device = next(self.model.parameters()).device
        x_0 = self.latents[rows].to(device)
        sigma = self.training_spec.draw_sigma(batch, generators).to(device)
        noise = torch.stack([torch.randn(x_0.shape[1:], generator=g) for g in generators]).to(device)
        condition = self._told(rows, generators, device)
        error, denoised = self.preconditioning.loss_and_denoised(
            self.model, x_0, sigma, noise, condition, error=self._error
        )
        if self.view_loss is None:
            return {"loss": error.mean()}
        with exact(device):
            seen = self.view_loss(denoised.float(), sigma, rows, generators).mean()
        loss = error.mean() + self.view_loss.rendering.weight * seen
        return {"loss": loss, "field": error.mean().detach(), "views": seen.detach()}

    def _told(
        self, rows: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
    ) -> Condition | None:
        """Classes and texts of the rows; some rows are told nothing."""
        if self.labels is None and self.tokens is None:
            return None
        chance = torch.cat([torch.rand(1, generator=g) for g in generators])
        silent, labels, tokens = chance < self.training_spec.drop_condition, None, None
        if self.labels is not None:
            none = self.training_spec.model.num_classes
            labels = torch.where(silent, none, self.labels[list(rows)]).to(device)
        if self.tokens is not None:
            told = self.tokens[list(rows)]
            tokens = torch.where(expand(silent, told), 0, told).to(device)
        return Condition(labels, tokens=tokens)

    def _error(self, residual: Tensor, sigma: Tensor) -> Tensor:
        """The squared error [B]: along principal directions, if there are any, and where convolutions act."""
        whole, flat = self.model.whole, residual.flatten(1)
        if not isinstance(whole, GaussianPath):
            return flat.square().mean(1)
        along: Tensor = whole.error(flat, sigma)
        return along + flat.square().mean(1) if self.training_spec.model.multipliers else along

    @torch.no_grad()
    def examine(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """The error over noise levels that are the same for every training of the same data; of fields, how far
        samples are from the objects, too.
        """
        device, count = next(self.model.parameters()).device, len(self.latents)
        network = UNet(self.training_spec.model).to(device)
        network.load_state_dict(dict(weights))
        network.eval()
        rows = sorted({row * count // EXAMINED for row in range(EXAMINED)})
        labels, tokens = (
            None if told is None else told[rows].to(device) for told in (self.labels, self.tokens)
        )
        denoise = partial(self.preconditioning.denoise, network, condition=Condition(labels, tokens=tokens))
        error = relative_error(denoise, self.latents[rows].float().to(device))
        return {"denoising_error": error, **(self.judged(network) if self.judged else {})}

    @torch.no_grad()
    def preview(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Pictures of samples of the given weights; the same seeds at every step."""
        if self.show is None:
            return {}
        training = self.training_spec
        network = UNet(training.model)
        network.load_state_dict(dict(weights))
        network.eval()
        schedule = schedules.edm(sigma_max=training.sigma_max)
        plan = plans.heun(schedule, grids.karras(schedule, training.preview_steps))
        x = plan.sigma_max * torch.stack(
            [
                torch.randn(self.latents.shape[1:], generator=sample_generator(self.seed, -2, index))
                for index in range(training.preview_samples)
            ]
        )
        return self.show(sampling.sample(self.preconditioning.noise_predictor(network), plan, x))


def train_diffusion(training: Training, run: Run) -> Outcome:
    """Train on the input of kind "latents": artifact kind "denoiser" (averaged weights, spec).

    With inputs["train_autodecoder"] samples are decoded and shown while training; pixels and fields are shown
    as they are. The rendering loss of fields takes its views from inputs["render"].
    """
    beside = {stage: run.inputs[stage] for stage in ("train_autodecoder", "render") if stage in run.inputs}
    artifact = launch(_train, training, run, {"latents": run.input_of("latents")}, beside=beside)
    metrics = artifact.read_json("metrics.json")
    run.tracker.log_metrics(metrics)
    return Outcome(artifact, metrics)


def _train(payload: Payload[Training], worker: Worker) -> ArtifactRef | None:
    training, made = payload.spec, _objective(payload, worker.store, worker.device)

    def write(draft: Draft) -> None:
        save_weights(draft.path("weights.safetensors"), made.objective.model.state_dict())
        told = {"model": to_plain(training.model), "classes": made.classes, "words": list(made.words)}
        write_json(draft.path("spec.json"), {**told, **training.described})
        write_json(draft.path("metrics.json"), {"denoising_loss": denoising_loss(made.objective)})

    return fit_and_keep("denoiser", made.objective, training.loop, payload, worker, write, validate)


@dataclass(frozen=True)
class _Made:
    """What is trained, and the classes and words that it is told."""

    objective: DiffusionObjective
    classes: Sequence[str]
    words: Sequence[str]


def _objective(payload: Payload[Training], store: Store, device: torch.device) -> _Made:
    training, artifact = payload.spec, store.get(payload.parents["latents"])
    raw = load_file(artifact.path("latents.safetensors"))
    statistics = RobustStatistics(raw["center"], raw["scale"])
    described = artifact.read_json("latents.json")
    classes = sorted(set(described["categories"]))
    embeddings = training.embeddings if isinstance(training, DiffusionTraining) else None
    texts = read_texts(training.model, embeddings, described)
    beside = {stage: store.get(ref) for stage, ref in payload.beside.items()}
    views = ViewDataset(beside["render"]) if "render" in beside else None
    objective = DiffusionObjective(
        training,
        statistics.normalise(raw["latents"]),
        payload.seed,
        labels=_labels(training, described["categories"], classes),
        tokens=texts.tokens,
        show=_show(training, artifact, beside.get("train_autodecoder")),
        view_loss=_view_loss(training, artifact, views, device),
        judged=_judged(training, artifact, views, device),
    )
    return _Made(objective, classes, texts.words)


def validate(
    payload: Payload[Training], store: Store, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, float]:
    """The loss at noise and levels that are always the same; of data that it is trained on, since all there is
    is that.
    """
    objective = _objective(payload, store, device).objective
    objective.model.load_state_dict(dict(weights))
    objective.model.to(device)
    return {"loss_on_training_data": denoising_loss(objective)}


@torch.no_grad()
def denoising_loss(objective: DiffusionObjective, *, num_batches: int = 8, batch_size: int = 32) -> float:
    """The averaged network's loss, over fixed draws: comparable between runs on the same latents."""
    objective.model.eval()
    losses = [
        float(objective(Batch(-1, step, range(batch_size), batch_size))["loss"])
        for step in range(num_batches)
    ]
    return sum(losses) / num_batches


def _labels(training: Training, categories: list[str], classes: list[str]) -> Tensor | None:
    if not training.model.num_classes:
        return None
    if training.model.num_classes != len(classes):
        raise ConfigError(
            f"train_diffusion.model.num_classes is {training.model.num_classes}, but the latents have the "
            f"{len(classes)} categories {classes}: set it to {len(classes)}, or to 0"
        )
    return torch.tensor([classes.index(category) for category in categories])


def _show(training: Training, latents: Artifact, autodecoder: Artifact | None) -> Show | None:
    """How samples are shown: pixels and fields as they are, latents through their decoder, which is not
    trained here.
    """
    if isinstance(training, PixelTraining):
        return pixel_sheet
    if isinstance(training, RadianceTraining):
        return partial(_views, FieldCode.of(latents).decode, training.preview_size)
    if autodecoder is None:
        return None
    decoder = read_decoder(autodecoder.path("spec.json"), autodecoder.path("weights.safetensors"))
    statistics = RobustStatistics.load(latents.path("latents.safetensors"))
    decode = partial(_decoded, decoder.requires_grad_(False), statistics)
    return partial(_views, decode, training.preview_size)


def _decoded(decoder: FieldDecoder, statistics: RobustStatistics, latents: Tensor) -> VoxelField:
    return VoxelField(decoder(statistics.denormalise(latents.float())))


def _views(
    decode: Callable[[Tensor], VoxelField], size: int, latents: Tensor
) -> dict[str, NDArray[np.uint8]]:
    """Decoded latents seen from one side, beside each other, [size, B size, 3], and the first of them turning."""
    field = decode(latents)
    camera = orbit_cameras(1, size=size, radius=3.0, fov_degrees=40.0, elevation_degrees=25.0)
    views = render_views(field, camera, num_samples=64).colour[:, 0]
    sheet = views.permute(1, 0, 2, 3).reshape(size, -1, 3)
    film = turntable(field[0], num_frames=FRAMES, size=size, num_samples=64)
    return {"samples": (sheet.clamp(0, 1) * 255).round().byte().numpy(), "turntable": film}


def _view_loss(
    training: Training, latents: Artifact, views: ViewDataset | None, device: torch.device
) -> ViewLoss | None:
    """The rendering loss that the spec asks for. Raises ConfigError without views of the same objects."""
    if not isinstance(training, RadianceTraining) or training.rendering.weight == 0:
        return None
    if views is None:
        raise ConfigError(
            "train_diffusion.rendering.weight > 0 compares with views, and there is no input render: name it as "
            "--input render=KEY, or set the weight to 0"
        )
    return ViewLoss(training.rendering, FieldCode.of(latents, device), views, _objects(latents, views))


def _judged(
    training: Training, latents: Artifact, views: ViewDataset | None, device: torch.device
) -> Judged | None:
    """What looks at samples of fields, where there are views to hold them against."""
    if not isinstance(training, RadianceTraining) or views is None:
        return None
    schedule = schedules.named(training.schedule, training.num_train_steps)
    code = FieldCode.of(latents, device)

    def judged(network: UNet) -> dict[str, float]:
        model = RadianceModel(network, training.preconditioning, schedule, code, device)
        return judge_fields(DRAWN, model, views, _objects(latents, views))

    return judged


def _objects(latents: Artifact, views: ViewDataset) -> list[int]:
    """The index among the views of each latent's object."""
    places = {name: index for index, name in enumerate(views.object_ids)}
    return [places[name] for name in latents.read_json("latents.json")["object_ids"]]


def pixel_sheet(pixels: Tensor) -> dict[str, NDArray[np.uint8]]:
    """Grey images with ink from -1 to 1, [B, H, W] or [B, 1, H, W], beside each other: [H, B W, 3]."""
    images = pixels.float().reshape(len(pixels), *pixels.shape[-2:])
    sheet = torch.cat(list(((1 - images) / 2).clamp(0, 1)), dim=1)
    return {"samples": (sheet * 255).round().byte()[..., None].expand(*sheet.shape, 3).contiguous().numpy()}
