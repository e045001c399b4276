"""What stands before the application, in Serve's proxy."""

from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.support.asking import ask, problem

from raydiance.serving.limits import Excused
from raydiance.serving.problems import PROBLEM_JSON

ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """As Serve's proxy does where the gateway died before it had begun to answer."""


def got(app: ASGIApp, path: str = "/v1/samples") -> httpx.Response:
    return ask(app, lambda client: client.get(path))  # type: ignore[arg-type]


@pytest.mark.parametrize("lost", [silent, PlainTextResponse("not found", 404), PlainTextResponse("?", 503)])
def test_where_the_gateway_is_gone_the_client_is_told_to_come_again(lost: ASGI) -> None:
    answer = got(Excused(lost))
    assert "same seed" in problem(answer, 503)["detail"] and answer.headers["retry-after"] == "2"


def test_what_the_gateway_says_is_passed_on() -> None:
    said: list[Response] = [
        JSONResponse({"models": []}),
        JSONResponse({"status": 404}, 404, media_type=PROBLEM_JSON),
        Response(status_code=304),
    ]
    for response in said:
        answer = got(Excused(response))
        assert (answer.status_code, answer.content) == (response.status_code, response.body)
    assert got(Excused(PlainTextResponse("draining", 503)), "/-/healthz").text == "draining"
