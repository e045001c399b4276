"""What stands before the application, in Serve's proxy."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.serving.conftest import SPEC
from tests.support.asking import ask, problem

from raydiance.serving import Format, Sampler, SampleRequest
from raydiance.serving.limits import Crowd, Excused
from raydiance.serving.messages import Answer
from raydiance.serving.places import Places
from raydiance.serving.problems import PROBLEM_JSON, OverloadError
from raydiance.storage import Artifact

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


def test_places_are_refused_when_all_are_taken_but_for_who_has_few_of_them() -> None:
    places = Places(4)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(places.one("many"))
        with pytest.raises(OverloadError, match="4 requests are under way"), places.one("many"):
            pass
        for _ in range(2):  # an even share of four between two
            held.enter_context(places.one("few"))
        with pytest.raises(OverloadError), places.one("few"):
            pass
    assert places.taken == 0
    with places.one("many"):
        assert places.taken == 1


def test_a_crowd_is_refused_and_questions_are_not() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await leave.wait()
        await PlainTextResponse("made")(scope, receive, send)

    async def both(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = asyncio.create_task(client.post("/v1/samples"))
        await entered.wait()
        refused = await client.post("/v1/completions")
        free = asyncio.create_task(client.get("/v1/models"))
        leave.set()
        return [await first, refused, await free]

    made, refused, free = ask(Crowd(slow, most=1), both)  # type: ignore[arg-type]
    assert (made.text, free.text) == ("made", "made")
    assert problem(refused, 503)["title"] == "The endpoint is busy" and refused.headers["retry-after"] == "1"
    assert "connection" not in refused.headers, "who is to come again need not connect anew"


def test_a_replica_that_is_left_alone_takes_on_what_the_others_had(artifact: Artifact) -> None:
    replica = Sampler(artifact, replace(SPEC, replicas=2, slots=3, queue=1))
    request = SampleRequest(seed=1, plan="ddim-40")

    async def crowd() -> list[Answer | BaseException]:
        asked = (replica.sample(request, Format.latent) for _ in range(9))
        return await asyncio.gather(*asked, return_exceptions=True)

    try:
        *made, refused = asyncio.run(crowd())
        assert all(isinstance(answer, Answer) for answer in made) and isinstance(refused, OverloadError)
    finally:
        replica.close()


def test_the_gateway_imports_no_torch() -> None:
    """Serve's imports take some seconds."""
    code = "import sys, raydiance.serving.gateway; print(*{'torch', 'numba', 'trimesh'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"\n"
