"""What a job is given (Run), what a training worker is given (Worker), and what it gives back (Outcome).

A job is a function `job(spec, run) -> Outcome`; it is the same in process, under Ray Train and inside a
submitted Ray job, because only the Run differs.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from raydiance.errors import ConfigError
from raydiance.storage import Artifact, ArtifactRef, Store
from raydiance.tracking.ending import Ending, by_signal
from raydiance.tracking.progress import Progress, QuietProgress
from raydiance.tracking.tracker import NullTracker, Tracker

if TYPE_CHECKING:
    import torch

__all__ = [
    "Beside",
    "InProcess",
    "Launch",
    "Map",
    "Outcome",
    "ProcessMap",
    "Report",
    "Run",
    "Validation",
    "Worker",
    "local_run",
    "serial_map",
]

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P")
Table = Sequence[Mapping[str, object]]


class Map(Protocol):
    """An ordered, perhaps parallel map; the function is a module-level one and the items can be pickled."""

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterator[R]: ...


class Report(Protocol):
    """A worker's word that a stretch of training is done; every rank calls it equally often."""

    def __call__(self, metrics: Mapping[str, float], checkpoint: ArtifactRef | None, /) -> None: ...


class Beside(Protocol):
    """Runs functions of modules, one after the other, on resources of its own, beside what goes on here."""

    def __call__(self, function: Callable[[P], R], payload: P, /) -> Future[R]:
        """What the function will give, or fail with; so does one whose process is lost."""

    def stop(self) -> None:
        """End what still runs, which then fails."""


@dataclass(frozen=True)
class Validation:
    """How a training's checkpoints are validated while it goes on: every N-th, on a torch device, by a function
    that `beside` runs elsewhere; the last one is waited for.
    """

    every: int
    device: str
    wait_s: float
    beside: Callable[[], Beside]


@dataclass(frozen=True)
class Worker:
    """What one training worker knows; on a rank above 0 tracker and progress are silent.

    ending: says between steps whether to end; one worker that is told to is enough.
    until: of a search's trials, the step to stop at and be examined.
    validation: of checkpoints; None: there is none.
    """

    rank: int
    world_size: int
    device: "torch.device"
    store: Store
    tracker: Tracker
    progress: Progress
    report: Report
    ending: Ending = by_signal
    until: int | None = None
    validation: Validation | None = None


class Launch(Protocol):
    """Runs a training function on each of n workers and returns what it returned on rank 0."""

    def __call__(self, train: Callable[[P, Worker], R], payload: P, /) -> R: ...


@dataclass(frozen=True)
class Run:
    """What a job is given beside its spec.

    `name` is "<experiment>-<stage>-<digest of spec and inputs>": the same work has the same name, so a run
    that was cut off finds its checkpoints again. `inputs` holds the artifacts of earlier stages, by stage.
    """

    name: str
    store: Store
    tracker: Tracker
    progress: Progress
    inputs: Mapping[str, Artifact]
    seed: int
    map: Map
    launch: Launch

    def input_of(self, kind: str) -> Artifact:
        """The input of an artifact kind, whatever stage made it. Raises ConfigError if there is not just one."""
        found = [artifact for artifact in self.inputs.values() if artifact.ref.kind == kind]
        if len(found) != 1:
            raise ConfigError(
                f"run {self.name}: needs one input of kind {kind!r}, got {sorted(self.inputs) or 'no inputs'}; "
                "name it as --input STAGE=KEY"
            )
        return found[0]


@dataclass(frozen=True)
class Outcome:
    """What a job gives back: its artifact, its final numbers, and tables for plots."""

    artifact: Artifact
    metrics: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


def serial_map(function: Callable[[T], R], items: Sequence[T], /) -> Iterator[R]:
    """One after the other, in this process."""
    return map(function, items)


@dataclass(frozen=True)
class ProcessMap:
    """Several at a time, in processes of this machine."""

    num_processes: int

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterator[R]:
        with ProcessPoolExecutor(self.num_processes, multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(function, items)


@dataclass(frozen=True)
class InProcess:
    """Launches training as the one worker in this process, on the given torch device."""

    store: Store
    tracker: Tracker
    progress: Progress
    device: str = "cpu"

    def __call__(self, train: Callable[[P, Worker], R], payload: P, /) -> R:
        import torch

        return train(
            payload,
            Worker(
                rank=0,
                world_size=1,
                device=torch.device(self.device),
                store=self.store,
                tracker=self.tracker,
                progress=self.progress,
                report=_no_report,
            ),
        )


def local_run(
    store: Store | Path | str,
    *,
    name: str = "local",
    inputs: Mapping[str, Artifact] | None = None,
    seed: int = 0,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    map: Map = serial_map,
    launch: Launch | None = None,
    device: str = "cpu",
) -> Run:
    """A Run that needs no server and no cluster: quiet, untracked, in this process, unless told otherwise."""
    store = store if isinstance(store, Store) else Store.open(store)
    tracker = tracker or NullTracker()
    progress = progress or QuietProgress()
    return Run(
        name=name,
        store=store,
        tracker=tracker,
        progress=progress,
        inputs=inputs or {},
        seed=seed,
        map=map,
        launch=launch or InProcess(store, tracker, progress, device),
    )


def _no_report(metrics: Mapping[str, float], checkpoint: ArtifactRef | None, /) -> None:
    pass
