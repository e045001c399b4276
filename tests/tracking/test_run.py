"""A Run made by hand does what a job expects of one."""

import os
from pathlib import Path

import pytest
import torch

from raydiance.errors import ConfigError
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, Outcome, ProcessMap, Run, Worker, local_run


def job(spec: dict[str, int], run: Run) -> Outcome:
    squares = list(run.map(abs, [-1, -2]))
    total = run.launch(train, sum(squares) * spec["factor"])
    with run.store.create("views", run.name, seeds={"seed": run.seed}) as draft:
        pass
    return Outcome(draft.artifact, {"total": total})


def train(payload: int, worker: Worker) -> int:
    assert (worker.rank, worker.world_size, worker.device) == (0, 1, torch.device("cpu"))
    worker.tracker.log_metrics({"loss": 1.0}, step=0)
    with worker.progress.task("train", total=1) as task:
        task.update()
    worker.report({"loss": 1.0}, None)
    return payload


def test_a_job_runs_on_a_local_run(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    outcome = job({"factor": 2}, local_run(tmp_path, name="chairs", seed=3, tracker=tracker))
    assert outcome.metrics == {"total": 6}
    assert outcome.artifact.manifest.seeds == {"seed": 3}
    assert tracker.metrics == {"loss": [(0, 1.0)]}


def test_inputs_are_found_by_stage(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with store.create("meshes", "chairs") as draft:
        pass
    run = local_run(store, inputs={"ingest": draft.artifact})
    assert run.inputs["ingest"].ref == draft.artifact.ref
    assert run.input_of("meshes") is run.inputs["ingest"]
    with pytest.raises(ConfigError, match=r"one input of kind 'latents', got \['ingest'\]"):
        run.input_of("latents")


def process_id(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_a_process_map_keeps_the_order_and_leaves_this_process() -> None:
    done = list(ProcessMap(2)(process_id, range(5)))
    assert [item for item, _ in done] == list(range(5))
    assert os.getpid() not in {pid for _, pid in done}
