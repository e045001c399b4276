"""An endpoint whose network is compiled: the same theorems, other last digits, and samples that say so.

It takes some seconds: the programs of two sizes are written by a real compiler, once for all tests.
"""

import asyncio
import base64
import gc
import io
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from safetensors.torch import load
from tests.serving.conftest import SPEC
from tests.support.asking import ask, post, problem
from tests.support.bundles import randomised, tiny_model
from torch import Tensor

from raydiance.errors import ConfigError
from raydiance.generation import generate_latents, load_bundle, write_bundle
from raydiance.models import UNet, UNetSpec
from raydiance.serving import Sampler
from raydiance.serving.app import build_app
from raydiance.serving.compiled import CompiledNetwork
from raydiance.serving.local import Local
from raydiance.serving.reproduce import reproduce
from raydiance.storage import Artifact, Store
from raydiance.tracking.lineage import read_stamp

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.*deprecated:DeprecationWarning"
)  # torch, of itself

COMPILED = replace(SPEC, compile=True)
SMALL = UNetSpec(
    in_channels=4,
    out_channels=4,
    multipliers=(),
    attention_levels=(),
    embedding_dim=8,
    num_classes=2,
    resolution=4,
    global_width=8,
    global_blocks=1,
)
OTHERS = [
    {"seed": 8, "plan": "default", "category": "class0"},
    {"seed": 9, "plan": "stochastic", "category": "class1", "guidance": 2.0},
    {"seed": 10, "plan": "fast"},
]


def written() -> int:
    """How many programs torch has written in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@pytest.fixture(scope="module")
def small(store: Store) -> Artifact:
    """A network of few kernels, each of which takes the compiler a second."""
    model = tiny_model(num_classes=2)
    network = randomised(UNet(SMALL), torch.Generator().manual_seed(1))
    assert isinstance(network, UNet)
    return write_bundle(
        store, "small", replace(model, spec=replace(model.spec, denoiser=SMALL), denoiser=network)
    )


@pytest.fixture(scope="module")
def cache(request: pytest.FixtureRequest) -> Iterator[Path]:
    """That of the tests that ran before, if any: it takes half a minute to fill."""
    folder = request.config.cache.mkdir("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is as before when the tests are over
        patch.delenv("TORCHINDUCTOR_CACHE_DIR")
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
        patch.setenv("RAYDIANCE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def replica(small: Artifact, cache: Path) -> Iterator[Sampler]:
    sampler = Sampler(small, COMPILED)
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def endpoint(replica: Sampler, store: Store) -> FastAPI:
    return build_app(Local(replica, COMPILED, store), COMPILED)


def test_a_seed_is_one_sample_in_any_company_and_nothing_is_written_for_it(
    endpoint: FastAPI, small: Artifact, cache: Path
) -> None:
    before = written()
    kept = cache / "compiled" / torch.backends.cpu.get_cpu_capability().lower()
    assert before >= 2 and os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(kept) and any(kept.iterdir())
    asked = {"seed": 3, "plan": "default", "category": "class1", "format": "latent"}
    alone = post(endpoint, asked).content

    async def together(client: httpx.AsyncClient) -> list[bytes]:
        bodies = [asked, *({**each, "format": "latent"} for each in OTHERS)]
        sent = (client.post("/v1/samples", json=body) for body in bodies)
        return [answer.content for answer in await asyncio.gather(*sent)]

    assert all(ask(endpoint, together)[0] == alone for _ in range(3))
    assert written() == before
    bundle = load_bundle(small)
    expected = generate_latents(bundle, [3], bundle.plan("default"), condition=torch.tensor([1]))
    torch.testing.assert_close(load(alone)["latents"], expected, rtol=1e-4, atol=1e-4)


def test_a_sample_says_that_it_was_compiled_and_is_made_again_that_way(
    endpoint: FastAPI, app: FastAPI, store: Store, tmp_path: Path
) -> None:
    from torch._dynamo.utils import counters

    made = post(endpoint, {"seed": 3, "plan": "fast"})
    name, path = made.headers["raydiance-sample"], tmp_path / "sample.glb"
    path.write_bytes(made.content)
    assert read_stamp(path).facts["compiled"] == torch.__version__
    assert name.endswith("~fast~3~~~~compiled")
    assert ask(endpoint, lambda client: client.get(f"/v1/samples/{name}")).content == made.content
    kept = counters["inductor"]["fxgraph_cache_hit"]
    assert reproduce(path, store, SPEC).same
    assert counters["inductor"]["fxgraph_cache_hit"] == kept + 2  # nothing was written: it lay there
    for there, other in ((endpoint, name.removesuffix("~~~~compiled")), (app, name)):
        answer = ask(there, lambda client, other=other: client.get(f"/v1/samples/{other}"))  # type: ignore[misc]
        assert "serve.compile=" in problem(answer, 404)["detail"]


def test_what_the_studio_makes_was_not_compiled(endpoint: FastAPI, tmp_path: Path) -> None:
    picture, path = io.BytesIO(), tmp_path / "rebuilt.glb"
    Image.new("RGB", (16, 16), "red").save(picture, "png")
    body = {"image": base64.b64encode(picture.getvalue()).decode(), "view": {}, "plan": "fast"}
    answer = ask(endpoint, lambda client: client.post("/v1/reconstructions", json=body))
    path.write_bytes(answer.content)
    assert "compiled" not in read_stamp(path).facts


def test_a_bundle_that_is_let_go_leaves_nothing(small: Artifact, cache: Path) -> None:
    bundle = load_bundle(small)
    network, gone = CompiledNetwork(bundle), weakref.ref(bundle.denoiser)
    network(torch.zeros(2, *bundle.latent_shape), torch.ones(2), None)
    del network, bundle
    gc.collect()
    assert gone() is None


def test_without_a_compiler_the_setting_is_named(
    small: Artifact, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match=r"^serve\.compile=true: .*C\+\+ compiler"):
        Sampler(small, COMPILED)


@pytest.mark.parametrize("wrong", [lambda out: 1.1 * out, lambda out: torch.full_like(out, torch.nan)])
def test_a_program_that_comes_to_something_else_is_refused(
    wrong: Callable[[Tensor], Tensor], small: Artifact, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch wrote for registers of another width, and found again by the same key."""
    network = CompiledNetwork(load_bundle(small))
    monkeypatch.setattr(torch, "compile", lambda predict, **_: lambda *inputs: wrong(predict(*inputs)))
    with pytest.raises(
        ConfigError, match=r"^serve\.compile=true: the program for 2 items .*remove .*compiled"
    ):
        network(torch.zeros(2, *network._model.latent_shape), torch.ones(2), None)
