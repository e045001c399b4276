"""The job `evaluate` for articulated fields: unseen poses with and without skinning, and the parts found."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from raydiance.data.articulate import ArticulatedViews
from raydiance.fields import contact_sheet, render_function, write_png
from raydiance.generation.viewsets import composite
from raydiance.metrics import psnr
from raydiance.models import ArticulatedField, read_articulated
from raydiance.spec import spec, to_plain
from raydiance.storage import write_json
from raydiance.tracking import Outcome, Run

__all__ = ["ArticulatedEvaluation", "evaluate_articulated", "part_accuracy", "parts_sheet", "pose_scores"]

PALETTE = torch.tensor(
    [(0.30, 0.45, 0.69), (0.87, 0.52, 0.32), (0.33, 0.66, 0.41), (0.77, 0.31, 0.32), (0.51, 0.45, 0.70)]
)
POSES_SHOWN = 2  # of each object
RAYS_AT_ONCE = 4096


@spec
class ArticulatedEvaluation:
    """samples_per_ray: of pictures, and of the views that are scored."""

    samples_per_ray: Annotated[int, Ge(2)] = 96


def evaluate_articulated(spec: ArticulatedEvaluation, run: Run) -> Outcome:
    """Artifact kind "evaluation": metrics.json, objects.json, parts.png.

    Reads inputs articulate, train_articulated and train_static (the same without skinning).
    """
    run.tracker.log_params(to_plain(spec))
    for stage, artifact in run.inputs.items():
        run.tracker.log_input(artifact, stage)
    views = ArticulatedViews(run.inputs["articulate"])
    moving, still = (
        read_articulated(artifact.path("spec.json"), artifact.path("weights.safetensors"))
        for artifact in (run.inputs["train_articulated"], run.inputs["train_static"])
    )
    with_, without = (pose_scores(model, views, spec.samples_per_ray) for model in (moving, still))
    rows = [
        {
            "object": one["object"],
            "parts": int(views.num_parts[number]),
            "psnr_skinning": one["psnr"],
            "psnr_without": other["psnr"],
            "part_accuracy": part_accuracy(moving, views, number),
        }
        for number, (one, other) in enumerate(zip(with_, without, strict=True))
    ]
    metrics = {
        name: float(np.mean([float(str(row[name])) for row in rows]))
        for name in ("psnr_skinning", "psnr_without", "part_accuracy")
    }
    sheet = parts_sheet({"without": still, "with": moving}, views, spec.samples_per_ray)
    parents = [artifact.ref for artifact in run.inputs.values()]
    with run.store.create("evaluation", run.name, spec=spec, parents=parents) as draft:
        write_json(draft.path("metrics.json"), metrics)
        write_json(draft.path("objects.json"), rows)
        write_png(draft.path("parts.png"), sheet)
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("parts", sheet)
    return Outcome(draft.artifact, metrics, {"objects": rows})


@torch.no_grad()
def pose_scores(
    model: ArticulatedField, views: ArticulatedViews, num_samples: int
) -> list[dict[str, object]]:
    """PSNR in dB of each object in unseen poses, the mean over views never trained on (all, if there are none)."""
    chosen = _scored_views(views)
    found: list[list[Tensor]] = [[] for _ in views.names]
    for entry in views.test_objects.tolist():
        truth = composite(views.images(entry, chosen))
        shown = _render(model, views, entry, chosen, num_samples).cpu()
        found[int(views.objects[entry])].append(psnr(shown.permute(0, 3, 1, 2), truth))
    means = [float(torch.cat(each).mean()) for each in found]
    return [{"object": name, "psnr": mean} for name, mean in zip(views.names, means, strict=True)]


@torch.no_grad()
def part_accuracy(model: ArticulatedField, views: ArticulatedViews, number: int) -> float:
    """The share of points on an object's parts at rest that are given to their part, the mean over the parts."""
    count, device = int(views.num_parts[number]), model.num_parts.device
    points = views.surface[number, :count].to(device)
    rest = torch.eye(3, 4, device=device).expand(1, views.poses.shape[1], 3, 4)
    _, weights = model.warp(torch.tensor([number], device=device), rest, points[None])
    named = weights[0].argmax(dim=-1)
    return float((named == torch.arange(count, device=device)[:, None]).float().mean())


@torch.no_grad()
def parts_sheet(
    models: Mapping[str, ArticulatedField], views: ArticulatedViews, num_samples: int
) -> NDArray[np.uint8]:
    """Objects by row in unseen poses: the truth, what each model makes of it, the parts that the last found."""
    chosen = _scored_views(views)
    tiles: list[NDArray[np.uint8] | Tensor] = []
    for number in range(len(views.names)):
        entries = [int(entry) for entry in views.test_objects if views.objects[entry] == number][:POSES_SHOWN]
        for place, entry in enumerate(entries):
            view = chosen[place % len(chosen)]
            seen = [_render(model, views, entry, [view], num_samples) for model in models.values()]
            seen.append(_render([*models.values()][-1], views, entry, [view], num_samples, parts=True))
            tiles += [views.images(entry, [view])[0].numpy(), *(each[0].cpu() for each in seen)]
    names = ["true", *models, "parts"]
    columns = len(tiles) // len(views.names)  # each object has as many unseen poses
    return contact_sheet(tiles, columns=columns, labels=names * (len(tiles) // len(names)))


def _scored_views(views: ArticulatedViews) -> list[int]:
    """Views never trained on; all, if there are none."""
    return [int(view) for view in (views.held_out_views if len(views.held_out_views) else views.train_views)]


def _render(
    model: ArticulatedField,
    views: ArticulatedViews,
    entry: int,
    chosen: list[int],
    num_samples: int,
    *,
    parts: bool = False,
) -> Tensor:
    """Colours [V, H, W, 3] of the chosen views of an entry; parts: those of the parts."""
    device = model.num_parts.device
    objects, poses = views.objects[entry : entry + 1].to(device), views.poses[entry : entry + 1].to(device)
    grid = model(objects)

    def look_up(points: Tensor) -> Tensor:
        found = model.look_up(objects, poses, points, grid=grid)
        if not parts:
            return found
        _, weights = model.warp(objects, poses, points)
        return torch.cat((found[..., :1], weights @ PALETTE[: weights.shape[-1]].to(device)), dim=-1)

    rays = views.cameras(entry).rays(chosen).reshape(-1).to(device)
    pieces = [
        render_function(look_up, rays[None, first : first + RAYS_AT_ONCE], num_samples=num_samples)
        for first in range(0, rays.shape[0], RAYS_AT_ONCE)
    ]
    colours = torch.cat([piece.colour[0] for piece in pieces])
    return colours.reshape(len(chosen), views.size, views.size, 3)
