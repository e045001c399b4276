"""The main() of every job: read the settings, gather the inputs, call one function, leave a pointer."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

from raydiance.cluster.curves import Curves
from raydiance.cluster.meter import Meter
from raydiance.cluster.plan import print_plan, run_name
from raydiance.cluster.pointers import (
    Pointer,
    folder_of,
    read_pointer,
    resolve_input,
    write_record,
    write_results,
)
from raydiance.cluster.record import connect_to, open_record, tell_how_to_repeat
from raydiance.cluster.reuse import reuse
from raydiance.cluster.room import nodes_of, refuse_impossible
from raydiance.cluster.session import session
from raydiance.cluster.stages import states
from raydiance.cluster.tasks import TaskMap
from raydiance.cluster.train import Launcher
from raydiance.config import Experiment, compose, load_params
from raydiance.config.stages import HOMES, inputs_of, stages_of
from raydiance.errors import ConfigError, RaydianceError
from raydiance.storage import Artifact, Store
from raydiance.tracking import (
    Interrupted,
    Outcome,
    Run,
    Tracker,
    open_progress,
    serial_map,
    system_metrics,
)

__all__ = [
    "Command",
    "Job",
    "execute",
    "gather",
    "inputs_given",
    "main",
    "parent_of",
    "parse",
    "read_settings",
    "taken_over",
]

Job: TypeAlias = Callable[[Experiment, Run], Outcome]


@dataclass(frozen=True)
class Command:
    """What was asked for on the command line of a job."""

    stage: str
    overrides: tuple[str, ...] = ()
    params: Path | None = None
    inputs: Mapping[str, str] | None = None
    parent: str | None = None
    record: str | None = None
    fresh: bool = False
    reuse: bool = False
    dry_run: bool = False


def main(stage: str, job: Job, *, ray: bool = False) -> NoReturn:
    """Run a job as a program; with `ray` set it finds Ray connected.

    Exit status: 0 done, 1 failed (one line says why), 2 not understood, 130 or 143 interrupted.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = parse(stage, sys.argv[1:])
    try:
        execute(command, job, ray=ray)
    except RaydianceError as error:
        print(f"raydiance {stage}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Interrupted as interrupted:
        print(f"raydiance {stage}: {interrupted}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print(
            f"raydiance {stage}: interrupted; run it again to go on from the last checkpoint", file=sys.stderr
        )
        sys.exit(130)
    sys.exit(0)


def execute(command: Command, job: Job, *, ray: bool = False) -> Pointer | None:
    """Carry out a command: the pointer that was left, or None after a dry run."""
    experiment = read_settings(command)
    store = Store.open(experiment.store.url, experiment.store.quota)
    if command.dry_run:
        print_plan(experiment, command.stage, store, inputs_given(command, experiment))
        left = [each for each in states(experiment, store) if each.state != "done"]
        print(
            f"{'pipeline':<12}{', '.join(f'{each.stage} ({each.state})' for each in left) or 'all is done'}"
        )
        refuse_impossible(experiment.cluster, nodes_of(experiment.cluster))
        return None
    inputs = gather(command, experiment, store)
    if pointer := taken_over(command, experiment, inputs, store):
        return pointer
    name = run_name(experiment, command.stage, inputs)
    if command.fresh:
        delete_checkpoints(store, name)
    parent = command.parent or parent_of(experiment, command.stage)
    started = time.monotonic()
    _announce(experiment, command.stage, name)
    with (
        open_record(experiment, command.stage, name, parent) as tracker,
        system_metrics(tracker, time.time()),
        _connected(experiment, ray),
    ):
        curves, meter = Curves(), Meter()
        tell_how_to_repeat(experiment, inputs, tracker)
        run = open_run(experiment, name, store, tracker, curves, inputs, meter)
        try:
            outcome = job(experiment, run)
        finally:
            duration_s = time.monotonic() - started
            cost = {"duration_s": duration_s, **meter.read()}
            tracker.log_metrics(cost)  # a run that failed has had its cost, too
        metrics = {**outcome.metrics, **cost}
        ref = outcome.artifact.ref
        tracker.set_tags({"artifact": ref.key, "artifact_sha256": ref.sha256, "store": store.url})
        pointer = Pointer(
            stage=command.stage,
            kind=ref.kind,
            key=ref.key,
            sha256=ref.sha256,
            store=store.url,
            run_name=name,
            run_id=tracker.run_id,
            parent_run_id=tracker.parent_id,
        )
    tables = dict(outcome.tables) | ({"curves": curves.rows} if curves.rows else {})
    files = write_results(pointer, metrics, tables, folder_of(experiment.name))
    if command.record:
        write_record(store, command.record, files, folder_of(experiment.name))
    delete_checkpoints(store, name)
    print(f"{command.stage}: {ref.key} after {duration_s:.1f} s", file=sys.stderr)
    return pointer


def taken_over(
    command: Command, experiment: Experiment, inputs: Mapping[str, Artifact], store: Store
) -> Pointer | None:
    """What another experiment has of this very work, if the command may take that; says so."""
    if not command.reuse:
        return None
    pointer = reuse(experiment, command.stage, run_name(experiment, command.stage, inputs), store)
    if pointer:
        print(f"{command.stage}: {pointer.key}, of {pointer.run_name}", file=sys.stderr)
    return pointer


def read_settings(command: Command) -> Experiment:
    """The experiment that the command's params file or overrides describe."""
    if command.params:
        return load_params(command.params)
    named = any(override.lstrip("+").startswith("experiment=") for override in command.overrides)
    home = [] if named or command.stage not in HOMES else [f"experiment={HOMES[command.stage]}"]
    return compose([*home, *command.overrides])


def open_run(
    experiment: Experiment,
    name: str,
    store: Store,
    tracker: Tracker,
    curves: Curves,
    inputs: Mapping[str, Artifact],
    meter: Meter,
) -> Run:
    """What the job is given, with map and launch as the cluster spec says; `curves` fills as it trains, `meter`
    as Ray works.
    """
    cluster, progress = experiment.cluster, open_progress()
    return Run(
        name=name,
        store=store,
        tracker=tracker,
        progress=progress,
        inputs=inputs,
        seed=experiment.seed,
        map=TaskMap(cluster, meter) if cluster.num_tasks else serial_map,
        launch=Launcher(
            cluster, name, store, tracker, progress, connect_to(experiment, tracker), curves, meter
        ),
    )


def delete_checkpoints(store: Store, name: str) -> None:
    """Once a run is done its checkpoints and what they were worth have no use, and would turn a wanted repetition
    into nothing.
    """
    for kind in ("checkpoints", "validations"):
        for ref in store.list(f"{kind}/{name}"):
            store.delete(ref)


def _connected(experiment: Experiment, ray: bool) -> AbstractContextManager[None]:
    return session(experiment.cluster) if ray else nullcontext()


def inputs_given(command: Command, experiment: Experiment) -> Mapping[str, str]:
    """The keys given for earlier stages. Raises ConfigError for one that the stage does not read."""
    needed, given = inputs_of(experiment, command.stage), command.inputs or {}
    if unknown := [name for name in given if name not in needed]:
        raise ConfigError(
            f"--input {unknown[0]}: {command.stage} reads {', '.join(needed) or 'no earlier stage'}"
        )
    return given


def gather(command: Command, experiment: Experiment, store: Store) -> dict[str, Artifact]:
    """The inputs of the stage: those given by key, else those that the pointers name."""
    given, folder = inputs_given(command, experiment), folder_of(experiment.name)
    return {name: resolve_input(name, store, given, folder) for name in inputs_of(experiment, command.stage)}


def parent_of(experiment: Experiment, stage: str) -> str | None:
    """The pipeline's run, which follows the data from pointer to pointer."""
    for name in inputs_of(experiment, stage):
        pointer = read_pointer(name, folder_of(experiment.name))
        if pointer and pointer.parent_run_id:
            return pointer.parent_run_id
    return None


def _announce(experiment: Experiment, stage: str, name: str) -> None:
    order = list(stages_of(experiment))
    place = f"{order.index(stage) + 1} of {len(order)}" if stage in order else "beside the way"
    print(f"stage {place}: {stage} ({name})", file=sys.stderr)


def parse(stage: str, arguments: Sequence[str]) -> Command:
    """The command line of a job. Exits with status 2 and the usage if it cannot be understood."""
    parser = argparse.ArgumentParser(prog=f"raydiance run {stage}", allow_abbrev=False)
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="settings, in Hydra's grammar")
    parser.add_argument("--params", type=Path, help="read the settings from this file instead of configs/")
    parser.add_argument(
        "--input", action="append", default=[], metavar="STAGE=KEY", help="an input by its key"
    )
    parser.add_argument("--parent", help="the MLflow run to nest under")
    parser.add_argument("--record", help="keep pointer and metrics in the store, too, under this name")
    parser.add_argument("--fresh", action="store_true", help="start over: do not resume from checkpoints")
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="take what another experiment made of the same settings and inputs",
    )
    parser.add_argument("--dry-run", action="store_true", help="print settings and plan, start nothing")
    found = parser.parse_intermixed_args(arguments)
    if found.params and found.overrides:
        parser.error(f"give overrides or --params, not both ({' '.join(found.overrides)}, {found.params})")
    inputs = dict(item.partition("=")[::2] for item in found.input)
    return Command(
        stage=stage,
        overrides=tuple(found.overrides),
        params=found.params,
        inputs=inputs,
        parent=found.parent,
        record=found.record,
        fresh=found.fresh,
        reuse=found.reuse,
        dry_run=found.dry_run,
    )
