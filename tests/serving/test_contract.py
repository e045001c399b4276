"""What the OpenAPI document says is what the endpoint does, whatever it is sent."""

import json
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.conftest import SPEC
from tests.support.asking import ask, problem

from raydiance.serving import Sampler
from raydiance.serving.app import build_app
from raydiance.serving.local import Local

schemathesis = pytest.importorskip("schemathesis", reason="a development dependency (pyproject.toml)")

SMALL = replace(SPEC, max_count=2, max_nfe=12, max_resolution=24, max_pixels=40_000, request_timeout_s=10.0)
CASES = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
OPERATIONS = (
    "POST /v1/completions",
    "POST /v1/reconstructions",
    "POST /v1/samples",
    "GET /v1/samples/{sample}",
    "GET /v1/samples/{sample}/lineage",
    "GET /v1/jobs/{job}",
    "DELETE /v1/jobs/{job}",
    "GET /v1/jobs/{job}/events",
    "GET /v1/jobs/{job}/result",
    "GET /v1/models",
    "GET /v1/plans",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def small(sampler: Sampler) -> FastAPI:
    return build_app(Local(sampler), SMALL)


def test_every_operation_is_examined(small: FastAPI) -> None:
    paths = small.openapi()["paths"]
    described = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert described == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_answer_is_a_5xx_or_not_in_the_document(small: FastAPI, operation: str) -> None:
    method, path = operation.split()
    described = schemathesis.openapi.from_asgi("/openapi.json", small)[path][method]
    statuses = set(described.definition.raw["responses"])
    seen: set[int] = set()

    @CASES
    @given(
        case=st.one_of(*(described.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode))
    )
    def examine(case: Any) -> None:
        response = case.call()
        seen.add(response.status_code)
        busy = response.status_code == 503 and "retry-after" in response.headers
        late = response.status_code == 504 and "deadline_ms" in case.body  # as it was asked for
        assert response.status_code < 500 or busy or late, response.text
        assert str(response.status_code) in statuses, (response.status_code, response.text)
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]

    examine()
    if operation == "POST /v1/samples":
        assert {200, 422} <= seen, "both what is right and what is wrong was tried"


RIGHT = json.dumps({"seed": 3, "plan": "fast", "format": "latent"}).encode()


@CASES
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(RIGHT) - 1), st.binary(max_size=4)).map(
            lambda cut: RIGHT[: cut[0]] + cut[1] + RIGHT[cut[0] :]
        ),
        st.recursive(st.none() | st.floats() | st.text(), st.lists, max_leaves=8).map(
            lambda value: json.dumps(value).encode()
        ),
        st.integers(1, 3000).map(lambda depth: b"[" * depth),
    )
)
def test_a_broken_body_is_told_so(small: FastAPI, body: bytes) -> None:
    response = ask(small, lambda client: client.post("/v1/samples", content=body, headers=JSON))
    if response.status_code != 200:
        problem(response, response.status_code)
    assert response.status_code in (200, 400, 422), response.text
