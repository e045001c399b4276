"""Both clients against an endpoint that listens on loopback."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.conftest import SPEC

from raydiance.client import AsyncClient, Client, ProblemError, Sample
from raydiance.errors import RequestError
from raydiance.generation import load_bundle, sample_glb
from raydiance.serving.local import running_here
from raydiance.serving.messages import Step
from raydiance.storage import Artifact, Store

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"models":[]}'


@pytest.fixture(scope="module")
def url(store: Store, artifact: Artifact) -> Iterator[str]:
    with running_here(SPEC, store, artifact.ref) as url:
        yield url


def test_one_sees_each_step_and_gets_the_sample(url: str, artifact: Artifact) -> None:
    with Client(url) as client:
        *steps, sample = client.watch(7, plan="ddim-20", category="class1")
        assert isinstance(sample, Sample) and all(isinstance(step, Step) for step in steps)
        assert sample.content == sample_glb(load_bundle(artifact), 7, "ddim-20", category="class1")
        assert any(isinstance(step, Step) and step.preview.startswith(b"RIFF") for step in steps)
        (name,) = sample.ids
        assert client.draw(name).content == sample.content
        assert client.lineage(name)["chain"][0]["kind"] == "bundle"


def test_shapes_and_pictures_are_brought_as_files(url: str, tmp_path: Path) -> None:
    latent, picture = tmp_path / "chair.safetensors", tmp_path / "chair.png"
    keep = ((-1, -1, -1), (1, 1, 0))

    async def likewise() -> list[Sample]:
        async with AsyncClient(url) as client:
            completed = await client.complete(latent, keep, 7, plan="fast", format="latent")
            return [completed, await client.reconstruct(picture, 7, plan="fast", format="latent")]

    with Client(url) as client:
        whole = client.sample(3, plan="fast", format="latent")
        latent.write_bytes(whole.content)
        picture.write_bytes(client.draw(whole.ids[0], format="png", size=32, views=1).content)
        made = [
            client.complete(latent, keep, 7, plan="fast", format="latent"),
            client.reconstruct(picture, 7, plan="fast", format="latent", view={"azimuth_degrees": 10}),
        ]
        with pytest.raises(ProblemError, match="glb"):
            client.complete(picture, keep)
    others = asyncio.run(likewise())
    assert made[0].content == others[0].content != whole.content
    assert made[0].seeds == (7,) and made[0].ids == () and made[1].content != others[1].content


def test_the_same_without_threads(url: str) -> None:
    async def work() -> tuple[list[Step | Sample], list[Sample]]:
        async with AsyncClient(url) as client:
            watched = [event async for event in client.watch(3, plan="fast")]
            several = await asyncio.gather(*(client.sample(seed, plan="fast") for seed in (3, 4)))
            with pytest.raises(ProblemError, match="there is"):
                await client.sample(3, plan="nope")
            with pytest.raises(ProblemError, match="there is"):
                [event async for event in client.watch(3, plan="nope")]
            assert (await client.lineage(several[0].ids[0]))["missing"] == []
            return watched, list(several)

    watched, several = asyncio.run(work())
    last = watched[-1]
    assert isinstance(last, Sample) and last.content == several[0].content != several[1].content


def test_a_busy_endpoint_is_asked_again_until_all_have_their_samples(url: str, artifact: Artifact) -> None:
    async def crowd() -> list[Sample]:
        async with AsyncClient(url, retries=30) as client:
            return list(await asyncio.gather(*(client.sample(seed, plan="ddim-20") for seed in range(24))))

    bundle = load_bundle(artifact)
    for sample in asyncio.run(crowd()):
        assert sample.content == sample_glb(bundle, sample.seeds[0], "ddim-20")


def test_a_connection_that_breaks_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydiance.serving.client.FIRST_PAUSE_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def break_then_answer() -> None:
            for reply in (b"", b"HTTP/1.1 200", ANSWER):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=break_then_answer)
        thread.start()
        with Client(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
            assert client.models() == []
        thread.join()
        deaf = Client(f"http://127.0.0.1:{server.getsockname()[1]}", retries=0, timeout_s=0.2)
        with deaf as client, pytest.raises(RequestError, match="is the endpoint running"):
            client.models()


def test_an_endpoint_that_is_gone_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydiance.serving.client.FIRST_PAUSE_S", 0.05)
    first = socket.create_server(("127.0.0.1", 0))
    address = first.getsockname()

    def go_and_come_back() -> None:
        connection, _ = first.accept()
        first.close()
        connection.close()
        time.sleep(0.1)
        with socket.create_server(address) as second:
            connection, _ = second.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(ANSWER)

    thread = threading.Thread(target=go_and_come_back)
    thread.start()
    with Client(f"http://127.0.0.1:{address[1]}") as client:
        assert client.models() == []
    thread.join()
    with Client(f"http://127.0.0.1:{address[1]}") as client, pytest.raises(RequestError, match="is the endp"):
        client.models()  # nothing was there to begin with
