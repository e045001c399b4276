"""What the processes do that are killed: a small training that tells a file of each of its steps, and dies where
it is told to.

The kill is a SIGKILL of the process to itself at a chosen point, or of somebody else at any moment.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.training.toys import NUM_ITEMS, Toy

from raydiance.storage import Store
from raydiance.storage.local import LocalBackend
from raydiance.tracking import NullTracker, QuietProgress, Tracker, Worker
from raydiance.training import Batch, LoopSpec, checkpoint, fit
from raydiance.training.randomness import seeded

PHASES = ("compute", "snapshot", "upload", "manifest", "reported")
SEED = 3


@dataclass(frozen=True)
class Plan:
    """A training. A kill is a phase, how many steps or checkpoints of the attempt it comes after, and a rank.

    Where `marker` is given each attempt is killed by the next one of them, and the time of the k-th stands in
    MARKER.k; else each is killed by the first.
    """

    store: str
    log: str
    run: str = "run"
    steps: int = 40
    checkpoint_every: int = 7
    keep: int = 2  # checkpoints
    pause_s: float = 0.002
    width: int = 16
    kills: tuple[tuple[str, int, int], ...] = ()
    marker: str | None = None
    environment: tuple[tuple[str, str], ...] = ()  # of the process, where it is not the parent's

    def __post_init__(self) -> None:  # JSON makes lists of them, which equal no tuples
        object.__setattr__(self, "kills", tuple(tuple(each) for each in self.kills))

    @property
    def moments(self) -> list[float]:
        """When it was killed so far."""
        places = [Path(f"{self.marker}.{k}") for k in range(len(self.kills))]
        return [float(place.read_text()) for place in places if place.exists()]

    @property
    def most_lost(self) -> int:
        """I2: an interval, and another while its checkpoint is written: the next one waits for it."""
        return 2 * self.checkpoint_every


class Watched(Toy):
    """Tells of the items that each step sees."""

    def __init__(self, plan: Plan, told: "Told", trap: "Trap") -> None:
        super().__init__()
        with seeded(SEED):
            width = plan.width
            layers = torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
            self.model = torch.nn.Sequential(*layers)
        self.plan, self.told, self.trap = plan, told, trap
        self.done = 0

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.trap("compute", self.done)
        self.done += 1
        self.told(step=batch.step, first=batch.indices.start, items=batch.items(NUM_ITEMS), time=time.time())
        time.sleep(self.plan.pause_s)
        return super().forward(batch)

    def preview(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        return {}


class Told:
    """Appends lines of JSON to a file; a line that was written outlives the writer."""

    def __init__(self, path: str, rank: int) -> None:
        self._file = os.open(f"{path}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, **facts: object) -> None:
        os.write(self._file, (json.dumps(facts) + "\n").encode())


class Telling(NullTracker):
    """Tells the file of the losses, to the last bit, and the tracker it stands before."""

    def __init__(self, told: Told, tracker: Tracker) -> None:
        self._told, self._tracker = told, tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        began = time.perf_counter()
        self._tracker.log_metrics(metrics, step)
        # how fast a step was is no part of what it gave
        exact = {name: float(value).hex() for name, value in metrics.items() if name.startswith("train/")}
        self._told(logged=step, exact=exact, call_s=time.perf_counter() - began)


class Trap:
    """Kills this process at the chosen phase and count."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan, self.number = plan, len(plan.moments)
        here = plan.kills[self.number : self.number + 1]
        self.kill = here[0][:2] if here and here[0][2] == rank else None

    def __call__(self, phase: str, count: int) -> None:
        if self.kill == (phase, count):
            if self.plan.marker is not None:
                Path(f"{self.plan.marker}.{self.number}").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


