"""Many bundles in one server: by name, within a budget of memory, and one on trial."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from fastapi import FastAPI
from tests.serving.conftest import SPEC
from tests.support.asking import ask, post, problem
from tests.support.bundles import tiny_bundle, tiny_model

from raydiance.errors import ConfigError
from raydiance.generation import load_bundle, sample_glb, write_bundle
from raydiance.serving import Format, Sampler, SampleRequest, find_bundle
from raydiance.serving.app import build_app
from raydiance.serving.bundles import Catalogue, catalogue_of
from raydiance.serving.canary import FEWEST, Canary
from raydiance.serving.local import Local
from raydiance.serving.problems import NoSurfaceError, NotReadyError, OverloadError
from raydiance.serving.shelf import weight_bytes
from raydiance.storage import Artifact, ArtifactRef, Store


@pytest.fixture(scope="module")
def others(store: Store) -> list[Artifact]:
    return [tiny_bundle(store, seed=seed) for seed in (1, 2)]


@pytest.fixture
def local(sampler: Sampler, store: Store, others: list[Artifact]) -> Iterator[Local]:
    """The bundle of all tests, which stays, and room for one more."""
    budget_mb = 2.5 * weight_bytes(others[0]) / 1e6
    backend = Local(
        sampler, replace(SPEC, memory_mb=budget_mb), store, Catalogue(tuple(each.ref for each in others))
    )
    yield backend
    for ref in [each.ref for each in others]:
        if (loaded := backend.shelf._loaded.pop(ref, None)) is not None:
            loaded.close()


@pytest.fixture
def shop(local: Local, store: Store) -> FastAPI:
    return build_app(local, SPEC)


def test_a_request_names_its_bundle_and_a_samples_name_does(
    shop: FastAPI, artifact: Artifact, others: list[Artifact]
) -> None:
    models = ask(shop, lambda client: client.get("/v1/models")).json()["models"]
    assert [model["bundle"] for model in models] == [each.ref.key for each in (artifact, *others)]
    for each in (artifact, *others):
        name = each.ref.key.removeprefix("bundle/")
        made = post(shop, {"seed": 5, "plan": "fast", "model": name})
        assert made.content == sample_glb(load_bundle(each), 5, "fast")
        sample = made.headers["Raydiance-Sample"]
        again = ask(shop, lambda client, sample=sample: client.get(f"/v1/samples/{sample}"))  # type: ignore[misc]
        assert again.content == made.content
        lineage = ask(shop, lambda client, sample=sample: client.get(f"/v1/samples/{sample}/lineage"))  # type: ignore[misc]
        assert lineage.json()["chain"][0]["sha256"] == each.ref.sha256
    assert problem(post(shop, {"model": "nobody"}), 404)["detail"].count(", ") == 2
    plans = ask(shop, lambda client: client.get("/v1/plans", params={"model": "nobody"}))
    problem(plans, 404)


def test_the_bundle_used_longest_ago_is_let_go_and_one_at_work_is_not(
    local: Local, others: list[Artifact]
) -> None:
    first, second = (each.ref for each in others)
    asked = SampleRequest(seed=1, plan="fast")

    async def go() -> None:
        shelf = local.shelf
        for ref in (first, second, first):
            async with shelf.lend(ref) as sampler:
                await sampler.sample(asked, Format.latent)
            assert list(shelf._loaded) == [ref], "there is room for one beside the one that stays"
        async with AsyncExitStack() as work:
            await work.enter_async_context(shelf.lend(first))
            with pytest.raises(NotReadyError, match="memory_mb"):
                await work.enter_async_context(shelf.lend(second))

    asyncio.run(go())


def test_a_canary_that_fails_loses_its_share_and_no_client_sees_it(
    sampler: Sampler, store: Store, artifact: Artifact
) -> None:
    broken = tiny_model(num_classes=2, seed=3)
    for parameter in broken.denoiser.parameters():
        parameter.data.fill_(float("nan"))
    canary = write_bundle(store, "tiny", broken)
    spec = replace(SPEC, canary=canary.ref.key, canary_share=0.5)
    local = Local(sampler, spec, store, catalogue_of(spec, store, artifact.ref))
    app = build_app(local, spec)
    for seed in range(12):
        made = post(app, {"seed": seed, "plan": "fast", "format": "latent"})
        assert (made.status_code, made.headers["Raydiance-Bundle"]) == (200, artifact.ref.key)
    told = ask(app, lambda client: client.get("/v1/models")).json()["canary"]
    assert (told["share"], told["failed"]) == (0.0, 2) and "not finite" in told["returned"], told
    local.adopt(Catalogue())
    assert ask(app, lambda client: client.get("/v1/models")).json()["canary"] is None
    local.shelf._loaded[canary.ref].close()


def test_a_good_canary_gets_its_share_and_a_request_always_the_same_side(
    sampler: Sampler, store: Store, artifact: Artifact
) -> None:
    good = tiny_bundle(store, num_classes=2, seed=4)
    spec = replace(SPEC, canary=good.ref.key, canary_share=0.4)
    local = Local(sampler, spec, store, catalogue_of(spec, store, artifact.ref))
    app = build_app(local, spec)
    bodies = [{"seed": seed, "plan": "fast", "format": "latent"} for seed in range(30)]
    sides = [[post(app, body).headers["Raydiance-Bundle"] for body in bodies] for _ in range(2)]
    assert sides[0] == sides[1] and set(sides[0]) == {artifact.ref.key, good.ref.key}
    assert 5 <= sides[0].count(good.ref.key) <= 19, "3 sigma about 12 of 30"
    told = ask(app, lambda client: client.get("/v1/models")).json()["canary"]
    assert (told["asked"], told["failed"], told["returned"]) == (2 * sides[0].count(good.ref.key), 0, None)
    local.shelf._loaded[good.ref].close()


def test_what_speaks_against_a_canary() -> None:
    canary = Canary("new", 1.0, 0.05)
    for _ in range(200):
        canary.count(OverloadError("busy"), mine=True)
    assert canary.share == 1.0, "that the endpoint is busy is no fault of the bundle"
    canary.mine.asked = 0
    canary.count(NoSurfaceError("empty"), mine=True)
    assert canary.share == 1.0, f"one failure decides nothing: 1 of at least {FEWEST}"
    canary.count(NotReadyError("lost"), mine=True)
    assert canary.share == 0.0 and "2 of 2" in canary.returned
    patient = Canary("new", 1.0, 0.05)
    for _ in range(FEWEST):
        patient.count(NoSurfaceError("empty"), mine=False)  # the other one fails as often
        patient.count(NoSurfaceError("empty"), mine=True)
    assert patient.share == 1.0
    assert Canary("new", 1.0, 0.05, worse="psnr_held_out 20 < 23").share == 0.0


def test_names_that_lead_nowhere_are_left_out(
    store: Store, artifact: Artifact, others: list[Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    meant: dict[str, ArtifactRef] = {"candidate": others[0].ref, "previous": artifact.ref}
    spec = replace(SPEC, also=("tiny@previous", "tiny@candidate", "bundle/none"), canary="tiny@candidate")
    found = catalogue_of(spec, store, artifact.ref, lambda name, alias: meant[alias])
    assert (found.also, found.canary) == ((), others[0].ref), "the one served and the canary are no others"
    assert "bundle/none is not served" in caplog.text
    with pytest.raises(ConfigError, match="no model registry"):
        find_bundle(store, "tiny@candidate")
