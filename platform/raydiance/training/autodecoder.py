"""Training the autodecoder: codes and decoder together, from views alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydiance.data.views import ViewDataset
from raydiance.errors import ConfigError
from raydiance.fields import Rays, Rendering, VoxelField, render, render_views
from raydiance.generation.measure import evenly
from raydiance.metrics import VggPyramid, psnr, read_vgg, ssim
from raydiance.models import Autodecoder, AutodecoderSpec, save_weights
from raydiance.spec import spec, to_plain
from raydiance.storage import ArtifactRef, Draft, PretrainedSpec, Store, pretrained_file, write_json
from raydiance.tracking import Outcome, Run, Worker
from raydiance.training.batches import Batch
from raydiance.training.jobs import Payload, fit_and_keep, launch
from raydiance.training.loop import LoopSpec, Objective
from raydiance.training.losses import (
    density_sparsity,
    pyramid_l1,
    structural_dissimilarity,
    total_variation,
)
from raydiance.training.precision import exact
from raydiance.training.randomness import seeded
from raydiance.training.rates import rates_by_fan_in

__all__ = [
    "AutodecoderLoop",
    "AutodecoderLosses",
    "AutodecoderObjective",
    "AutodecoderTraining",
    "held_out_psnr",
    "held_out_scores",
    "train_autodecoder",
]

# beside the training; the artifact tells of all
VALIDATED_OBJECTS, VALIDATED_VIEWS, VALIDATED_RAYS = 16, 2, 2**19
REFERENCE_FAN_IN = 64  # by experiment: 128 was as good, no scaling at all was worse once there are blocks


@spec
class AutodecoderLosses:
    """The weight of each term; 0 leaves it out.

    vgg: of the perceptual pyramid of VGG-19, if its weights are given (AutodecoderTraining.vgg_weights); then
    pyramid_l1 and structure, which stand for it where they are not, have no effect.
    """

    squared: float = 10.0
    vgg: float = 0.0
    pyramid_l1: float = 0.0
    structure: float = 0.0
    opacity: float = 0.3
    total_variation: float = 0.0
    sparsity: float = 0.0
    codes: float = 0.0
    latents: float = 0.005
    pyramid_levels: int = 3


@spec
class AutodecoderLoop(LoopSpec):
    """How the autodecoder is stepped."""

    steps: int = 2000
    batch_size: int = 4
    learning_rate: float = 1e-2
    betas: tuple[float, float] = (0.7, 0.99)


@spec
class AutodecoderTraining:
    """The autodecoder, what it sees of each object at a step, and how it is stepped.

    From each of `views_per_object` views a lattice of every `pixel_stride`-th pixel is rendered, at a random
    offset: an image of its own, so that image losses apply to it.
    vgg_weights: of VGG-19, see metrics.vgg; without them losses.vgg has no effect, and runs and reports say so.
    """

    model: AutodecoderSpec = AutodecoderSpec()
    losses: AutodecoderLosses = AutodecoderLosses()
    loop: AutodecoderLoop = AutodecoderLoop()
    views_per_object: int = 4
    pixel_stride: int = 2
    num_samples: int = 40
    code_rate: float = 1.0  # learning rate of the codes, relative to that of the network
    latent_noise: float = 0.15  # deviation on latents while training: what the denoiser leaves must not show
    preview_objects: int = 6
    vgg_weights: PretrainedSpec | None = None

    def __post_init__(self) -> None:
        if self.vgg_weights and not self.losses.vgg:
            raise ValueError("vgg_weights have no effect while losses.vgg is 0: raise it (published: 10)")
        for name in ("views_per_object", "pixel_stride", "num_samples", "preview_objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def image_loss(self) -> str:
        """What images are compared by, in words."""
        losses = self.losses
        pyramid = {"pyramid of L1": losses.pyramid_l1, "structural similarity": losses.structure}
        terms = {"squared error": losses.squared}
        terms |= {"VGG-19 pyramid": losses.vgg} if self.vgg_weights else pyramid
        return " + ".join(name for name, weight in terms.items() if weight) or "none"


@dataclass(frozen=True)
class Lattice:
    """Some of an object's pixels: rays [N], the true RGBA [V, h, w, 4] in [0, 1], one jitter per ray [N]."""

    rays: Rays
    rgba: Tensor
    jitter: Tensor


