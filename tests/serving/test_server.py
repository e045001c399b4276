"""The endpoint on a real Ray Serve: replicas, gateway, proxy, client."""

import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
import ray
from tests.serving.conftest import SPEC
from tests.support.listeners import beyond_loopback, listeners

from raydiance.config import ClusterSpec
from raydiance.errors import ArtifactError, ConfigError, RequestError
from raydiance.generation import Bundle, load_bundle, sample_glb
from raydiance.storage import Artifact, Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its models in a way that pydantic has deprecated
    from ray import serve as ray_serve

    from raydiance.serving import Client, Endpoint, ProblemError, Sample, find_bundle, running
    from raydiance.serving.messages import Step

pytestmark = [
    pytest.mark.slow,
    # Serve's own threads and sockets, when the endpoint is taken down
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
KEY = "a key for tests"


@pytest.fixture(scope="module")
def endpoint(store: Store, artifact: Artifact) -> Iterator[Endpoint]:
    spec = replace(
        SPEC, bundle=artifact.ref.key, request_timeout_s=240.0
    )  # a replica may have to start again
    with running(spec, store, cluster=ClusterSpec(address="local"), keys=[KEY]) as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Client]:
    with Client(endpoint.url, key=KEY, retries=20, timeout_s=260.0) as client:
        yield client


@pytest.fixture(scope="module")
def bundle(artifact: Artifact) -> Bundle:
    return load_bundle(artifact)


