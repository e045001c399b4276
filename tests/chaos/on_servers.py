"""Faults of the servers round a training: MLflow (F6), PostgreSQL under it (F7), two promoters (F20)."""

import functools
import os
import signal
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.chaos import work
from tests.chaos.on_processes import start
from tests.chaos.outside import History, contents, history, torn
from tests.chaos.trial import ENDINGS, Fault, Trial, place_of_our_own, singly
from tests.chaos.work import Plan
from tests.conftest import free_port

from raydiance.cluster import programs
from raydiance.cluster.services import Service, Started, launch, stop, wait_until_ready

__all__ = ["FAULTS"]

STEPS = 300
BOUND_S = 90.0
AWAY_S = {"F6": 3.0, "F7": 8.0}


@dataclass
class Server:
    """A server that can be killed and started again at the same place."""

    service: Service
    folder: Path
    entry: Started | None = None

    def start(self) -> None:
        self.entry = launch(self.service, self.folder)
        wait_until_ready(self.service, self.entry)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        assert self.entry is not None
        with suppress(ProcessLookupError):
            os.killpg(self.entry.pid, signal.SIGKILL)
        stop(self.entry, self.folder)

    def stop(self) -> None:
        if self.entry:
            stop(self.entry, self.folder)


@dataclass
class Record:
    """MLflow for all trials of a fault, and the database server under it, if there is one."""

    mlflow: Server
    postgres: Server | None
    database: str


@functools.cache
def record(*, postgres: bool) -> Record:
    """One for all trials: it is killed and comes back in each."""
    folder = place_of_our_own("record")
    ports, keys = {"mlflow": free_port(), "postgres": free_port()}, programs.Keys.new()
    below = Server(programs.postgres(ports, keys, folder), folder) if postgres else None
    database = programs.postgres_url(ports, keys) if postgres else f"sqlite:///{folder}/mlflow.db"
    above = Server(programs.mlflow("127.0.0.1", ports, database, folder, {}), folder)
    for each in (below, above):
        if each:
            each.start()
            ENDINGS.callback(each.stop)
    return Record(above, below, database)


def server_away(fault: str, phase: str, random: Random, folder: Path) -> Trial:
    """Kill the server that the record hangs on in the middle of a training, and bring it back."""
    plan = Plan(
        store=str(folder / "store"),
        log=str(folder / "log"),
        steps=STEPS,
        checkpoint_every=100,
        pause_s=0.02,
        environment=(("MLFLOW_DISABLE_TELEMETRY", "true"),),
    )
    trial, kept_by = Trial(fault, phase, 0), record(postgres=fault == "F7")
    process = start(work.train_on_record, plan, kept_by.mlflow.service.url)
    _wait_for_step(plan, random.randrange(20, 150))
    victim = kept_by.postgres or kept_by.mlflow
    victim.kill()
    if kept_by.postgres:
        trial.held["not ready"] = not kept_by.mlflow.service.ready()
    time.sleep(AWAY_S[fault])
    victim.start()
    back = time.monotonic()
    process.join(BOUND_S)
    trial.recovery_s = time.monotonic() - back
    if process.exitcode is None:
        process.kill()
    seen = history(plan.log)
    kept, status = _recorded(kept_by.database, seen.run_id or "")
    slowest = max(seen.calls_s)
    trial.held |= {
        "I1": not torn(contents(plan.store)),
        "I6": len(kept) == STEPS and kept == _told(seen) and status == "FINISHED",
        "I6 steps": slowest < 0.5,
        "I8": trial.recovery_s < BOUND_S,
        "I10": process.exitcode == 0,
    }
    trial.note = f"{len(kept)} of {STEPS} on record, {status}; slowest call {slowest * 1000:.0f} ms"
    return trial


def _told(seen: History) -> dict[int, float]:
    return {step: float.fromhex(each[-1]["train/loss"]) for step, each in seen.exact.items()}