class AutodecoderObjective(Objective):
    """Rendered views of decoded codes against the true views."""

    model: Autodecoder

    def __init__(
        self,
        training: AutodecoderTraining,
        views: ViewDataset,
        seed: int,
        *,
        objects: Sequence[int] | None = None,
        model: Autodecoder | None = None,
    ) -> None:
        """objects: of the data set, those that the codes stand for (None: the training objects)."""
        super().__init__()
        self.training_spec, self.views = training, views
        self.objects = [int(index) for index in (views.train_objects if objects is None else objects)]
        self.train_views = torch.as_tensor(np.asarray(views.train_views))
        weights = training.vgg_weights
        self.vgg: VggPyramid | None = read_vgg(pretrained_file(weights)) if weights else None
        with seeded(seed):
            self.model = model or Autodecoder(training.model, len(self.objects))

    def parameter_groups(self) -> Sequence[Mapping[str, Any]]:
        rate = self.training_spec.code_rate
        return rates_by_fan_in(
            self.model, REFERENCE_FAN_IN, factors={"codes.weight": rate, "codes.tables": rate}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows, generators = batch.items(len(self.objects)), batch.generators()
        device = next(self.model.parameters()).device
        codes = self.model.codes(torch.tensor(rows, device=device))
        latents = self.model.latent(codes)
        noisy = latents + self._latent_noise(latents, generators)
        grid = self.model.decode(noisy)
        with exact(device):
            return self._compared(grid.float(), latents.float(), codes, rows, generators)

    def _compared(
        self,
        grid: Tensor,
        latents: Tensor,
        codes: Tensor,
        rows: Sequence[int],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """The losses of the fields [B, R, R, R, 4] of the rows."""
        device = grid.device
        with self.loading.running():
            lattices = [self._lattice(self.objects[row], g) for row, g in zip(rows, generators, strict=True)]
            origins, directions, jitter = (
                torch.stack(parts).to(device)
                for parts in zip(
                    *[(part.rays.origins, part.rays.directions, part.jitter) for part in lattices]
                )
            )
            truth = torch.stack([part.rgba for part in lattices]).to(device)
        rendering = render(
            VoxelField(grid),
            Rays(origins, directions),
            num_samples=self.training_spec.num_samples,
            jitter=jitter,
        )
        terms = self._image_terms(rendering, truth) | self._penalties(grid, latents, codes)
        weights = to_plain(self.training_spec.losses)
        return {"loss": sum((weights[k] * v for k, v in terms.items()), torch.zeros(()))} | {
            name: term.detach() for name, term in terms.items()
        }

    def _image_terms(self, rendering: Rendering, truth: Tensor) -> dict[str, Tensor]:
        """truth [B, V, h, w, 4], straight alpha; compared over white."""
        losses = self.training_spec.losses
        image = rendering.colour.reshape(*truth.shape[:-1], 3)
        alpha = truth[..., 3:]
        target = truth[..., :3] * alpha + (1 - alpha)
        terms = {
            "squared": (image - target).square().mean(),
            "opacity": (rendering.opacity.reshape(alpha.shape) - alpha).abs().mean(),
        }
        if self.vgg is not None:
            planes = (each.flatten(0, 1).permute(0, 3, 1, 2) for each in (image, target))
            return terms | {"vgg": self.vgg(*planes)}
        if losses.pyramid_l1:
            terms["pyramid_l1"] = pyramid_l1(image, target, losses.pyramid_levels)
        if losses.structure:
            terms["structure"] = structural_dissimilarity(image, target)
        return terms

    def _penalties(self, grid: Tensor, latents: Tensor, codes: Tensor) -> dict[str, Tensor]:
        losses, cell = self.training_spec.losses, 2 / (grid.shape[1] - 1)
        terms = {"codes": codes.square().mean(), "latents": latents.square().mean()}
        if losses.total_variation:
            terms["total_variation"] = total_variation(grid, cell)
        if losses.sparsity:
            terms["sparsity"] = density_sparsity(grid, cell)
        return terms

    def _latent_noise(self, latents: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        if not self.training_spec.latent_noise:
            return torch.zeros((), device=latents.device)
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators])
        return self.training_spec.latent_noise * noise.to(latents.device)

    def _lattice(self, index: int, generator: torch.Generator) -> Lattice:
        """Random views of one object, each with its own offset of the lattice."""
        stride, size = self.training_spec.pixel_stride, self.views.size
        count = min(self.training_spec.views_per_object, len(self.train_views))
        chosen = self.train_views[torch.randperm(len(self.train_views), generator=generator)[:count]]
        offset = torch.randint(stride, (2, count, 1, 1), generator=generator)
        steps = torch.arange(0, size - stride + 1, stride)
        rows, columns = steps[:, None] + offset[0], steps[None, :] + offset[1]
        rays = self.views.cameras(index).pixel_rays(chosen[:, None, None], columns, rows)
        images = self.views.images(index, chosen.numpy())
        rgba = images[torch.arange(count)[:, None, None], rows, columns].float() / 255
        flat = rays.reshape(-1)
        return Lattice(flat, rgba, torch.rand(flat.shape, generator=generator))

    @torch.no_grad()
    def preview(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """The first objects from a view never trained on: the truth above, the rendering below."""
        count = min(self.training_spec.preview_objects, len(self.objects))
        pairs = [
            torch.cat(
                held_out_pair(self.model, row, index, self.views, slice(0, 1), self.training_spec.num_samples)
            )
            for row, index in enumerate(self.objects[:count])
        ]
        columns = [pair.permute(0, 2, 3, 1).reshape(-1, self.views.size, 3) for pair in pairs]
        sheet = (torch.cat(columns, dim=1).clamp(0, 1) * 255).round().byte().numpy()
        return {"held_out_views": sheet}


def held_out_pair(
    model: Autodecoder,
    row: int,
    index: int,
    views: ViewDataset,
    which: slice | list[int],
    num_samples: int,
) -> tuple[Tensor, Tensor]:
    """True and rendered images [V, 3, H, W], over white, of held-out views of object `index` with code `row`."""
    chosen = np.asarray(views.held_out_views)[which]
    rgba = views.images(index, chosen).float() / 255
    truth = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
    device = next(model.parameters()).device
    field = VoxelField(model(torch.tensor([row], device=device)))
    shown = render_views(
        field, views.cameras(index)[torch.from_numpy(chosen)].to(device), num_samples=num_samples
    ).colour[0]
    return truth.permute(0, 3, 1, 2), shown.cpu().permute(0, 3, 1, 2)


@torch.no_grad()
def held_out_scores(
    model: Autodecoder, objects: Sequence[int], views: ViewDataset, num_samples: int
) -> list[dict[str, object]]:
    """A row for each of the objects that have a code: PSNR in dB and SSIM, the means over its held-out views."""
    model.eval()
    rows: list[dict[str, object]] = []
    for row, index in enumerate(objects):
        truth, shown = held_out_pair(model, row, index, views, slice(None), num_samples)
        scores = {"psnr": float(psnr(shown, truth).mean()), "ssim": float(ssim(shown, truth).mean())}
        rows.append({"object": views.object_ids[index], **scores})
    return rows


def train_autodecoder(training: AutodecoderTraining, run: Run) -> Outcome:
    """Train on the training objects of inputs["render"]: an "autodecoder" (weights, spec, scores)."""
    run.tracker.set_tags({"image_loss": training.image_loss})
    artifact = launch(_train, training, run, {"views": run.inputs["render"]})
    table = artifact.read_json("held_out.json")
    metrics = {f"{key}_held_out": float(np.mean([row[key] for row in table])) for key in ("psnr", "ssim")}
    run.tracker.log_metrics(metrics)
    return Outcome(artifact, metrics, {"held_out": table})


def _train(payload: Payload[AutodecoderTraining], worker: Worker) -> ArtifactRef | None:
    training, artifact = payload.spec, worker.store.get(payload.parents["views"])
    views = ViewDataset(artifact)
    if len(views.train_objects) == 0 or len(views.train_views) == 0:
        raise ConfigError(
            f"{artifact.ref.key}: it has {len(views.train_objects)} training objects and "
            f"{len(views.train_views)} training views, and needs both: lower the share that is held out"
        )
    objective = AutodecoderObjective(training, views, payload.seed)

    def write(draft: Draft) -> None:
        model, objects = objective.model, objective.objects
        described = {
            "model": to_plain(training.model),
            "image_loss": training.image_loss,
            "num_objects": len(objects),
            "object_ids": [views.object_ids[index] for index in objects],
            "categories": [views.categories[index] for index in objects],
            "captions": [views.captions[index] for index in objects],
        }
        save_weights(draft.path("weights.safetensors"), model.state_dict())
        write_json(draft.path("spec.json"), described)
        write_json(draft.path("held_out.json"), held_out_scores(model, objects, views, training.num_samples))

    return fit_and_keep("autodecoder", objective, training.loop, payload, worker, write, validate)


def validate(
    payload: Payload[AutodecoderTraining], store: Store, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, float]:
    """See held_out_psnr; of these weights."""
    views, training = ViewDataset(store.get(payload.parents["views"])), payload.spec
    objects = [int(index) for index in views.train_objects]
    model = Autodecoder(training.model, len(objects))
    model.load_state_dict(dict(weights))
    return held_out_psnr(model.to(device), objects, views, training.num_samples)


@torch.no_grad()
def held_out_psnr(
    model: Autodecoder, objects: Sequence[int], views: ViewDataset, num_samples: int
) -> dict[str, float]:
    """PSNR in dB, the mean over VALIDATED_VIEWS held-out views of some objects that have a code: always the
    same ones, with at most VALIDATED_RAYS in all (or one object); nothing, if no view is held out.
    """
    which = evenly(VALIDATED_VIEWS, len(views.held_out_views))
    if not which:
        return {}
    count = max(1, VALIDATED_RAYS // (len(which) * views.size**2))
    model.eval()
    pairs = [
        held_out_pair(model, row, objects[row], views, which, num_samples)
        for row in evenly(min(count, VALIDATED_OBJECTS), len(objects))
    ]
    return {"psnr": float(torch.cat([psnr(shown, truth) for truth, shown in pairs]).mean())}
