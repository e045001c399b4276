"""How much faster a search for sampling plans is than the same trials as nested Train runs.

The search is `raydiance run tune` on the digits' model: function trials that keep the network in their worker.
Nested, each trial is a run of Ray Train with one worker inside a trial of Ray Tune, two at a time, as a search
over trainings has to be. All trials of the search are run; of the nested ones only some, chosen evenly among
the same candidates in the order of what they cost, and the time of all is told as if those were like the rest.
Prints a line of JSON at the end:

    PYTHONPATH=platform python benchmarks/search.py [--quick]
"""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from raydiance.cluster.session import session
from raydiance.cluster.trainer import Trainer
from raydiance.config import ClusterSpec, DigitsExperiment, compose
from raydiance.data.digits import digits
from raydiance.spec import canonical_json
from raydiance.storage import ArtifactRef, Store, code_version
from raydiance.tracking import local_run
from raydiance.training import train_diffusion
from raydiance.tuning.candidates import Candidate
from raydiance.tuning.tune import Task, _kept, _quiet, _trial, tune

LIMIT = 8.0  # times faster
CONCURRENT = 2


def searched(experiment: DigitsExperiment, trials: int, store: Store) -> tuple[float, Task]:
    """Seconds of a search, from a fresh Tune to the artifact with its figure."""
    made = digits(experiment.digits, local_run(store, name="digits")).artifact
    training = replace(experiment.train_diffusion, loop=replace(experiment.train_diffusion.loop, steps=20))
    inputs = {"digits": made}
    trained = train_diffusion(training, local_run(store, name="train", inputs=inputs)).artifact
    run = local_run(store, name="search", inputs=inputs | {"train_diffusion": trained})
    spec = replace(experiment.tune, num_trials=trials, learn=())
    began = time.perf_counter()
    tune(spec, run)
    seconds = time.perf_counter() - began
    gc.collect()  # what Tune leaves behind holds its workers, and those the cores
    return seconds, Task(spec, run.name, store, trained.ref, made.ref)


def nested(task: Task, candidates: Sequence[Candidate], teacher: Sequence[ArtifactRef]) -> float:
    """Seconds of these trials, each of them a training that trains nothing but judges its plan."""
    asked = [canonical_json({"candidate": each, "teacher": teacher}) for each in candidates]

    def trial(config: dict[str, Any]) -> dict[str, Any]:
        from ray.train import LoggingConfig, RunConfig, ScalingConfig

        trainer = Trainer(
            lambda inner: _trial(inner, task=task),
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=1, resources_per_worker={"CPU": task.tune.cpus_per_trial}
            ),
            run_config=RunConfig(
                storage_path=str(Path(task.store.url) / "nested"),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
        return {"score": trainer.fit().return_value["score"]}  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as folder, _quiet():
        began = time.perf_counter()
        results = ray_tune.Tuner(
            ray_tune.with_resources(trial, {"memory": 2**20}),  # the cores are the workers'
            param_space={"task": ray_tune.grid_search(asked)},
            tune_config=ray_tune.TuneConfig(max_concurrent_trials=CONCURRENT, reuse_actors=True),
            run_config=ray_tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        seconds = time.perf_counter() - began
    if failed := [result.error for result in results if result.error]:
        raise SystemExit(str(failed[0]))
    return seconds


def evenly(task: Task, count: int) -> tuple[list[Candidate], tuple[ArtifactRef, ...]]:
    """Candidates of the search from the cheapest to the dearest, and the parts of the teacher's samples."""
    known, teacher = _kept(task)
    ordered = sorted(known.values(), key=lambda result: result.plan.nfe)
    places = [round((k + 0.5) * len(ordered) / count - 0.5) for k in range(count)]
    return [ordered[place].candidate for place in places], tuple(teacher[start] for start in sorted(teacher))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 trials, of which 2 nested: within a minute")
    parser.add_argument("--nested", type=int, default=8, help="of the 64 trials, so many are run nested")
    asked = parser.parse_args()
    trials, count = (16, 2) if asked.quick else (64, asked.nested)
    experiment = compose(["experiment=digits", "size=tiny"])
    assert isinstance(experiment, DigitsExperiment)
    with tempfile.TemporaryDirectory() as folder, session(ClusterSpec(address="local")):
        search_s, task = searched(experiment, trials, Store.open(Path(folder) / "store"))
        print(f"search: {trials} trials in {search_s:.1f} s", file=sys.stderr)
        nested_s = nested(task, *evenly(task, count))
        print(f"nested: {count} trials in {nested_s:.1f} s", file=sys.stderr)
    told = {
        "benchmark": "search",
        "trials": trials,
        "search_s": round(search_s, 1),
        "nested_trials_run": count,
        "nested_s": round(nested_s, 1),
        "nested_s_for_all": round(nested_s / count * trials, 1),
        "times_faster": round(nested_s / count * trials / search_s, 2),
        "limit": LIMIT,
        "concurrent": CONCURRENT,
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "code_version": code_version(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
