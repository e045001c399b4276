"""What the claims ledger draws from a denoiser, and how far that is from the real objects."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from raydiance.data.fieldsets import FieldSet
from raydiance.data.views import ViewDataset
from raydiance.diffusion import plans, schedules
from raydiance.diffusion.plans import SamplingPlan
from raydiance.diffusion.schedules import Schedule
from raydiance.errors import NonFiniteLossError
from raydiance.fields import VoxelField
from raydiance.generation.assemble import put_together, read_latents
from raydiance.generation.measure import Looking, decoded, direct_latents, distances, evenly, objects_of
from raydiance.generation.radiance import RadianceModel
from raydiance.generation.sampler import generate_latents
from raydiance.generation.viewsets import ViewSet, real_view_set
from raydiance.metrics import seeded_extractor
from raydiance.spec import spec
from raydiance.storage import Artifact

__all__ = ["DrawSpec", "Scores", "draw_fields", "draw_latents", "judge_fields", "nothing"]

Scores = dict[str, float | None]

NAMES = ("fd_views", "kd_views", "coverage", "accuracy", "nearest_x1e3")

_extractor = cache(seeded_extractor)


@spec
class DrawSpec:
    """What is drawn from a denoiser, and how it is looked at.

    calls: of the network for a sample, by DPM-Solver++(2M); steps: other numbers of them, for comparison.
    """

    num_samples: int = 96
    calls: int = 24
    steps: tuple[int, ...] = ()
    num_views: int = 4
    num_points: int = 256
    samples_per_ray: int = 48

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_views", "num_points", "samples_per_ray"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if min((self.calls, *self.steps)) < 2:
            raise ValueError(f"calls and steps must be at least 2, got {self.calls} and {self.steps}")

    def plan(self, schedule: Schedule, calls: int | None = None) -> SamplingPlan:
        """The plan of so many network calls."""
        return plans.build("dpm_solver_pp", schedule, "karras", calls or self.calls, order=2)

    def again(self, count: int) -> Tensor:
        """As many of `count` objects as are drawn, at random and perhaps more than once."""
        return torch.randint(count, (self.num_samples,), generator=torch.Generator().manual_seed(0))


class Judge:
    """Tells how far sets of fields are from the real objects with these indices."""

    def __init__(self, draw: DrawSpec, data: ViewDataset, objects: Sequence[int]) -> None:
        views = evenly(draw.num_views, data.num_views)
        cameras = data.cameras(objects[0])[views]
        self.look = Looking(cameras, draw.num_points, draw.samples_per_ray)
        self.real = real_view_set(data, list(objects), views, draw.num_points)

    def __call__(self, fields: Iterable[VoxelField], suffix: str = "") -> Scores:
        """The distances of a set, under names with this suffix."""
        found = distances(ViewSet.cat([self.look(field) for field in fields]), self.real, _extractor())
        values = (
            found.views["fd_views"],
            found.views["kd_views"],
            found.shapes.coverage,
            found.shapes.nearest_neighbour_accuracy,
            1e3 * float(found.shapes.nearest_distance.mean()),
        )
        return {f"{name}{suffix}": value for name, value in zip(NAMES, values, strict=True)}


@torch.inference_mode()
def judge_fields(
    draw: DrawSpec, model: RadianceModel, data: ViewDataset, objects: Sequence[int]
) -> dict[str, float]:
    """The scores of fields that a model draws, beside these objects. Raises NonFiniteLossError if one is not
    finite.
    """
    fields = model.sample(range(draw.num_samples), draw.plan(model.schedule))
    if not bool(fields.grid.isfinite().all()):
        raise NonFiniteLossError("sampled fields are not finite: lower the learning rate")
    scores = Judge(draw, data, objects)(fields[index] for index in range(len(fields)))
    return {name: value for name, value in scores.items() if value is not None}


def nothing(suffix: str = "") -> Scores:
    """The scores of what is not finite."""
    return dict.fromkeys(f"{name}{suffix}" for name in NAMES)


@torch.inference_mode()
def draw_latents(draw: DrawSpec, inputs: Mapping[str, Artifact], sigma_max: float) -> Scores:
    """The scores of samples, of direct sampling ("_direct"), of as many reconstructions ("_reconstruction").

    Reads inputs render, train_autodecoder, encode and train_diffusion; sampling starts at sigma_max.
    """
    latents, data = read_latents(inputs["encode"]), ViewDataset(inputs["render"])
    schedule, seeds = schedules.edm(sigma_max=sigma_max), range(draw.num_samples)
    model = put_together(
        inputs["train_autodecoder"],
        inputs["encode"],
        inputs["train_diffusion"],
        {"claims": draw.plan(schedule)},
        default_plan="claims",
        provenance={stage: artifact.ref for stage, artifact in inputs.items()},
    )
    judge = Judge(draw, data, objects_of(data, latents))

    def scores(drawn: Tensor, suffix: str = "") -> Scores:
        finite = bool(drawn.isfinite().all())
        return judge(decoded(model, drawn, lambda: None), suffix) if finite else nothing(suffix)

    def sampled(calls: int) -> Scores:
        return scores(generate_latents(model, seeds, draw.plan(schedule, calls)))

    found = sampled(draw.calls) | scores(direct_latents(latents.raw, seeds), "_direct")
    found |= scores(latents.raw[draw.again(len(latents.raw))], "_reconstruction")
    return found | {f"fd_views_{calls}": sampled(calls)["fd_views"] for calls in draw.steps}


@torch.inference_mode()
def draw_fields(draw: DrawSpec, inputs: Mapping[str, Artifact]) -> Scores:
    """The scores of sampled fields and of as many fitted ones ("_reconstruction").

    Reads inputs render, fit, encode and train_diffusion.
    """
    fitted, data = FieldSet.of(inputs["fit"], "train"), ViewDataset(inputs["render"])
    model = RadianceModel.of(inputs["train_diffusion"], inputs["encode"])
    judge = Judge(draw, data, [data.object_ids.index(name) for name in fitted.ids])
    fields = model.sample(range(draw.num_samples), draw.plan(model.schedule))
    finite = bool(fields.grid.isfinite().all())
    scores = judge(fields[index] for index in range(len(fields))) if finite else nothing()
    return scores | judge((fitted[index] for index in draw.again(len(fitted)).tolist()), "_reconstruction")
