"""Run.launch: a training function in this process or on n workers under Ray Train.

The loop itself lives in `training/` and knows none of this. It resumes from the newest good checkpoint in
our store, so Ray is told of checkpoints (a folder with the reference) but never asked for one: Ray would
insist on its newest, readable or not.
"""

import logging
import math
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from raydiance.cluster.beside import validation_of
from raydiance.cluster.curves import Curves, recording
from raydiance.cluster.ending import Told, passed_on
from raydiance.cluster.meter import Meter
from raydiance.cluster.relay import RelayedProgress, shown
from raydiance.cluster.room import fewer_workers, nodes_joined, refuse_impossible, room_for
from raydiance.cluster.session import session
from raydiance.config.platform import ClusterSpec, ValidationSpec
from raydiance.errors import ClusterError, RaydianceError
from raydiance.spec import to_plain
from raydiance.storage import ArtifactRef, Store, write_json
from raydiance.storage.local import STAGING
from raydiance.tracking import (
    Interrupted,
    NullTracker,
    Progress,
    QuietProgress,
    Tracker,
    Worker,
    system_metrics,
)

__all__ = ["Launcher"]

P = TypeVar("P")
R = TypeVar("R")
GROWTH_S = 1800.0  # a node that must first be rented and started takes minutes


@dataclass(frozen=True)
class _Work:
    """What is sent to the workers. key, ending: under which they tell how far they are, and are told to end.
    driver: the node that is measured by the job itself.
    """

    train: Callable[[Any, Worker], Any]
    payload: Any
    store: Store
    key: str
    ending: str
    threads: int
    began: float
    driver: str
    validation: ValidationSpec
    connect: Callable[[], Tracker]


@dataclass(frozen=True)
class Launcher:
    """Runs training functions as the spec says; `connect` opens the run's record on another machine."""

    spec: ClusterSpec
    run_name: str
    store: Store
    tracker: Tracker
    progress: Progress
    connect: Callable[[], Tracker]
    curves: Curves = field(default_factory=Curves)
    meter: Meter = field(default_factory=Meter)

    def __call__(self, train: Callable[[P, Worker], R], payload: P, /) -> R:
        """What `train` returns on rank 0. What it raises on any rank is raised here as itself.

        A worker that dies (no memory, a lost node) is replaced `max_failures` times, one whose node is taken
        away with a warning `max_preemptions` times; then ClusterError. Raises Interrupted where this process is
        told to end.
        """
        if self.spec.num_workers == 0:
            with self.meter.reserved(gpus=float(self.spec.use_gpu)):
                return train(payload, self._own_worker())
        with session(self.spec):
            threads = max(1, math.floor(self.spec.cpus_per_worker))
            key = f"{self.run_name}-{secrets.token_hex(3)}"
            began, here = time.time(), socket.gethostname()
            work = _Work(
                train=train,
                payload=payload,
                store=self.store,
                key=self.run_name,
                ending=key,
                threads=threads,
                began=began,
                driver=here,
                validation=self.spec.validation,
                connect=self.connect,
            )
            losses: list[_WorkerLostError] = []
            while True:
                try:
                    result: R = self._attempt(work, replacing=bool(losses))
                    return result
                except _WorkerLostError as lost:
                    losses.append(lost)
                    self._count(losses)

    def _attempt(self, work: _Work, *, replacing: bool) -> Any:
        workers = self._num_workers(replacing=replacing)
        with (
            shown(self.progress, self.run_name),
            self.meter.reserved(
                cpus=workers * self.spec.cpus_per_worker, gpus=float(workers * self.spec.use_gpu)
            ),
            passed_on(work.ending) as told,
        ):
            try:
                result = self._fit(work, workers)
            except _WorkerLostError:
                if not told():
                    raise
                return None  # the signal acts as this block is left
            if isinstance(result, _Ended):
                if not told():
                    raise _WorkerLostError(f"the node of a worker is taken away at step {result.step}", True)
                raise Interrupted(result.run_name, result.step)
            return result

    def _count(self, losses: Sequence["_WorkerLostError"]) -> None:
        """Put the last loss on record. Raises ClusterError if there were too many of its kind."""
        last = losses[-1]
        same = sum(each.preempted == last.preempted for each in losses)
        allowed = "max_preemptions" if last.preempted else "max_failures"
        if same > getattr(self.spec, allowed):
            raise ClusterError(
                f"{self.run_name}: {last}, after {same - 1} restarts; run the command again "
                f"to go on from the last checkpoint, or raise cluster.{allowed}"
            ) from last
        self.tracker.set_tags({"worker_preemptions" if last.preempted else "worker_failures": str(same)})

    def _own_worker(self) -> Worker:
        import torch

        device = torch.device("cuda" if self.spec.use_gpu else "cpu")
        tracker = recording(self.tracker, self.curves)
        return Worker(
            0,
            1,
            device,
            self.store,
            tracker,
            self.progress,
            report=lambda metrics, checkpoint: None,
            validation=validation_of(self.spec.validation),
        )

    def _num_workers(self, *, replacing: bool) -> int:
        """As many as were asked for; after a loss, if no room for them appears in time, perhaps fewer.

        Raises ClusterError, with what is missing, if there is no room.
        """
        spec = self.spec
        if spec.grows:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(GROWTH_S))
            return spec.num_workers
        deadline = time.monotonic() + (spec.replace_s if replacing else 0.0)
        while (room := room_for(spec, nodes_joined())) < spec.num_workers and time.monotonic() < deadline:
            time.sleep(1.0)
        if room >= spec.num_workers:
            return spec.num_workers
        if not (replacing and (fewer := fewer_workers(spec, room))):
            refuse_impossible(spec, nodes_joined())
            return spec.num_workers  # the missing node has come at this very moment
        self.tracker.set_tags({"workers": str(fewer)})
        return fewer

    def _fit(self, work: _Work, num_workers: int) -> Any:
        import ray
        from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.exceptions import PreemptionError

        from raydiance.cluster.trainer import Trainer

        resources = {"CPU": self.spec.cpus_per_worker} | ({"GPU": 1.0} if self.spec.use_gpu else {})
        folder, filesystem = _ray_folder(self.store)
        # A fresh name for each attempt: under a known one Ray would resume from what it kept itself.
        name = f"{self.run_name}-{secrets.token_hex(3)}"
        trainer = Trainer(
            _train_loop,
            grows=self.spec.grows,
            train_loop_config={"work": work},
            torch_config=TorchConfig(backend="nccl" if self.spec.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=num_workers, use_gpu=self.spec.use_gpu, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=name,
                storage_path=folder,
                storage_filesystem=filesystem,
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                # Ray cannot tell a lost worker from a loss that became NaN; _cause can: we retry.
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
        try:
            result, curves, spent = trainer.fit().return_value  # type: ignore[attr-defined]
            self.curves.extend(curves)
            self.meter.add(*spent)
            return result
        except ray.train.WorkerGroupError as error:
            raise _cause(error.worker_failures) from None
        except PreemptionError as error:  # its node was gone before the step had ended
            raise _WorkerLostError(str(error).splitlines()[0], True) from None
        except ray.train.ControllerError as error:
            raise _cause({0: error.controller_failure}) from error
        finally:
            _remove(folder, filesystem, name)


class _WorkerLostError(Exception):
    """A worker process or its node went away; preempted: by a decision of those whose node it is."""

    def __init__(self, message: str, preempted: bool) -> None:
        super().__init__(message)
        self.preempted = preempted


@dataclass(frozen=True)
class _Ended:
    """What a training returns that was told to end."""

    run_name: str
    step: int


def _train_loop(config: Mapping[str, Any]) -> Any:
    """What runs on each worker, inside Ray Train: its result, the curves it logged, what was spent beside it."""
    import ray.train
    import ray.train.torch
    import torch

    logging.getLogger().setLevel(logging.WARNING)  # Ray Train tells of each report, on each worker
    work: _Work = config["work"]
    torch.set_num_threads(work.threads)
    context = ray.train.get_context()
    rank = context.get_world_rank()
    first_here = context.get_local_rank() == 0
    record = work.connect() if first_here else NullTracker()
    curves, meter = Curves(), Meter()
    tracker = record if rank == 0 else NullTracker()
    worker = Worker(
        rank=rank,
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        store=work.store,
        tracker=recording(tracker, curves),
        progress=RelayedProgress(work.key) if rank == 0 else QuietProgress(),
        report=_Report(rank),
        ending=Told(work.ending, rank),
        validation=validation_of(work.validation, meter),
    )
    try:
        measured = NullTracker() if socket.gethostname() == work.driver else record
        with record, system_metrics(measured, work.began):
            return work.train(work.payload, worker), curves, meter.elsewhere
    except Interrupted as interrupted:
        return _Ended(interrupted.run_name, interrupted.step), curves, meter.elsewhere


@dataclass(frozen=True)
class _Report:
    """Tells Ray Train of metrics and of a checkpoint, of which it is handed the reference only."""

    rank: int

    def __call__(self, metrics: Mapping[str, float], checkpoint: ArtifactRef | None, /) -> None:
        import ray.train

        if checkpoint is None or self.rank > 0:
            ray.train.report(dict(metrics))
            return
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "checkpoint.json", to_plain(checkpoint))
            ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(folder))


