"""A trial of a search over trainings: a training that stops at a rung, and where it stands there."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from raydiance.cluster.curves import Curves
from raydiance.cluster.meter import Meter
from raydiance.cluster.train import Launcher
from raydiance.config.explain import nearest
from raydiance.config.platform import ClusterSpec
from raydiance.config.search import Values
from raydiance.errors import ConfigError, NonFiniteLossError
from raydiance.storage import ArtifactRef, Store, write_json
from raydiance.tracking import NullTracker, Outcome, Progress, Run, Task, Worker, serial_map
from raydiance.training import train_autodecoder, train_diffusion, train_extractor
from raydiance.training.loop import PausedError

__all__ = ["Standing", "Tally", "Trial", "standings_in", "train_trial"]

P = TypeVar("P")
R = TypeVar("R")

TRAININGS: Mapping[str, Callable[[Any, Run], Outcome]] = {
    "train_autodecoder": train_autodecoder,
    "train_cosine": train_diffusion,
    "train_diffusion": train_diffusion,
    "train_extractor": train_extractor,
}
WAITS_S = 10**7  # of a training for the room that other trials hold


@dataclass(frozen=True)
class Trial:
    """A trial up to a rung: all that a process needs to train it; it can be pickled."""

    index: int
    values: Values
    name: str
    stage: str
    training: Any
    until: int
    seed: int
    metric: str
    cluster: ClusterSpec
    store: Store
    inputs: Mapping[str, ArtifactRef]
    kept: str
    progress: Progress

    def train(self) -> "Standing":
        """Train to the rung's step, from the newest checkpoint before it, and keep where the trial stands."""
        for ref in self.store.list(f"checkpoints/{self.name}"):
            if int(self.store.get(ref).manifest.meta["step"]) >= self.until:
                self.store.delete(ref)  # it was cut off before it had told its metric
        if self.cluster.num_tasks:
            os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(WAITS_S)
        curves, meter = Curves(), Meter()
        none, shown = NullTracker(), self.progress
        launcher = Launcher(self.cluster, self.name, self.store, none, shown, NullTracker, curves, meter)
        inputs = {stage: self.store.get(ref) for stage, ref in self.inputs.items()}
        launch = _Until(launcher, self.until)
        run = Run(self.name, self.store, none, shown, inputs, self.seed, serial_map, launch)
        artifact, lost = None, ""
        try:
            artifact = TRAININGS[self.stage](self.training, run).artifact.ref.key
        except PausedError:
            pass
        except NonFiniteLossError as error:
            lost = str(error)
        standing = Standing(
            trial=self.index,
            step=self.until,
            metric=None if lost else self._read(curves.rows),
            lost=lost,
            cpu_s=meter.read()["cpu_seconds"],
            gpu_s=meter.read()["gpu_seconds"],
            elsewhere=meter.elsewhere,
            artifact=artifact,
            curves=curves.rows,
        )
        with self.store.create(self.kept, f"trial-{self.index:03d}-{self.until:08d}") as draft:
            write_json(draft.path("standing.json"), asdict(standing))
        return standing

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> float:
        last = rows[-1]
        if self.metric not in last:
            raise ConfigError(
                f"search.metric = {self.metric!r}: {self.stage} logs no such metric"
                f"{nearest(self.metric, sorted(set(last) - {'step'}))}"
            )
        return float(last[self.metric])


@dataclass(frozen=True)
class Standing:
    """Where a trial stands at a rung. metric: None of one that is lost to a loss that is not finite.

    cpu_s, gpu_s: since the rung before, or since it was cut off; elsewhere: those of them in workers of Ray Train.
    artifact: what the training made, if it came to its end.
    """

    trial: int
    step: int
    metric: float | None
    lost: str
    cpu_s: float
    gpu_s: float
    elsewhere: tuple[float, float]
    artifact: str | None
    curves: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Until:
    """Launches a training that stops at a step."""

    launcher: Launcher
    step: int

    def __call__(self, train: Callable[[P, Worker], R], payload: P, /) -> R:
        paused, result = self.launcher(_train_until, (train, payload, self.step))
        if paused is not None:
            raise PausedError(paused)
        return result  # type: ignore[no-any-return]


def _train_until(
    asked: tuple[Callable[[Any, Worker], Any], Any, int], worker: Worker
) -> tuple[str | None, Any]:
    """What a training gives, or the word that it stands; for a worker that stops is none that failed."""
    train, payload, step = asked
    try:
        return None, train(payload, replace(worker, until=step))
    except PausedError as paused:
        return str(paused), None


def train_trial(trial: Trial) -> Standing:
    """For maps, which take a function of a module."""
    return trial.train()


def standings_in(store: Store, kind: str) -> dict[tuple[int, int], Standing]:
    """What an earlier attempt at the same search left."""
    found = {}
    for artifact in map(store.get, store.list(kind)):
        if "standing.json" in artifact.files:
            plain = artifact.read_json("standing.json")
            standing = Standing(**plain | {"elsewhere": tuple(plain["elsewhere"])})
            found[standing.trial, standing.step] = standing
    return found


class Tally:
    """Progress of trials that train one behind the other, as steps of one task."""

    def __init__(self, shown: Task) -> None:
        self._shown, self._done = shown, 0
        self.base = self.start = 0  # steps before the trial under way, and those that it had taken itself

    def reach(self, done: int, **values: float) -> None:
        """So many steps have been taken, by all trials together."""
        if done > self._done:
            self._shown.update(done - self._done, **values)
            self._done = done

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        yield _Part(self)


class _Part:
    def __init__(self, tally: Tally) -> None:
        self._tally, self._steps = tally, 0

    def update(self, n: int = 1, **values: float) -> None:
        self._steps += n
        self._tally.reach(self._tally.base + self._steps - self._tally.start, **values)
