"""Server-sent events: how a job goes on, for browsers and other readers of text/event-stream."""

import base64
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from raydiance.serving.jobs import Job
from raydiance.serving.messages import Step
from raydiance.serving.problems import ServingError, document
from raydiance.serving.schema import JobInfo

__all__ = ["EVENT_STREAM", "events", "problem_of"]

EVENT_STREAM = "text/event-stream"
IDLE_S = 10.0  # a comment keeps proxies from closing a silent connection


async def events(job: Job, info: Callable[[Job], JobInfo]) -> AsyncGenerator[bytes]:
    """ "job", then "step" for each step with its preview, then "done" or "problem"."""
    yield _event("job", info(job).model_dump(mode="json"))
    async for step in job.follow(IDLE_S):
        yield b": still here\n\n" if step is None else _event("step", _said(step))
    if job.error is not None:
        yield _event("problem", problem_of(job.error))
        return
    assert job.answer is not None, "a finished job has an answer or an error"
    said = info(job).model_dump(mode="json")
    timing = job.answer.headers.get("Server-Timing", "")
    yield _event("done", said | {"filename": job.answer.filename, "server_timing": timing})


def problem_of(error: ServingError) -> dict[str, Any]:
    """The problem document of an error that comes inside of another answer."""
    extra = {} if error.retry_after_s is None else {"retry_after_s": round(error.retry_after_s, 1)}
    return document(error.status, error.title, error.detail, **extra)


def _said(step: Step) -> dict[str, Any]:
    said: dict[str, Any] = {"seed": step.seed, "step": step.row, "steps": step.nfe}
    if step.preview:
        said["preview"] = "data:image/webp;base64," + base64.b64encode(step.preview).decode()
    return said


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
