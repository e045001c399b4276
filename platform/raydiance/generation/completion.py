"""The job `complete`: part of a field is made anew, the rest stays (RePaint, Lugmayr et al. 2022)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from raydiance.data.fieldsets import FieldSet
from raydiance.data.views import ViewDataset
from raydiance.diffusion.editing import known_region
from raydiance.diffusion.plans import SamplingPlan, build
from raydiance.errors import ConfigError, DataError
from raydiance.fields import Cameras, VoxelField, load_field, render_views, write_png
from raydiance.generation.bundle import load_bundle
from raydiance.generation.extractors import ExtractorSpec, SeededViews, open_extractor
from raydiance.generation.masks import BoxMask, BrushMask, HalfSpaceMask, random_box, removed_by
from raydiance.generation.measure import evenly
from raydiance.generation.radiance import RadianceModel, sheet_of, write_fields
from raydiance.generation.sampler import generate_fields, noise_generator
from raydiance.generation.viewsets import field_view_set
from raydiance.metrics import ImageExtractor, chamfer_distances, frechet_distance, masked_psnr, psnr
from raydiance.spec import spec, to_plain
from raydiance.storage import Draft, write_json
from raydiance.tracking import Outcome, Run

__all__ = ["CompletionPlan", "FieldCompletion", "complete_field", "complete_fields", "completion_table"]

Voxelise: TypeAlias = Callable[[Path, int], VoxelField]
MESHES = (".glb", ".gltf", ".obj", ".ply", ".stl")
FAINT = 0.5  # a pixel counts as kept where more than this of its weight comes from kept samples


@spec
class CompletionPlan:
    """RePaint's plan: after every jump_length steps back up, num_resamples times in all; on a named grid."""

    grid: str = "karras"
    num_steps: Annotated[int, Ge(1)] = 24
    jump_length: Annotated[int, Ge(1)] = 6
    num_resamples: Annotated[int, Ge(1)] = 3


@spec
class FieldCompletion:
    """What is completed, and how.

    source: a field (.safetensors), a mesh, or a bundle by its key, whose sample of bundle_seed is taken;
    `mask` says what is made anew, `variants` how often. Without a source held-out objects are completed
    behind random boxes of each of `levels`, shares of the volume, and the completions measured.
    """

    source: str = ""
    bundle_seed: Annotated[int, Ge(0)] = 0
    mask: BoxMask | HalfSpaceMask | BrushMask = BoxMask()
    variants: Annotated[int, Ge(1)] = 4
    first_seed: Annotated[int, Ge(0)] = 0
    plan: CompletionPlan = CompletionPlan()
    levels: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    num_objects: Annotated[int, Ge(2)] = 8
    num_views: Annotated[int, Ge(1)] = 4
    num_points: Annotated[int, Ge(2)] = 512
    samples_per_ray: Annotated[int, Ge(1)] = 64
    extractor: ExtractorSpec = SeededViews()
    mesh_resolution: Annotated[int, Ge(8)] = 64
    sheet_size: Annotated[int, Ge(16)] = 128

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level < 1 for level in self.levels):
            raise ValueError(
                f"levels are shares of the volume that are removed, within 0 .. 1, got {self.levels}"
            )


def complete_fields(spec: FieldCompletion, run: Run, *, voxelise: Voxelise) -> Outcome:
    """Variants of the source, or the table of masks: artifact kind "completions".

    Reads inputs train_diffusion and encode, for the table fit and render too. voxelise(path, resolution)
    makes a field of a mesh.
    """
    run.tracker.log_params(to_plain(spec))
    model = RadianceModel.of(run.inputs["train_diffusion"], run.inputs["encode"])
    plan = build("repaint", model.schedule, spec.plan.grid, spec.plan.num_steps, **_jumps(spec.plan))
    return (
        _variants(spec, run, model, plan, voxelise)
        if spec.source
        else completion_table(spec, run, model, plan)
    )


def _jumps(plan: CompletionPlan) -> dict[str, int]:
    return {"jump_length": plan.jump_length, "num_resamples": plan.num_resamples}


def complete_field(
    model: RadianceModel, known: VoxelField, removed: Tensor, seeds: Sequence[int], plan: SamplingPlan
) -> VoxelField:
    """Variants of one field: what is removed (bool [X, Y, Z]) is drawn, the rest is that of `known` exactly."""
    if tuple(removed.shape) != known.resolution or known.resolution != model.shape[1:]:
        raise DataError(
            f"a mask and its field must have the model's {model.shape[1:]} samples, got a mask of "
            f"{tuple(removed.shape)} and a field of {known.resolution}"
        )
    data = model.code.encode(known).to(model.device)
    predict = known_region(model.predict_noise, data, (~removed).to(data))
    drawn = model.sample(seeds, plan, predict)
    return VoxelField(torch.where(removed[None, ..., None], drawn.grid, known.grid))


def _variants(
    spec: FieldCompletion, run: Run, model: RadianceModel, plan: SamplingPlan, voxelise: Voxelise
) -> Outcome:
    known = _subject(spec, run, model.shape[1], voxelise)
    removed = removed_by(spec.mask, model.shape[1])
    seeds = range(spec.first_seed, spec.first_seed + spec.variants)
    made = complete_field(model, known, removed, seeds, plan)
    names = ["known", *(f"seed-{seed}" for seed in seeds)]
    fields = VoxelField(torch.cat((_without(known, removed).grid, made.grid)))
    with _draft(spec, run) as draft:
        meshes = write_fields(draft, fields, names, spec.mesh_resolution)
        np.save(draft.path("removed.npy"), removed.numpy())
        sheet = sheet_of(fields, names, spec.sheet_size)
        write_png(draft.path("variants.png"), sheet)
    metrics = {
        "variants": float(len(seeds)),
        "meshes": float(meshes),
        "removed": float(removed.float().mean()),
    }
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("variants", sheet)
    print(f"variants of {spec.source} lie in {draft.artifact.folder()}")
    return Outcome(draft.artifact, metrics)


