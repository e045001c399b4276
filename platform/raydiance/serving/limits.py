"""What stands before the application: limits of a body's size and of the time it takes to come in, and an answer
where the application is gone.

Runs in Serve's proxy, which would otherwise hold a body of any size in memory, so nothing heavy is imported
here.
"""

import asyncio
import json
import os

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raydiance.config.platform import ServeSpec
from raydiance.serving.places import Places, most_of
from raydiance.serving.problems import PROBLEM_JSON, OverloadError, document

__all__ = ["BodyLimit", "Crowd", "Excused", "environment", "proxy_middlewares"]

LIMITS_VARIABLE = "RAYDIANCE_SERVE_LIMITS"
DEFAULTS = '{"max_bytes": 65536, "max_upload_bytes": 16777216}'  # of a Serve that was not started by us
UPLOADS = ("/v1/completions", "/v1/reconstructions")
MAKING = ("/v1/samples", *UPLOADS)
BODY_TIMEOUT_S = 10.0
OWN_ROUTES = "/-/"  # of Serve's proxy


class BodyLimit:
    """Reads the whole body first: 413 if it is larger than allowed, 408 if it does not come in time.

    max_upload_bytes: for the routes that take files.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_upload_bytes: int | None = None,
        timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s
        self._max_upload_bytes = max_upload_bytes or max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        allowed = self._max_upload_bytes if scope["path"] in UPLOADS else self._max_bytes
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > allowed:
            await _refuse(send, 413, "The request is too large", f"a body may have {allowed} bytes at most")
            return
        try:
            messages = await asyncio.wait_for(self._read(receive, allowed), self._timeout_s)
        except TimeoutError:
            await _refuse(send, 408, "Request Timeout", f"the body did not come within {self._timeout_s:g} s")
            return
        if messages is None:
            await _refuse(send, 413, "The request is too large", f"a body may have {allowed} bytes at most")
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive, allowed: int) -> list[Message] | None:
        """All messages of the body; None as soon as they hold too much."""
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > allowed:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return messages


class Crowd:
    """Refuses what is more than all replicas take on. The gateway would do so, too, but is a process farther away.

    Behind the limits of the body, so that who sends slowly, with whatever key, holds no place.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._places = app, Places(most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in MAKING:
            await self._app(scope, receive, send)
            return
        client = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        try:
            with self._places.one(client):
                await self._app(scope, receive, send)
        except OverloadError as error:
            await _refuse(send, error.status, error.title, error.detail, retry_after_s=1)


class Excused:
    """Tells 503 with Retry-After where Serve's proxy has no answer, or only one of its own making.

    A gateway that dies takes its requests with it, and one that is starting is not found. Both pass, and asking
    again does no harm, since one seed is one sample.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_ROUTES):
            await self._app(scope, receive, send)
            return
        answering, replaced = False, False

        async def pass_on(message: Message) -> None:
            nonlocal answering, replaced
            if message["type"] == "http.response.start":
                answering, replaced = True, _is_serves_own(message)
                if replaced:
                    await _excuse(send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, pass_on)
        if not answering:
            await _excuse(send)


def _is_serves_own(start: Message) -> bool:
    """Whether an error is none of ours: those are problem documents."""
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= 400 and kinds != [PROBLEM_JSON.encode()]


async def _excuse(send: Send) -> None:
    said = "the gateway was lost or is being started; ask again, the same seed is the same sample"
    await _refuse(send, 503, "The endpoint is not ready", said, retry_after_s=2)


def environment(spec: ServeSpec) -> dict[str, str]:
    """What Serve's processes have to know for `proxy_middlewares`."""
    limits = {"max_bytes": spec.max_body_bytes, "max_upload_bytes": spec.max_upload_bytes}
    return {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raydiance.serving.limits:proxy_middlewares",
        LIMITS_VARIABLE: json.dumps({**limits, "most": most_of(spec)}),
    }


def proxy_middlewares() -> list[Middleware]:
    """What Serve's proxy puts in front of every application (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)."""
    limits = json.loads(os.environ.get(LIMITS_VARIABLE, DEFAULTS))
    most = limits.pop("most", None)
    crowd = [] if most is None else [Middleware(Crowd, most=most)]
    return [Middleware(BodyLimit, **limits), *crowd, Middleware(Excused)]


async def _refuse(send: Send, status: int, title: str, detail: str, retry_after_s: int | None = None) -> None:
    """Say so; where it is for good, hang up, since what is left of the body is not read."""
    body = json.dumps(document(status, title, detail)).encode()
    headers = [
        (b"content-type", PROBLEM_JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close") if retry_after_s is None else (b"retry-after", b"%d" % retry_after_s),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
