"""What the routes share: whom they ask, who may, how much at once, and how an answer leaves."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from raydiance.config.platform import ServeSpec
from raydiance.serving.identity import SampleId
from raydiance.serving.jobs import Job, Jobs
from raydiance.serving.keys import KeyRing
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.problems import NotAcceptableError, TooLateError, TooManyError, UnprocessableError
from raydiance.serving.schema import (
    FORMATS,
    Format,
    JobInfo,
    Link,
    ModelList,
    SampleRequest,
    Token,
    negotiate,
)
from raydiance.serving.streams import EVENT_STREAM, events, problem_of

__all__ = ["Backend", "Desk", "Wish", "job_info", "send", "unless_gone", "wish"]

GONE = 499  # what a proxy's log calls a client that has closed the connection; nobody reads it


class Backend(Protocol):
    """What answers requests; a replica without Ray is one, and so is a handle on replicas."""

    async def sample(self, request: SampleRequest, form: Format, client: str = "") -> Answer: ...

    def stream(
        self, request: SampleRequest, form: Format, client: str = "", *, previews: bool = True
    ) -> AsyncGenerator[Step | Answer]: ...

    async def describe(self, model: str | None = None) -> Description: ...

    async def models(self) -> ModelList: ...

    async def lineage(self, model: str | None = None) -> list[Link]: ...


@dataclass(frozen=True)
class Wish:
    """How a client wants its answer, by its headers."""

    accept: str | None
    wait: bool
    idempotency_key: str | None

    @property
    def is_streamed(self) -> bool:
        return EVENT_STREAM in (self.accept or "")

    def format(self, asked: Format | None) -> Format:
        """What the answer is made of. Raises NotAcceptableError where the header allows nothing that there is."""
        form = asked or (Format.glb if self.is_streamed else negotiate(self.accept))
        if form is None:
            raise NotAcceptableError(
                f"Accept: {self.accept} matches none of {', '.join(sorted(FORMATS.values()))}"
            )
        return form


async def wish(  # a coroutine, and so are the others: FastAPI gives a function to a thread, 0.5 ms each
    accept: Annotated[str | None, Header()] = None,
    prefer: Annotated[str | None, Header()] = None,
    idempotency_key: Annotated[Token | None, Header()] = None,
) -> Wish:
    """The headers that say how an answer is wanted."""
    return Wish(accept, "respond-async" not in (prefer or ""), idempotency_key)


class Desk:
    """What the routes share: the backend, the keys, the jobs, and who has how much under way."""

    def __init__(self, backend: Backend, spec: ServeSpec, keys: KeyRing) -> None:
        self.backend, self.spec, self.keys = backend, spec, keys
        self.jobs = Jobs(backend, spec)
        self._under_way: Counter[str] = Counter()

    async def reader(self, authorization: Annotated[str | None, Header()] = None) -> str:
        """The client, who may read."""
        return self.keys.admit(authorization, "read") if self.keys else ""

    async def sampler(self, authorization: Annotated[str | None, Header()] = None) -> str:
        """The client, who may have samples made."""
        return self.keys.admit(authorization, "sample") if self.keys else ""

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """One of the places that a client has. Raises TooManyError if all are taken."""
        if self._under_way[client] >= self.spec.max_requests:
            raise TooManyError(f"{self.spec.max_requests} requests are under way; wait for one of them", 1.0)
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1

    def start(self, body: SampleRequest, form: Format, client: str, idempotency_key: str | None) -> Job:
        """A job that has one of the client's places until it is finished."""
        check(body, form, self.spec)
        place = self.place(client)
        place.__enter__()
        try:
            job = self.jobs.start(body, form, client, idempotency_key)
        except BaseException:
            place.__exit__(None, None, None)
            raise
        assert job.task is not None, "a job that was started has a task"
        job.task.add_done_callback(lambda task: place.__exit__(None, None, None))
        return job

    async def alone(self, body: SampleRequest, form: Format, client: str) -> Answer:
        """The answer to a request that ends with its connection."""
        check(body, form, self.spec)
        with self.place(client):
            try:
                return await asyncio.wait_for(
                    self.backend.sample(body, form, client), self.spec.request_timeout_s
                )
            except TimeoutError:
                raise TooLateError(
                    f"no sample within {self.spec.request_timeout_s:g} s; ask for fewer or a faster plan"
                ) from None

    async def answer(self, request: Request, body: SampleRequest, client: str, wish: Wish) -> Response:
        """The answer to a request as its headers want it: the sample, its events, or a job."""
        form, key = wish.format(body.format), wish.idempotency_key
        if wish.is_streamed:
            job = self.start(body, form, client, key)
            return StreamingResponse(_watched(self, job, keep=key is not None), media_type=EVENT_STREAM)
        if not wish.wait:
            said = job_info(self.start(body, form, client, key))
            headers = {"Location": said.url, "Preference-Applied": "respond-async"}
            return JSONResponse(said.model_dump(mode="json"), 202, headers=headers)
        if key is not None:
            return send(await self.start(body, form, client, key).wait())
        return await unless_gone(request, self.alone(body, form, client))


def check(body: SampleRequest, form: Format, spec: ServeSpec) -> None:
    """Refuse what is more than this endpoint allows."""
    count = len(body.all_seeds)
    if count > spec.max_count:
        raise UnprocessableError(f"{count} seeds: at most {spec.max_count} a request; ask several times")
    if body.resolution is not None and body.resolution > spec.max_resolution:
        raise UnprocessableError(f"resolution {body.resolution}: at most {spec.max_resolution}")
    if body.texture is not None and (form is not Format.glb or body.texture > spec.max_texture):
        raise UnprocessableError(
            f"texture {body.texture}: a GLB can have one, of at most {spec.max_texture} texels per side"
        )
    if body.pixels(form) > spec.max_pixels:
        raise UnprocessableError(
            f"{body.pixels(form)} pixels to draw: at most {spec.max_pixels} a request; "
            "lower size, views, frames or the number of seeds"
        )


def send(answer: Answer, headers: dict[str, str] | None = None) -> Response:
    """An answer as it goes over the wire."""
    return Response(
        answer.content,
        media_type=answer.media_type,
        headers={
            **answer.headers,
            "Content-Disposition": f'inline; filename="{answer.filename}"',
            **(headers or {}),
        },
    )


async def unless_gone(
    request: Request, work: Awaitable[Answer], headers: dict[str, str] | None = None
) -> Response:
    """The answer, or nothing if the client goes first: the work is given up then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return send(task.result(), headers) if task.done() else Response(status_code=GONE)
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _watched(desk: Desk, job: Job, *, keep: bool) -> AsyncGenerator[bytes]:
    """The events of a job that is given up when nobody reads them."""
    try:
        async for event in events(job, job_info):
            yield event
    finally:
        if job.finished is None and not keep:
            desk.jobs.cancel(job)


def job_info(job: Job) -> JobInfo:
    """What is told of a job."""
    url = f"/v1/jobs/{job.id}"
    headers = {} if job.answer is None else job.answer.headers
    names = [SampleId.parse(name) for name in headers.get("Raydiance-Sample", "").split(",") if name]
    return JobInfo(
        id=job.id,
        state=job.state,
        step=sum(step.row for step in job.steps.values()),
        steps=sum(step.nfe for step in job.steps.values()),
        url=url,
        events=f"{url}/events",
        result=f"{url}/result",
        samples=[name.info(headers["Raydiance-Bundle"]) for name in names],
        problem=None if job.error is None else problem_of(job.error),
    )