def _draft(spec: FieldCompletion, run: Run) -> AbstractContextManager[Draft]:
    seeds, parents = {"first_seed": spec.first_seed}, [artifact.ref for artifact in run.inputs.values()]
    return run.store.create("completions", run.name, spec=spec, seeds=seeds, parents=parents)


def _subject(spec: FieldCompletion, run: Run, resolution: int, voxelise: Voxelise) -> VoxelField:
    """The field that is to be completed, on the model's grid. DataError by name for what is none."""
    path = Path(spec.source)
    if path.suffix.lower() in MESHES:
        return voxelise(path, resolution)
    if path.suffix == ".safetensors":
        field = load_field(path)
    elif spec.source.startswith("bundle/"):
        field = generate_fields(load_bundle(run.store.get(spec.source)), [spec.bundle_seed])
    else:
        raise DataError(f"source={spec.source}: give a field (.safetensors), a mesh {MESHES} or a bundle/KEY")
    return field.resampled((resolution,) * 3)


def _without(field: VoxelField, removed: Tensor) -> VoxelField:
    density = field.grid[..., :1].masked_fill(removed[..., None], 0)
    return replace(field, grid=torch.cat((density, field.grid[..., 1:]), dim=-1))


def completion_table(spec: FieldCompletion, run: Run, model: RadianceModel, plan: SamplingPlan) -> Outcome:
    """Held-out objects behind boxes of each level: masked PSNR of what was kept, PSNR, distances of
    completions.
    """
    data, fitted = ViewDataset(run.inputs["render"]), FieldSet.of(run.inputs["fit"], "test")
    if len(fitted) < 2:
        raise ConfigError(
            f"{run.inputs['fit'].ref.key}: {len(fitted)} of its objects are held out, and a table needs 2 and "
            "more: raise ingest.test_fraction"
        )
    count = min(spec.num_objects, len(fitted))
    truth = VoxelField(torch.cat([fitted[index].grid for index in range(count)]))
    views = evenly(spec.num_views, data.num_views)
    cameras = data.cameras(data.object_ids.index(fitted.ids[0]))[views]
    extractor = open_extractor(spec.extractor, run.store)
    rows, shown = [], []
    with run.progress.task("complete", total=count * len(spec.levels)) as task:
        for number, level in enumerate(spec.levels):
            removed, made = [], []
            for index in range(count):
                seed = spec.first_seed + number * count + index
                box = random_box(level, model.shape[1], noise_generator(seed))
                made.append(complete_field(model, truth[index], box, [seed], plan).grid)
                removed.append(box)
                task.update(1)
            completed, boxes = VoxelField(torch.cat(made)), torch.stack(removed)
            rows.append({"level": level, **_scores(spec, truth, completed, boxes, cameras, extractor)})
            shown += [_without(truth[0], boxes[0]).grid, completed[0].grid]
    labels = [f"{level:.0%}" for level in spec.levels for _ in range(2)]
    sheet = sheet_of(VoxelField(torch.cat(shown)), labels, 96)
    with _draft(spec, run) as draft:
        write_json(draft.path("levels.json"), rows)
        write_png(draft.path("levels.png"), sheet)
    metrics = {
        f"{key}_{row['level']:g}": value for row in rows for key, value in row.items() if key != "level"
    }
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("levels", sheet)
    return Outcome(draft.artifact, metrics, {"levels": rows})


@torch.no_grad()
def _scores(
    spec: FieldCompletion,
    truth: VoxelField,
    completed: VoxelField,
    removed: Tensor,
    cameras: Cameras,
    extractor: ImageExtractor,
) -> dict[str, float]:
    """Means over objects and views. Pixels count as kept where most of their weight comes from kept samples."""
    kept = (~removed)[..., None].to(truth.grid).expand(*truth.grid.shape[:-1], 3)
    marked = VoxelField(torch.cat((completed.grid[..., :1], kept), dim=-1))
    weight = render_views(marked, cameras, num_samples=spec.samples_per_ray, background=0.0).colour[..., :1]
    ours, theirs = (
        field_view_set(field, cameras, num_samples=spec.samples_per_ray, num_points=spec.num_points)
        for field in (completed, truth)
    )
    stays = (weight.flatten(0, 1).permute(0, 3, 1, 2) > FAINT).expand_as(ours.images)
    masked = masked_psnr(ours.images, theirs.images, stays)
    whole = psnr(ours.images, theirs.images)
    pairs = chamfer_distances(ours.points, theirs.points).diagonal()
    return {
        "removed": float(removed.float().mean()),
        "mpsnr": float(masked[torch.isfinite(masked)].mean()),
        "psnr": float(whole[torch.isfinite(whole)].mean()),
        "chamfer_x1e3": 1e3 * float(pairs.mean()),
        extractor.names[0]: frechet_distance(extractor(ours.images)[0], extractor(theirs.images)[0]),
    }
