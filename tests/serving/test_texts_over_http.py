"""Texts: through the engine, over HTTP, in names and stamps, and from the command line."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI
from tests.serving.conftest import SPEC
from tests.support.asking import ask, post, problem
from tests.support.bundles import tiny_model

from raydiance.generation import load_bundle, sample_glb, write_bundle
from raydiance.serving import Sampler
from raydiance.serving.app import build_app
from raydiance.serving.identity import SampleId
from raydiance.serving.local import Local, running_here
from raydiance.serving.problems import NotFoundError
from raydiance.serving.reproduce import reproduce
from raydiance.storage import Artifact, Store

WORDS = ("chair", "red", "blue", "gr\u00fcn")


@pytest.fixture(scope="module")
def told(store: Store) -> Artifact:
    return write_bundle(store, "told", tiny_model(num_classes=2, words=WORDS))


@pytest.fixture(scope="module")
def reader(told: Artifact, store: Store) -> Iterator[FastAPI]:
    sampler = Sampler(told, SPEC)
    yield build_app(Local(sampler, SPEC, store), SPEC)
    sampler.close()


def test_a_text_makes_what_the_library_makes_of_it_and_the_name_says_it(
    reader: FastAPI, told: Artifact, store: Store, tmp_path: Path
) -> None:
    bundle = load_bundle(told)
    plain = post(reader, {"seed": 3, "plan": "fast"}).content
    assert plain == sample_glb(bundle, 3, "fast")
    cases = {
        "~~~a-red-chair": {"text": "A red chair!"},
        "~~2.5~blue": {"text": "blue", "guidance": 2.5},
        "~class1~1.5~gr%C3%BCn": {"text": "gr\u00fcn", "guidance": 1.5, "category": "class1"},
    }
    for number, (ending, fields) in enumerate(cases.items()):
        made = post(reader, {"seed": 3, "plan": "fast", **fields})
        assert made.content == sample_glb(bundle, 3, "fast", **fields) != plain  # type: ignore[arg-type]
        name = made.headers["raydiance-sample"]
        assert name == f"{told.ref.sha256[:12]}~fast~3{ending}"
        for asked in (name, unquote(name)):
            again = ask(reader, lambda client, asked=asked: client.get(f"/v1/samples/{asked}"))  # type: ignore[misc]
            assert again.content == made.content
        path = tmp_path / f"{number}.glb"
        path.write_bytes(made.content)
        assert reproduce(path, store, SPEC).same
    model = ask(reader, lambda client: client.get("/v1/models")).json()["models"][0]
    assert model["words"] == list(WORDS)


def test_with_and_without_a_text_in_one_batch_each_gets_its_own_bytes(told: Artifact) -> None:
    bundle, sampler = load_bundle(told), Sampler(told, SPEC)
    asked = [{}, {"text": "a red chair"}, {"text": "blue", "guidance": 2.0}, {"category": "class1"}]
    requests = [{"seed": seed, "plan": "default", **fields} for seed, fields in enumerate(asked)]
    app = build_app(Local(sampler, SPEC), SPEC)

    async def together(client: httpx.AsyncClient) -> list[bytes]:
        sent = (client.post("/v1/samples", json=each) for each in requests)
        return [answer.content for answer in await asyncio.gather(*sent)]

    answers = ask(app, together)
    sampler.close()
    for seed, (fields, content) in enumerate(zip(asked, answers, strict=True)):
        assert content == sample_glb(bundle, seed, "default", **fields)  # type: ignore[arg-type]


def test_a_text_that_cannot_lead_is_refused(app: FastAPI, reader: FastAPI) -> None:
    assert "was not taught captions" in problem(post(app, {"text": "a red chair"}), 422)["detail"]
    assert "chair, red" in problem(post(reader, {"text": "zebra"}), 422)["detail"]
    for text in ("", "x" * 301, 7):
        problem(post(reader, {"text": text}), 422)
    problem(post(reader, {"guidance": 2.0}), 422)


def test_names_of_samples_are_read_as_they_are_written() -> None:
    digits = "0123456789ab"
    names = ("~fast~1", "~fast~1~a", "~fast~1~a~2.5", "~fast~1~~2.5~red", "~fast~1~~~red-1", "~f~1~a~~red")
    for name in names:
        assert str(SampleId.parse(digits + name)) == digits + name
    for wrong in ("~fast~1~~2.5", "~fast~1~a~99.5~red", "~fast~1~~~red/x", "~fast~1~~~_", "~fast~1~~~a--b"):
        with pytest.raises(NotFoundError):
            SampleId.parse(digits + wrong)


def test_the_command_line_asks_for_a_text(told: Artifact, store: Store, tmp_path: Path) -> None:
    from raydiance.cli.endpoint import make_sample

    asked = {"seed": 3, "plan": "fast", "text": "a red chair", "category": None, "guidance": 2.0}
    with running_here(SPEC, store, told.ref) as url:
        make_sample(tmp_path / "there.glb", asked, url, [])
    settings = [f"store.url={store.url}", f"serve.bundle={told.ref.key}", "tracking.kind=none"]
    make_sample(tmp_path / "here.glb", asked, None, settings)
    expected = sample_glb(load_bundle(told), 3, "fast", text="a red chair", guidance=2.0)
    assert (tmp_path / "there.glb").read_bytes() == (tmp_path / "here.glb").read_bytes() == expected
