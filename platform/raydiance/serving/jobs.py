"""Requests that outlive their connection: each is a job with a state, steps to follow, and at last an answer.

A job belongs to the client that started it. What is done is kept for a while, within bounds of number and
bytes; since a sample is a function of its request, losing a job loses no sample.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol

from raydiance.config.platform import ServeSpec
from raydiance.serving.messages import Answer, Step
from raydiance.serving.problems import (
    NotFoundError,
    OverloadError,
    ServingError,
    TooLateError,
    UnprocessableError,
)
from raydiance.serving.schema import Format, SampleRequest

__all__ = ["Job", "Jobs", "Streaming"]

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed"]


class Streaming(Protocol):
    """What works on jobs."""

    def stream(
        self, request: SampleRequest, form: Format, client: str = "", *, previews: bool = True
    ) -> AsyncGenerator[Step | Answer]: ...


@dataclass(eq=False)
class Job:
    """One request under way; `steps` holds the newest step of each seed."""

    id: str
    owner: str
    request: SampleRequest
    form: Format
    steps: dict[int, Step] = field(default_factory=dict)
    answer: Answer | None = None
    error: ServingError | None = None
    finished: float | None = None
    version: int = 0
    task: "asyncio.Task[None] | None" = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> State:
        if self.error is not None:
            return "failed"
        if self.answer is not None:
            return "done"
        return "running" if self.steps else "queued"

    def tell(self) -> None:
        """Wake who follows."""
        self.version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self) -> Answer:
        """The answer, once it is there. Raises the job's ServingError."""
        while self.finished is None:
            await self._changed.wait()
        if self.error is not None:
            raise self.error
        assert self.answer is not None, "a finished job has an answer or an error"
        return self.answer

    async def follow(self, idle_s: float) -> AsyncGenerator[Step | None]:
        """The newest steps as they come until the job is finished; None when nothing came for `idle_s`."""
        told: dict[int, Step] = {}
        while True:
            changed = self._changed
            for seed, step in list(self.steps.items()):
                if told.get(seed) is not step:
                    told[seed] = step
                    yield step
            if self.finished is not None:
                return
            if changed is self._changed:
                try:
                    await asyncio.wait_for(changed.wait(), idle_s)
                except TimeoutError:
                    yield None


class Jobs:
    """The jobs of one gateway."""

    def __init__(self, backend: Streaming, spec: ServeSpec) -> None:
        self._backend, self._spec = backend, spec
        self._jobs: dict[str, Job] = {}
        self._keys: dict[tuple[str, str], str] = {}

    @property
    def under_way(self) -> int:
        """How many are not finished."""
        return sum(job.finished is None for job in self._jobs.values())

    def start(
        self, request: SampleRequest, form: Format, owner: str, idempotency_key: str | None = None
    ) -> Job:
        """A new job; or, for an idempotency key that the owner has used, the job that it started then.

        Raises OverloadError where no more are kept, UnprocessableError for a key used for another request.
        """
        self._sweep()
        if idempotency_key is not None:
            known = self._jobs.get(self._keys.get((owner, idempotency_key), ""))
            if known is not None and known.state != "failed":
                if (known.request, known.form) != (request, form):
                    raise UnprocessableError(
                        f"Idempotency-Key {idempotency_key[:64]!r} was used for another request; take a new one"
                    )
                return known
        if len(self._jobs) >= self._spec.max_jobs:
            raise OverloadError(f"{len(self._jobs)} jobs are under way, and no more are taken on", 2.0)
        job = Job(secrets.token_urlsafe(12), owner, request, form)
        self._jobs[job.id] = job
        if idempotency_key is not None:
            self._keys[owner, idempotency_key] = job.id
        job.task = asyncio.create_task(self._work(job))
        return job

    def get(self, job_id: str, owner: str) -> Job:
        """The owner's job. Raises NotFoundError."""
        self._sweep()
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise NotFoundError(
                f"job {job_id[:64]!r}: there is none; finished jobs are kept for a while only"
            )
        return job

    def cancel(self, job: Job) -> None:
        """Give it up and forget it."""
        if job.task is not None:
            job.task.cancel()
        self._forget(job)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None and not job.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, job: Job) -> None:
        try:
            async with asyncio.timeout(self._spec.request_timeout_s):
                await self._run(job)
        except TimeoutError:
            job.error = TooLateError(
                f"no sample within {self._spec.request_timeout_s:g} s; ask for fewer or a faster plan"
            )
        except ServingError as error:
            job.error = error
        except asyncio.CancelledError:
            job.error = ServingError("the job was given up")
            raise
        except Exception as error:
            logger.exception("job %s", job.id)
            job.error = ServingError(f"{type(error).__name__}; the log of the endpoint says more")
        finally:
            job.finished = time.monotonic()
            job.tell()

    async def _run(self, job: Job) -> None:
        async with aclosing(self._backend.stream(job.request, job.form, job.owner)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    job.answer = event
                else:
                    job.steps[event.seed] = event
                    job.tell()

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self._keys = {key: name for key, name in self._keys.items() if name != job.id}

    def _sweep(self) -> None:
        """Forget what was finished long ago, and the oldest of what is more than is kept."""
        now = time.monotonic()
        finished = [job for job in self._jobs.values() if job.finished is not None]
        finished.sort(key=lambda job: job.finished or 0.0)
        held = sum(len(job.answer.content) for job in finished if job.answer is not None)
        for job in finished:
            old = now - (job.finished or now) > self._spec.job_ttl_s
            if not (old or held > self._spec.max_job_bytes or len(self._jobs) >= self._spec.max_jobs):
                break
            held -= len(job.answer.content) if job.answer is not None else 0
            self._forget(job)