def _cause(failures: Mapping[int, Exception]) -> Exception:
    """The error that says most: ours, else a lost worker (the others then fail for want of it), else any."""
    import ray
    from ray.train.v2._internal.exceptions import RayTrainError
    from ray.train.v2._internal.execution.worker_group.poll import _is_preempted_actor

    errors = [failures[rank] for rank in sorted(failures)]
    for error in errors:
        if isinstance(error, RaydianceError):
            return error
    for rank, error in sorted(failures.items()):
        if isinstance(error, ray.exceptions.RayError | RayTrainError):
            reason = str(error).strip().splitlines()[0].rstrip(".")
            preempted = any(_is_preempted_actor(each) for each in errors)
            return _WorkerLostError(f"worker {rank} was lost: {reason}", preempted)
    for rank, error in sorted(failures.items()):
        if _is_cut_off(error):
            reason = str(error).strip().splitlines()[0]
            return _WorkerLostError(f"worker {rank} was cut off from another one: {reason}", False)
    return errors[0]


def _is_cut_off(error: Exception) -> bool:
    """Whether this is what a worker fails with when another one is gone.

    Those who are left see that at once; that a whole node is lost Ray may find out a quarter of a minute later.
    Gloo's errors have no class of their own.
    """
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _ray_folder(store: Store) -> tuple[str, Any]:
    """Where Ray Train keeps its notes: in the store, where all workers see them, and where garbage collection
    finds those of a driver that was killed.
    """
    if not store.url.startswith("s3://"):
        return str(Path(store.url) / STAGING / "ray"), None
    import fsspec
    import pyarrow.fs

    s3 = fsspec.filesystem("s3")
    return store.url.removeprefix("s3://") + "/ray", pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(s3))


def _remove(folder: str, filesystem: Any, name: str) -> None:
    import pyarrow.fs

    filesystem = filesystem or pyarrow.fs.LocalFileSystem()
    if filesystem.get_file_info(f"{folder}/{name}").type != pyarrow.fs.FileType.NotFound:
        filesystem.delete_dir(f"{folder}/{name}")
