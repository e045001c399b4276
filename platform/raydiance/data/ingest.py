"""The ingest stage: meshes from a generator or from files, centred and scaled into the unit ball.

What cannot or must not be read is skipped with its reason, and the rest goes on; none left is an error.
"""

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from raydiance.data.bounds import bounding_ball
from raydiance.data.furniture import KINDS, generate_captioned
from raydiance.data.meshes import Mesh, MeshLimits, UpAxis, save_mesh
from raydiance.data.sandbox import MeshReader
from raydiance.data.sources import open_source
from raydiance.errors import ConfigError, DataError
from raydiance.spec import spec, to_plain
from raydiance.storage import Draft, write_json
from raydiance.tracking import Outcome, Run

__all__ = ["IngestSpec", "MeshObject", "choose_test_ids", "ingest", "into_unit_ball"]

PROCEDURAL = "procedural:furniture"
DEFAULT_PIECES = 96  # of furniture, if the spec names no number

logger = logging.getLogger("raydiance.data")


@spec
class IngestSpec:
    """What is read, and how much of it.

    source: "procedural:furniture", a folder, a file, or an s3://, file:// or http(s):// URL. num_objects: at
    most so many, chosen evenly over the sorted names; None is all (96 pieces of furniture). categories: kinds
    of furniture or names of sub-folders; empty is all. fill: radius of the ball each object is fitted into.
    up: the axis that points up in OBJ, PLY and STL files ("auto": y for OBJ, z for the others; GLB has y).
    allowed_hosts: for http(s) sources. download_bytes: for all files of a remote source together.
    """

    source: str = PROCEDURAL
    num_objects: Annotated[int, Ge(1)] | None = None
    categories: tuple[str, ...] = ()
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    fill: Annotated[float, Gt(0), Le(1)] = 0.95
    up: UpAxis = "auto"
    limits: MeshLimits = MeshLimits()
    allowed_hosts: tuple[str, ...] = ()
    download_bytes: Annotated[int, Gt(0)] = 4 << 30

    def __post_init__(self) -> None:
        kind, _, name = self.source.partition(":")
        if kind == "procedural" and name != "furniture":
            raise ValueError(f'the generator {name!r} is unknown: use "{PROCEDURAL}"')
        unknown = sorted(set(self.categories) - set(KINDS))
        if self.source == PROCEDURAL and unknown:
            raise ValueError(f"furniture has no kind {', '.join(unknown)}: choose from {', '.join(KINDS)}")


@dataclass(frozen=True)
class MeshObject:
    """One ingested object: where it came from, and how its coordinates were changed: (x - center) * scale.

    caption: what a person would call it; of files the category, since nobody has looked at them.
    """

    id: str
    category: str
    caption: str
    origin: str
    split: str
    vertices: int
    faces: int
    center: tuple[float, float, float]
    scale: float


@dataclass
class _Report:
    """What was read and what was not."""

    objects: list[MeshObject] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, origin: str, reason: str) -> None:
        logger.warning("skipped %s: %s", origin, reason)
        self.skipped.append({"file": origin, "reason": reason})


def ingest(spec: IngestSpec, run: Run) -> Outcome:
    """Meshes as an artifact of kind "meshes": objects.json, report.json and meshes/<id>.safetensors."""
    run.tracker.log_params(to_plain(spec))
    start = time.perf_counter()
    report = _Report()
    with run.store.create("meshes", run.name, spec=spec, seeds={"seed": run.seed}) as draft:
        for item in _meshes(spec, run, report):
            _keep(item, spec, draft, report)
        if not report.objects:
            raise DataError(_nothing(spec, report))
        chosen = choose_test_ids([item.id for item in report.objects], spec.test_fraction, run.seed)
        objects = [replace(item, split="test" if item.id in chosen else "train") for item in report.objects]
        write_json(draft.path("objects.json"), [_plain(item) for item in objects])
        counts = dict(sorted(Counter(item.category for item in objects).items()))
        content = {
            "source": spec.source,
            "read": len(objects),
            "categories": counts,
            "skipped": report.skipped,
        }
        write_json(draft.path("report.json"), content)
        draft.meta.update({"objects": len(objects), "skipped": len(report.skipped)})
    metrics = {
        "objects": float(len(objects)),
        "test_objects": float(len(chosen)),
        "skipped": float(len(report.skipped)),
        "faces_mean": float(np.mean([item.faces for item in objects])),
        "ingest_s": time.perf_counter() - start,
    }
    run.tracker.log_metrics(metrics)
    tables = {"categories": [{"category": name, "objects": count} for name, count in counts.items()]}
    if report.skipped:
        tables["skipped"] = [dict(item) for item in report.skipped]
    return Outcome(artifact=draft.artifact, metrics=metrics, tables=tables)


