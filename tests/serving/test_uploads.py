"""Shapes to complete and pictures to reconstruct: what is kept is kept, what is broken is told so."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load
from tests.support.asking import ask, post, problem

from raydiance.config import ServeSpec
from raydiance.generation.edits import box_mask
from raydiance.serving import Sampler
from raydiance.serving.reproduce import reproduce
from raydiance.storage import Store

LOWER_HALF = {"lower": [-1, -1, -1], "upper": [1, 1, 0]}
TETRAHEDRON = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(side: int = 32, **settings: Any) -> bytes:
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[side // 4 : -side // 4, side // 4 : -side // 4] = (200, 60, 20, 255)
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, settings.get("format", "PNG"))
    return file.getvalue()


def send(app: FastAPI, route: str, body: Any) -> httpx.Response:
    return ask(app, lambda client: client.post(f"/v1/{route}", json=body, timeout=60.0))


def latent_of(response: httpx.Response) -> torch.Tensor:
    assert response.status_code == 200, response.text
    return load(response.content)["latents"][0]


def test_what_is_kept_of_a_latent_is_kept_and_the_rest_is_the_seeds(
    app: FastAPI, sampler: Sampler, store: Store, tmp_path: Path
) -> None:
    given = post(app, {"seed": 1, "plan": "fast", "format": "latent"})
    body = {"latent": in_base64(given.content), "keep": LOWER_HALF, "plan": "fast", "format": "latent"}
    made = {seed: send(app, "completions", body | {"seed": seed}) for seed in (2, 3)}
    kept, shape = latent_of(given), sampler.bundle.latent_shape
    mask = box_mask(shape, 16, (-1, -1, -1), (1, 1, 0)).bool().expand(shape)
    assert 0 < mask.float().mean() < 1
    for response in made.values():
        torch.testing.assert_close(latent_of(response)[mask], kept[mask], atol=1e-4, rtol=0)
        assert "raydiance-sample" not in response.headers, "its name would not tell of the upload"
    others = [latent_of(response)[~mask] for response in (given, *made.values())]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(others[i], others[j], atol=0.1)
    assert send(app, "completions", body | {"seed": 2}).content == made[2].content, "the same bytes again"
    path = tmp_path / "completed.safetensors"
    path.write_bytes(made[2].content)
    verdict = reproduce(path, store, ServeSpec())
    assert not verdict.same and "an upload, which is not kept" in verdict.reasons[0]


def test_a_mesh_is_completed_beside_other_requests(app: FastAPI) -> None:
    mesh = {"format": "obj", "data": in_base64(TETRAHEDRON)}
    made = send(
        app, "completions", {"mesh": mesh, "keep": LOWER_HALF, "plan": "fast", "format": "png", "views": 1}
    )
    assert made.status_code == 200 and made.content.startswith(b"\x89PNG"), made.text
    said = json.loads(Image.open(io.BytesIO(made.content)).info["raydiance"])
    assert said["keep"] == LOWER_HALF and len(said["upload"]) == 64


def test_a_picture_is_reconstructed_with_steps(app: FastAPI) -> None:
    body = {"image": in_base64(picture()), "seed": 4, "plan": "fast", "format": "latent"}
    first = send(app, "reconstructions", body)
    assert torch.equal(latent_of(first), latent_of(send(app, "reconstructions", body)))
    turned = send(app, "reconstructions", body | {"view": {"azimuth_degrees": 90}})
    assert not torch.equal(latent_of(first), latent_of(turned))
    headers = {"Accept": "text/event-stream"}
    told = ask(app, lambda client: client.post("/v1/reconstructions", json=body, headers=headers))
    assert told.text.count("event: step") == 3 and "event: done" in told.text, told.text[-300:]


@pytest.mark.parametrize(
    ("route", "change", "why"),
    [
        ("completions", {"mesh": {"format": "obj", "data": in_base64(b"f 1 2 3\n")}}, "mesh: "),
        ("completions", {"mesh": {"format": "glb", "data": in_base64(b"glTF" + bytes(40))}}, "mesh: "),
        ("completions", {"latent": in_base64(bytes(80))}, "latent: "),
        ("completions", {"mesh": {"format": "obj", "data": "%%"}}, "mesh"),
        ("completions", {}, "either as mesh or as latent"),
        ("completions", {"keep": {"lower": [0, 0, 0], "upper": [0, 1, 1]}}, "below"),
        ("reconstructions", {"image": in_base64(picture()[:60])}, "image: it cannot be read"),
        ("reconstructions", {"image": in_base64(b"GIF89a" + bytes(30))}, "image: it cannot be read"),
        ("reconstructions", {"image": in_base64(picture(8))}, "8 x 8"),
    ],
)
def test_what_cannot_be_read_is_told_so(app: FastAPI, route: str, change: dict[str, Any], why: str) -> None:
    whole = {"keep": LOWER_HALF} if route == "completions" else {}
    said = problem(send(app, route, {"plan": "fast", "format": "latent", **whole, **change}), 422)
    assert why in said["detail"], said["detail"]


PNG, JPEG = picture(), picture(format="WEBP")


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(
    data=st.one_of(
        st.binary(min_size=1, max_size=300),
        st.tuples(st.sampled_from([PNG, JPEG]), st.integers(0, 400), st.binary(min_size=1, max_size=4)).map(
            lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :]
        ),
    )
)
def test_broken_pictures_are_refused_or_read(app: FastAPI, data: bytes) -> None:
    body = {"image": in_base64(data), "plan": "ddim-1", "format": "latent"}
    response = send(app, "reconstructions", body)
    if response.status_code != 200:
        problem(response, 422)


def test_a_texture_is_baked_and_told(app: FastAPI) -> None:
    made = post(app, {"seed": 3, "plan": "fast", "texture": 64})
    assert (
        made.status_code == 200
        and b"TEXCOORD_0" in made.content
        and b'"texture":64' in made.content.replace(b" ", b"")
    )
    problem(post(app, {"seed": 3, "texture": 64, "format": "obj"}), 422)
