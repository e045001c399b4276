"""What a job would do: the settings it resolves to, its inputs, its checkpoints and where it runs."""

import statistics
from collections.abc import Mapping

from raydiance.cluster.pointers import folder_of, resolve_input
from raydiance.cluster.session import address_of
from raydiance.config import Experiment
from raydiance.config.composition import SearchedExperiment, trials_of, words
from raydiance.config.files import dump_yaml
from raydiance.config.search import rungs, work_of
from raydiance.config.stages import inputs_of, settings_of, stages_of
from raydiance.errors import RaydianceError
from raydiance.spec import digest, to_plain
from raydiance.storage import Artifact, Store
from raydiance.tracking.address import reach

__all__ = ["plan", "print_plan", "run_name", "same_work", "steps_of"]


def run_name(experiment: Experiment, stage: str, inputs: Mapping[str, Artifact]) -> str:
    """The same work has the same name: "<experiment>-<stage>-<digest of seed, spec and inputs>"."""
    made_from = {
        "seed": experiment.seed,
        "spec": settings_of(experiment, stage),
        "inputs": {name: artifact.ref.sha256 for name, artifact in inputs.items()},
    }
    return f"{experiment.name}-{stage}-{digest(made_from)}"


def same_work(one: str | None, other: str) -> bool:
    """Whether runs of a stage, by their names, have the same seed, spec and inputs, be it in two experiments."""
    return one is not None and one.rpartition("-")[2] == other.rpartition("-")[2]


def print_plan(experiment: Experiment, stage: str, store: Store, given: Mapping[str, str]) -> None:
    """The resolved settings of the stage as YAML, then the plan of work."""
    settings = settings_of(experiment, stage)
    shown = {
        "name": experiment.name,
        "size": experiment.size,
        "seed": experiment.seed,
        **(to_plain(settings) if stage == "search" else {stage: to_plain(settings)}),
        "cluster": to_plain(experiment.cluster),
    }
    print(dump_yaml(shown))
    for name, value in plan(experiment, stage, store, given):
        print(f"{name:<12}{value}")


def plan(experiment: Experiment, stage: str, store: Store, given: Mapping[str, str]) -> list[tuple[str, str]]:
    """The plan of work, a row for each thing worth knowing before it starts."""
    needed, order = inputs_of(experiment, stage), list(stages_of(experiment))
    place = f"{order.index(stage) + 1} of {len(order)}" if stage in order else "beside the way"
    rows = [("stage", f"{stage} ({place})")]
    inputs: dict[str, Artifact] = {}
    for name in needed:
        try:
            inputs[name] = resolve_input(name, store, given, folder_of(experiment.name))
            rows.append(("input", f"{name}: {inputs[name].ref.key}, found"))
        except RaydianceError as error:
            rows.append(("input", f"{name}: missing ({error})"))
    if len(inputs) == len(needed):
        run = run_name(experiment, stage, inputs)
        checkpoints = store.list(f"checkpoints/{run}")
        rows.append(("run", run))
        rows.append(
            ("resumes", f"from {checkpoints[-1].key}" if checkpoints else "no checkpoint: from the start")
        )
    if steps := steps_of(experiment, stage):
        rows.append(("steps", str(steps)))
    if stage == "search":
        rows += _trials(experiment)
    rows.append(("workers", _workers(experiment)))
    rows.append(("store", store.url))
    rows.append(("tracking", _tracking(experiment)))
    if experiment.tracking.kind != "none":
        rows.append(("estimate", _estimate(experiment, stage)))
    return rows


def steps_of(experiment: Experiment, stage: str) -> int | None:
    """How many steps a stage that trains will take."""
    loop = getattr(getattr(experiment, stage), "loop", None)
    steps: int | None = getattr(loop, "steps", None)
    return steps


def _trials(experiment: Experiment) -> list[tuple[str, str]]:
    """What a search tries, and how long."""
    assert isinstance(experiment, SearchedExperiment)
    if not (trials := trials_of(experiment)):
        return [("trial", "none: search.space is empty")]
    steps = steps_of(experiment, experiment.search.stage)
    assert steps is not None, "a training has steps"
    levels = rungs(experiment.search, steps)
    rows = [("trial", f"{index:03d}: {words(values)}") for index, values in enumerate(trials)]
    told = ", ".join(f"{rung.num_trials} to step {rung.step}" for rung in levels)
    return [
        *rows,
        ("rungs", f"{told}; {work_of(levels)} steps in all; judged by {experiment.search.judged_by}"),
    ]


def _estimate(experiment: Experiment, stage: str) -> str:
    """How long it may take: the median of the last finished runs of this stage at this size, by the step where
    there are steps.
    """
    from raydiance.tracking.history import open_history

    history = open_history(experiment.tracking.url)
    runs = history.runs(experiment.name, stage=stage, size=experiment.size, status="FINISHED", limit=5)
    steps, found = steps_of(experiment, stage), []
    for run in runs:
        factor = steps / int(run.params["loop.steps"]) if steps and "loop.steps" in run.params else 1.0
        found.append((run.duration_s * factor, run.cpu_seconds * factor, run.gpu_seconds * factor))
    if not found:
        return f"none: no finished run of {stage} at size {experiment.size} is on record"
    seconds, cpu_s, gpu_s = (statistics.median(column) for column in zip(*found))
    longest = max(found)[0]
    return (
        f"{seconds:.0f} s (at most {longest:.0f}), {cpu_s / 3600:.2g} CPU-hours, {gpu_s / 3600:.2g} GPU-hours, "
        f"as the last {len(found)}"
    )


def _workers(experiment: Experiment) -> str:
    cluster = experiment.cluster
    if not cluster.num_workers and not cluster.num_tasks:
        return "this process"
    device = "GPU" if cluster.use_gpu else "CPU"
    return f"{cluster.num_workers} ({device}), {cluster.num_tasks} tasks, Ray at {address_of(cluster)}"


def _tracking(experiment: Experiment) -> str:
    if experiment.tracking.kind == "none":
        return "none"
    return f"MLflow at {reach(experiment.tracking.url)}"
