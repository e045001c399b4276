"""Jobs, events, names of samples, budgets and keys, over a real engine and a real bundle."""

import asyncio
import base64
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from tests.serving.conftest import SPEC
from tests.support.asking import ask, post, problem

from raydiance.errors import ConfigError
from raydiance.generation import sample_glb
from raydiance.serving import Sampler
from raydiance.serving.app import build_app
from raydiance.serving.keys import KeyRing, add_key
from raydiance.serving.local import Local

IDLE = {"waiting": 0, "running": 0, "finishing": 0}


def get(app: FastAPI, path: str, **settings: Any) -> httpx.Response:
    return ask(app, lambda client: client.get(path, **settings))


def heard(text: str) -> list[tuple[str, Any]]:
    """The events of an event stream."""
    blocks = [block for block in text.split("\n\n") if block.startswith("event: ")]
    parts = [block.split("\n", 1) for block in blocks]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_events_tell_each_step_with_previews_and_where_the_result_is(app: FastAPI, sampler: Sampler) -> None:
    async def follow(client: httpx.AsyncClient) -> tuple[list[tuple[str, Any]], bytes]:
        body = {"seed": 7, "plan": "ddim-9"}
        said = await client.post("/v1/samples", json=body, headers={"Accept": "text/event-stream"})
        events = heard(said.text)
        return events, (await client.get(events[-1][1]["result"])).content

    events, result = ask(app, follow)
    assert [name for name, _ in events][:2] == ["job", "step"] and events[-1][0] == "done"
    steps = [data for name, data in events if name == "step"]
    assert steps[-1]["step"] == steps[-1]["steps"] == 9
    assert [step["step"] for step in steps] == sorted(step["step"] for step in steps)
    pictures = [step["preview"] for step in steps if "preview" in step]
    picture = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    assert picture.format == "WEBP" and picture.size == (96, 96)
    assert result == sample_glb(sampler.bundle, 7, "ddim-9")
    (sample,) = events[-1][1]["samples"]
    assert sample["id"] == f"{sampler.bundle.ref.sha256[:12]}~ddim-9~7"


def test_a_job_answers_at_once_and_is_asked_for_later(app: FastAPI, sampler: Sampler) -> None:
    async def work(client: httpx.AsyncClient) -> tuple[httpx.Response, dict[str, Any], bytes]:
        taken = await client.post("/v1/samples", json={"seed": 3}, headers={"Prefer": "respond-async"})
        url = taken.headers["location"]
        state: dict[str, Any] = {}
        while state.get("state") not in ("done", "failed"):
            await asyncio.sleep(0.01)
            state = (await client.get(url)).json()
        events = heard((await client.get(state["events"])).text)
        assert events[-1][0] == "done", "who comes late hears the end"
        result = await client.get(state["result"])
        assert (await client.delete(url)).status_code == 204
        assert (await client.get(url)).status_code == 404
        return taken, state, result.content

    taken, state, content = ask(app, work)
    assert taken.status_code == 202 and taken.json()["state"] == "queued"
    assert (state["state"], state["step"]) == ("done", state["steps"])
    assert content == sample_glb(sampler.bundle, 3)


def test_a_job_that_is_not_done_has_no_result_and_one_given_up_frees_its_places(
    app: FastAPI, sampler: Sampler
) -> None:
    async def work(client: httpx.AsyncClient) -> httpx.Response:
        body = {"seed": 3, "count": 4, "plan": "ddim-250"}
        taken = (await client.post("/v1/samples", json=body, headers={"Prefer": "respond-async"})).json()
        early = await client.get(taken["result"])
        await client.delete(taken["url"])
        return early

    problem(ask(app, work), 409)
    until(lambda: sampler.engine.load == IDLE)


def test_a_job_tells_its_problem(app: FastAPI) -> None:
    async def work(client: httpx.AsyncClient) -> list[tuple[str, Any]]:
        said = await client.post("/v1/samples", json={"plan": "no"}, headers={"Accept": "text/event-stream"})
        return heard(said.text)

    events = ask(app, work)
    assert events[-1][0] == "problem" and events[-1][1]["status"] == 422


def test_asking_twice_with_one_idempotency_key_works_once(app: FastAPI, sampler: Sampler) -> None:
    async def twice(client: httpx.AsyncClient) -> tuple[list[httpx.Response], httpx.Response]:
        headers = {"Idempotency-Key": "a-1"}
        asked = (client.post("/v1/samples", json={"seed": 11}, headers=headers) for _ in range(3))
        same = await asyncio.gather(*asked)
        return list(same), await client.post("/v1/samples", json={"seed": 12}, headers=headers)

    before = sampler.engine.stats.finished
    same, other = ask(app, twice)
    assert {response.content for response in same} == {sample_glb(sampler.bundle, 11)}
    assert sampler.engine.stats.finished == before + 1
    assert "another request" in problem(other, 422)["detail"]


def test_a_client_that_leaves_a_stream_or_a_request_frees_its_places(app: FastAPI, sampler: Sampler) -> None:
    for headers in ({"Accept": "text/event-stream"}, {}):
        asyncio.run(leave(app, headers))
        until(lambda: sampler.engine.load == IDLE)
    assert sampler.engine.stats.cancelled > 0


