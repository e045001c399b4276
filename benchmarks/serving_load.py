"""Load tests of the endpoint on Ray Serve: ceiling, knee, overload, rolling update, killed replica, drain, soak.

    python benchmarks/serving_load.py [--only ceiling knee ...] [--store outputs/store] [--seconds S] [--out FILE]

Open-loop Poisson arrivals over HTTP, latency from the moment a request was due. Every answer is compared
with the first one of its bundle, plan and seed, so bytes under load are tested all along. Without --store a
small bundle of random weights is served: most of what is measured then is the way to the network, not the
network. C, the capacity, is what comes back with 16 requests always under way. The last line is JSON.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import ray
from tests.support.bundles import tiny_bundle

from raydiance.config import ClusterSpec, ServeSpec
from raydiance.storage import ArtifactRef, Store, code_version, write_json

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from raydiance.serving import running
    from raydiance.serving.local import running_here

SEEDS = 40
SPEC = ServeSpec(port=0, slots=8, queue=16, max_requests=100_000, cpus_per_replica=0.5, follow_s=0.5)


@dataclass
class Seen:
    """What came back of one stage."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    mute: int = 0
    moments: list[tuple[float, float, bool]] = field(default_factory=list)  # (due, latency, answered)

    @property
    def last_s(self) -> float:
        """When the last answer was there."""
        return max((due + latency for due, latency, _ in self.moments), default=0.0)

    def facts(self) -> dict[str, Any]:
        found = sorted(self.latencies)
        at = lambda share: round(found[min(len(found) - 1, int(share * len(found)))], 3) if found else None  # noqa: E731
        return {
            "offered": sum(self.statuses.values()),
            "statuses": dict(self.statuses),
            "answered_per_s": round(len(found) / max(self.seconds, self.last_s), 2),
            "p50_s": at(0.5),
            "p95_s": at(0.95),
            "p99_s": at(0.99),
            "refusal_p99_s": round(sorted(self.refusals)[int(0.99 * len(self.refusals))], 3)
            if self.refusals
            else None,
            "refusals_without_retry_after": self.mute,
        }


class Load:
    """Asks an endpoint for samples and keeps the books."""

    def __init__(self, url: str, plan: str) -> None:
        self.url, self.plan = url, plan
        self.known: dict[tuple[str, int], str] = {}
        self.different = 0
        limits = httpx.Limits(max_connections=2000, max_keepalive_connections=200)
        self.http = httpx.AsyncClient(base_url=url, timeout=150.0, trust_env=False, limits=limits)

    async def ask(self, seen: Seen, seed: int, due: float, began: float) -> None:
        sent = time.perf_counter()
        body = {"seed": seed, "plan": self.plan, "format": "latent"}
        try:
            answer = await self.http.post("/v1/samples", json=body)
        except httpx.TransportError as error:
            seen.statuses[type(error).__name__] += 1
            seen.moments.append((due, 0.0, False))
            return
        now = time.perf_counter()
        seen.statuses[str(answer.status_code)] += 1
        seen.moments.append((due, now - began - due, answer.status_code == 200))
        if answer.status_code == 200:
            seen.latencies.append(now - began - due)
            bundle = answer.headers["raydiance-bundle"]
            seen.bundles[bundle] += 1
            digest = hashlib.sha256(answer.content).hexdigest()
            self.different += self.known.setdefault((bundle, seed), digest) != digest
        else:
            seen.refusals.append(now - sent)
            seen.mute += "retry-after" not in answer.headers

    async def poisson(self, rate: float, seconds: float, seed: int = 0) -> Seen:
        """Requests at random moments, whatever has come back by then."""
        draw, now, seen, tasks = random.Random(seed), 0.0, Seen(seconds), []
        began = time.perf_counter()
        while (now := now + draw.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, began + now - time.perf_counter()))
            tasks.append(asyncio.create_task(self.ask(seen, draw.randrange(SEEDS), now, began)))
        await asyncio.gather(*tasks)
        return seen

    async def closed(self, workers: int, seconds: float = 1e9, count: int = 10**9) -> Seen:
        """Always so many requests under way."""
        seen, began, asked = Seen(seconds), time.perf_counter(), iter(range(count))

        async def work() -> None:
            for number in asked:
                due = time.perf_counter() - began
                if due > seconds:
                    return
                await self.ask(seen, number % SEEDS, due, began)

        await asyncio.gather(*(work() for _ in range(workers)))
        seen.seconds = time.perf_counter() - began
        return seen


