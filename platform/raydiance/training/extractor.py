"""Training what looks at views: a network that tells the objects of a data set apart, whatever the view.

Its features are what scores of sets of views are measured in (metrics.trained). No labels are needed, and the
views that are held out say how well it knows objects from sides it never saw.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from raydiance.data.views import ViewDataset
from raydiance.errors import ConfigError
from raydiance.generation.viewsets import composite
from raydiance.metrics import ViewNetwork, ViewNetworkSpec
from raydiance.models import save_weights
from raydiance.spec import spec, to_plain
from raydiance.storage import ArtifactRef, Draft, Store, write_json
from raydiance.tracking import Outcome, Run, Worker
from raydiance.training.batches import Batch
from raydiance.training.jobs import Payload, fit_and_keep, launch
from raydiance.training.loop import LoopSpec, Objective
from raydiance.training.randomness import seeded

__all__ = ["ExtractorLoop", "ExtractorTraining", "train_extractor"]


@spec
class ExtractorLoop(LoopSpec):
    """How the network is stepped: a batch is of views, of whatever objects."""

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 2e-3
    checkpoint_every: int = 200


@spec
class ExtractorTraining:
    """The network, and how its views are disturbed: shifted by up to `shift` of their size along each axis, each
    colour channel scaled by up to `tint`, so that it must look at shapes, too.

    temperature: of the cosines between a view's features and the objects'.
    """

    model: ViewNetworkSpec = ViewNetworkSpec()
    loop: ExtractorLoop = ExtractorLoop()
    shift: Annotated[float, Ge(0)] = 0.06
    tint: Annotated[float, Ge(0)] = 0.2
    temperature: Annotated[float, Gt(0)] = 0.1


class Recogniser(nn.Module):
    """Logits [B, objects] of views: cosines of their features with those of each object."""

    def __init__(self, spec: ViewNetworkSpec, num_objects: int, temperature: float) -> None:
        super().__init__()
        self.network = ViewNetwork(spec)
        self.objects = nn.Parameter(torch.randn(num_objects, spec.features))
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        features, objects = F.normalize(self.network(images)), F.normalize(self.objects)
        return features @ objects.T / self.temperature


class RecognitionObjective(Objective):
    """Which of the training objects is seen: cross-entropy over disturbed views."""

    model: Recogniser

    def __init__(self, training: ExtractorTraining, views: ViewDataset, seed: int) -> None:
        super().__init__()
        self.training_spec, self.views = training, views
        self.objects = [int(index) for index in views.train_objects]
        if len(self.objects) < 2:
            raise ConfigError(f"to tell objects apart takes 2, and {len(self.objects)} is trained on")
        with seeded(seed):
            self.model = Recogniser(training.model, len(self.objects), training.temperature)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        generators, sides = batch.generators(), self.views.train_views
        entries = batch.items(len(self.objects) * len(sides))
        images = torch.stack(
            [
                self._disturbed(*divmod(entry, len(sides)), generator)
                for entry, generator in zip(entries, generators, strict=True)
            ]
        )
        device = self.model.objects.device
        labels = torch.tensor([entry // len(sides) for entry in entries], device=device)
        logits = self.model(images.to(device))
        right = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "recognised": right.detach()}

    def _disturbed(self, entry: int, side: int, generator: Generator) -> Tensor:
        image = composite(self.views.images(self.objects[entry], int(self.views.train_views[side])))[0]
        most = round(self.training_spec.shift * image.shape[1])
        down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        tint = 1 + self.training_spec.tint * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
        moved = torch.roll(image, (down, right), dims=(1, 2))  # the border is white all round
        return 1 - (1 - moved) * tint

    @torch.no_grad()
    def recognised(self) -> float:
        """The share of held-out views (of training views, where there are none) that it knows the object of."""
        sides = [int(view) for view in self.views.held_out_views] or self.views.train_views.tolist()
        device = self.model.objects.device
        found = [
            self.model(composite(self.views.images(index, sides)).to(device)).argmax(1) == label
            for label, index in enumerate(self.objects)
        ]
        return float(torch.cat(found).float().mean())


def train_extractor(training: ExtractorTraining, run: Run) -> Outcome:
    """Train on the views of inputs["render"]: kind "extractor" (spec.json, weights.safetensors)."""
    artifact = launch(_train, training, run, {"views": run.inputs["render"]})
    metrics: Mapping[str, float] = artifact.read_json("metrics.json")
    run.tracker.log_metrics(metrics)
    print(f"to look at views with it: evaluate.extractor={{kind:trained,artifact:{artifact.ref.key}}}")
    return Outcome(artifact, metrics)


def _train(payload: Payload[ExtractorTraining], worker: Worker) -> ArtifactRef | None:
    training = payload.spec
    views = ViewDataset(worker.store.get(payload.parents["views"]))
    objective = RecognitionObjective(training, views, payload.seed)

    def write(draft: Draft) -> None:
        save_weights(draft.path("weights.safetensors"), objective.model.network.state_dict())
        write_json(draft.path("spec.json"), {"model": to_plain(training.model)})
        write_json(draft.path("metrics.json"), {"recognised_held_out": objective.recognised()})

    return fit_and_keep("extractor", objective, training.loop, payload, worker, write, validate)


def validate(
    payload: Payload[ExtractorTraining], store: Store, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, float]:
    """How many held-out views it knows the object of."""
    views = ViewDataset(store.get(payload.parents["views"]))
    objective = RecognitionObjective(payload.spec, views, payload.seed)
    objective.model.load_state_dict(dict(weights))
    objective.model.to(device)
    return {"recognised": objective.recognised()}
