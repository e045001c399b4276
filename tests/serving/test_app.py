"""The HTTP face over a real engine and a real bundle, in this process and without Ray."""

import asyncio
import io
import json
import struct
import time
import zipfile
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from safetensors.torch import load
from tests.serving.conftest import SPEC
from tests.support.asking import ask, post, problem

from raydiance.generation import generate_latents, sample_glb
from raydiance.serving import Sampler
from raydiance.serving.app import build_app
from raydiance.serving.keys import ApiKey, KeyRing, key_digest
from raydiance.serving.local import Local
from raydiance.serving.schema import FORMATS, Format, SampleRequest, negotiate


def glb_extras(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<I", data[12:16])
    extras: dict[str, Any] = json.loads(data[20 : 20 + length])["asset"]["extras"]["raydiance"]
    return extras


def test_a_sample_is_the_glb_that_the_library_makes_and_says_where_it_is_from(
    app: FastAPI, sampler: Sampler
) -> None:
    response = post(app, {"seed": 7, "plan": "fast", "category": "class1"})
    assert response.status_code == 200, response.text
    assert response.content == sample_glb(sampler.bundle, 7, "fast", category="class1")
    said = glb_extras(response.content)
    headers = response.headers
    assert headers["content-type"] == "model/gltf-binary"
    assert headers["raydiance-bundle"] == said["bundle"] == sampler.bundle.ref.key
    assert headers["raydiance-bundle-sha256"] == said["sha256"]
    assert (headers["raydiance-plan"], headers["raydiance-seed"]) == ("fast", "7")
    assert headers["raydiance-code"] == said["code_version"]
    assert ".glb" in headers["content-disposition"] and "sample;dur=" in headers["server-timing"]


def test_guidance_is_in_the_file_and_in_the_name(app: FastAPI) -> None:
    body = {"seed": 7, "plan": "fast", "category": "class1"}
    plain, guided = post(app, body), post(app, body | {"guidance": 2.5})
    assert guided.status_code == 200 and plain.content != guided.content
    assert glb_extras(guided.content)["guidance"] == 2.5
    name = guided.headers["raydiance-sample"]
    assert name.endswith("~fast~7~class1~2.5")
    assert ask(app, lambda client: client.get(f"/v1/samples/{name}")).content == guided.content
    problem(ask(app, lambda client: client.get(f"/v1/samples/{name[:-3]}99.0")), 404)
    problem(post(app, {"seed": 7, "guidance": 2.5}), 422)


def test_the_same_bytes_alone_and_in_a_full_mixed_batch(app: FastAPI, sampler: Sampler) -> None:
    plans = ("fast", "default", "stochastic")
    bodies = [{"seed": seed, "plan": plans[seed % 3]} for seed in range(14)]

    async def together(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/v1/samples", json=body) for body in bodies))

    for body, response in zip(bodies, ask(app, together)):
        assert response.status_code == 200
        assert response.content == sample_glb(sampler.bundle, int(body["seed"]), str(body["plan"]))


def test_two_hundred_requests_have_the_same_bytes_alone_and_in_mixed_batches(sampler: Sampler) -> None:
    roomy = build_app(Local(sampler), replace(SPEC, max_requests=200))
    plans = ("fast", "default", "stochastic", "ddim-6", "deis-5", "dpm_solver_pp-4")
    bodies = [{"seed": seed, "plan": plans[seed % 6], "format": "latent"} for seed in range(200)]

    async def some_at_once(client: httpx.AsyncClient) -> list[bytes]:
        places = asyncio.Semaphore(SPEC.slots + SPEC.queue)

        async def one(body: dict[str, Any]) -> bytes:
            async with places:
                return (await client.post("/v1/samples", json=body)).content

        return await asyncio.gather(*(one(body) for body in bodies))

    stats = sampler.engine.stats
    ticks, rows = stats.ticks, stats.rows
    together = ask(roomy, some_at_once)
    assert (stats.rows - rows) / (stats.ticks - ticks) > 1.5, "they did run in batches"
    for body, content in zip(bodies, together, strict=True):
        alone = generate_latents(sampler.bundle, [int(body["seed"])], sampler.bundle.plan(str(body["plan"])))
        assert load(content)["latents"].equal(alone)


def test_every_format_is_what_it_says(app: FastAPI) -> None:
    starts = {
        "glb": b"glTF",
        "ply": b"ply\n",
        "obj": b"",
        "stl": b"",
        "png": b"\x89PNG",
        "webp": b"RIFF",
        "mp4": b"\0\0\0",
        "views": b"PK",
        "latent": b"",
    }
    assert set(starts) == set(FORMATS)
    for name, start in starts.items():
        body = {"seed": 3, "plan": "fast", "format": name, "size": 32, "frames": 8, "views": 2}
        response = post(app, body)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == FORMATS[Format(name)]
        assert response.content.startswith(start) and len(response.content) > 100


def test_a_sheet_has_a_row_for_each_seed_and_its_lineage_in_the_file(app: FastAPI, sampler: Sampler) -> None:
    response = post(
        app, {"seeds": [5, 2], "plan": "fast", "size": 32, "views": 3}, headers={"Accept": "image/png"}
    )
    image = Image.open(io.BytesIO(response.content))
    assert image.size == (3 * 34 - 2, 2 * 34 - 2)
    said = json.loads(image.text["raydiance"])  # type: ignore[attr-defined]
    assert said["seeds"] == [5, 2] and said["bundle"] == sampler.bundle.ref.key


def test_latents_come_in_the_order_of_the_seeds(app: FastAPI, sampler: Sampler) -> None:
    response = post(app, {"seeds": [5, 2], "plan": "fast", "format": "latent"})
    latents = load(response.content)["latents"]
    assert latents.equal(generate_latents(sampler.bundle, [5, 2], sampler.bundle.plan("fast")))


def test_several_meshes_come_in_a_zip_that_is_the_same_each_time(app: FastAPI, sampler: Sampler) -> None:
    body = {"seed": 4, "count": 3, "plan": "fast"}
    response = post(app, body)
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == ["4.glb", "5.glb", "6.glb"]
        assert archive.read("5.glb") == sample_glb(sampler.bundle, 5, "fast")
    assert post(app, body).content == response.content


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"sede": 7}, "#/sede"),
        ({"seed": -1}, "#/seed"),
        ({"seed": 1, "seeds": [2]}, "either seeds"),
        ({"seeds": [2, 2]}, "must differ"),
        ({"plan": "fast", "quality": "best"}, "either plan or quality"),
        ({"plan": "../etc/passwd"}, "#/plan"),
        ({"count": 5}, "at most 4"),
        ({"resolution": 64}, "at most 48"),
        ({"resolution": 10**9}, "#/resolution"),
        ({"format": "mp4", "size": 1024, "frames": 120}, "pixels"),
        ({"plan": "nope"}, "default, fast, stochastic"),
        ({"category": "dragon"}, "class0, class1"),
        ([], "valid dictionary"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(app: FastAPI, body: Any, word: str) -> None:
    assert word in problem(post(app, body), 422)["detail"]


def test_other_refusals_are_problem_documents_too(app: FastAPI) -> None:
    problem(post(app, {}, headers={"Accept": "text/html"}), 406)
    problem(ask(app, lambda client: client.get("/v1/nothing")), 404)
    problem(ask(app, lambda client: client.get("/v1/samples")), 405)
    json_header = {"Content-Type": "application/json"}
    broken = ask(app, lambda client: client.post("/v1/samples", content=b"{", headers=json_header))
    assert broken.status_code in (400, 422) and broken.headers["content-type"] == "application/problem+json"
    large = b" " * (SPEC.max_body_bytes + 1)
    problem(ask(app, lambda client: client.post("/v1/samples", content=large, headers=json_header)), 413)

    async def endless() -> Any:
        while True:
            yield b" " * 4096

    problem(ask(app, lambda client: client.post("/v1/samples", content=endless(), headers=json_header)), 413)


def test_a_busy_endpoint_refuses_quickly_and_says_when_to_come_back(app: FastAPI, sampler: Sampler) -> None:
    async def flood(client: httpx.AsyncClient) -> list[tuple[httpx.Response, float]]:
        async def one(seed: int) -> tuple[httpx.Response, float]:
            began = time.monotonic()
            body = {"seed": seed, "count": 4, "format": "latent"}
            return await client.post("/v1/samples", json=body), time.monotonic() - began

        return await asyncio.gather(*(one(10 * seed) for seed in range(12)))

    answers = ask(app, flood)
    served = [response for response, _ in answers if response.status_code == 200]
    refused = [response for response, _ in answers if response.status_code == 503]
    assert len(served) + len(refused) == 12 and served and refused
    for response in refused:
        assert int(response.headers["retry-after"]) >= 1
        problem(response, 503)
    assert sampler.engine.load == {"waiting": 0, "running": 0, "finishing": 0}, (
        "a refused request leaves nothing"
    )


def test_a_deadline_that_cannot_be_met_is_refused_at_once(app: FastAPI) -> None:
    assert "deadline" in problem(post(app, {"deadline_ms": 1}), 503)["detail"]


def test_a_request_that_takes_too_long_is_cut_and_its_places_are_freed(sampler: Sampler) -> None:
    impatient = build_app(Local(sampler), replace(SPEC, request_timeout_s=0.01))
    problem(post(impatient, {"seed": 1, "count": 4}), 504)
    end = time.monotonic() + 5
    while any(sampler.engine.load.values()) and time.monotonic() < end:
        time.sleep(0.01)
    assert sampler.engine.load == {"waiting": 0, "running": 0, "finishing": 0}


def test_with_keys_only_those_who_have_one_get_in(sampler: Sampler) -> None:
    keys = [ApiKey(name=name, sha256=key_digest(name)) for name in ("open sesame", "other")]
    app = build_app(Local(sampler), SPEC, KeyRing(keys))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "open sesame"}):
        refused = ask(app, lambda client, headers=headers: client.get("/v1/plans", headers=headers))  # type: ignore[misc]
        problem(refused, 401)
        assert refused.headers["www-authenticate"].startswith("Bearer")
        problem(post(app, {"seed": 1}, headers=headers), 401)
    right = {"Authorization": "Bearer open sesame"}
    assert post(app, {"seed": 1, "plan": "fast"}, headers=right).status_code == 200
    assert ask(app, lambda client: client.get("/healthz")).status_code == 200


