"""The demo: the pipeline, the endpoint, one sample, and a page that shows all of it."""

import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raydiance.cli.endpoint import resolve_in
from raydiance.cli.work import run_pipeline
from raydiance.cluster.pointers import FOLDER, Pointer, read_pointer
from raydiance.config import Experiment, load_params
from raydiance.config.stages import STAGES
from raydiance.errors import ArtifactError
from raydiance.generation.report import Command, StageRow, write_report
from raydiance.serving import Client, running
from raydiance.storage import Artifact, Store

__all__ = ["run_demo"]

UI = "raydiance ui"


def run_demo(overrides: Sequence[str], out: Path, seed: int) -> None:
    """Everything from nothing; says at the end where it all is and how to go on."""
    started = time.monotonic()
    run_pipeline(overrides)
    experiment = load_params(Path("params.yaml"))
    out.mkdir(parents=True, exist_ok=True)
    made, curl = _ask_the_endpoint(experiment, out, seed)
    made.append(_report(experiment, out, curl))
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} min. Made:")
    for path in made:
        print(f"  {path}")
    print(f"Browse the runs:   {UI}")
    print("Serve it again:    raydiance serve")
    print(f"Then:              {curl}")


def _ask_the_endpoint(experiment: Experiment, out: Path, seed: int) -> tuple[list[Path], str]:
    """Start the endpoint on this machine, ask for one sample in three forms: the files, and the curl line."""
    print("serving the bundle on loopback", file=sys.stderr)
    store = Store.open(experiment.store.url)
    bundle = _made_by(store, "publish")
    spec = replace(experiment.serve, bundle=bundle.ref.key)
    files = {"glb": out / "sample.glb", "png": out / "views.png", "webp": out / "turntable.webp"}
    with (
        running(spec, store, resolve=resolve_in(experiment)) as endpoint,
        Client(endpoint.url) as client,
    ):
        for form, path in files.items():
            path.write_bytes(client.sample(seed, format=form).content)
            print(f"{endpoint.url} sent {path.name}", file=sys.stderr)
        return list(files.values()), endpoint.curl


def _report(experiment: Experiment, out: Path, curl: str) -> Path:
    store = Store.open(experiment.store.url)
    path = out / "report.html"
    write_report(
        path,
        title=f"Raydiance: {experiment.name}, size {experiment.size}",
        stages=[_row(stage) for stage in STAGES],
        evaluation=_made_by(store, "evaluate"),
        bundle=_made_by(store, "publish"),
        gate=_rows(FOLDER / "plots" / "publish-gate.csv"),
        turntable=out / "turntable.webp",
        views=out / "views.png",
        losses={stage: points for stage in STAGES if (points := _losses(stage))},
        commands=[
            Command("Browse the runs in MLflow", UI),
            Command("Serve the bundle again", "raydiance serve"),
            Command("Ask the endpoint for a sample", curl),
            Command("Where does a sample come from?", f"raydiance trace {out / 'sample.glb'}"),
            Command("Use your own meshes", "raydiance pipeline source=PATH_OR_URL"),
        ],
    )
    return path


def _pointer(stage: str) -> Pointer:
    pointer = read_pointer(stage)
    if pointer is None:
        raise ArtifactError(f"{FOLDER / stage}.json: missing; run `raydiance pipeline` again")
    return pointer


def _made_by(store: Store, stage: str) -> Artifact:
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
