"""Diffusion of radiance fields: the model, from noise to fields, and the job `sample`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from raydiance.data.fieldsets import FieldCode
from raydiance.diffusion import preconditioning, sampling, schedules
from raydiance.diffusion.plans import SamplingPlan, build
from raydiance.diffusion.preconditioning import NoisePredictor, Preconditioning
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import DataError
from raydiance.fields import (
    VoxelField,
    contact_sheet,
    export_glb,
    extract_mesh,
    orbit_cameras,
    save_field,
    write_png,
)
from raydiance.generation.sampler import noise_generator, views
from raydiance.models import UNet, read_unet
from raydiance.spec import spec, to_plain
from raydiance.storage import Artifact, Draft, write_json
from raydiance.tracking import Outcome, Run

__all__ = ["FieldPlan", "FieldSampling", "RadianceModel", "sample", "sheet_of", "write_fields"]


@spec
class FieldPlan:
    """The sampling plan of fields: a solver on a grid, both by name."""

    solver: str = "dpm_solver_pp"
    grid: str = "karras"
    num_steps: Annotated[int, Ge(1)] = 32


@spec
class FieldSampling:
    """How many fields are drawn, of the seeds first_seed, first_seed + 1, ..., and how they are shown.

    mesh_resolution: samples per axis of the volume that meshes are made of.
    """

    num_samples: Annotated[int, Ge(1)] = 32
    first_seed: Annotated[int, Ge(0)] = 0
    plan: FieldPlan = FieldPlan()
    batch_size: Annotated[int, Ge(1)] = 8
    mesh_resolution: Annotated[int, Ge(8)] = 64
    sheet_size: Annotated[int, Ge(16)] = 128


@dataclass(frozen=True, eq=False)
class RadianceModel:
    """A denoiser of fields [B, 4, X, Y, Z] with what makes fields of its data."""

    network: UNet
    kind: Preconditioning
    schedule: Schedule
    code: FieldCode
    device: torch.device

    @classmethod
    def of(cls, denoiser: Artifact, latents: Artifact, device: torch.device | str = "cpu") -> "RadianceModel":
        """The model of artifacts of kinds "denoiser" and "latents"."""
        described = denoiser.read_json("spec.json")
        network = read_unet(denoiser.path("spec.json"), denoiser.path("weights.safetensors"))
        schedule = schedules.named(str(described["schedule"]), int(described["num_train_steps"]))
        return cls(
            network.requires_grad_(False).to(device),
            preconditioning.from_plain(described),
            schedule,
            FieldCode.of(latents, device),
            torch.device(device),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """[4, X, Y, Z]."""
        shape = self.network.spec
        return (shape.in_channels, *(shape.resolution,) * 3)

    @property
    def predict_noise(self) -> NoisePredictor:
        return self.kind.noise_predictor(self.network)

    def plan(self, plan: FieldPlan) -> SamplingPlan:
        """The table of a plan. Raises ConfigError for names that do not exist."""
        return build(plan.solver, self.schedule, plan.grid, plan.num_steps)

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        plan: SamplingPlan,
        predict_noise: NoisePredictor | None = None,
        *,
        batch_size: int = 8,
        done: Callable[[int], None] = lambda count: None,
    ) -> VoxelField:
        """One field for each seed, by the model's own predictor or one that was made of it."""
        predict, fields = predict_noise or self.predict_noise, []
        for start in range(0, len(seeds), batch_size):
            generators = [noise_generator(seed) for seed in seeds[start : start + batch_size]]
            noise = torch.stack([torch.randn(self.shape, generator=each) for each in generators])
            x = plan.start(noise.to(self.device))
            data = sampling.sample(predict, plan, x, generator=generators)
            fields.append(self.code.decode(data).grid.cpu())
            done(len(generators))
        return VoxelField(torch.cat(fields))


def sample(spec: FieldSampling, run: Run) -> Outcome:
    """Fields of noise, as an artifact of kind "samples": fields.json, fields/, meshes/ (GLB), samples.png.

    Reads inputs train_diffusion and encode.
    """
    denoiser, latents = run.inputs["train_diffusion"], run.inputs["encode"]
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(denoiser, "sample")
    model = RadianceModel.of(denoiser, latents)
    seeds = range(spec.first_seed, spec.first_seed + spec.num_samples)
    plan = model.plan(spec.plan)
    with run.progress.task("sample", total=len(seeds)) as task:
        fields = model.sample(seeds, plan, batch_size=spec.batch_size, done=task.update)
    with run.store.create(
        "samples",
        run.name,
        spec=spec,
        seeds={"first_seed": spec.first_seed},
        parents=[denoiser.ref, latents.ref],
    ) as draft:
        names = [f"seed-{seed}" for seed in seeds]
        meshes = write_fields(draft, fields, names, spec.mesh_resolution)
        draft.path("plan.json").write_text(plan.to_json(), encoding="ascii")
        sheet = sheet_of(fields, names, spec.sheet_size)
        write_png(draft.path("samples.png"), sheet)
    metrics = {"samples": float(len(seeds)), "meshes": float(meshes), "nfe": float(plan.nfe)}
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("samples", sheet)
    return Outcome(draft.artifact, metrics)


def write_fields(draft: Draft, fields: VoxelField, names: Sequence[str], mesh_resolution: int) -> int:
    """Each field with its mesh, where it has a surface, and fields.json; returns how many have one."""
    rows = []
    for field, name in zip(_each(fields), names, strict=True):
        file = f"fields/{name}.safetensors"
        save_field(field, draft.path(file))
        row: dict[str, object] = {"id": name, "category": "sample", "split": "sample", "file": file}
        with suppress(DataError):
            mesh = extract_mesh(field, resolution=mesh_resolution)
            row["mesh"] = f"meshes/{name}.glb"
            extras = {"raydiance": {"artifact": draft.key, "field": name}}
            export_glb(mesh, draft.path(f"meshes/{name}.glb"), extras=extras)
        rows.append(row)
    write_json(draft.path("fields.json"), {"objects": rows, "failed": []})
    return sum("mesh" in row for row in rows)


def sheet_of(fields: VoxelField, labels: Sequence[str], size: int) -> NDArray[np.uint8]:
    """Fields from their side and a little from above, each with its label."""
    camera = orbit_cameras(8, size=size, radius=3.0, fov_degrees=40.0, elevation_degrees=22.0)[1]
    shown = [views(field, camera, num_samples=96)[0, 0] for field in _each(fields)]
    return contact_sheet(shown, columns=math.ceil(math.sqrt(1.6 * len(shown))), labels=labels)


def _each(fields: VoxelField) -> Iterator[VoxelField]:
    return (fields[index] for index in range(len(fields)))
