"""The job `evaluate` for diffusion of fields: how near samples come to the real objects, and whether they are
copies.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge

from raydiance.data.fieldsets import FieldSet
from raydiance.data.views import ViewDataset
from raydiance.fields import contact_sheet, write_png
from raydiance.generation.extractors import ExtractorSpec, SeededViews, open_extractor
from raydiance.generation.measure import Looking, distances, evenly, reconstruct
from raydiance.generation.viewsets import ViewSet, composite, real_view_set
from raydiance.metrics import jensen_shannon, read_lpips
from raydiance.spec import spec, to_plain
from raydiance.storage import write_json
from raydiance.tracking import Outcome, Run

__all__ = ["FieldEvaluation", "evaluate_fields"]

PAIRS = 8


@spec
class FieldEvaluation:
    """How objects are looked at: num_views of the cameras of the real ones, num_points on their surfaces.

    extractor: what looks at views; lpips: weights of LPIPS, for it to be measured too.
    """

    num_views: Annotated[int, Ge(2)] = 6
    num_points: Annotated[int, Ge(2)] = 512
    samples_per_ray: Annotated[int, Ge(1)] = 64
    extractor: ExtractorSpec = SeededViews()
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
    extractor = open_extractor(spec.extractor, run.store)
    perceptual = None if spec.lpips is None else read_lpips(Path(spec.lpips))
    views = evenly(spec.num_views, data.num_views)
    look = Looking(data.cameras(objects[0])[views], spec.num_points, spec.samples_per_ray)
    with torch.inference_mode():
        rows, reconstructed = reconstruct(list(fitted), objects, data, look, perceptual=perceptual)
        sampled = ViewSet.cat([look(field) for field in samples])
        real = real_view_set(data, objects, views, spec.num_points)
        sets = {"diffusion": sampled, "fitted": reconstructed}
        found = {name: distances(each, real, extractor) for name, each in sets.items()}
        scores = {
            name: each.scores | {"jsd": jensen_shannon(sets[name].points, real.points)}
            for name, each in found.items()
        }
    table: list[dict[str, object]] = [{"set": name, **each} for name, each in scores.items()]
    copies, frechet = found["diffusion"].shapes, extractor.names[0]
    metrics = scores["diffusion"] | {
        f"{frechet}_fitted": scores["fitted"][frechet],
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
        meta={"features": extractor.identity},
    ) as draft:
        write_json(draft.path("metrics.json"), metrics)
        write_json(draft.path("objects.json"), rows)
        write_json(draft.path("sets.json"), table)
        write_png(draft.path("nearest.png"), sheet)
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("nearest", sheet)
    return Outcome(draft.artifact, metrics, {"objects": rows, "sets": table})


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
