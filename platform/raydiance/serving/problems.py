"""Refusals and failures of the endpoint, each with its status, and the problem document that tells of it.

ServingError
|-- OverloadError       503: the queue is full, or the deadline cannot be met; retry after `retry_after_s`
|-- NotReadyError       503: no bundle is loaded yet, or the endpoint is shutting down
|-- TooLateError        504: the sample was not done within the time allowed
|-- UnprocessableError  422: a plan or category that the bundle does not have, or more than is allowed
|-- NoSurfaceError      422: the seed gives a field without a surface
|-- NotFoundError       404: no such job or sample
|-- NotAcceptableError  406: no format that the Accept header allows
|-- ConflictError       409: the job is not done yet
|-- TooManyError        429: this client has as many requests under way as it may
|-- ForbiddenError      403: the API key is not for this
`-- UnauthorizedError   401: no API key, or a wrong one
"""

import math
from http import HTTPStatus
from typing import Any, ClassVar

from raydiance.errors import RequestError

__all__ = [
    "PROBLEM_JSON",
    "ConflictError",
    "ForbiddenError",
    "NoSurfaceError",
    "NotAcceptableError",
    "NotFoundError",
    "NotReadyError",
    "OverloadError",
    "ServingError",
    "TooLateError",
    "TooManyError",
    "UnauthorizedError",
    "UnprocessableError",
    "document",
]

PROBLEM_JSON = "application/problem+json"


class ServingError(RequestError):
    """A request that gets an error as its answer; the message is the problem's detail."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "The sample failed"

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.detail, self.retry_after_s)

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, rounded up (RFC 9110 delay-seconds)."""
        return (
            {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        )


class OverloadError(ServingError):
    """The queue is full, or the deadline cannot be met."""

    status = 503
    title = "The endpoint is busy"


class NotReadyError(ServingError):
    """No bundle is loaded yet, or the endpoint is shutting down."""

    status = 503
    title = "The endpoint is not ready"


class TooLateError(ServingError):
    """The sample was not done within the time allowed."""

    status = 504
    title = "The sample took too long"


class UnprocessableError(ServingError):
    """A plan or category that the bundle does not have, or more than is allowed."""

    status = 422
    title = "The request cannot be served"


class NoSurfaceError(ServingError):
    """The seed gives a field without a surface."""

    status = 422
    title = "The sample is empty"


class NotFoundError(ServingError):
    """No such job or sample."""

    status = 404
    title = "Not Found"


class ConflictError(ServingError):
    """The job is not done yet."""

    status = 409
    title = "The job is not done"


class TooManyError(ServingError):
    """This client has as many requests under way as it may have."""

    status = 429
    title = "Too many requests at once"


class ForbiddenError(ServingError):
    """The API key is not for this."""

    status = 403
    title = "The API key is not for this"


class NotAcceptableError(ServingError):
    """No format that the Accept header allows."""

    status = 406
    title = "No acceptable format"


class UnauthorizedError(ServingError):
    """No API key, or a wrong one."""

    status = 401
    title = "An API key is needed"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="raydiance"'}


def document(status: int, title: str, detail: str, **extra: Any) -> dict[str, Any]:
    """A problem document (RFC 9457). The type is a URN, one per title; "about:blank" where the status says it
    all.
    """
    standard = title == HTTPStatus(status).phrase
    kind = "about:blank" if standard else "urn:raydiance:problem:" + title.lower().replace(" ", "-")
    return {"type": kind, "title": title, "status": status, "detail": detail, **extra}
