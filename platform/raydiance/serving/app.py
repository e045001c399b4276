"""The HTTP face: its routes. It knows a `Backend`, not Ray and not torch."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from raydiance import __version__
from raydiance.config.platform import ServeSpec
from raydiance.serving import documents
from raydiance.serving.assets import page_routes
from raydiance.serving.desk import Backend, Desk, Wish, job_info, send, unless_gone, wish
from raydiance.serving.identity import SampleId
from raydiance.serving.keys import KeyRing
from raydiance.serving.limits import BodyLimit
from raydiance.serving.messages import Description
from raydiance.serving.numbers import Counted, Counts, exposition
from raydiance.serving.problems import ConflictError, NotReadyError, ServingError
from raydiance.serving.schema import JobInfo, Lineage, ModelList, Name, PlanList, SampleDrawing, SampleRequest
from raydiance.serving.streams import EVENT_STREAM, events
from raydiance.serving.uploads import CompletionRequest, ReconstructionRequest

__all__ = ["build_app"]

READY_TIMEOUT_S = 2.0
TEXT = {"schema": {"type": "string"}}
PRIVATE = {"Cache-Control": "private, max-age=86400"}  # a sample's name is its content


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
    limits = {"max_bytes": spec.max_body_bytes, "max_upload_bytes": spec.max_upload_bytes}
    app.add_middleware(BodyLimit, **limits)
    app.add_middleware(Counted, counts=counts)
    documents.add_problem_handlers(app)
    _add_samples(app, desk)
    _add_jobs(app, desk)
    _add_facts(app, desk, counts)
    app.include_router(page_routes())
    return app


def _add_samples(app: FastAPI, desk: Desk) -> None:
    client = Annotated[str, Depends(desk.sampler)]
    wished = Annotated[Wish, Depends(wish)]
    made: dict[str, Any] = {
        "response_class": Response,
        "responses": documents.answers(streams=True, jobs=True) | documents.problems(),
    }

    @app.post("/v1/samples", summary="Make samples", **made)
    async def make(request: Request, body: SampleRequest, client: client, wished: wished) -> Response:
        """One per seed; the same seed, plan and bundle give the same bytes. GLB unless Accept or format ask for
        another. Accept: text/event-stream tells how it goes on and at last where the result is; Prefer:
        respond-async answers at once with a job. Asking again with the same Idempotency-Key starts nothing anew.
        """
        return await desk.answer(request, body, client, wished)

    @app.post("/v1/completions", summary="Complete a shape", **made)
    async def complete(request: Request, body: CompletionRequest, client: client, wished: wished) -> Response:
        """Keeps what lies within the box `keep` of an uploaded mesh or latent and makes the rest anew. Otherwise
        as POST /v1/samples.
        """
        return await desk.answer(request, body, client, wished)

    @app.post("/v1/reconstructions", summary="Reconstruct a shape from a picture", **made)
    async def rebuild(
        request: Request, body: ReconstructionRequest, client: client, wished: wished
    ) -> Response:
        """A sample that looks like the picture from where it was taken. Otherwise as POST /v1/samples."""
        return await desk.answer(request, body, client, wished)

    @app.get(
        "/v1/samples/{sample}",
        summary="Draw a sample",
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
        """Makes the sample of this name again, in whatever format."""
        body = SampleId.parse(sample).request(wanted, compiled=desk.spec.compile)
        form = Wish(accept, True, None).format(wanted.format)
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


async def _described(desk: Desk) -> Description | None:
    try:
        return await asyncio.wait_for(desk.backend.describe(), READY_TIMEOUT_S)
    except (TimeoutError, ServingError):
        return None
