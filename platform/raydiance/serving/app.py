"""The HTTP face: routes, limits and keys. It knows a `Backend`, not Ray and not torch."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from raydiance import __version__
from raydiance.config.platform import ServeSpec
from raydiance.serving import documents
from raydiance.serving.assets import page_routes
from raydiance.serving.identity import SampleId
from raydiance.serving.jobs import Job, Jobs
from raydiance.serving.keys import KeyRing
from raydiance.serving.limits import BodyLimit
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.numbers import Counted, Counts, exposition
from raydiance.serving.problems import (
    ConflictError,
    NotAcceptableError,
    NotReadyError,
    ServingError,
    TooLateError,
    TooManyError,
    UnprocessableError,
)
from raydiance.serving.schema import (
    FORMATS,
    Format,
    JobInfo,
    Lineage,
    Link,
    ModelList,
    Name,
    PlanList,
    SampleDrawing,
    SampleRequest,
    Token,
    negotiate,
)
from raydiance.serving.streams import EVENT_STREAM, events, problem_of

__all__ = ["Backend", "build_app"]

READY_TIMEOUT_S = 2.0
TEXT = {"schema": {"type": "string"}}
GONE = 499  # what a proxy's log calls a client that has closed the connection; nobody reads it
PRIVATE = {"Cache-Control": "private, max-age=86400"}  # a sample's name is its content


class Backend(Protocol):
    """What answers requests; a replica without Ray is one, and so is a handle on replicas."""

    async def sample(self, request: SampleRequest, form: Format, client: str = "") -> Answer: ...

    def stream(
        self, request: SampleRequest, form: Format, client: str = "", *, previews: bool = True
    ) -> AsyncGenerator[Step | Answer]: ...

    async def describe(self, model: str | None = None) -> Description: ...

    async def models(self) -> ModelList: ...

    async def lineage(self, model: str | None = None) -> list[Link]: ...


def build_app(backend: Backend, spec: ServeSpec, keys: KeyRing | None = None) -> FastAPI:
    """The application over a backend; with keys, /v1 and /metrics want one of them as bearer token."""
    desk = Desk(backend, spec, keys or KeyRing())
    counts = Counts()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        await desk.jobs.close()

    app = FastAPI(
        title="Raydiance",
        version=__version__,
        summary="3D samples over HTTP, each with its lineage.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, max_bytes=spec.max_body_bytes)
    app.add_middleware(Counted, counts=counts)
    documents.add_problem_handlers(app)
    _add_samples(app, desk)
    _add_jobs(app, desk)
    _add_facts(app, desk, counts)
    app.include_router(page_routes())
    return app


class Desk:
    """What the routes share: the backend, the keys, the jobs, and who has how much under way."""

    def __init__(self, backend: Backend, spec: ServeSpec, keys: KeyRing) -> None:
        self.backend, self.spec, self.keys = backend, spec, keys
        self.jobs = Jobs(backend, spec)
        self._under_way: Counter[str] = Counter()

    def reader(self, authorization: Annotated[str | None, Header()] = None) -> str:
        """The client, who may read."""
        return self.keys.admit(authorization, "read") if self.keys else ""

    def sampler(self, authorization: Annotated[str | None, Header()] = None) -> str:
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


def _add_samples(app: FastAPI, desk: Desk) -> None:
    client = Annotated[str, Depends(desk.sampler)]

    @app.post(
        "/v1/samples",
        summary="Make samples",
        description="One per seed; the same seed, plan and bundle give the same bytes. GLB unless Accept or "
        "format ask for another. Accept: text/event-stream tells how it goes on and at last where the result "
        "is; Prefer: respond-async answers at once with a job. Asking again with the same Idempotency-Key "
        "starts nothing anew.",
        response_class=Response,
        responses=documents.answers(streams=True, jobs=True) | documents.problems(),
    )
    async def make(
        request: Request,
        body: SampleRequest,
        client: client,
        accept: Annotated[str | None, Header()] = None,
        prefer: Annotated[str | None, Header()] = None,
        idempotency_key: Annotated[Token | None, Header()] = None,
    ) -> Response:
        streamed = EVENT_STREAM in (accept or "")
        form = body.format or (Format.glb if streamed else negotiate(accept))
        if form is None:
            raise NotAcceptableError(
                f"Accept: {accept} matches none of {', '.join(sorted(FORMATS.values()))}"
            )
        if streamed:
            job = desk.start(body, form, client, idempotency_key)
            return StreamingResponse(
                _watched(desk, job, keep=idempotency_key is not None), media_type=EVENT_STREAM
            )
        if "respond-async" in (prefer or ""):
            job = desk.start(body, form, client, idempotency_key)
            said = job_info(job)
            return JSONResponse(
                said.model_dump(mode="json"),
                202,
                headers={"Location": said.url, "Preference-Applied": "respond-async"},
            )
        if idempotency_key is not None:
            return send(await desk.start(body, form, client, idempotency_key).wait())
        return await unless_gone(request, desk.alone(body, form, client))

    @app.get(
        "/v1/samples/{sample}",
        summary="Draw a sample",
        description="Makes the sample of this name again, in whatever format.",
        response_class=Response,
        responses=documents.answers() | documents.problems(),
    )
    async def draw(
        request: Request,
        sample: str,
        wanted: Annotated[SampleDrawing, Query()],
        client: client,
        accept: Annotated[str | None, Header()] = None,
    ) -> Response:
        name = SampleId.parse(sample)
        form = wanted.format or negotiate(accept)
        if form is None:
            raise NotAcceptableError(
                f"Accept: {accept} matches none of {', '.join(sorted(FORMATS.values()))}"
            )
        drawing = wanted.model_dump(exclude={"format"})
        body = SampleRequest(
            seed=name.seed, plan=name.plan, category=name.category, model=name.bundle, **drawing
        )
        return await unless_gone(request, desk.alone(body, form, client), PRIVATE)

    @app.get(
        "/v1/samples/{sample}/lineage",
        summary="What a sample was made from",
        responses=documents.problems(401, 403, 404, 422, 503),
    )
    async def lineage(sample: str, client: Annotated[str, Depends(desk.reader)]) -> Lineage:
        name = SampleId.parse(sample)
        links = await desk.backend.lineage(name.bundle)
        return Lineage(
            sample=name.info(links[0].key),
            code_version=links[0].code_version or "unknown",
            chain=links,
            missing=[link.missing for link in links if link.missing],
        )


def _add_jobs(app: FastAPI, desk: Desk) -> None:
    client = Annotated[str, Depends(desk.sampler)]
    refusals = documents.problems(401, 403, 404, 422)

    @app.get("/v1/jobs/{job}", summary="How a job goes on", responses=refusals)
    async def state(job: str, client: client) -> JobInfo:
        return job_info(desk.jobs.get(job, client))

    @app.get(
        "/v1/jobs/{job}/events",
        summary="A job's steps as they come, with previews",
        response_class=StreamingResponse,
        responses={**refusals, 200: {"description": "Events", "content": {EVENT_STREAM: TEXT}}},
    )
    async def follow(job: str, client: client) -> Response:
        return StreamingResponse(events(desk.jobs.get(job, client), job_info), media_type=EVENT_STREAM)

    @app.get(
        "/v1/jobs/{job}/result",
        summary="A job's answer",
        response_class=Response,
        responses=documents.answers() | documents.problems(),
    )
    async def result(job: str, client: client) -> Response:
        found = desk.jobs.get(job, client)
        if found.finished is None:
            raise ConflictError(f"job {found.id} is {found.state}; its events tell when it is done", 1.0)
        return send(await found.wait())

    @app.delete("/v1/jobs/{job}", summary="Give a job up", status_code=204, responses=refusals)
    async def give_up(job: str, client: client) -> None:
        desk.jobs.cancel(desk.jobs.get(job, client))


def _add_facts(app: FastAPI, desk: Desk, counts: Counts) -> None:
    secured: dict[str, Any] = {
        "dependencies": [Depends(desk.reader)],
        "responses": documents.problems(401, 403, 404, 422, 503),
    }

    @app.get("/v1/models", summary="The bundles that are served", **secured)
    async def models() -> ModelList:
        return await desk.backend.models()

    @app.get("/v1/plans", summary="The sampling plans to choose from, fastest first", **secured)
    async def plans(model: Annotated[Name | None, Query()] = None) -> PlanList:
        said = await desk.backend.describe(model)
        return PlanList(plans=said.plans, solvers=said.solvers, call_ms=said.call_ms)

    @app.get("/healthz", summary="Whether the endpoint is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether a bundle is loaded and answers", responses=documents.problems(503))
    async def readyz() -> dict[str, str]:
        description = await _described(desk)
        if description is None:
            raise NotReadyError("no replica answers yet; wait for it to load its bundle", 2.0)
        return {"status": "ready", "bundle": description.model.bundle}

    @app.get("/metrics", summary="Counts for Prometheus", response_class=PlainTextResponse, **secured)
    async def metrics() -> Response:
        text = exposition(counts, desk.jobs.under_way, await _described(desk))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def check(body: SampleRequest, form: Format, spec: ServeSpec) -> None:
    """Refuse what is more than this endpoint allows."""
    count = len(body.all_seeds)
    if count > spec.max_count:
        raise UnprocessableError(f"{count} seeds: at most {spec.max_count} a request; ask several times")
    if body.resolution is not None and body.resolution > spec.max_resolution:
        raise UnprocessableError(f"resolution {body.resolution}: at most {spec.max_resolution}")
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


async def _described(desk: Desk) -> Description | None:
    try:
        return await asyncio.wait_for(desk.backend.describe(), READY_TIMEOUT_S)
    except (TimeoutError, ServingError):
        return None


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
