"""The job `evaluate` for diffusion of fields: how near samples come to the real objects, and whether they are
copies.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge

from raydiance.data.fieldsets import FieldSet
from raydiance.data.views import ViewDataset
from raydiance.fields import contact_sheet, write_png
from raydiance.generation.measure import Looking, evenly, reconstruct
from raydiance.generation.viewsets import ViewSet, composite, real_view_set
from raydiance.metrics import SetScores, extractor, image_set_scores, jensen_shannon, read_lpips, set_scores
from raydiance.spec import spec, to_plain
from raydiance.storage import write_json
from raydiance.tracking import Outcome, Run

__all__ = ["FieldEvaluation", "evaluate_fields"]

PAIRS = 8


@spec
class FieldEvaluation:
    """How objects are looked at: num_views of the cameras of the real ones, num_points on their surfaces.

    extractor, weights: see metrics.registry; lpips: weights of LPIPS, for it to be measured too.
    """

    num_views: Annotated[int, Ge(2)] = 6
    num_points: Annotated[int, Ge(2)] = 512
    samples_per_ray: Annotated[int, Ge(1)] = 64
    extractor: Literal["views", "inception"] = "views"
    weights: str | None = None
    lpips: str | None = None


def evaluate_fields(spec: FieldEvaluation, run: Run) -> Outcome:
    """Artifact kind "evaluation": metrics.json, objects.json, sets.json, nearest.png.

    Reads inputs sample, fit and render. The fitted fields of the training objects are scored beside the
    samples: about the best that diffusion on them can reach.
    """
    run.tracker.log_params(to_plain(spec))
    for stage, artifact in run.inputs.items():
        run.tracker.log_input(artifact, stage)
    data = ViewDataset(run.inputs["render"])
    fitted, samples = FieldSet.of(run.inputs["fit"], "train"), FieldSet.of(run.inputs["sample"])
    objects = [data.object_ids.index(name) for name in fitted.ids]
    looked = extractor(spec.extractor, spec.weights)
    perceptual = None if spec.lpips is None else read_lpips(Path(spec.lpips))
    views = evenly(spec.num_views, data.num_views)
    look = Looking(data.cameras(objects[0])[views], spec.num_points, spec.samples_per_ray)
    with torch.inference_mode():
        rows, reconstructed = reconstruct(list(fitted), objects, data, look, perceptual=perceptual)
        sampled = ViewSet.cat([look(field) for field in samples])
        real = real_view_set(data, objects, views, spec.num_points)
        sets = {"diffusion": sampled, "fitted": reconstructed}
        shapes = {name: set_scores(each.points, real.points) for name, each in sets.items()}
        found = {
            name: image_set_scores(looked, each.images, real.images)
            | _shape_scores(shapes[name])
            | {"jsd": jensen_shannon(each.points, real.points)}
            for name, each in sets.items()
        }
    table: list[dict[str, object]] = [{"set": name, **each} for name, each in found.items()]
    copies = shapes["diffusion"]
    frechet = looked.names[0]
    metrics = found["diffusion"] | {
        f"{frechet}_fitted": found["fitted"][frechet],
        "nearest_training_min_x1e3": 1e3 * float(copies.nearest_distance.min()),
    }
    for key in ("psnr", "ssim", "lpips"):
        if key in rows[0]:
            metrics[f"{key}_held_out"] = float(np.mean([float(str(row[key])) for row in rows]))
    sheet = _nearest(sampled, data, objects, views, copies.nearest.tolist())
    with run.store.create(
        "evaluation",
        run.name,
        spec=spec,
        parents=[artifact.ref for artifact in run.inputs.values()],
        meta={"features": looked.identity},
    ) as draft:
        write_json(draft.path("metrics.json"), metrics)
        write_json(draft.path("objects.json"), rows)
        write_json(draft.path("sets.json"), table)
        write_png(draft.path("nearest.png"), sheet)
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("nearest", sheet)
    return Outcome(draft.artifact, metrics, {"objects": rows, "sets": table})


def _shape_scores(shapes: SetScores) -> dict[str, float]:
    return {
        "coverage": shapes.coverage,
        "minimum_matching_x1e3": 1e3 * shapes.minimum_matching,
        "nearest_neighbour_accuracy": shapes.nearest_neighbour_accuracy,
        "nearest_training_x1e3": 1e3 * float(shapes.nearest_distance.mean()),
    }


def _nearest(
    sampled: ViewSet, data: ViewDataset, objects: list[int], views: list[int], nearest: list[int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Samples above, below each the training object whose shape is nearest: are they copies?"""
    count, view = min(PAIRS, len(nearest)), len(views) // 3
    ours = sampled.images[view :: len(views)][:count].permute(0, 2, 3, 1)
    theirs = [
        composite(data.images(objects[index], [views[view]]))[0].permute(1, 2, 0) for index in nearest[:count]
    ]
    return contact_sheet([*ours, *theirs], columns=count)
