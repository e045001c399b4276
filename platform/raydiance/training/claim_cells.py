"""The cells of the claims ledger: one training with one seed, measured once and kept under what it was made from.

A cell trains an autodecoder on views and, if its setting has a denoiser, encodes its codes, trains the denoiser
and draws from it. What it leaves in the store (autodecoder, latents, denoiser, the cell itself) has a name that
only equal work has, so a ledger that was cut off goes on, and cells share what they have in common.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from raydiance.data.encode import EncodeSpec, encode_codes
from raydiance.data.views import ViewDataset
from raydiance.diffusion import plans, schedules
from raydiance.diffusion.plans import SamplingPlan
from raydiance.errors import NonFiniteLossError
from raydiance.generation.assemble import put_together, read_latents
from raydiance.generation.bundle import LatentModel
from raydiance.generation.measure import (
    Looking,
    decoded,
    direct_latents,
    distances,
    evenly,
    objects_of,
)
from raydiance.generation.sampler import generate_latents
from raydiance.generation.viewsets import ViewSet, real_view_set
from raydiance.metrics import FEATURES_NAME, view_features
from raydiance.spec import digest, spec
from raydiance.storage import Artifact, ArtifactRef, Store, write_json
from raydiance.tracking import Outcome, Run, local_run
from raydiance.training.autodecoder import AutodecoderTraining, train_autodecoder
from raydiance.training.denoisers import DiffusionTraining
from raydiance.training.diffusion import train_diffusion

__all__ = ["Cell", "DrawSpec", "Figures", "Group", "Setting", "known_cells", "measure"]

Figures = Mapping[str, float | None]


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


@spec
class Setting:
    """What is trained. Without a denoiser only reconstructions are judged; it takes the shape of the latents."""

    autodecoder: AutodecoderTraining
    encode: EncodeSpec = EncodeSpec()
    denoiser: DiffusionTraining | None = None


@dataclass(frozen=True)
class Cell:
    """A setting under a name, one seed, and what is drawn from it; it can be pickled."""

    name: str
    setting: Setting
    seed: int
    draw: DrawSpec
    views: ArtifactRef

    @property
    def autodecoder_name(self) -> str:
        """That of the autodecoder's artifact, and of every cell's that shares it."""
        made_from = {"views": self.views.sha256, "training": self.setting.autodecoder, "seed": self.seed}
        return f"claims-{digest(made_from)}"

    @property
    def identity(self) -> str:
        """A name that only equal work has, whatever statement it is for."""
        denoised = None if self.setting.denoiser is None else [self.setting, self.draw, FEATURES_NAME]
        return f"claims-{digest([self.autodecoder_name, denoised])}"


@dataclass(frozen=True)
class Group:
    """Cells of one autodecoder, and where they are kept; it can be pickled."""

    store: Store
    cells: tuple[Cell, ...]


def known_cells(store: Store, cells: Sequence[Cell]) -> dict[str, Artifact]:
    """What earlier runs measured of these cells, by identity."""
    wanted = {cell.identity for cell in cells}
    found = {ref.key.removeprefix("cells/").rpartition("-")[0]: ref for ref in store.list("cells")}
    return {identity: store.get(ref) for identity, ref in found.items() if identity in wanted}


def measure(group: Group) -> list[Artifact]:
    """Fill cells and keep them: artifacts of kind "cells", whose cell.json holds figures. On one thread.

    A figure is None where the training or the samples were not finite.
    """
    torch.set_num_threads(1)
    return [_fill(group.store, cell) for cell in group.cells]


def _fill(store: Store, cell: Cell) -> Artifact:
    began = time.process_time()
    views, training = store.get(cell.views), cell.setting.autodecoder
    inputs = {"render": views}
    trained = _once(
        store,
        "autodecoder",
        cell.autodecoder_name,
        cell,
        inputs,
        lambda run: train_autodecoder(training, run),
    )
    rows = trained.read_json("held_out.json")
    figures: dict[str, float | None] = {
        key: float(np.mean([row[key] for row in rows])) for key in ("psnr", "ssim")
    }
    parents = [views.ref, trained.ref]
    if cell.setting.denoiser is not None:
        found, made = _denoise(store, cell, {**inputs, "train_autodecoder": trained})
        figures |= found
        parents += made
    figures["seconds"] = time.process_time() - began
    with store.create(
        "cells", cell.identity, spec=cell.setting, seeds={"seed": cell.seed}, parents=parents
    ) as draft:
        write_json(draft.path("cell.json"), figures)
    return draft.artifact


def _denoise(
    store: Store, cell: Cell, inputs: Mapping[str, Artifact]
) -> tuple[dict[str, float | None], list[ArtifactRef]]:
    """Encode, train and draw: the figures, and the artifacts behind them."""
    encoding, denoiser = cell.setting.encode, cell.setting.denoiser
    assert denoiser is not None, "the caller has looked"
    name = f"claims-{digest([inputs['train_autodecoder'].ref.sha256, encoding])}"
    latents = _once(store, "latents", name, cell, inputs, lambda run: encode_codes(encoding, run))
    read = read_latents(latents)
    normalised = read.statistics.normalise(read.raw)
    figures: dict[str, float | None] = {
        "deviation": float(normalised.std()),
        "largest": float(normalised.abs().max()),
    }
    training = _fitting(denoiser, read.raw)
    name = f"claims-{digest([latents.ref.sha256, training, cell.seed])}"
    inputs = {**inputs, "encode": latents}
    try:
        trained = _once(store, "denoiser", name, cell, inputs, lambda run: train_diffusion(training, run))
    except NonFiniteLossError:
        return figures | _drawn(cell.draw, None), [latents.ref]
    return figures | _drawn(cell.draw, _Drawing(cell, inputs, trained)), [latents.ref, trained.ref]


def _once(
    store: Store,
    kind: str,
    name: str,
    cell: Cell,
    inputs: Mapping[str, Artifact],
    job: Callable[[Run], Outcome],
) -> Artifact:
    """The artifact of this name, made if it is not there; its checkpoints are removed."""
    found = store.latest(f"{kind}/{name}")
    if found is None:
        found = job(local_run(store, name=name, inputs=inputs, seed=cell.seed)).artifact
        for ref in store.list(f"checkpoints/{name}"):
            store.delete(ref)
    return found


def _fitting(training: DiffusionTraining, latents: Tensor) -> DiffusionTraining:
    """The training for latents [N, C, L, L, L]."""
    channels, resolution = latents.shape[1], latents.shape[2]
    model = replace(training.model, in_channels=channels, out_channels=channels, resolution=resolution)
    return replace(training, model=model)


class _Drawing:
    """Sets of objects of a trained denoiser beside the real ones."""

    def __init__(self, cell: Cell, inputs: Mapping[str, Artifact], denoiser: Artifact) -> None:
        self.draw = cell.draw
        assert cell.setting.denoiser is not None
        self.schedule = schedules.edm(sigma_max=cell.setting.denoiser.sigma_max)
        self.latents = read_latents(inputs["encode"])
        self.data = ViewDataset(inputs["render"])
        plan = self.plan(cell.draw.calls)
        self.model: LatentModel = put_together(
            inputs["train_autodecoder"],
            inputs["encode"],
            denoiser,
            {"claims": plan},
            default_plan="claims",
            provenance={stage: artifact.ref for stage, artifact in inputs.items()},
        )
        self.objects = objects_of(self.data, self.latents)
        views = evenly(cell.draw.num_views, self.data.num_views)
        cameras = self.data.cameras(self.objects[0])[views]
        self.look = Looking(cameras, cell.draw.num_points, cell.draw.samples_per_ray)
        self.real = real_view_set(self.data, self.objects, views, cell.draw.num_points)
        self.features = _features()
        self.seeds = range(cell.draw.num_samples)

    def plan(self, calls: int) -> SamplingPlan:
        return plans.build("dpm_solver_pp", self.schedule, "karras", calls, order=2)

    def scores(self, suffix: str, latents: Tensor) -> dict[str, float | None]:
        """The distances of a set of latents, under names with this suffix."""
        names = ("fd_views", "kd_views", "coverage", "accuracy", "nearest_x1e3")
        if not bool(latents.isfinite().all()):
            return {f"{name}{suffix}": None for name in names}
        seen = ViewSet.cat([self.look(field) for field in decoded(self.model, latents, lambda: None)])
        found = distances(seen, self.real, self.features)
        values = (
            found.fd_views,
            found.kd_views,
            found.shapes.coverage,
            found.shapes.nearest_neighbour_accuracy,
            1e3 * float(found.shapes.nearest_distance.mean()),
        )
        return {f"{name}{suffix}": value for name, value in zip(names, values, strict=True)}

    def sampled(self, calls: int) -> Tensor:
        return generate_latents(self.model, self.seeds, self.plan(calls))


_features = cache(view_features)


@torch.inference_mode()
def _drawn(draw: DrawSpec, drawing: "_Drawing | None") -> dict[str, float | None]:
    """The scores of samples, of direct sampling, of as many reconstructions; None where nothing could be drawn."""
    if drawing is None:
        return dict.fromkeys(["fd_views", "kd_views", *(f"fd_views_{calls}" for calls in draw.steps)])
    raw = drawing.latents.raw
    scores = drawing.scores("", drawing.sampled(draw.calls))
    scores |= drawing.scores("_direct", direct_latents(raw, drawing.seeds))
    chosen = torch.randint(len(raw), (draw.num_samples,), generator=torch.Generator().manual_seed(0))
    scores |= drawing.scores("_reconstruction", raw[chosen])
    for calls in draw.steps:
        scores[f"fd_views_{calls}"] = drawing.scores("", drawing.sampled(calls))["fd_views"]
    return scores
