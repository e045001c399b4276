"""How errors are told (RFC 9457), over HTTP and in the OpenAPI document."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from raydiance.serving.problems import PROBLEM_JSON, ServingError, document
from raydiance.serving.schema import FORMATS, JobInfo, Problem

__all__ = ["add_problem_handlers", "answers", "problems"]

logger = logging.getLogger(__name__)

STATUSES = {
    400: "The body is not JSON",
    401: "An API key is needed",
    403: "The API key is not for this",
    404: "There is no such thing",
    405: "Another method",
    406: "No format that the Accept header allows",
    408: "The body did not come in time",
    409: "The job is not done",
    413: "The body is too large",
    422: "A field is unknown, out of range, or impossible with this bundle",
    429: "Too many requests of this client at once; see Retry-After",
    500: "The sample failed",
    503: "Busy or not ready; see Retry-After",
    504: "The sample took too long",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of errors: of these statuses, or of all."""
    schema = {"schema": Problem.model_json_schema()}
    return {
        status: {"description": STATUSES[status], "content": {PROBLEM_JSON: schema}}
        for status in (statuses or STATUSES)
    }


def answers(*, streams: bool = False, jobs: bool = False) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of samples, with event streams and jobs where a route has them."""
    content: dict[str, Any] = dict.fromkeys(FORMATS.values(), BINARY)
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    found: dict[int | str, dict[str, Any]] = {
        200: {"description": "The sample, with its lineage in the Raydiance-* headers", "content": content}
    }
    if jobs:
        found[202] = {"description": "Taken on; the job is at Location", "model": JobInfo}
    return found


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error of the application be a problem document."""

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
        logger.error("%s %s", request.method, request.url.path, exc_info=error)
        return _problem(
            500, "The sample failed", f"{type(error).__name__}; the log of the endpoint says more"
        )


def _problem(
    status: int, title: str, detail: str, headers: dict[str, str] | None = None, **extra: Any
) -> Response:
    return JSONResponse(
        document(status, title, detail, **extra), status, headers=headers, media_type=PROBLEM_JSON
    )
