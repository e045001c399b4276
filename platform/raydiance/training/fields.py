"""The job `fit`: a voxel field for each object of rendered views, or field, mesh and film of a posed capture."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from raydiance.data.captures import CaptureSpec, PosedCapture, open_capture
from raydiance.data.ingest import into_unit_ball
from raydiance.data.render import RenderSpec, camera_arrays, spiral
from raydiance.data.sandbox import read_mesh
from raydiance.data.views import ViewDataset
from raydiance.errors import DataError, RaydianceError
from raydiance.fields import (
    VoxelField,
    bake_texture,
    contact_sheet,
    export_glb,
    extract_mesh,
    load_field,
    render_views,
    save_field,
    turntable,
    write_png,
    write_video,
)
from raydiance.generation.completion import FieldCompletion, complete_fields
from raydiance.spec import spec, to_plain
from raydiance.storage import Artifact, ArtifactRef, Draft, Store, write_json
from raydiance.tracking import Outcome, Run
from raydiance.training.fitting import FieldFit, FittedField, PosedImages, fit_field, held_out_psnr

if TYPE_CHECKING:
    import trimesh

__all__ = ["CaptureFit", "FieldsFit", "complete", "fit", "fit_capture", "fit_views", "voxelise"]

SHEET_OBJECTS = 6


@spec
class FieldsFit:
    """How the objects of a set of views are fitted, each by itself."""

    field: FieldFit = FieldFit(undershoot=0.0)


@spec
class CaptureFit:
    """What is read of a capture, how its field is fitted, and what is made of it.

    iso: density of the mesh's surface (None: where a cell absorbs half the light). max_faces, texture_size: of
    the mesh. frames, frame_size: of the film.
    """

    capture: CaptureSpec = CaptureSpec()
    field: FieldFit = FieldFit(tight=True, sparsity=0.03, total_variation=3e-3)
    iso: Annotated[float, Gt(0)] | None = None
    components: Literal["all", "largest"] = "all"
    max_faces: Annotated[int, Ge(16)] = 20_000
    texture_size: Annotated[int, Ge(16)] = 1024
    frames: Annotated[int, Ge(1)] = 72
    frame_size: Annotated[int, Ge(16)] = 320


def fit(spec: FieldsFit | CaptureFit, run: Run) -> Outcome:
    """Fit what the spec is for."""
    return fit_views(spec, run) if isinstance(spec, FieldsFit) else fit_capture(spec, run)


@dataclass(frozen=True)
class _Task:
    """One object to be fitted, by a process that gets nothing else; its field is kept under `checkpoints`."""

    store: Store
    views: ArtifactRef
    object_index: int
    field: FieldFit
    seed: int
    checkpoints: str


@dataclass(frozen=True)
class _Result:
    """Where an object's field lies and how good it is, or why there is none."""

    object_index: int
    field: ArtifactRef | None
    scores: Mapping[str, float]
    reason: str = ""


def fit_views(spec: FieldsFit, run: Run) -> Outcome:
    """Fields of all objects of run.inputs["render"], as an artifact of kind "fields".

    It holds fields.json and fields/<id>.safetensors. Objects that an earlier, interrupted run fitted are not
    fitted again; one that fails is told of and left out. DataError if all fail.
    """
    views = run.inputs["render"]
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(views, "training")
    data, checkpoints = ViewDataset(views), f"checkpoints/{run.name}"
    results = _done_before(run.store, checkpoints)
    tasks = [
        _Task(run.store, views.ref, index, spec.field, run.seed, checkpoints)
        for index in range(data.num_objects)
        if index not in results
    ]
    with run.progress.task("fit", total=len(tasks)) as shown:
        for result in run.map(_fit_object, tasks):
            results[result.object_index] = result
            shown.update(1, **({"psnr": result.scores["psnr"]} if "psnr" in result.scores else {}))
    ordered = [results[index] for index in sorted(results)]
    failed = [result for result in ordered if result.field is None]
    if len(failed) == len(ordered):
        raise DataError(f"{views.ref.key}: no object could be fitted; the first one: {failed[0].reason}")
    fitted = [result for result in ordered if result.field is not None]
    with run.store.create(
        "fields", run.name, spec=spec, seeds={"seed": run.seed}, parents=[views.ref]
    ) as draft:
        _write_fields(draft, run.store, data, ordered)
        draft.meta.update({"objects": len(fitted), "failed": len(failed)})
    metrics = {
        f"{key}_mean": float(np.mean([result.scores[key] for result in fitted])) for key in fitted[0].scores
    }
    metrics |= {"objects": float(len(fitted)), "failed": float(len(failed))}
    run.tracker.log_metrics(metrics)
    run.tracker.log_image("fields", _sheet(data, draft.artifact))
    rows = [{"object": data.object_ids[result.object_index], **result.scores} for result in fitted]
    return Outcome(draft.artifact, metrics, {"fields": rows})