def replica_pids() -> list[int]:
    """The processes of the replicas that run now."""
    found = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if "replica" in actor["name"] and "#raydiance#" in actor["name"].replace("SERVE_REPLICA::", "#"):
            with suppress(Exception):
                handle = ray.get_actor(actor["name"], namespace="serve")
                found.append(int(ray.get(handle.__ray_call__.remote(lambda self: os.getpid()), timeout=5)))
    return found


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def ceiling(load: Load, state: dict[str, Any], seconds: float) -> dict[str, Any]:
    """1: one request after the other, then 16 at a time."""
    await load.closed(4, count=SEEDS)  # warm
    alone = await load.closed(1, count=12)
    crowd = await load.closed(16, seconds=seconds)
    state["S"], state["C"] = sorted(alone.latencies)[6], len(crowd.latencies) / crowd.seconds
    return {"service_s": round(state["S"], 4), "capacity_per_s": round(state["C"], 2)}


async def knee(load: Load, state: dict[str, Any], seconds: float) -> dict[str, Any]:
    """2: shares of the capacity."""
    shares = (0.5, 0.7, 0.8, 0.9, 1.0)
    return {f"{share:g} C": (await load.poisson(share * state["C"], seconds)).facts() for share in shares}


async def overload(load: Load, state: dict[str, Any], seconds: float) -> dict[str, Any]:
    """3: more than the capacity; what is taken on is answered in time, the rest refused at once."""
    capacity, service_s, found = state["C"], state["S"], dict[str, Any]()
    bound_s = (SPEC.queue + SPEC.slots + 1) * service_s * 1.5
    (pid, *_) = replica_pids()
    for share in (1.5, 2.0, 4.0):
        before = rss_mb(pid)
        seen = await load.poisson(share * capacity, seconds)
        facts = seen.facts()
        facts |= {
            "goodput_of_C": round(facts["answered_per_s"] / capacity, 2),
            "p99_bound_s": round(bound_s, 2),
            "rss_growth_mb": round(rss_mb(pid) - before, 1),
        }
        began = time.perf_counter()
        calm = await load.poisson(0.3 * capacity, 4.0)
        late = [due for due, latency, _ in calm.moments if latency > 4 * service_s + 0.05]
        facts["back_to_normal_s"] = round(max(late, default=0.0), 2)
        facts["seconds_after"] = round(time.perf_counter() - began, 1)
        found[f"{share:g} C"] = facts
    return found


async def rolling(load: Load, state: dict[str, Any], seconds: float) -> dict[str, Any]:
    """4: the alias moves to the other bundle and back under 0.6 C, and again."""
    bundles, moves = state["bundles"], int(state["updates"])
    end, seen, done = asyncio.Event(), list[Seen](), 0

    async def keep_asking() -> None:
        turn = 0
        while not end.is_set():
            seen.append(await load.poisson(0.6 * state["C"], 2.0, seed=turn))
            turn += 1

    asking = asyncio.create_task(keep_asking())
    pauses = []
    for move in range(moves):
        wanted = bundles[(move + 1) % 2]
        state["meant"][0], began = wanted, time.perf_counter()
        while time.perf_counter() - began < 90:
            await asyncio.sleep(0.5)
            if seen and set(seen[-1].bundles) == {wanted.key}:
                done += 1
                break
        pauses.append(round(time.perf_counter() - began, 1))
    end.set()
    await asking
    whole = Seen(sum(each.seconds for each in seen))
    for each in seen:
        whole.latencies += each.latencies
        whole.statuses += each.statuses
        whole.bundles += each.bundles
    return {"updates": done, "seconds_each": pauses, "by_bundle": dict(whole.bundles), **whole.facts()}


async def killed(load: Load, state: dict[str, Any], seconds: float) -> dict[str, Any]:
    """5: the replica is killed with -9 in the middle, under 0.6 C."""
    (pid, *_) = replica_pids()
    whole = asyncio.create_task(load.poisson(0.6 * state["C"], seconds + 20.0))
    await asyncio.sleep(4.0)
    os.kill(pid, signal.SIGKILL)
    seen = await whole
    after = [(due, latency) for due, latency, answered in seen.moments if answered and due > 4.0]
    normal = max(0.5, 6 * state["S"])
    late = [due + latency for due, latency in after if latency > normal]
    return {"last_slow_answer_after_s": round(max(late, default=4.0) - 4.0, 1), **seen.facts()}


