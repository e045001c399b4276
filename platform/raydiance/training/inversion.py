"""Inversion: codes or latents of objects that the autodecoder has never seen, found by optimisation from views.

The networks stay as they are. What is found is judged on the held-out views of each object.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raydiance.data.views import ViewDataset
from raydiance.errors import ConfigError
from raydiance.models import Autodecoder, read_autodecoder
from raydiance.spec import from_plain, spec, to_plain
from raydiance.storage import Artifact, ArtifactRef, Draft, Store, write_json
from raydiance.tracking import Outcome, Run, Worker
from raydiance.training.autodecoder import (
    AutodecoderLoop,
    AutodecoderObjective,
    AutodecoderTraining,
    held_out_psnr,
    held_out_scores,
)
from raydiance.training.jobs import Payload, fit_and_keep, launch
from raydiance.training.loop import LoopSpec

__all__ = ["InversionLoop", "InversionSpec", "invert"]

Space = Literal["latents", "codes"]


@spec
class InversionLoop(LoopSpec):
    """How codes or latents are stepped."""

    steps: int = 300
    batch_size: int = 4
    learning_rate: float = 5e-2
    warmup_steps: int = 5
    betas: tuple[float, float] = (0.9, 0.99)


@spec
class InversionSpec:
    """What is sought: "latents", the volumes that diffusion works on, or "codes", from which G1 makes them.

    latent_penalty: weight on the squared distance of latents from the mean training latent, in its deviations.
    max_objects: of the objects that were kept back, the first so many; None is all.
    """

    space: Space = "latents"
    loop: InversionLoop = InversionLoop()
    latent_penalty: Annotated[float, Ge(0)] = 0.005
    max_objects: Annotated[int, Ge(1)] | None = None


class LatentTable(Autodecoder):
    """An autodecoder whose codes are latents: deviations from a mean [C, L, L, L], in units of `scale` [C]."""

    def __init__(self, trained: Autodecoder, num_objects: int, mean: Tensor, scale: Tensor) -> None:
        nn.Module.__init__(self)
        self.spec, self.decoder = trained.spec, trained.decoder.requires_grad_(False)
        self.codes = nn.Embedding(num_objects, math.prod(trained.spec.latent_shape))
        nn.init.zeros_(self.codes.weight)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale.reshape(-1, 1, 1, 1))

    def latent(self, codes: Tensor) -> Tensor:
        """Latents [B, C, L, L, L]."""
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        return mean + scale * codes.reshape(-1, *self.spec.latent_shape)


class CodeTable(Autodecoder):
    """An autodecoder with fresh codes, at the mean of the trained ones, in front of the trained networks."""

    def __init__(self, trained: Autodecoder, num_objects: int) -> None:
        nn.Module.__init__(self)
        self.spec = trained.spec
        self.generator = trained.generator.requires_grad_(False)
        self.decoder = trained.decoder.requires_grad_(False)
        self.codes = nn.Embedding(num_objects, trained.spec.code_dim)
        self.codes.weight.data = trained.codes.weight.detach().mean(0).repeat(num_objects, 1)


def invert(inversion: InversionSpec, run: Run) -> Outcome:
    """Latents of the objects of inputs["render"] that were kept back: artifact kind "inversion".

    Reads inputs render, train_autodecoder and encode. latents.safetensors holds "latents" [N, C, L, L, L] (and
    "codes" where they were sought), latents.json the objects, held_out.json the PSNR and SSIM of each.
    """
    parents = {stage: run.inputs[stage] for stage in ("render", "train_autodecoder", "encode")}
    artifact = launch(_invert, inversion, run, parents, context="inversion")
    table = artifact.read_json("held_out.json")
    metrics = {f"{key}_unseen": float(np.mean([row[key] for row in table])) for key in ("psnr", "ssim")}
    metrics["psnr_unseen_min"] = min(row["psnr"] for row in table)
    run.tracker.log_metrics(metrics)
    return Outcome(artifact, metrics, {"held_out": table})


def _invert(payload: Payload[InversionSpec], worker: Worker) -> ArtifactRef | None:
    inversion = payload.spec
    stored, trained, latents = (worker.store.get(ref) for ref in payload.parents.values())
    views = ViewDataset(stored)
    objects = [int(index) for index in views.test_objects[: inversion.max_objects]]
    if not objects:
        raise ConfigError(f"{stored.ref.key}: no object was kept back: set ingest.test_fraction above 0")
    model = _start(inversion, trained, latents, len(objects))
    training = _as_training(inversion, trained, len(objects))
    objective = AutodecoderObjective(training, views, payload.seed, objects=objects, model=model)

    def write(draft: Draft) -> None:
        model = objective.model
        with torch.no_grad():
            codes = model.codes.weight.detach().cpu()
            tensors = {"latents": model.cpu().latent(codes).contiguous()}
        if inversion.space == "codes":
            tensors["codes"] = codes
        save_file(tensors, draft.path("latents.safetensors"))
        ids, categories = (
            [each[index] for index in objects] for each in (views.object_ids, views.categories)
        )
        write_json(draft.path("latents.json"), {"object_ids": ids, "categories": categories})
        write_json(draft.path("held_out.json"), held_out_scores(model, objects, views, training.num_samples))

    return fit_and_keep("inversion", objective, training.loop, payload, worker, write, validate)


def validate(
    payload: Payload[InversionSpec], store: Store, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, float]:
    """See held_out_psnr; of what these weights have found."""
    stored, trained, latents = (store.get(ref) for ref in payload.parents.values())
    views = ViewDataset(stored)
    objects = [int(index) for index in views.test_objects[: payload.spec.max_objects]]
    model = _start(payload.spec, trained, latents, len(objects))
    model.load_state_dict(dict(weights))
    num_samples = _as_training(payload.spec, trained, len(objects)).num_samples
    return held_out_psnr(model.to(device), objects, views, num_samples)


def _start(inversion: InversionSpec, trained: Artifact, latents: Artifact, count: int) -> Autodecoder:
    model = read_autodecoder(trained.path("spec.json"), trained.path("weights.safetensors"))
    if inversion.space == "codes":
        return CodeTable(model, count)
    known = load_file(latents.path("latents.safetensors"))
    return LatentTable(model, count, known["latents"].mean(0), known["scale"])


def _as_training(inversion: InversionSpec, trained: Artifact, count: int) -> AutodecoderTraining:
    """The settings of the autodecoder's own training, with the steps of the inversion and without its noise."""
    made = from_plain(AutodecoderTraining, trained.manifest.spec)
    penalty = inversion.latent_penalty if inversion.space == "latents" else made.losses.codes
    losses = replace(made.losses, latents=0.0, codes=penalty)
    steps = to_plain(replace(inversion.loop, batch_size=min(inversion.loop.batch_size, count)))
    return replace(made, losses=losses, loop=from_plain(AutodecoderLoop, steps), latent_noise=0.0)