def into_unit_ball(mesh: Mesh, fill: float) -> tuple[Mesh, tuple[float, float, float], float]:
    """The mesh with its bounding sphere moved to the origin and scaled to radius `fill`; centre and scale."""
    center, radius = bounding_ball(mesh.vertices)
    if not radius > 0:
        raise DataError("the mesh is a single point")
    scale = fill / radius
    vertices = ((mesh.vertices.astype(np.float64) - center) * scale).astype(np.float32)
    return replace(mesh, vertices=vertices), (float(center[0]), float(center[1]), float(center[2])), scale


def choose_test_ids(ids: list[str], fraction: float, seed: int) -> frozenset[str]:
    """The objects of the test split: those whose hash with the seed is smallest.

    At least one and never all of them, if the fraction is above 0 and there are two objects or more.
    """
    count = round(len(ids) * fraction)
    if fraction > 0:
        count = min(max(count, 1), len(ids) - 1)
    ranked = sorted(ids, key=lambda item: hashlib.sha256(f"{seed}:{item}".encode()).digest())
    return frozenset(ranked[:count])


@dataclass(frozen=True)
class _Item:
    id: str
    category: str
    caption: str
    origin: str
    mesh: Mesh


def _meshes(spec: IngestSpec, run: Run, report: _Report) -> Iterator[_Item]:
    return _generated(spec, run) if spec.source == PROCEDURAL else _read(spec, run, report)


def _generated(spec: IngestSpec, run: Run) -> Iterator[_Item]:
    """Furniture, kind after kind in turn, so that any number of pieces is balanced."""
    kinds = tuple(kind for kind in KINDS if not spec.categories or kind in spec.categories)
    count = DEFAULT_PIECES if spec.num_objects is None else spec.num_objects
    with run.progress.task("ingest", total=count) as shown:
        for number in range(count):
            kind, seed = kinds[number % len(kinds)], run.seed * 1_000_003 + number
            mesh, caption = generate_captioned(kind, seed)
            yield _Item(f"{kind}-{number:05d}", kind, caption, f"{PROCEDURAL}/{kind}?seed={seed}", mesh)
            shown.update()


def _read(spec: IngestSpec, run: Run, report: _Report) -> Iterator[_Item]:
    """Every file of the source that can be read."""
    source = open_source(
        spec.source,
        file_bytes=spec.limits.file_bytes,
        total_bytes=spec.download_bytes,
        allowed_hosts=spec.allowed_hosts,
    )
    entries = source.entries()
    known = sorted({entry.category for entry in entries})
    for name in spec.categories:
        if name not in known:
            raise ConfigError(f"ingest.categories: {spec.source} has no {name!r}, only {', '.join(known)}")
    entries = [entry for entry in entries if not spec.categories or entry.category in spec.categories]
    if spec.num_objects is not None and spec.num_objects < len(entries):
        picks = np.linspace(0, len(entries) - 1, spec.num_objects).round().astype(int)
        entries = [entries[pick] for pick in picks]
    taken: set[str] = set()
    with (
        closing(MeshReader(spec.limits, up=spec.up)) as reader,
        run.progress.task("ingest", total=len(entries)) as shown,
    ):
        for entry in entries:
            try:
                with source.local(entry) as path:
                    mesh = reader.read(path)
                called = entry.category.replace("_", " ").lower()
                yield _Item(_new_id(entry.name, taken), entry.category, called, entry.name, mesh)
            except DataError as error:
                report.skip(entry.name, str(error))
            shown.update(skipped=len(report.skipped))


def _new_id(name: str, taken: set[str]) -> str:
    """A name for files and tables that no other object has: "chairs/My chair.glb" is "chairs-My_chair"."""
    words = name.rpartition(".")[0].replace("/", "-")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", words).strip("._-")[:100] or "object"
    number = 2
    unique = stem
    while unique.lower() in taken:
        unique, number = f"{stem}-{number}", number + 1
    taken.add(unique.lower())
    return unique


def _keep(item: _Item, spec: IngestSpec, draft: Draft, report: _Report) -> None:
    try:
        mesh, center, scale = into_unit_ball(item.mesh, spec.fill)
    except DataError as error:
        report.skip(item.origin, str(error))
        return
    save_mesh(draft.path(f"meshes/{item.id}.safetensors"), mesh)
    report.objects.append(
        MeshObject(
            item.id,
            item.category,
            item.caption,
            item.origin,
            "train",
            len(mesh.vertices),
            len(mesh.faces),
            center,
            scale,
        )
    )


def _plain(item: MeshObject) -> dict[str, object]:
    return {name: getattr(item, name) for name in MeshObject.__dataclass_fields__}


def _nothing(spec: IngestSpec, report: _Report) -> str:
    reasons = "; ".join(f"{item['file']}: {item['reason']}" for item in report.skipped[:3])
    return (
        f"ingest.source {spec.source}: none of {len(report.skipped)} files could be read"
        + (f" ({reasons})" if reasons else "")
        + "; give GLB, OBJ, PLY or STL files"
    )