STAGES: dict[str, Callable[[Load, dict[str, Any], float], Awaitable[dict[str, Any]]]] = {
    "ceiling": ceiling,
    "knee": knee,
    "overload": overload,
    "killed": killed,
    "rolling": rolling,
}


def drain(where: Path, key: str) -> dict[str, Any]:
    """6: SIGTERM to `raydiance serve` while samples are under way: they are answered, new ones are not taken."""
    port = 18431
    command = [sys.executable, "-m", "raydiance.cli", "serve", "--no-ray", f"serve.bundle={key}"]
    command += [f"serve.port={port}", f"store.url={where}", "tracking.kind=none", "serve.slots=4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                break
        time.sleep(0.2)

    async def go() -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as http:

            async def ask(seed: int) -> str:
                try:
                    body = {"seed": seed, "plan": "ddim-250", "format": "latent"}
                    return str((await http.post("/v1/samples", json=body)).status_code)
                except httpx.TransportError as error:
                    return type(error).__name__

            tasks = [asyncio.create_task(ask(seed)) for seed in range(8)]
            await asyncio.sleep(1.0)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            late = await ask(99)
            under_way = Counter(await asyncio.gather(*tasks))
        code = await asyncio.to_thread(process.wait, 60)
        took = round(time.monotonic() - began, 1)
        return {"under_way": dict(under_way), "afterwards": late, "exit": code, "exit_after_s": took}

    try:
        return asyncio.run(go())
    finally:
        process.kill()


def soak(store: Store, ref: ArtifactRef, plan: str, count: int) -> dict[str, Any]:
    """Requests, 8 at a time, to one process without Ray; its memory after each tenth of them."""
    with running_here(replace(SPEC, threads=1), store, ref) as url:

        async def go() -> dict[str, Any]:
            load, pid, marks = Load(url, plan), os.getpid(), list[float]()
            statuses, began = Counter[str](), time.perf_counter()
            for _ in range(10):
                part = await load.closed(8, count=count // 10)
                statuses += part.statuses
                marks.append(round(rss_mb(pid), 1))
            growth = (marks[-1] - marks[0]) / marks[0]
            return {
                "requests": count,
                "statuses": dict(statuses),
                "rss_mb": marks,
                "growth_after_warm_up": round(growth, 4),
                "different_bytes": load.different,
                "seconds": round(time.perf_counter() - began, 1),
            }

        return asyncio.run(go())


@contextmanager
def endpoint(store: Store, meant: list[ArtifactRef], replicas: int) -> Iterator[str]:
    spec = replace(SPEC, bundle="load@champion", replicas=replicas)
    with running(
        spec, store, resolve=lambda name, alias: meant[0], cluster=ClusterSpec(address="local"), keys=[]
    ) as up:
        yield up.url


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*STAGES, "drain", "soak"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--store", help="serve its newest bundle; else a small one is made")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals at each load")
    parser.add_argument("--updates", type=int, default=10, help="of the alias")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000, help="requests of the soak")
    parser.add_argument("--plan", help="the plan of all requests")
    parser.add_argument("--out", type=Path, help="a JSON file of the results, to which these are added")
    arguments = parser.parse_args()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(arguments.store or folder).resolve())
        refs = store.list("bundle/")[-2:]
        if not arguments.store:
            refs = [tiny_bundle(store, seed=seed).ref for seed in (0, 1)]
        plan = arguments.plan or ("standard" if arguments.store else "fast")
        results: dict[str, Any] = {}
        staged = [name for name in STAGES if name in arguments.only or name == "ceiling"]
        if set(arguments.only) & set(STAGES):
            state: dict[str, Any] = {"bundles": refs, "meant": [refs[0]], "updates": arguments.updates}
            with endpoint(store, state["meant"], arguments.replicas) as url:

                async def go() -> None:
                    load = Load(url, plan)
                    for name in staged:
                        results[name] = await STAGES[name](load, state, arguments.seconds)
                        print(name, json.dumps(results[name]), flush=True)
                    results["bytes"] = {"compared": len(load.known), "different": load.different}

                asyncio.run(go())
        if "drain" in arguments.only:
            results["drain"] = drain(Path(store.url), refs[0].key)
        if "soak" in arguments.only:
            results["soak"] = soak(store, refs[0], plan, arguments.count)
    results |= {"benchmark": "serving_load", "plan": plan, "code_version": code_version()}
    results |= {"seconds": arguments.seconds, "load": os.getloadavg()}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