def _recorded(database: str, run_id: str) -> tuple[dict[int, float], str]:
    """The losses that the database has of a run, and the run's status."""
    losses = "select step, value from metrics where key = 'train/loss' and run_uuid = "
    status = "select status from runs where run_uuid = "
    if database.startswith("sqlite:///"):
        with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
            rows = connection.execute(losses + "?", (run_id,)).fetchall()
            ended = connection.execute(status + "?", (run_id,)).fetchone()
        connection.close()
    else:
        import psycopg

        with psycopg.connect(database) as server:
            rows = server.execute(losses + "%s", (run_id,)).fetchall()
            ended = server.execute(status + "%s", (run_id,)).fetchone()
    return dict(rows), str(ended[0]) if ended else "missing"


def mlflow_killed(phase: str, random: Random, folder: Path) -> Trial:
    """F6: SIGKILL of the MLflow server and its workers."""
    return server_away("F6", phase, random, folder)


def postgres_killed(phase: str, random: Random, folder: Path) -> Trial:
    """F7: SIGKILL of PostgreSQL under MLflow."""
    return server_away("F7", phase, random, folder)


@functools.cache
def registry() -> Path:
    """A database of models for all trials, each of which has a model of its own."""
    return place_of_our_own("registry") / "mlflow.db"


def two_promoters(phase: str, random: Random, folder: Path) -> Trial:
    """F20: two processes promote two versions of a model at the same time."""
    from tests.support.bundles import tiny_model

    from raydiance.generation import write_bundle
    from raydiance.storage import Store

    store, database = Store.open(folder / "store"), registry()
    url, name = f"sqlite:///{database}", folder.name  # of the model
    bundles = [str(write_bundle(store, "tiny", tiny_model(seed=k)).uri) for k in range(3)]
    started = start(_register, url, name, bundles)
    started.join(120)
    processes = [start(_promote, url, name, version) for version in ("2", "3")]
    for process in processes:
        process.join(120)
    connection = sqlite3.connect(database)
    aliases_of = "select alias, version from registered_model_aliases where name = ?"
    rows = connection.execute(aliases_of, (name,)).fetchall()
    connection.close()
    aliases: Mapping[str, str] = {alias: str(version) for alias, version in rows}
    trial = Trial("F20", phase, 0, note=str(rows))
    trial.held |= {
        "I5": len(rows) == len(aliases) == 2 and aliases.get("champion") in ("2", "3"),
        "I5 back": aliases.get("previous") in {"1", "2", "3"} - {aliases.get("champion")},
        "I10": [process.exitcode for process in processes] == [0, 0],
    }
    return trial


def _register(url: str, name: str, bundles: list[str]) -> None:
    from raydiance.cluster.promotion import promote
    from raydiance.generation import Gate
    from raydiance.storage import Store
    from raydiance.tracking.mlflow_registry import open_registry

    models = open_registry(url)
    for uri in bundles:
        store = Store.open(uri.rpartition("/bundle/")[0])
        models.register_bundle(name, store.get(uri))
    promote(models, name, "1", Gate(min_psnr_held_out=20.0))


def _promote(url: str, name: str, version: str) -> None:
    from raydiance.cluster.promotion import promote
    from raydiance.generation import Gate
    from raydiance.tracking.mlflow_registry import open_registry

    promote(open_registry(url), name, version, Gate(min_psnr_held_out=20.0))


def _wait_for_step(plan: Plan, step: int) -> None:
    deadline = time.monotonic() + 60
    while max(history(plan.log).exact, default=0) < step and time.monotonic() < deadline:
        time.sleep(0.05)


FAULTS = (
    Fault(
        "F6",
        "MLflow killed (SIGKILL), back after 3 s",
        "The training does not wait; every metric is on record at the end.",
        ("server",),
        singly(mlflow_killed),
        dear=True,
    ),
    Fault(
        "F7",
        "PostgreSQL killed (SIGKILL), back after 8 s",
        "As above; and MLflow counts as ready only while its database answers.",
        ("under MLflow",),
        singly(postgres_killed),
        dear=True,
    ),
    Fault(
        "F20",
        "two versions promoted at once",
        "One of them is champion, and the version before it is previous.",
        ("two promoters",),
        singly(two_promoters),
        dear=True,
    ),
)