def complete(spec: FieldCompletion, run: Run) -> Outcome:
    """Complete fields, meshes and samples: see generation.completion."""
    return complete_fields(spec, run, voxelise=voxelise)


def voxelise(path: Path, resolution: int) -> VoxelField:
    """A field in the unit box of a mesh file, fitted to views of it. DataError for what is no mesh."""
    from raydiance.data.raycast import render_mesh  # here, because it compiles

    mesh, _, _ = into_unit_ball(read_mesh(path), 0.95)
    look = RenderSpec(size=64, num_views=24, held_out_every=0)
    cameras = spiral(look)
    rgba = torch.from_numpy(render_mesh(mesh, camera_arrays(cameras), supersample=look.supersample).rgba)
    levels = 2 if resolution >= 16 else 1
    fit = FieldFit(resolution=resolution, levels=levels, steps=200, undershoot=0.0)
    return fit_field(PosedImages(rgba, cameras), fit, seed=0).field


def _done_before(store: Store, checkpoints: str) -> dict[int, _Result]:
    results = {}
    for ref in store.list(checkpoints):
        meta = store.get(ref).manifest.meta
        index, scores = meta["object_index"], meta["scores"]
        assert isinstance(index, int) and isinstance(scores, Mapping)
        results[index] = _Result(index, ref, {str(key): float(value) for key, value in scores.items()})
    return results


def _fit_object(task: _Task) -> _Result:
    """Fit one object; the function that is mapped over processes."""
    start, spent = time.perf_counter(), time.process_time()
    data = ViewDataset(task.store.get(task.views))
    try:
        images = PosedImages(data.images(task.object_index), data.cameras(task.object_index))
        fitted = fit_field(images[data.train_views.tolist()], task.field, seed=task.seed)
    except (RaydianceError, RuntimeError) as error:
        name = data.object_ids[task.object_index]
        return _Result(task.object_index, None, {}, f"{name}: {error}")
    scores = {
        "steps": float(fitted.steps),
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - spent,
    }
    if len(data.held_out_views):
        scores["psnr"] = float(held_out_psnr(fitted, images[data.held_out_views.tolist()]).mean())
    with task.store.create(
        task.checkpoints,
        f"{task.object_index:06d}",
        spec=task.field,
        parents=[task.views],
        meta={"object_index": task.object_index, "scores": scores},
    ) as draft:
        save_field(fitted.field, draft.path("field.safetensors"))
    return _Result(task.object_index, draft.artifact.ref, scores)


def _write_fields(draft: Draft, store: Store, data: ViewDataset, results: Sequence[_Result]) -> None:
    test = set(data.test_objects.tolist())
    objects, failed = [], []
    for result in results:
        index = result.object_index
        name = data.object_ids[index]
        if result.field is None:
            failed.append({"id": name, "reason": result.reason})
            continue
        file = f"fields/{name}.safetensors"
        shutil.copyfile(store.get(result.field).path("field.safetensors"), draft.path(file))
        split = "test" if index in test else "train"
        row = {"id": name, "category": data.categories[index], "split": split, "file": file}
        objects.append({**row, **result.scores})
    write_json(draft.path("fields.json"), {"objects": objects, "failed": failed})


def _sheet(data: ViewDataset, fields: Artifact) -> NDArray[np.uint8]:
    """The first objects from a view that was not trained on: the truth above, the field below."""
    rows = fields.read_json("fields.json")["objects"][:SHEET_OBJECTS]
    view = int(data.held_out_views[0]) if len(data.held_out_views) else 0
    truth, shown = [], []
    for row in rows:
        index = data.object_ids.index(row["id"])
        truth.append(data.images(index, [view])[0].numpy())
        field = load_field(fields.path(row["file"]))
        with torch.no_grad():
            seen = render_views(field, data.cameras(index), [view], num_samples=192).colour[0, 0]
        shown.append((seen.clamp(0, 1) * 255).round().byte().numpy())
    return np.concatenate((contact_sheet(truth, len(rows)), contact_sheet(shown, len(rows))))


