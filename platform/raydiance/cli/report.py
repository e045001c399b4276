"""The report of the pipeline in this folder, as a file and in the pipeline's own run."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from raydiance.cluster.pointers import FOLDER, Pointer, read_pointer
from raydiance.cluster.record import join_record
from raydiance.config import Experiment
from raydiance.config.stages import STAGES
from raydiance.errors import ArtifactError
from raydiance.generation.report import Command, StageRow, write_report
from raydiance.storage import Artifact, Store

__all__ = ["UI", "made_by", "record", "write"]

UI = "raydiance ui"
CURL = """curl http://127.0.0.1:8000/v1/samples --json '{"seed": 7}' -o sample.glb"""
HEADLINES = (
    "psnr_held_out",
    "ssim_held_out",
    "fd_views",
    "fd_ratio",
    "coverage",
    "seconds_per_sample",
    "nfe",
)


def write(
    path: Path,
    experiment: Experiment,
    *,
    sample: Path | None = None,
    views: Path | None = None,
    turntable: Path | None = None,
    curl: str = CURL,
) -> None:
    """Write the page: the stages with their times and figures, the samples, and how to go on."""
    store = Store.open(experiment.store.url)
    commands = [
        Command("Browse the runs in MLflow", UI),
        Command("Serve the bundle", "raydiance serve"),
        Command("Ask the endpoint for a sample", curl),
        Command("Where does a sample come from?", f"raydiance trace {sample or 'sample.glb'}"),
        Command("Use your own meshes", "raydiance pipeline source=PATH_OR_URL"),
    ]
    write_report(
        path,
        title=f"Raydiance: {experiment.name}, size {experiment.size}",
        stages=[_row(stage) for stage in STAGES],
        evaluation=made_by(store, "evaluate"),
        bundle=made_by(store, "publish"),
        gate=_rows(FOLDER / "plots" / "publish-gate.csv"),
        turntable=turntable,
        views=views,
        losses={stage: points for stage in STAGES if (points := _losses(stage))},
        commands=commands,
    )


def record(experiment: Experiment, path: Path) -> None:
    """Write the page at `path`, and put it with the pipeline's headline figures into the pipeline's run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, experiment)
    parent = _pointer("publish").parent_run_id
    if parent is None:
        return
    metrics: Mapping[str, float] = made_by(Store.open(experiment.store.url), "evaluate").read_json(
        "metrics.json"
    )
    total = sum(_row(stage).seconds for stage in STAGES)
    with join_record(experiment, parent) as tracker:
        tracker.log_file(path)
        tracker.log_metrics(
            {name: metrics[name] for name in HEADLINES if name in metrics} | {"duration_s": total}
        )
        tracker.set_tags({"bundle": _pointer("publish").key})
        tracker.describe(
            f"Experiment `{experiment.name}`, size `{experiment.size}`, seed {experiment.seed}, from "
            f"`{experiment.source}`: {len(STAGES)} stages, each a run below this one. `report.html` among the "
            "artifacts shows samples, figures and times; `samples.html` in the run of `evaluate` can be turned."
        )


def _pointer(stage: str) -> Pointer:
    pointer = read_pointer(stage)
    if pointer is None:
        raise ArtifactError(f"{FOLDER / stage}.json: missing; run `raydiance pipeline` again")
    return pointer


def made_by(store: Store, stage: str) -> Artifact:
    """What a stage of the pipeline in this folder made."""
    return store.get(_pointer(stage).ref)


def _row(stage: str) -> StageRow:
    metrics: dict[str, float] = json.loads((FOLDER / "metrics" / f"{stage}.json").read_text())
    seconds = metrics.pop("duration_s")
    return StageRow(stage, seconds, _pointer(stage).key, metrics)


def _rows(path: Path) -> list[Mapping[str, object]]:
    """The gate's table as it was before it became CSV."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                **row,
                "found": _number(row["found"]),
                "bound": _number(row["bound"]),
                "passed": row["passed"] == "True",
            }
            for row in csv.DictReader(file)
        ]


def _number(text: str) -> float | None:
    return float(text) if text else None


def _losses(stage: str) -> list[tuple[float, float]]:
    path = FOLDER / "plots" / f"{stage}-curves.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return [(float(row["step"]), float(row["train/loss"])) for row in rows]
