"""Runs that were left: their process was killed before it could end them, so the record says RUNNING for ever.

A run is left if its process is gone, which the machine it was on can tell; for any other machine, if nobody has
measured it for SILENT_S, since a job measures its nodes every ten seconds (`system_metrics`). So one that lives
elsewhere under the same name is not touched; one whose machine slept for longer is closed too early, and ends as
it does end when it wakes.
"""

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from raydiance.tracking.mlflow_client import MlflowClient, entities

__all__ = ["CONTINUED", "PARENT", "PIPELINE", "close_left", "is_gone", "open_children", "process_tags"]

PARENT = "mlflow.parentRunId"
PIPELINE = "raydiance.pipeline"
MACHINE, PROCESS = "raydiance.machine", "raydiance.process"
CONTINUED = "raydiance.continued_by"

SILENT_S = 300.0
SAME_S = 2.0  # by which the start of one process may be told differently when the clock is set


def process_tags() -> dict[str, str]:
    """This process, as tags of its runs: the machine with its name space of processes, the number, the start."""
    me = psutil.Process()
    return {MACHINE: _machine(), PROCESS: f"{me.pid} {me.create_time():.1f}"}


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process of a run with these tags has ended; False where this machine cannot know."""
    if tags.get(MACHINE) != _machine() or PROCESS not in tags:
        return False
    number, began = tags[PROCESS].split()
    try:
        process = psutil.Process(int(number))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(float(process.create_time()) - float(began)) > SAME_S
    except psutil.NoSuchProcess:
        return True


def close_left(
    client: MlflowClient, experiment_id: str, name: str, successor: str, parent: str | None
) -> None:
    """End the runs of this name that were left, as KILLED when they last gave a sign, with the run that goes on
    (its id, and that of the one above it) as a tag; with them what stands open below them, and the pipeline above
    if nothing else of it is under way.
    """
    query = f"attributes.run_name = '{name}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], query, entities.ViewType.ACTIVE_ONLY, max_results=100):
        if run.info.run_id == successor:
            continue
        seen_ms = _last_sign_ms(client, run)
        if not is_gone(run.data.tags) and time.time() - seen_ms / 1000 < SILENT_S:
            continue
        for child in open_children(client, run.info.run_id):
            client.set_terminated(child.info.run_id, "KILLED", seen_ms)
        client.set_tag(run.info.run_id, CONTINUED, successor)
        client.set_terminated(run.info.run_id, "KILLED", seen_ms)
        above = run.data.tags.get(PARENT)
        if above not in (None, parent) and not open_children(client, above):
            found = client.get_run(above)
            if PIPELINE in found.data.tags and found.info.status == "RUNNING":
                client.set_terminated(above, "KILLED", seen_ms)


def open_children(client: MlflowClient, run_id: str) -> list[entities.Run]:
    """The runs below a run that are under way, those furthest down first."""
    experiment_id = client.get_run(run_id).info.experiment_id
    query = f"tags.`{PARENT}` = '{run_id}' and attributes.status = 'RUNNING'"
    found = client.search_runs([experiment_id], query, entities.ViewType.ACTIVE_ONLY, max_results=1000)
    return [run for child in found for run in [*open_children(client, child.info.run_id), child]]


def _last_sign_ms(client: MlflowClient, run: entities.Run) -> int:
    """When the run was last measured, or when it began."""
    measured = [name for name in sorted(run.data.metrics) if name.startswith("system/")]
    nodes = {name.split("/")[1]: name for name in measured}  # one figure of each
    signs: list[int] = [
        point.timestamp
        for name in nodes.values()
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    return max([int(run.info.start_time), *signs])


def _machine() -> str:
    """Containers have names of their own, or at least name spaces."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {space}".strip()
