"""Training articulated fields: canonical volumes and blend weights together, from views in known poses."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from torch import Tensor

from raydiance.data.articulate import ArticulatedViews
from raydiance.fields import render_function
from raydiance.generation.articulated_evaluate import parts_sheet, pose_scores
from raydiance.models import ArticulatedField, ArticulatedSpec, save_weights
from raydiance.spec import spec, to_plain
from raydiance.storage import ArtifactRef, Draft, write_json
from raydiance.tracking import Outcome, Run, Worker
from raydiance.training.batches import Batch
from raydiance.training.jobs import Payload, fit_and_keep, launch
from raydiance.training.loop import LoopSpec, Objective
from raydiance.training.losses import total_variation
from raydiance.training.rays import draw_rays

__all__ = ["ArticulatedLoop", "ArticulatedTraining", "train_articulated"]


@spec
class ArticulatedLoop(LoopSpec):
    """How articulated fields are stepped: a batch is of poses, of whatever objects."""

    steps: int = 1000
    batch_size: int = 4
    learning_rate: float = 0.1
    checkpoint_every: int = 250
    preview_every: int = 250


@spec
class ArticulatedTraining:
    """Articulated fields, what is seen of each pose at a step, and the weights of the losses.

    num_rays: of num_views random views of a pose. squared: of colours over white; opacity: L1; total_variation: of
    the canonical fields.
    """

    model: ArticulatedSpec = ArticulatedSpec()
    loop: ArticulatedLoop = ArticulatedLoop()
    num_views: Annotated[int, Ge(1)] = 4
    num_rays: Annotated[int, Ge(1)] = 512
    num_samples: Annotated[int, Ge(2)] = 48
    squared: Annotated[float, Gt(0)] = 10.0
    opacity: Annotated[float, Ge(0)] = 0.3
    total_variation: Annotated[float, Ge(0)] = 0.01


class ArticulatedObjective(Objective):
    """Rays through posed fields against the true views of the poses."""

    model: ArticulatedField

    def __init__(self, training: ArticulatedTraining, views: ArticulatedViews) -> None:
        super().__init__()
        self.training_spec, self.views = training, views
        self.entries = [int(index) for index in views.train_objects]
        self.model = ArticulatedField(training.model, views.num_parts)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        training, device = self.training_spec, self.model.num_parts.device
        entries = [self.entries[row] for row in batch.items(len(self.entries))]
        with self.loading.running():
            drawn = draw_rays(
                self.views,
                entries,
                batch.generators(),
                num_views=training.num_views,
                num_rays=training.num_rays,
            ).to(device)
        objects, poses = self.views.objects[entries].to(device), self.views.poses[entries].to(device)
        grid = self.model(objects)
        seen = render_function(
            lambda points: self.model.look_up(objects, poses, points, grid=grid),
            drawn.rays,
            num_samples=training.num_samples,
            jitter=drawn.jitter,
        )
        squared = (seen.colour - drawn.colour).square().mean()
        opacity = (seen.opacity - drawn.opacity).abs().mean()
        variation = total_variation(grid, 2 / (grid.shape[1] - 1))
        loss = training.squared * squared + training.opacity * opacity + training.total_variation * variation
        return {
            "loss": loss,
            "squared": squared.detach(),
            "opacity": opacity.detach(),
            "total_variation": variation.detach(),
        }

    def preview(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Objects in poses never trained on: the truth, what is rendered, and the parts."""
        return {"parts": parts_sheet({"found": self.model}, self.views, self.training_spec.num_samples)}


def train_articulated(training: ArticulatedTraining, run: Run) -> Outcome:
    """Train on the views of inputs["articulate"]: kind "articulated" (weights, spec, scores in unseen poses)."""
    artifact = launch(_train, training, run, {"views": run.inputs["articulate"]})
    table = artifact.read_json("unseen.json")
    metrics = {"psnr_unseen": float(np.mean([row["psnr"] for row in table]))}
    run.tracker.log_metrics(metrics)
    return Outcome(artifact, metrics, {"unseen": table})


def _train(payload: Payload[ArticulatedTraining], worker: Worker) -> ArtifactRef | None:
    training = payload.spec
    views = ArticulatedViews(worker.store.get(payload.parents["views"]))
    objective = ArticulatedObjective(training, views)

    def write(draft: Draft) -> None:
        save_weights(draft.path("weights.safetensors"), objective.model.state_dict())
        described = {"model": to_plain(training.model), "num_parts": views.num_parts.tolist()}
        write_json(draft.path("spec.json"), described | {"object_ids": views.names})
        write_json(draft.path("unseen.json"), pose_scores(objective.model, views, training.num_samples))

    return fit_and_keep("articulated", objective, training.loop, payload, worker, write)