def pid_of(prefix: str) -> int:
    """The process of the one actor of Serve whose name begins so."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    (name,) = [actor["name"] for actor in actors if actor["name"].startswith(prefix)]
    return int(ray.get(ray.get_actor(name, namespace="serve").__ray_call__.remote(lambda self: os.getpid())))


def load() -> dict[str, int]:
    described = (
        ray_serve.get_deployment_handle("replica", "raydiance").describe.remote(None).result(timeout_s=20)
    )
    return dict(described.load)


def test_the_endpoint_answers_with_the_bytes_of_the_library(client: Client, bundle: Bundle) -> None:
    sample = client.sample(7, plan="fast", category="class0")
    assert sample.content == sample_glb(bundle, 7, "fast", category="class0")
    assert (sample.bundle, sample.bundle_sha256) == (bundle.ref.key, bundle.ref.sha256)
    assert (sample.plan, sample.seeds, sample.media_type) == ("fast", (7,), "model/gltf-binary")
    assert sample.filename.endswith("-7.glb") and set(sample.milliseconds) == {"queue", "sample", "finish"}
    assert client.models()[0]["bundle"] == bundle.ref.key
    assert {plan["name"] for plan in client.plans()} == set(bundle.plans)


def test_a_crowd_gets_the_same_bytes_as_each_alone(client: Client, bundle: Bundle) -> None:
    asked = [(seed, ("fast", "default", "stochastic")[seed % 3]) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        samples = list(pool.map(lambda case: client.sample(case[0], plan=case[1]), asked))
    for (seed, plan), sample in zip(asked, samples):
        assert sample.content == sample_glb(bundle, seed, plan)


def test_nothing_of_it_listens_beyond_loopback(endpoint: Endpoint) -> None:
    """Serve starts a server in each replica that unpickles what it is sent, on all addresses."""
    prefixes = ("SERVE_CONTROLLER", "SERVE_PROXY", "SERVE_REPLICA::gateway#", "SERVE_REPLICA::raydiance#")
    for prefix in prefixes:
        found = listeners([pid_of(prefix)])
        assert found and beyond_loopback(found) == {}, prefix


def test_steps_previews_and_lineage_come_through_serve(client: Client, bundle: Bundle) -> None:
    *steps, sample = client.watch(9, plan="ddim-40")
    assert isinstance(sample, Sample) and sample.content == sample_glb(bundle, 9, "ddim-40")
    seen = [step for step in steps if isinstance(step, Step)]
    assert seen and seen[-1].row == 40 and any(step.preview.startswith(b"RIFF") for step in seen)
    chain = client.lineage(sample.ids[0])["chain"]
    assert (chain[0]["kind"], chain[-1]["kind"]) == ("bundle", "meshes")
    with pytest.raises(ProblemError, match="there is"):
        list(client.watch(1, plan="nope"))


def test_a_stream_that_is_left_frees_its_places(client: Client) -> None:
    for event in client.watch(9, plan="ddim-250"):
        assert isinstance(event, Step)
        break
    end = time.monotonic() + 60
    while any(load().values()):
        assert time.monotonic() < end, load()
        time.sleep(0.2)


def test_the_page_and_the_counts_come_through_serve(endpoint: Endpoint) -> None:
    page = httpx.get(endpoint.url, trust_env=False)
    assert page.status_code == 200 and "<title>Raydiance</title>" in page.text
    headers = {"Authorization": f"Bearer {KEY}"}
    counts = httpx.get(f"{endpoint.url}/metrics", headers=headers, trust_env=False)
    assert "raydiance_ready 1" in counts.text
    assert httpx.get(f"{endpoint.url}/metrics", trust_env=False).status_code == 401


def test_problems_reach_the_client(client: Client, endpoint: Endpoint) -> None:
    with pytest.raises(ProblemError, match="default, fast, stochastic") as error:
        client.sample(1, plan="nope")
    assert error.value.status == 422 and error.value.problem["type"].startswith("urn:raydiance:problem:")
    with Client(endpoint.url) as stranger, pytest.raises(ProblemError, match="API key") as error:
        stranger.sample(1)
    assert error.value.status == 401


def test_a_huge_body_is_refused_before_it_is_held(endpoint: Endpoint) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield b" " * 65536

    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    try:
        response = httpx.post(
            f"{endpoint.url}/v1/samples", content=endless(), headers=headers, trust_env=False
        )
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
    except httpx.TransportError:
        pass  # the connection may be cut while we still send
    large = httpx.post(f"{endpoint.url}/v1/samples", content=b" " * 70000, headers=headers, trust_env=False)
    assert large.status_code == 413


def test_a_client_that_leaves_frees_its_places(endpoint: Endpoint) -> None:
    body = {"count": 4, "format": "mp4", "size": 96, "frames": 60}
    headers = {"Authorization": f"Bearer {KEY}"}
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{endpoint.url}/v1/samples", json=body, headers=headers, timeout=0.3, trust_env=False)
    end = time.monotonic() + 60
    while any(load().values()):
        assert time.monotonic() < end, load()
        time.sleep(0.2)


def test_a_replica_that_dies_is_replaced_and_nobody_sees_an_error(client: Client, bundle: Bundle) -> None:
    answers: dict[int, bytes] = {}

    def ask(seed: int) -> None:
        answers[seed] = client.sample(seed, plan="default").content

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(100, 106)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    os.kill(pid_of("SERVE_REPLICA::raydiance#"), signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=260)
    assert sorted(answers) == list(range(100, 106))
    for seed, content in answers.items():
        assert content == sample_glb(bundle, seed, "default")


@pytest.mark.parametrize(
    "part",
    ["SERVE_REPLICA::gateway#", "SERVE_PROXY_ACTOR", "SERVE_CONTROLLER_ACTOR"],
    ids=lambda part: part[6:13],
)
def test_a_part_of_serve_that_dies_is_replaced_and_who_asks_again_gets_the_same(
    client: Client, endpoint: Endpoint, bundle: Bundle, part: str
) -> None:
    """Takes as long as Serve needs to start the part anew: some seconds."""
    said: list[str] = []

    def ask() -> None:
        body, headers = {"seed": 5, "plan": "ddim-250"}, {"Authorization": f"Bearer {KEY}"}
        try:
            answer = httpx.post(
                f"{endpoint.url}/v1/samples", json=body, headers=headers, trust_env=False, timeout=200
            )
        except httpx.TransportError:
            said.append("cut off")
            return
        said.append(f"{answer.status_code} {answer.headers.get('retry-after')}")

    victim = pid_of(part)
    under_way = threading.Thread(target=ask)
    under_way.start()
    time.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    sample = client.sample(6, plan="fast")
    under_way.join()
    assert sample.content == sample_glb(bundle, 6, "fast")
    allowed = {"SERVE_REPLICA::gateway#": "503 2", "SERVE_PROXY_ACTOR": "cut off"}
    assert said[0] in ("200 None", allowed.get(part)), "no 500"


def test_beyond_loopback_a_key_is_needed(store: Store, artifact: Artifact) -> None:
    spec = replace(SPEC, bundle=artifact.ref.key, host="0.0.0.0")
    with pytest.raises(ConfigError, match="no API key"), running(spec, store, keys=[]):
        pass


def test_a_port_that_is_taken_is_named(store: Store, artifact: Artifact) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = replace(SPEC, bundle=artifact.ref.key, port=port)
        with pytest.raises(ConfigError, match=f"serve.port={port}"), running(spec, store, keys=[]):
            pass


def test_a_bundle_is_found_by_key_alias_or_as_the_latest(
    store: Store, artifact: Artifact, tmp_path: str
) -> None:
    assert find_bundle(store, artifact.ref.key) == artifact.ref
    assert find_bundle(store, "latest").kind == "bundle"
    assert find_bundle(store, "chairs@champion", lambda name, alias: artifact.ref) == artifact.ref
    with pytest.raises(ConfigError, match="registry"):
        find_bundle(store, "chairs@champion")
    with pytest.raises(ConfigError, match="holds no bundle"):
        find_bundle(Store.open(tmp_path), "latest")
    with pytest.raises(ArtifactError):
        find_bundle(store, "bundle/nothing-00000000")


def test_where_nothing_listens_the_client_says_so() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        assert not client.is_ready()
        with pytest.raises(RequestError, match="is the endpoint running"):
            client.sample(1)