async def leave(app: FastAPI, headers: dict[str, str]) -> None:
    """Send a request for much, and go away when it is under way."""
    body = json.dumps({"count": 4, "plan": "ddim-250"}).encode()
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    raw = [
        (b"content-type", b"application/json"),
        *((k.lower().encode(), v.encode()) for k, v in headers.items()),
    ]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST"}
    scope |= {"path": "/v1/samples", "raw_path": b"/v1/samples", "query_string": b"", "scheme": "http"}
    scope |= {"headers": raw, "server": ("here", 80), "client": ("here", 1), "root_path": ""}
    began = time.monotonic()
    await app(scope, receive, send)  # type: ignore[arg-type]
    assert time.monotonic() - began < 2.0


def test_the_name_of_a_sample_is_enough_to_draw_it_again(app: FastAPI, sampler: Sampler) -> None:
    made = post(app, {"seed": 5, "plan": "heun-3", "category": "class1"})
    name = made.headers["raydiance-sample"]
    assert name.endswith("~heun-3~5~class1")
    again = get(app, f"/v1/samples/{name}")
    assert again.content == made.content
    drawn = get(app, f"/v1/samples/{name}?format=png&size=32&views=1")
    assert Image.open(io.BytesIO(drawn.content)).size == (32, 32)
    for wrong in ("nonsense", name.replace(name[:4], "0000", 1), "~".join(["0" * 12, "fast", "9" * 19])):
        problem(get(app, f"/v1/samples/{wrong}"), 404)
    problem(get(app, f"/v1/samples/{name}?sise=3"), 422)


def test_the_lineage_of_a_sample_leads_to_its_data_set(app: FastAPI, sampler: Sampler) -> None:
    name = post(app, {"seed": 5, "plan": "fast"}).headers["raydiance-sample"]
    told = get(app, f"/v1/samples/{name}/lineage").json()
    assert told["sample"]["id"] == name and told["missing"] == []
    kinds = [link["kind"] for link in told["chain"]]
    assert kinds[0] == "bundle" and kinds[-1] == "meshes"
    place = {link["key"]: i for i, link in enumerate(told["chain"])}
    for link in told["chain"]:
        assert all(place[parent] > place[link["key"]] for parent in link["parents"])
        assert link["code_version"] and link["files"] > 0


def test_steps_quality_and_budget_choose_the_plan(app: FastAPI, sampler: Sampler) -> None:
    def chosen(**fields: Any) -> str:
        response = post(app, {"seed": 1, "format": "latent", **fields})
        assert response.status_code == 200, response.text
        return str(response.headers["raydiance-plan"])

    assert chosen(plan="deis", steps=5) == "deis-5"
    assert [chosen(quality=quality) for quality in ("draft", "standard", "best")] == [
        "fast",
        "default",
        "default",
    ]
    assert chosen(latency_budget_ms=60_000) == "default"
    refused = problem(post(app, {"seed": 1, "latency_budget_ms": 1}), 422)
    assert "fast" in refused["detail"]
    for wrong in (
        {"plan": "deis", "steps": 900},
        {"steps": 4},
        {"plan": "fast", "steps": 4},
        {"plan": "ddim-0"},
    ):
        problem(post(app, wrong), 422)


def test_a_client_has_so_many_places_and_no_more(sampler: Sampler) -> None:
    narrow = build_app(Local(sampler), replace(SPEC, max_requests=2))

    async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(
            *(client.post("/v1/samples", json={"seed": seed, "plan": "fast"}) for seed in range(5))
        )

    answers = ask(narrow, crowd)
    refused = [response for response in answers if response.status_code == 429]
    assert len(refused) == 3 and all(response.headers["retry-after"] == "1" for response in refused)
    assert sum(response.status_code == 200 for response in answers) == 2


def test_keys_of_a_file_have_scopes_end_and_are_replaced_while_it_runs(
    sampler: Sampler, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    full = add_key(path, "full")
    reader = add_key(path, "reader", ["read"])
    old = add_key(path, "old", expires="2020-01-01T00:00:00Z")
    app = build_app(Local(sampler), SPEC, KeyRing(path=path))

    def status(key: str, method: str = "GET", url: str = "/v1/plans") -> int:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"seed": 1, "plan": "fast", "format": "latent"} if method == "POST" else None
        return ask(app, lambda client: client.request(method, url, json=body, headers=headers)).status_code

    assert [status(key) for key in (full, reader, old, "guess")] == [200, 200, 401, 401]
    assert [status(key, "POST", "/v1/samples") for key in (full, reader, old)] == [200, 403, 401]
    assert full not in path.read_text()
    path.unlink()
    new = add_key(path, "new")
    assert [status(new), status(full)] == [200, 401]
    with pytest.raises(ConfigError, match="absent"):
        KeyRing(path=tmp_path / "absent.json")


def test_one_client_does_not_see_the_jobs_of_another(sampler: Sampler, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ours, theirs = ({"Authorization": f"Bearer {add_key(path, name)}"} for name in ("ours", "theirs"))
    app = build_app(Local(sampler), SPEC, KeyRing(path=path))

    async def work(client: httpx.AsyncClient) -> list[int]:
        asked = ours | {"Prefer": "respond-async"}
        url = (await client.post("/v1/samples", json={"plan": "fast"}, headers=asked)).headers["location"]
        return [(await client.get(url, headers=headers)).status_code for headers in (ours, theirs)]

    assert ask(app, work) == [200, 404]


def test_prometheus_reads_the_counts(app: FastAPI) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    post(app, {"seed": 1, "plan": "fast", "format": "latent"})
    said = get(app, "/metrics")
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {family.name: family.samples for family in text_string_to_metric_families(said.text)}
    made = [s.value for s in found["raydiance_requests"] if s.labels.get("route") == "/v1/samples"]
    assert sum(made) >= 1 and found["raydiance_ready"][0].value == 1
    assert found["raydiance_engine_ticks"][0].value > 0
