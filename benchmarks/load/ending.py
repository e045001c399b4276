"""A whole `raydiance serve`: how it ends, and whether it stays as it was over many requests."""

import asyncio
import base64
import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from benchmarks.load.arrivals import SEEDS
from benchmarks.load.case import Case, rss_mb

__all__ = ["drain", "soak"]

READY_S, EXIT_S = 120.0, 60.0
SOAK, WORKERS, PARTS, WARM_UP = 10_000, 8, 20, 0.2
SLOWLY_S = 1.5


@contextmanager
def process(case: Case, *settings: str, ray: bool) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The command in a process of its own, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "raydiance.cli", "serve", *([] if ray else ["--no-ray"])]
    command += [f"serve.bundle={case.refs[0].key}", f"serve.port={port}", "tracking.kind=none", *settings]
    command += [f"store.url={Path(case.store.url).resolve()}", "serve.max_requests=1000"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + READY_S
        while time.monotonic() < end and running.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            time.sleep(0.2)
        yield url, running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                running.wait(EXIT_S)
        running.kill()


def drain(case: Case) -> dict[str, Any]:
    """SIGTERM with samples under way and an upload half sent."""

    async def ask(http: httpx.AsyncClient, seed: int) -> tuple[str, bool]:
        body = {"seed": seed, "plan": "ddim-250", "format": "latent"}
        return await said(http.post("/v1/samples", json=body))

    async def said(answer: Any) -> tuple[str, bool]:
        """The status, and whether it is an answer or says when to come again."""
        try:
            response = await answer
        except httpx.TransportError as error:
            return type(error).__name__, False
        fine = response.status_code == 200 or "retry-after" in response.headers
        return str(response.status_code), fine

    async def upload(http: httpx.AsyncClient, sample: bytes) -> tuple[str, bool]:
        shape = {
            "latent": base64.b64encode(sample).decode(),
            "keep": {"upper": [1, 1, 0]},
            "format": "latent",
        }
        body = json.dumps(shape).encode()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[: len(body) // 2]
            await asyncio.sleep(SLOWLY_S)
            yield body[len(body) // 2 :]

        headers = {"Content-Type": "application/json"}
        return await said(http.post("/v1/completions", content=slowly(), headers=headers))

    async def go(url: str, running: "subprocess.Popen[bytes]") -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as http:
            sample = (await http.post("/v1/samples", json={"seed": 1, "format": "latent"})).content
            tasks = [asyncio.create_task(ask(http, seed)) for seed in range(8)]
            sending = asyncio.create_task(upload(http, sample))
            await asyncio.sleep(1.0)
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            late = []
            for _ in range(4):
                await asyncio.sleep(0.25)
                late.append((await ask(http, 99))[0])
            under_way = await asyncio.gather(*tasks)
            uploaded = await sending
        code = await asyncio.to_thread(running.wait, EXIT_S)
        held = {
            "what was under way was answered": all(status == "200" for status, _ in under_way),
            "what comes is refused": all(status in ("503", "ConnectError") for status in late),
            "the upload is answered or told to come again": uploaded[1],
            "exit status 0": code == 0,
        }
        return {
            "ray": case.ray,
            "under_way": dict(Counter(status for status, _ in under_way)),
            "upload": uploaded[0],
            "afterwards": late,
            "exit": code,
            "exit_after_s": round(time.monotonic() - began, 1),
            "held": held,
        }

    with process(case, "serve.slots=4", ray=case.ray) as (url, running):
        return asyncio.run(go(url, running))


def body_of(number: int) -> dict[str, Any]:
    """Mostly latents, some meshes and pictures, and some that cannot be made."""
    kind = {0: "glb", 13: "png"}.get(number % 20, "latent")
    plan = "nope" if number % 20 == 7 else "fast"
    return {"seed": number, "plan": plan, "format": kind, "size": 32, "views": 2}


def soak(case: Case) -> dict[str, Any]:
    """Many requests to one process, and its memory after each twentieth of them."""
    count = case.count or SOAK

    async def go(url: str, pid: int) -> dict[str, Any]:
        async with case.load(url, body_of) as load:
            statuses, marks, began = Counter[str](), list[float](), time.perf_counter()
            for _ in range(PARTS):
                if not load.has_time:
                    break
                part = await load.closed(WORKERS, count=count // PARTS)
                statuses += part.statuses
                marks.append(round(rss_mb(pid), 1))
            warm = marks[int(WARM_UP * len(marks)) :]
            few = min(3, len(warm))  # the median of some, since what is garbage comes and goes
            growth = median(warm[-few:]) / median(warm[:few]) - 1
            held = {
                "memory grows by 2 % at most after warm-up": growth <= 0.02,
                "200, and 422 for what cannot be made": set(statuses) == {"200", "422"},
                "all requests": sum(statuses.values()) >= count,
                "the same bytes": load.different == 0,
            }
            return {
                "requests": sum(statuses.values()),
                "statuses": dict(statuses),
                "seconds": round(time.perf_counter() - began, 1),
                "rss_mb": marks,
                "growth_after_warm_up": round(growth, 4),
                "kinds": SEEDS,
                "compared": load.compared,
                "different": load.different,
                "held": held,
            }

    with process(case, ray=False) as (url, running):
        return asyncio.run(go(url, running.pid))
