"""The job `reconstruct`: fields that look like one posed image, by guiding the diffusion with its rendering
error.

Legend: y the image with its mask (alpha), R(f_0) the estimate of f_0 rendered by the same camera,
ln p(y | f_0) = -(|R(f_0) - y|^2 + |opacity - alpha|^2) / (2 tau^2) summed over pixels (DiffRF, section 3.4, in
our own terms; the network is passed through, see diffusion.guidance.loss_guided).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from raydiance.data.captures import CaptureSpec, open_capture
from raydiance.data.fieldsets import FieldCode, FieldSet
from raydiance.data.views import ViewDataset
from raydiance.diffusion.guidance import loss_guided
from raydiance.errors import ConfigError
from raydiance.fields import Cameras, VoxelField, contact_sheet, render, render_views, write_png
from raydiance.generation.radiance import FieldPlan, RadianceModel, sheet_of, write_fields
from raydiance.generation.viewsets import composite
from raydiance.metrics import psnr
from raydiance.spec import spec, to_plain
from raydiance.storage import Draft, write_json
from raydiance.tracking import Outcome, Run

__all__ = ["FieldReconstruction", "PosedImage", "guided", "reconstruct", "view_error"]


@spec
class FieldReconstruction:
    """What is reconstructed, and how.

    source: a capture (as `fit` reads it), of which the frame `view` is used. Without one, held-out objects are
    reconstructed from one held-out view each, and compared in all other views with the best of `unguided`
    samples that no image guided. tau: deviation of a pixel. candidates: guided samples of each image, of
    which the one that fits the image best is taken.
    """

    source: str = ""
    view: Annotated[int, Ge(0)] = 0
    capture: CaptureSpec = CaptureSpec(max_side=64, extent=1.0)
    plan: FieldPlan = FieldPlan(solver="ddim", num_steps=40)
    tau: Annotated[float, Gt(0)] = 0.3
    candidates: Annotated[int, Ge(1)] = 3
    first_seed: Annotated[int, Ge(0)] = 0
    unguided: Annotated[int, Ge(1)] = 8
    num_objects: Annotated[int, Ge(1)] = 8
    samples_per_ray: Annotated[int, Ge(2)] = 48
    mesh_resolution: Annotated[int, Ge(8)] = 64
    sheet_size: Annotated[int, Ge(16)] = 128


@dataclass(frozen=True)
class PosedImage:
    """One view: RGBA uint8 [H, W, 4], straight alpha, and the camera that took it."""

    rgba: Tensor
    camera: Cameras


def view_error(
    image: PosedImage, code: FieldCode, *, tau: float, num_samples: int
) -> Callable[[Tensor], Tensor]:
    """-ln p(y | f_0) [B] of data [B, 4, X, Y, Z], up to a constant."""
    rays = image.camera.rays(0).reshape(-1)
    truth = composite(image.rgba[None])[0].permute(1, 2, 0).reshape(-1, 3)
    alpha = image.rgba[..., 3].reshape(-1).float() / 255

    def error(data: Tensor) -> Tensor:
        seen = render(code.decode(data), rays.to(data.device), num_samples=num_samples, skip_empty=False)
        colour = (seen.colour - truth.to(data.device)).square().sum(-1)
        opacity = (seen.opacity - alpha.to(data.device)).square()
        return (colour + opacity).sum(1) / (2 * tau**2)

    return error


def reconstruct(spec: FieldReconstruction, run: Run) -> Outcome:
    """Fields for an image, or the table of held-out objects: artifact kind "reconstructions".

    Reads inputs train_diffusion and encode, for the table fit and render too.
    """
    run.tracker.log_params(to_plain(spec))
    model = RadianceModel.of(run.inputs["train_diffusion"], run.inputs["encode"])
    return _from_source(spec, run, model) if spec.source else _table(spec, run, model)


def guided(spec: FieldReconstruction, model: RadianceModel, image: PosedImage) -> tuple[VoxelField, Tensor]:
    """The candidates, and PSNR in dB of each in the image itself, [candidates]."""
    error = view_error(image, model.code, tau=spec.tau, num_samples=spec.samples_per_ray)
    seeds = range(spec.first_seed, spec.first_seed + spec.candidates)
    fields = model.sample(seeds, model.plan(spec.plan), loss_guided(model.predict_noise, error, 1.0))
    return fields, _psnr(fields, image.camera, composite(image.rgba[None]), spec.samples_per_ray)[:, 0]


def _from_source(spec: FieldReconstruction, run: Run, model: RadianceModel) -> Outcome:
    posed = open_capture(_with_source(spec))
    count = len(posed.capture.frames)
    if spec.view >= count:
        raise ConfigError(
            f"reconstruct.view = {spec.view}: {spec.source} has {count} frames, 0 .. {count - 1}"
        )
    image = PosedImage(posed.photographs.rgba[spec.view], posed.photographs.cameras[spec.view])
    fields, fits = guided(spec, model, image)
    names = [f"seed-{spec.first_seed + index}" for index in range(len(fits))]
    with _draft(spec, run) as draft:
        meshes = write_fields(draft, fields, names, spec.mesh_resolution)
        sheet = sheet_of(fields, [f"{float(fit):.1f} dB" for fit in fits], spec.sheet_size)
        write_png(draft.path("candidates.png"), sheet)
    metrics = {"psnr_seen": float(fits.max()), "best": float(fits.argmax()), "meshes": float(meshes)}
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("candidates", sheet)
    print(f"the field that fits best is {names[int(fits.argmax())]}; all lie in {draft.artifact.folder()}")
    return Outcome(draft.artifact, metrics)


def _with_source(spec: FieldReconstruction) -> CaptureSpec:
    return replace(spec.capture, source=spec.source, held_out_every=0)


def _draft(spec: FieldReconstruction, run: Run) -> AbstractContextManager[Draft]:
    seeds, parents = {"first_seed": spec.first_seed}, [artifact.ref for artifact in run.inputs.values()]
    return run.store.create("reconstructions", run.name, spec=spec, seeds=seeds, parents=parents)


def _table(spec: FieldReconstruction, run: Run, model: RadianceModel) -> Outcome:
    """PSNR of the views that were not shown, guided beside the best (in those very views) of unguided
    samples.
    """
    data, fitted = ViewDataset(run.inputs["render"]), FieldSet.of(run.inputs["fit"], "test")
    if not len(fitted) or not len(data.held_out_views):
        raise ConfigError(
            f"{run.inputs['fit'].ref.key}: it has {len(fitted)} held-out objects and {len(data.held_out_views)} "
            "held-out views, and needs both: raise ingest.test_fraction, or set render.held_out_every"
        )
    shown = int(data.held_out_views[0])
    others = [view for view in range(data.num_views) if view != shown]
    free_seeds = range(spec.first_seed, spec.first_seed + spec.unguided)
    free = model.sample(free_seeds, model.plan(FieldPlan()))
    rows, pictures = [], []
    with run.progress.task("reconstruct", total=min(spec.num_objects, len(fitted))) as task:
        for number in range(min(spec.num_objects, len(fitted))):
            index = data.object_ids.index(fitted.ids[number])
            cameras, images = data.cameras(index), composite(data.images(index))
            image = PosedImage(data.images(index, [shown])[0], cameras[shown])
            candidates, fits = guided(spec, model, image)
            best = candidates[int(fits.argmax())]
            unseen, free_unseen, limit = (
                _psnr(field, cameras[others], images[others], spec.samples_per_ray).mean(1)
                for field in (best, free, fitted[number])
            )
            rows.append(
                {
                    "object": fitted.ids[number],
                    "psnr_seen": float(fits.max()),
                    "psnr_unseen": float(unseen[0]),
                    "psnr_best_unguided": float(free_unseen.max()),
                    "psnr_fitted": float(limit[0]),
                }
            )
            sides = cameras[[shown, others[len(others) // 2]]]
            ours = render_views(best, sides, num_samples=spec.samples_per_ray).colour[0].clamp(0, 1)
            theirs = images[[shown, others[len(others) // 2]]].permute(0, 2, 3, 1)
            pictures += [theirs[0], ours[0], theirs[1], ours[1]]
            task.update(1)
    sheet = contact_sheet(pictures, columns=4)
    with _draft(spec, run) as draft:
        write_json(draft.path("objects.json"), rows)
        write_png(draft.path("reconstructions.png"), sheet)
    keys = ("psnr_seen", "psnr_unseen", "psnr_best_unguided", "psnr_fitted")
    metrics = {key: sum(float(str(row[key])) for row in rows) / len(rows) for key in keys}
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("reconstructions", sheet)
    return Outcome(draft.artifact, metrics, {"objects": rows})


@torch.no_grad()
def _psnr(fields: VoxelField, cameras: Cameras, truth: Tensor, num_samples: int) -> Tensor:
    """PSNR in dB of each view of each field, [B, V], against views [V, 3, H, W] over white."""
    seen = render_views(fields, cameras, num_samples=num_samples).colour.clamp(0, 1).permute(0, 1, 4, 2, 3)
    return psnr(seen.flatten(0, 1), truth.repeat(len(fields), 1, 1, 1)).reshape(len(fields), -1)
