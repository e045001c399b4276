"""The job `evaluate`: how well objects are reconstructed, and how near samples come to the real ones.

Three sets of objects are seen through the same cameras as the real ones: samples of the latent diffusion,
samples of a Gaussian fitted to the latents ("direct", the baseline that diffusion must beat), and the
training objects as the autodecoder has them ("reconstruction", about the best that any latents decoded by it
can reach).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from raydiance.data.views import ViewDataset
from raydiance.generation.articulated_evaluate import ArticulatedEvaluation, evaluate_articulated
from raydiance.generation.assemble import Latents, assemble, needed, read_latents, read_plan_points
from raydiance.generation.bundle import LatentModel
from raydiance.generation.extractors import ExtractorSpec, SeededViews, open_extractor
from raydiance.generation.measure import (
    Looking,
    SetDistances,
    decoded,
    direct_latents,
    distances,
    evenly,
    objects_of,
    reconstruct,
)
from raydiance.generation.radiance_evaluate import FieldEvaluation, evaluate_fields
from raydiance.generation.sampler import generate_latents
from raydiance.generation.showcase import Showcase, write_showcase
from raydiance.generation.viewsets import ViewSet, real_view_set
from raydiance.metrics import ImageExtractor
from raydiance.models import word_numbers
from raydiance.spec import spec
from raydiance.storage import write_json
from raydiance.tracking import Outcome, Run
from raydiance.tracking.progress import Task

__all__ = ["EvaluateSpec", "asked_class", "evaluate", "evaluate_latents"]

Count = Annotated[int, Ge(2)]
Rows = list[dict[str, object]]


@spec
class EvaluateSpec:
    """How much is sampled and looked at.

    Samples have the seeds first_seed, first_seed + 1, ..., so each of them can be asked for again. guidance:
    classifier-free, for a denoiser that was taught classes or captions; 1 is none. extractor: what looks at views.
    """

    num_samples: Count = 32
    first_seed: Annotated[int, Ge(0)] = 0
    plan: str | None = None
    guidance: float = 1.0
    batch_size: Annotated[int, Ge(1)] = 8
    num_views: Count = 6
    num_points: Count = 512
    samples_per_ray: Annotated[int, Ge(1)] = 64
    extractor: ExtractorSpec = SeededViews()
    sheet_samples: Annotated[int, Ge(1)] = 24
    sheet_size: Annotated[int, Ge(16)] = 128
    viewer_samples: Annotated[int, Ge(1)] = 8
    viewer_resolution: Annotated[int, Ge(8)] = 48


def evaluate(spec: EvaluateSpec | FieldEvaluation | ArticulatedEvaluation, run: Run) -> Outcome:
    """Evaluate what the spec is for."""
    if isinstance(spec, ArticulatedEvaluation):
        return evaluate_articulated(spec, run)
    return evaluate_latents(spec, run) if isinstance(spec, EvaluateSpec) else evaluate_fields(spec, run)


def evaluate_latents(spec: EvaluateSpec, run: Run) -> Outcome:
    """Artifact kind "evaluation": metrics.json, tables, sheets, figures and an interactive view of samples.

    Reads inputs render, train_autodecoder, encode, train_diffusion and tune.
    """
    model = assemble(run.inputs, default_plan=spec.plan)
    data = ViewDataset(needed(run.inputs, "render"))
    latents = read_latents(needed(run.inputs, "encode"))
    for stage, artifact in run.inputs.items():
        run.tracker.log_input(artifact, stage)

    objects = objects_of(data, latents)
    views = evenly(spec.num_views, data.num_views)
    look = Looking(data.cameras(objects[0])[views], spec.num_points, spec.samples_per_ray)
    extractor = open_extractor(spec.extractor, run.store)

    with (
        torch.inference_mode(),
        run.progress.task("evaluate", total=len(objects) + 3 * spec.num_samples) as task,
    ):
        rows, reconstructed = reconstruct(decoded(model, latents.raw, task.update), objects, data, look)
        sampled, asked, seconds = _sample(model, latents, spec, task)
        samples = list(decoded(model, sampled, task.update))
        direct = decoded(model, direct_latents(latents.raw, _seeds(spec)), task.update)
        sets = {
            "diffusion": ViewSet.cat([look(field) for field in samples]),
            "direct": ViewSet.cat([look(field) for field in direct]),
            "reconstruction": reconstructed,
        }
        real = real_view_set(data, objects, views, spec.num_points)
        found = {name: distances(each, real, extractor) for name, each in sets.items()}
    metrics = _metrics(rows, found, extractor, model, seconds) | asked_class(
        asked, [latents.categories[int(index)] for index in found["diffusion"].shapes.nearest]
    )
    tables: dict[str, Rows] = {
        "objects": rows,
        "sets": [{"set": name, **each.scores} for name, each in found.items()],
    }

    with run.store.create(
        "evaluation",
        run.name,
        spec=spec,
        seeds={"seed": run.seed, "first_seed": spec.first_seed},
        parents=[artifact.ref for artifact in run.inputs.values()],
        meta={"features": extractor.identity},
    ) as draft:
        write_json(draft.path("metrics.json"), metrics)
        for name, table in tables.items():
            write_json(draft.path(f"{name}.json"), table)
        write_showcase(
            Showcase(
                model=model,
                data=data,
                latents=latents,
                samples=samples,
                seeds=_seeds(spec),
                shapes=found["diffusion"].shapes,
                sets=tables["sets"],
                plan_points=read_plan_points(run.inputs["tune"]),
            ),
            draft,
            run.tracker,
            sheet_samples=spec.sheet_samples,
            sheet_size=spec.sheet_size,
            viewer_samples=spec.viewer_samples,
            viewer_resolution=spec.viewer_resolution,
        )
    return Outcome(draft.artifact, metrics, tables)


def _seeds(spec: EvaluateSpec) -> range:
    return range(spec.first_seed, spec.first_seed + spec.num_samples)


def asked_class(asked: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """How often the nearest training shape is of the class asked for, and how often it were by chance.

    That is if what was found had nothing to do with what was asked. Nothing, if nothing was asked.
    """
    if not asked:
        return {}
    right = np.array(asked)[:, None] == np.array(found)[None]
    return {"asked_class": float(np.diagonal(right).mean()), "asked_class_chance": float(right.mean())}


def _sample(
    model: LatentModel, latents: Latents, spec: EvaluateSpec, task: Task
) -> tuple[Tensor, list[str], float]:
    """Latents of the seeds, the class that each was asked for (none: []), the seconds that one took.

    Classes and captions, where taught, take turns.
    """
    seeds, classes = _seeds(spec), len(model.spec.categories)
    labels = torch.arange(len(seeds)) % classes if classes else None
    asked = [] if labels is None else [model.spec.categories[label] for label in labels]
    tokens, captions = None, latents.captions
    if model.spec.words and captions:
        turns = [i % len(captions) for i in range(len(seeds))]
        tokens = word_numbers(
            [captions[turn] for turn in turns], model.spec.words, model.spec.denoiser.max_words
        )
        asked = asked or [latents.categories[turn] for turn in turns]
    started, before = time.perf_counter(), 0

    def show(count: int) -> None:
        nonlocal before
        task.update(count - before)
        before = count

    sampled = generate_latents(
        model,
        seeds,
        condition=labels,
        tokens=tokens,
        guidance=spec.guidance,
        batch_size=spec.batch_size,
        callback=show,
    )
    return sampled, asked, (time.perf_counter() - started) / len(seeds)


def _metrics(
    rows: Rows,
    found: Mapping[str, SetDistances],
    extractor: ImageExtractor,
    model: LatentModel,
    seconds: float,
) -> dict[str, float]:
    """The numbers of the run. `fd_views` and `kd_views` are no FID and no KID: see metrics.registry."""
    diffusion, direct, reconstruction = (found[name] for name in ("diffusion", "direct", "reconstruction"))
    frechet, kernel = extractor.names[:2]
    psnr = [float(str(row["psnr"])) for row in rows]
    return diffusion.scores | {
        "psnr_held_out": float(np.mean(psnr)),
        "psnr_held_out_min": float(np.min(psnr)),
        "ssim_held_out": float(np.mean([float(str(row["ssim"])) for row in rows])),
        f"{frechet}_direct": direct.views[frechet],
        f"{frechet}_reconstruction": reconstruction.views[frechet],
        "fd_ratio": diffusion.views[frechet] / max(direct.views[frechet], 1e-12),
        f"{kernel}_direct": direct.views[kernel],
        "nearest_training_min_x1e3": 1e3 * float(diffusion.shapes.nearest_distance.min()),
        "nfe": float(model.plan().nfe),
        "seconds_per_sample": seconds,
    }
