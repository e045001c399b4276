"""How the stages of an experiment stand: done, out of date, or not there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from raydiance.cluster.plan import run_name, same_work
from raydiance.cluster.pointers import Pointer, folder_of, read_pointer
from raydiance.config import Experiment
from raydiance.config.stages import stages_of
from raydiance.errors import ArtifactError
from raydiance.storage import Artifact, Store

__all__ = ["StageState", "State", "states"]

State = Literal["done", "stale", "missing"]


@dataclass(frozen=True)
class StageState:
    """A stage: `why` says what makes it stale or missing; `seconds` is how long its last run took."""

    stage: str
    state: State
    why: str = ""
    pointer: Pointer | None = None
    made: datetime | None = None
    seconds: float | None = None


def states(experiment: Experiment, store: Store) -> list[StageState]:
    """All stages in order. A stage is done if it was made from the present settings, seed and inputs."""
    found: list[StageState] = []
    artifacts: dict[str, Artifact] = {}
    for stage, inputs in stages_of(experiment).items():
        found.append(_state(experiment, store, stage, inputs, artifacts, found))
    return found


def _state(
    experiment: Experiment,
    store: Store,
    stage: str,
    inputs: tuple[str, ...],
    artifacts: dict[str, Artifact],
    before: list[StageState],
) -> StageState:
    folder = folder_of(experiment.name)
    try:
        pointer = read_pointer(stage, folder)
        if pointer is None:
            return StageState(stage, "missing", "it has not run")
        artifact = artifacts[stage] = store.get(pointer.ref)
    except ArtifactError as error:
        return StageState(stage, "missing", str(error))
    why = _out_of_date(experiment, stage, pointer, {name: artifacts.get(name) for name in inputs}, before)
    return StageState(
        stage,
        "stale" if why else "done",
        why,
        pointer,
        datetime.fromisoformat(artifact.manifest.created),
        _seconds(folder / "metrics" / f"{stage}.json"),
    )


def _out_of_date(
    experiment: Experiment,
    stage: str,
    pointer: Pointer,
    inputs: Mapping[str, Artifact | None],
    before: list[StageState],
) -> str:
    """What has changed since the stage ran, in words; empty if nothing has."""
    for earlier in before:
        if earlier.stage in inputs and earlier.state != "done":
            return f"{earlier.stage} is {earlier.state}"
    present = {name: artifact for name, artifact in inputs.items() if artifact}
    if same_work(pointer.run_name, run_name(experiment, stage, present)):
        return ""
    return "its settings, seed or inputs have changed"


def _seconds(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_bytes())["duration_s"])
    except (OSError, ValueError, KeyError):
        return None
