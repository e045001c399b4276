"""The report of a pipeline in this folder, as a file and in the pipeline's own run."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from raydiance.cli.endpoint import served
from raydiance.cluster.pointers import Pointer, folder_of, read_pointer
from raydiance.cluster.record import join_record
from raydiance.config import LatentExperiment, load_params
from raydiance.config.stages import stages_of
from raydiance.errors import ArtifactError
from raydiance.generation.report import Command, StageRow, write_report
from raydiance.storage import Artifact, Store

__all__ = ["UI", "Results", "record"]

UI = "raydiance ui"
CURL = """curl http://127.0.0.1:8000/v1/samples --json '{"seed": 7}' -o sample.glb"""
HEADLINES = (
    "psnr_held_out",
    "ssim_held_out",
    "fd_views",
    "fid",
    "fd_ratio",
    "coverage",
    "seconds_per_sample",
    "nfe",
)


def record(params: Path, out: Path | None = None) -> Path:
    """Write the page, and put it with the headline figures into the pipeline's run: where it lies here."""
    results = Results.of(served(load_params(params)))
    path = out or results.folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    results.write(path)
    results.tell_the_pipeline(path)
    return path


@dataclass(frozen=True)
class Results:
    """What the stages of an experiment left in this folder and in the store."""

    experiment: LatentExperiment
    store: Store
    folder: Path

    @classmethod
    def of(cls, experiment: LatentExperiment) -> Self:
        return cls(
            experiment, Store.open(experiment.store.url, experiment.store.quota), folder_of(experiment.name)
        )

    def pointer(self, stage: str) -> Pointer:
        """What a stage left here. Raises ArtifactError if it has not run."""
        pointer = read_pointer(stage, self.folder)
        if pointer is None:
            raise ArtifactError(f"{self.folder / stage}.json: missing; run `raydiance pipeline` again")
        return pointer

    def made_by(self, stage: str) -> Artifact:
        return self.store.get(self.pointer(stage).ref)

    def stages(self) -> list[StageRow]:
        """The stages with their times and figures."""
        rows = []
        for stage in stages_of(self.experiment):
            metrics: dict[str, float] = json.loads((self.folder / "metrics" / f"{stage}.json").read_text())
            seconds = metrics.pop("duration_s")
            rows.append(StageRow(stage, seconds, self.pointer(stage).key, metrics, note=self._note(stage)))
        return rows

    def _note(self, stage: str) -> str:
        """By what the autodecoder compared images: not by VGG-19 unless its weights were given."""
        if stage != "train_autodecoder":
            return ""
        return f"image loss: {self.made_by(stage).read_json('spec.json').get('image_loss', 'unknown')}"

    def write(
        self,
        path: Path,
        *,
        sample: Path | None = None,
        views: Path | None = None,
        turntable: Path | None = None,
        curl: str = CURL,
    ) -> None:
        """Write the page: the stages with their times and figures, the samples, and how to go on."""
        plots = self.folder / "plots"
        curves = {stage: _losses(plots / f"{stage}-curves.csv") for stage in stages_of(self.experiment)}
        write_report(
            path,
            title=f"Raydiance: {self.experiment.name}, size {self.experiment.size}",
            stages=self.stages(),
            evaluation=self.made_by("evaluate"),
            bundle=self.made_by("publish"),
            gate=_gate(plots / "publish-gate.csv"),
            turntable=turntable,
            views=views,
            losses={stage: points for stage, points in curves.items() if points},
            commands=[
                Command("Browse the runs in MLflow", UI),
                Command("Serve the bundle", "raydiance serve"),
                Command("Ask the endpoint for a sample", curl),
                Command("Where does a sample come from?", f"raydiance trace {sample or 'sample.glb'}"),
                Command("Use your own meshes", "raydiance pipeline source=PATH_OR_URL"),
            ],
        )

    def tell_the_pipeline(self, report: Path) -> None:
        """Put the page and the headline figures into the MLflow run above those of the stages, if there is one."""
        last, experiment = self.pointer("publish"), self.experiment
        if last.parent_run_id is None:
            return
        metrics: Mapping[str, float] = self.made_by("evaluate").read_json("metrics.json")
        stages = self.stages()
        with join_record(experiment, last.parent_run_id) as tracker:
            tracker.log_file(report)
            tracker.log_metrics({name: metrics[name] for name in HEADLINES if name in metrics})
            tracker.log_metrics({"duration_s": sum(stage.seconds for stage in stages)})
            tracker.set_tags({"bundle": last.key})
            tracker.describe(
                f"Experiment `{experiment.name}`, size `{experiment.size}`, seed {experiment.seed}, from "
                f"`{experiment.source}`: {len(stages)} stages, each a run below this one. `report.html` among "
                "the artifacts shows samples, figures and times; `samples.html` in the run of `evaluate` can be "
                "turned."
            )


def _gate(path: Path) -> list[Mapping[str, object]]:
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


def _losses(path: Path) -> list[tuple[float, float]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return [(float(row["step"]), float(row["train/loss"])) for row in rows]
