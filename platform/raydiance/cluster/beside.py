"""What is run beside a training: by a Ray task with resources of its own, or by a process of this machine."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from raydiance.cluster.meter import Meter
from raydiance.cluster.tasks import result_of
from raydiance.config.platform import ValidationSpec
from raydiance.errors import ClusterError
from raydiance.tracking import Validation

__all__ = ["OwnProcess", "RayTask", "validation_of"]

P = TypeVar("P")
R = TypeVar("R")
MODEST = 10  # of niceness; with 19 it would wait for hours where other work fills the machine


def validation_of(spec: ValidationSpec, meter: Meter | None = None) -> Validation | None:
    """As the spec says: by Ray tasks that the meter counts, or, without one, by a process of this machine."""
    if not spec.every:
        return None
    beside = partial(OwnProcess, _threads(spec)) if meter is None else partial(RayTask, spec, meter)
    return Validation(spec.every, "cuda" if spec.gpus else "cpu", spec.wait_s, beside)


class OwnProcess:
    """A process of low priority, which is begun when it is first needed, and again if it is lost.

    A thread here would share the processor with the training by turns, and the global random numbers.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads, self._ended, self._lock = threads, False, threading.Lock()
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(self, function: Callable[[P], R], payload: P, /) -> Future[R]:
        return self._asking.submit(self._ask, function, payload)

    def _ask(self, function: Callable[[P], R], payload: P) -> R:
        pipe = self._open()
        try:
            pipe.send((function, payload))
            reason, result = pipe.recv()
        except (EOFError, OSError) as error:
            self._end()
            raise ClusterError("the process beside the training was lost") from error
        if reason:
            raise ClusterError(reason)
        return result  # type: ignore[no-any-return]

    def _open(self) -> Connection:
        with self._lock:
            if self._ended:
                raise ClusterError("the process beside the training was ended")
            if self._process is None or self._pipe is None:
                context = multiprocessing.get_context("spawn")
                self._pipe, there = context.Pipe()
                # a daemon ends with this process, and where this one is killed the pipe does
                self._process = context.Process(target=_serve, args=(there, self._threads), daemon=True)
                self._process.start()
                there.close()
            return self._pipe

    def _end(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.join()  # so that its cost is counted
            self._process = self._pipe = None

    def stop(self) -> None:
        self._ended = True
        self._end()
        self._asking.shutdown()


class RayTask:
    """A Ray task at a time, wherever there is room for what the spec asks for. What it costs is metered."""

    def __init__(self, spec: ValidationSpec, meter: Meter) -> None:
        self._spec, self._meter = spec, meter
        self._task: Any = None
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="beside")

    def __call__(self, function: Callable[[P], R], payload: P, /) -> Future[R]:
        return self._asking.submit(self._ask, function, payload)

    def _ask(self, function: Callable[[P], R], payload: P) -> R:
        import ray

        remote: Any = ray.remote(
            num_cpus=self._spec.cpus,
            num_gpus=self._spec.gpus,
            max_retries=0,
            scheduling_strategy="DEFAULT",  # not in the room of the worker that asks
        )(_modestly)
        self._task = remote.remote(function, payload, _threads(self._spec))
        result, cpu_s, wall_s = result_of(self._task)
        self._meter.add(cpu_s, wall_s * self._spec.gpus)
        return result  # type: ignore[no-any-return]

    def stop(self) -> None:
        import ray

        if self._task is not None:
            ray.cancel(self._task, force=True)  # one that is done is left as it is
        self._asking.shutdown(cancel_futures=True)


def _threads(spec: ValidationSpec) -> int:
    return max(1, int(spec.cpus))


def _serve(pipe: Connection, threads: int) -> None:
    """The life of a process beside a training: it answers until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the training, which ends this
    with suppress(EOFError, BrokenPipeError), _modest_thread(threads) as thread:
        while True:
            function, payload = pipe.recv()
            future = thread.submit(function, payload)
            if error := future.exception():
                pipe.send((f"{type(error).__name__}: {error}", None))
            else:
                pipe.send(("", future.result()))


def _modestly(function: Callable[[P], R], payload: P, threads: int) -> tuple[R, float, float]:
    """What the function gives, and the processor and wall time it took.

    On a thread of its own, because a task's process may be asked for something more urgent next, and no priority
    can be raised again.
    """
    began_cpu_s, began_s = time.process_time(), time.monotonic()
    with _modest_thread(threads) as thread:
        result = thread.submit(function, payload).result()
    return result, time.process_time() - began_cpu_s, time.monotonic() - began_s


def _modest_thread(threads: int) -> ThreadPoolExecutor:
    import torch  # at full speed: it takes seconds, once

    return ThreadPoolExecutor(1, initializer=_step_back, initargs=(torch, threads))


def _step_back(torch: Any, threads: int) -> None:
    """This thread, and those that torch starts from it, leave the cores to who is in more of a hurry."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), MODEST)
    torch.set_num_threads(threads)