def fit_capture(spec: CaptureFit, run: Run) -> Outcome:
    """Field, meshes and film of a posed capture, as an artifact of kind "field".

    It holds field.safetensors, capture.json (what was read and the transform applied to it), mesh.glb (colours
    of vertices), mesh_textured.glb, turntable.mp4, held_out.png and report.json.
    """
    posed = open_capture(spec.capture)
    told = posed.capture.describe()
    print(told)
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_text("capture.txt", told)
    images = PosedImages(posed.photographs.rgba, posed.photographs.cameras, posed.background)
    extent = spec.capture.extent
    start = time.perf_counter()
    with run.progress.task("fit", total=_most_steps(spec.field)) as shown:
        before = 0

        def heard(steps: int, psnr: float) -> None:
            nonlocal before
            shown.update(steps - before, psnr=psnr)
            before = steps

        fitted = fit_field(
            images[posed.train],
            spec.field,
            seed=run.seed,
            lower=(-extent,) * 3,
            upper=(extent,) * 3,
            heard=heard,
        )
    metrics = {"steps": float(fitted.steps), "seconds": time.perf_counter() - start}
    if posed.held_out:
        metrics["psnr"] = float(held_out_psnr(fitted, images[posed.held_out]).mean())
    with run.store.create("field", run.name, spec=spec, seeds={"seed": run.seed}) as draft:
        report = _write_capture(draft, spec, posed, fitted)
        write_json(draft.path("report.json"), {**report, **metrics})
    run.tracker.log_metrics(metrics)
    print(f"{report['mesh']}; the files lie in {draft.artifact.folder()}")
    return Outcome(draft.artifact, metrics)


def _most_steps(fit: FieldFit) -> int:
    return sum(max(1, fit.steps >> level) for level in range(fit.levels))


def _write_capture(
    draft: Draft, spec: CaptureFit, posed: PosedCapture, fitted: FittedField
) -> dict[str, object]:
    save_field(fitted.field, draft.path("field.safetensors"))
    applied = [*posed.capture.applied.tolist(), [0.0, 0.0, 0.0, 1.0]]
    content = {
        "source": spec.capture.source,
        "background": posed.background,
        "applied_transform": applied,
        "scale": posed.capture.scale,
        "cameras": posed.photographs.cameras.to_json(),
        "held_out": list(posed.held_out),
    }
    write_json(draft.path("capture.json"), content)
    film = turntable(
        fitted.field,
        num_frames=spec.frames,
        size=spec.frame_size,
        num_samples=2 * max(fitted.field.resolution),
    )
    write_video(draft.path("turntable.mp4"), film)
    if posed.held_out:
        write_png(draft.path("held_out.png"), _comparison(posed, fitted))
    try:
        mesh = extract_mesh(
            fitted.field,
            iso=spec.iso,
            components=spec.components,
            fill_cavities=True,
            max_faces=spec.max_faces,
        )
    except DataError as error:
        return {"mesh": f"no mesh: {error}", "watertight": False}
    _write_meshes(draft, spec, fitted, mesh)
    watertight = bool(mesh.metadata["raydiance"]["watertight"])
    said = f"mesh of {len(mesh.faces)} faces, {'watertight' if watertight else 'not watertight'}"
    return {"mesh": said, "watertight": watertight, "faces": len(mesh.faces)}


def _write_meshes(draft: Draft, spec: CaptureFit, fitted: FittedField, mesh: "trimesh.Trimesh") -> None:
    extras = {"raydiance": {"field": draft.key}}
    export_glb(mesh, draft.path("mesh.glb"), extras=extras)
    baked = bake_texture(fitted.field, mesh, size=spec.texture_size)
    export_glb(baked, draft.path("mesh_textured.glb"), extras=extras)


def _comparison(posed: PosedCapture, fitted: FittedField) -> NDArray[np.uint8]:
    """Held-out frames above, the field below."""
    views = list(posed.held_out)[:SHEET_OBJECTS]
    with torch.no_grad():
        seen = render_views(
            fitted.field, posed.photographs.cameras, views, num_samples=3 * max(fitted.field.resolution)
        )
    shown = (seen.colour[0].clamp(0, 1) * 255).round().byte().numpy()
    truth = posed.photographs.rgba[views].numpy()
    return np.concatenate((contact_sheet(truth, len(views)), contact_sheet(shown, len(views))))