def test_models_and_plans_are_told(app: FastAPI, sampler: Sampler) -> None:
    (model,) = ask(app, lambda client: client.get("/v1/models")).json()["models"]
    assert model["bundle"] == sampler.bundle.ref.key and model["categories"] == ["class0", "class1"]
    plans = ask(app, lambda client: client.get("/v1/plans")).json()["plans"]
    assert [plan["nfe"] for plan in plans] == sorted(plan["nfe"] for plan in plans)
    assert [plan["name"] for plan in plans if plan["default"]] == ["default"]
    assert ask(app, lambda client: client.get("/readyz")).json()["bundle"] == sampler.bundle.ref.key


def test_the_api_describes_each_answer(app: FastAPI) -> None:
    described = app.openapi()
    assert described["openapi"].startswith("3.1")
    responses = described["paths"]["/v1/samples"]["post"]["responses"]
    assert set(FORMATS.values()) <= set(responses["200"]["content"])
    assert {"401", "406", "413", "422", "503", "504"} <= set(responses)
    for status, response in responses.items():
        assert status in ("200", "202") or list(response["content"]) == ["application/problem+json"]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "glb"),
        ("", "glb"),
        ("*/*", "glb"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "glb"),
        ("image/*", "png"),
        ("image/webp, image/png;q=0.5", "webp"),
        ("image/*;q=0.2, video/mp4;q=0.9", "mp4"),
        ("model/gltf-binary;q=0, */*", "ply"),
        ("text/plain", None),
        ("image/png;q=banana", None),
    ],
)
def test_the_accept_header_is_understood(accept: str | None, form: str | None) -> None:
    found = negotiate(accept)
    assert (found.value if found else None) == form


def test_seeds_may_be_counted_or_listed() -> None:
    assert SampleRequest.model_validate({}).all_seeds == (0,)
    assert SampleRequest.model_validate({"seed": 3, "count": 3}).all_seeds == (3, 4, 5)
    assert SampleRequest.model_validate({"seeds": [9, 1]}).all_seeds == (9, 1)
