"""The HTTP face: routes, limits, keys and problem documents. It knows a `Backend`, not Ray and not torch."""

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from raydiance import __version__
from raydiance.config.platform import ServeSpec
from raydiance.serving.limits import BodyLimit
from raydiance.serving.problems import (
    PROBLEM_JSON,
    NotAcceptableError,
    NotReadyError,
    ServingError,
    TooLateError,
    UnauthorizedError,
    UnprocessableError,
    document,
)
from raydiance.serving.schema import (
    FORMATS,
    Format,
    ModelList,
    PlanList,
    Problem,
    SampleRequest,
    negotiate,
)

if TYPE_CHECKING:
    from raydiance.serving.answers import Answer
    from raydiance.serving.sampler import Description

__all__ = ["Backend", "build_app", "key_digest"]

READY_TIMEOUT_S = 2.0
STATUSES = {
    400: "The body is not JSON",
    401: "An API key is needed",
    406: "No format that the Accept header allows",
    408: "The body did not come in time",
    413: "The body is too large",
    422: "A field is unknown, out of range, or impossible with this bundle",
    500: "The sample failed",
    503: "Busy or not ready; see Retry-After",
    504: "The sample took too long",
}


class Backend(Protocol):
    """What answers requests; a `Sampler` is one, and so is a handle on its replicas."""

    async def sample(self, request: SampleRequest, form: Format) -> "Answer": ...

    async def describe(self) -> "Description": ...


def key_digest(key: str) -> bytes:
    """What is kept of an API key."""
    return hashlib.sha256(key.encode()).digest()


def build_app(backend: Backend, spec: ServeSpec, keys: Sequence[bytes] = ()) -> FastAPI:
    """The application over a backend; with `keys` (digests), /v1 wants one of them as bearer token."""
    app = FastAPI(
        title="Raydiance",
        version=__version__,
        summary="3D samples over HTTP, each with its lineage.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, max_bytes=spec.max_body_bytes)
    _add_problem_handlers(app)
    allowed = _Keys(keys)
    secured: dict[str, Any] = {"dependencies": [Depends(allowed)] if keys else [], "responses": _problems()}

    @app.post(
        "/v1/samples",
        summary="Make samples",
        description="One per seed; the same seed, plan and bundle give the same bytes. "
        "GLB unless Accept or format ask for another.",
        response_class=Response,
        **{**secured, "responses": _binary() | _problems()},
    )
    async def samples(body: SampleRequest, accept: Annotated[str | None, Header()] = None) -> Response:
        form = body.format or negotiate(accept)
        if form is None:
            raise NotAcceptableError(
                f"Accept: {accept} matches none of {', '.join(sorted(FORMATS.values()))}"
            )
        _check(body, form, spec)
        try:
            answer = await asyncio.wait_for(backend.sample(body, form), spec.request_timeout_s)
        except TimeoutError:
            raise TooLateError(
                f"no sample within {spec.request_timeout_s:g} s; ask for fewer or a faster plan"
            ) from None
        disposition = {"Content-Disposition": f'inline; filename="{answer.filename}"'}
        return Response(
            answer.content, media_type=answer.media_type, headers={**answer.headers, **disposition}
        )

    @app.get("/v1/models", summary="The bundles that are served", **secured)
    async def models() -> ModelList:
        return ModelList(models=[(await backend.describe()).model])

    @app.get("/v1/plans", summary="The sampling plans to choose from, fastest first", **secured)
    async def plans() -> PlanList:
        return PlanList(plans=(await backend.describe()).plans)

    @app.get("/healthz", summary="Whether the endpoint is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether a bundle is loaded and answers", responses=_problems(503))
    async def readyz() -> dict[str, str]:
        try:
            description = await asyncio.wait_for(backend.describe(), READY_TIMEOUT_S)
        except TimeoutError:
            raise NotReadyError("no replica answers yet; wait for it to load its bundle", 2.0) from None
        return {"status": "ready", "bundle": description.model.bundle}

    return app


class _Keys:
    """Lets through who has a key; comparing takes the same time for a wrong key as for a right one."""

    def __init__(self, digests: Sequence[bytes]) -> None:
        self._digests = tuple(digests)

    def __call__(self, authorization: Annotated[str | None, Header()] = None) -> None:
        scheme, _, key = (authorization or "").partition(" ")
        given = key_digest(key.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise UnauthorizedError("send the header Authorization: Bearer KEY with a key of this endpoint")


def _check(body: SampleRequest, form: Format, spec: ServeSpec) -> None:
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


def _problem(
    status: int, title: str, detail: str, headers: dict[str, str] | None = None, **extra: Any
) -> Response:
    return JSONResponse(
        document(status, title, detail, **extra), status, headers=headers, media_type=PROBLEM_JSON
    )


def _add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServingError)
    async def refused(request: Request, error: ServingError) -> Response:
        return _problem(error.status, error.title, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"pointer": "#/" + "/".join(str(part) for part in each["loc"][1:]), "detail": each["msg"]}
            for each in error.errors()
        ]
        detail = "; ".join(f"{each['pointer']}: {each['detail']}" for each in errors)
        return _problem(422, "The request is not valid", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        title = str(error.detail) if error.status_code != 400 else "Bad Request"
        return _problem(error.status_code, title, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _problem(
            500, "The sample failed", f"{type(error).__name__}; the log of the endpoint says more"
        )


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the errors."""
    schema = {"schema": Problem.model_json_schema()}
    return {
        status: {"description": STATUSES[status], "content": {PROBLEM_JSON: schema}}
        for status in (statuses or STATUSES)
    }


def _binary() -> dict[int | str, dict[str, Any]]:
    content = {media: {"schema": {"type": "string", "format": "binary"}} for media in FORMATS.values()}
    return {
        200: {"description": "The sample, with its lineage in the Raydiance-* headers", "content": content}
    }