def train(plan: Plan, worker: Worker) -> str:
    """Train from the newest intact checkpoint to the end: the digest of the weights."""
    torch.set_num_threads(1)
    trap, told = Trap(plan, worker.rank), Told(plan.log, worker.rank)
    told(pid=os.getpid(), began=time.time())
    set_traps(trap)
    loop = LoopSpec(
        steps=plan.steps,
        batch_size=4,
        learning_rate=1e-2,
        ema_decay=0.9,
        checkpoint_every=plan.checkpoint_every,
        keep_checkpoints=plan.keep,
        log_every=1,
        preview_every=plan.steps,
    )
    watching = replace(worker, tracker=Telling(told, worker.tracker), report=_reporting(worker, trap))
    state = fit(Watched(plan, told, trap), loop, worker=watching, run_name=plan.run, seed=SEED)
    digest = hashlib.sha256()
    for name, value in sorted(state.averaged().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    if worker.rank == 0:
        told(final=digest.hexdigest())
    return digest.hexdigest()


def train_here(plan: Plan) -> None:
    """The same in a process without Ray."""
    os.environ.update(plan.environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which programs in the background ignore
    store = Store.open(plan.store)
    report: Callable[..., None] = lambda metrics, ref: None  # noqa: E731
    train(plan, Worker(0, 1, torch.device("cpu"), store, NullTracker(), QuietProgress(), report))


def train_as_one_of_two(plan: Plan, rank: int, meeting: str) -> None:
    """The same as one of two workers, which find each other by a file."""
    os.environ.update(plan.environment, GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    report: Callable[..., None] = lambda metrics, ref: None  # noqa: E731
    store = Store.open(plan.store)
    try:
        train(plan, Worker(rank, 2, torch.device("cpu"), store, NullTracker(), QuietProgress(), report))
    finally:
        dist.destroy_process_group()


def train_on_record(plan: Plan, url: str) -> None:
    """The same, on record at an MLflow server."""
    from raydiance.tracking.mlflow import open_tracker

    store = Store.open(plan.store)
    with open_tracker(url, "chaos", plan.run, nested=False) as tracker:
        Told(plan.log, 0)(run_id=tracker.run_id)
        report: Callable[..., None] = lambda metrics, ref: None  # noqa: E731
        train(plan, Worker(0, 1, torch.device("cpu"), store, tracker, QuietProgress(), report))


def _reporting(worker: Worker, trap: Trap) -> Callable[..., None]:
    count = 0

    def report(metrics: Mapping[str, float], ref: Any) -> None:
        nonlocal count
        trap("reported", count)
        count += 1
        worker.report(metrics, ref)

    return report


def set_traps(trap: Trap) -> None:
    """Let this process die inside the writing of its n-th checkpoint, in each of the phases of one."""
    if trap.kill is None:
        return
    saves = {"n": -1}
    save_file, commit = checkpoint.save_file, LocalBackend.commit

    def save_half(tensors: Any, path: Path) -> None:
        saves["n"] += 1
        save_file(tensors, path)
        if trap.kill == ("snapshot", saves["n"]):
            os.truncate(path, path.stat().st_size // 2)
        trap("snapshot", saves["n"])

    def commit_or_die(self: LocalBackend, key: str, staging: Path, files: Any, manifest: bytes) -> None:
        trap("upload", saves["n"])
        if trap.kill == ("manifest", saves["n"]):
            (staging / "manifest.json").write_bytes(manifest)
        trap("manifest", saves["n"])
        commit(self, key, staging, files, manifest)

    checkpoint.save_file = save_half
    LocalBackend.commit = commit_or_die  # type: ignore[method-assign]
    if trap.plan.store.startswith("s3://"):
        _set_traps_of_s3(trap, saves)


def _set_traps_of_s3(trap: Trap, saves: dict[str, int]) -> None:
    from raydiance.storage.s3 import S3Backend

    upload, put_manifest = S3Backend._upload, S3Backend._put_manifest

    def upload_or_die(self: S3Backend, path: Path, target: str, entry: Any) -> None:
        upload(self, path, target, entry)
        trap("upload", saves["n"])

    def put_or_die(self: S3Backend, key: str, manifest: bytes) -> None:
        trap("manifest", saves["n"])
        put_manifest(self, key, manifest)

    S3Backend._upload = upload_or_die  # type: ignore[method-assign]
    S3Backend._put_manifest = put_or_die  # type: ignore[method-assign]
