"""Our engine beside Ray Serve's own batching, one request at a time, and a pipeline behind FastAPI: latency and
goodput under the same arrivals.

    python benchmarks/serving.py [--quick | --store outputs/store] [--seconds S] [--shares 0.8 1.2] [--out FILE]

One network (that of the newest bundle in --store; else the furniture denoiser with random weights; with
--quick a small one, so that seconds hold enough requests), one process with one thread; plans of 8, 16 and
50 steps at random, seeds at random, open-loop Poisson arrivals at shares of the load that static batches
sustain, the same arrivals for each system. Latency counts from the moment a request was due to be sent.
Goodput is what comes back within twice the time that the plan takes alone, one request at a time; ours_due
is the engine that is told these deadlines, so that it refuses what cannot meet its own.

pipeline: what many deploy, a pipeline with a scheduler that keeps the state of one sample (set_timesteps, step),
behind a FastAPI route that holds a lock on it, in a process of its own. The last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import random
import socket
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from fastapi import FastAPI
from torch import Tensor

from raydiance.cluster.session import session
from raydiance.config import ClusterSpec
from raydiance.diffusion import EDM, grids, plans, sampling, schedules
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.generation import load_bundle, noise_generator
from raydiance.models import UNet, UNetSpec
from raydiance.serving.engine import Engine
from raydiance.serving.orders import Order
from raydiance.serving.problems import ServingError
from raydiance.storage import Store, code_version, write_json

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray import serve

SHAPE = (16, 8, 8, 8)
SPEC = UNetSpec(in_channels=16, out_channels=16, multipliers=(1, 2))
QUICK_SPEC = UNetSpec(
    in_channels=16, out_channels=16, channels=8, multipliers=(1,), attention_levels=(), embedding_dim=32
)
STEPS = (8, 16, 50)
SCHEDULE = schedules.edm()
PLANS = {
    8: plans.deis(SCHEDULE, grids.karras(SCHEDULE, 8), order=3),
    16: plans.dpm_solver_pp(SCHEDULE, grids.log_snr(SCHEDULE, 16), order=2),
    50: plans.ddim(SCHEDULE, grids.karras(SCHEDULE, 50)),
}
BATCH = 8
QUIET = {"log_level": "ERROR", "enable_access_log": False}
QUICK_SHARES, SHARES = (0.8,), (0.4, 0.6, 0.8, 1.0, 1.2)


@dataclass(frozen=True)
class Which:
    """Which network: that of the newest bundle in a store, a small one, or one of the furniture's size."""

    store: str | None
    quick: bool

    def build(self) -> NoisePredictor:
        """eps(x, sigma), ready to be called."""
        if self.store is not None:
            artifact = Store.open(self.store).latest("bundle/")
            if artifact is None or (bundle := load_bundle(artifact)).latent_shape != SHAPE:
                raise SystemExit(f"--store {self.store}: it needs a bundle with latents of {SHAPE}")
            return bundle.preconditioning.noise_predictor(bundle.denoiser)
        network = UNet(QUICK_SPEC if self.quick else SPEC).eval().requires_grad_(False)
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        return EDM(1.0).noise_predictor(network)


class Model:
    """The network, warmed up."""

    def __init__(self, which: Which) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.predict_noise = which.build()
        self.run([0] * BATCH, 8)

    @torch.inference_mode()
    def run(self, seeds: Sequence[int], steps: int) -> Tensor:
        """One static batch on one plan."""
        plan = PLANS[steps]
        noise = torch.stack([torch.randn(SHAPE, generator=noise_generator(seed)) for seed in seeds])
        return sampling.sample(self.predict_noise, plan, plan.start(noise))


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0}, logging_config=QUIET)
class Replica:
    """Three ways to serve one network in one process; only one of them is asked at a time."""

    def __init__(self, which: Which) -> None:
        self.model = model = Model(which)
        self.turn = asyncio.Lock()
        self.engine = Engine(
            lambda x, sigma, labels: model.predict_noise(x, sigma), SHAPE, slots=64, queue=1000
        )
        self.engine.__enter__()

    async def ours(self, seed: int, steps: int, deadline_s: float | None = None) -> float | None:
        """Continuous batching at the level of a network call."""
        noise = torch.randn(SHAPE, generator=noise_generator(seed))
        order = Order(PLANS[steps], noise, finish=lambda x_0: float(x_0.sum()), deadline_s=deadline_s)
        try:
            value, _ = await asyncio.wrap_future(self.engine.submit(order).future)
        except ServingError:
            return None
        return value

    async def static(self, seed: int, steps: int) -> float:
        """Ray Serve's batching: what has come in is run to its end, plan by plan, and answered together."""
        answer: float = await self.batched((seed, steps))
        return answer

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01)
    async def batched(self, requests: list[tuple[int, int]]) -> list[float]:
        return await asyncio.to_thread(self.answer, requests)

    def answer(self, requests: list[tuple[int, int]]) -> list[float]:
        found = {}
        for steps in STEPS:
            seeds = [seed for seed, wanted in requests if wanted == steps]
            if seeds:
                found |= {
                    (seed, steps): float(x.sum()) for seed, x in zip(seeds, self.model.run(seeds, steps))
                }
        return [found[request] for request in requests]

    async def single(self, seed: int, steps: int) -> float:
        """One request at a time, in the order of their coming."""
        async with self.turn:
            return float((await asyncio.to_thread(self.model.run, [seed], steps)).sum())

    def overhead(self) -> dict[str, float]:
        stats = self.engine.stats
        return {
            "overhead_share": stats.overhead,
            "overhead_ms": 1e3 * (stats.tick_s - stats.network_s) / max(stats.ticks, 1),
            "tick_ms": 1e3 * stats.tick_s / max(stats.ticks, 1),
            "samples_per_tick": stats.rows / max(stats.ticks, 1),
        }


class Scheduler:
    """Keeps the noise levels and the place of the one sample that is being made."""

    def set_timesteps(self, steps: int) -> None:
        self.sigmas = torch.tensor(grids.karras(SCHEDULE, steps).sigmas, dtype=torch.float32)
        self.index = 0

    def step(self, eps: Tensor, x: Tensor) -> Tensor:
        self.index += 1
        return x + (self.sigmas[self.index] - self.sigmas[self.index - 1]) * eps


class Pipeline:
    """A network with a scheduler: called with a seed and a number of steps, it makes one sample."""

    def __init__(self, which: Which) -> None:
        self.model, self.scheduler = Model(which), Scheduler()

    @torch.inference_mode()
    def __call__(self, seed: int, steps: int) -> Tensor:
        self.scheduler.set_timesteps(steps)
        x = torch.randn(1, *SHAPE, generator=noise_generator(seed)) * self.scheduler.sigmas[0]
        for sigma in self.scheduler.sigmas[:-1]:
            x = self.scheduler.step(self.model.predict_noise(x, sigma.expand(1)), x)
        return x


def run_pipeline(port: int, which: Which) -> None:
    """The pipeline behind FastAPI, until the process is ended."""
    pipeline, lock, app = Pipeline(which), threading.Lock(), FastAPI()

    @app.get("/")
    def sample(seed: int, steps: int) -> float:
        with lock:
            return float(pipeline(seed, steps).sum())

    uvicorn.run(app, port=port, log_level="error")


class Ask:
    """A way to serve as something to ask; with `alone_s`, told what its deadline is."""

    def __init__(self, method: Any, alone_s: dict[int, float] | None = None) -> None:
        self.method, self.alone_s = method, alone_s

    async def __call__(self, seed: int, steps: int) -> bool:
        extra = [] if self.alone_s is None else [2 * self.alone_s[steps]]
        return await self.method.remote(seed, steps, *extra) is not None


class AskOverHttp:
    """The pipeline behind FastAPI as something to ask."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __call__(self, seed: int, steps: int) -> bool:
        async with httpx.AsyncClient(timeout=600.0, trust_env=False) as client:
            answer = await client.get(self.url, params={"seed": seed, "steps": steps})
            return answer.status_code == 200


@contextmanager
def pipeline_up(which: Which) -> Iterator[Callable[[], AskOverHttp]]:
    """The process of the pipeline while the block runs; called, it waits until the pipeline answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(
        target=run_pipeline, args=(port, which), daemon=True
    )
    process.start()

    def answering() -> AskOverHttp:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        return AskOverHttp(f"http://127.0.0.1:{port}/")

    try:
        yield answering
    finally:
        process.terminate()
        process.join()


@dataclass(frozen=True)
class Arrival:
    due_s: float
    seed: int
    steps: int


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[Arrival]:
    """Poisson arrivals at a rate per second."""
    draw, now, found = random.Random(seed), 0.0, list[Arrival]()
    while (now := now + draw.expovariate(rate)) < seconds:
        found.append(Arrival(now, len(found), draw.choice(STEPS)))
    return found


async def offer(ask: Any, plan: Sequence[Arrival]) -> list[tuple[int, float]]:
    """Send each request when it is due, whatever has come back by then: (steps, latency in s, or infinity for
    one that was refused).
    """
    began = time.perf_counter()

    async def one(arrival: Arrival) -> tuple[int, float]:
        await asyncio.sleep(max(0.0, began + arrival.due_s - time.perf_counter()))
        answered = await ask(arrival.seed, arrival.steps)
        latency_s = time.perf_counter() - began - arrival.due_s
        return arrival.steps, latency_s if answered else float("inf")

    return list(await asyncio.gather(*(one(arrival) for arrival in plan)))


async def alone(ask: Any) -> dict[int, float]:
    """Seconds of each plan when nothing else runs."""
    found = {}
    for steps in STEPS:
        times = []
        for seed in range(3):
            began = time.perf_counter()
            await ask(seed, steps)
            times.append(time.perf_counter() - began)
        found[steps] = statistics.median(times)
    return found


async def capacity(ask: Any, seconds: float) -> float:
    """Requests per second with always two batches of them waiting or running."""
    draw, done, end = random.Random(1), 0, time.perf_counter() + seconds
    began = time.perf_counter()

    async def ask_again() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await ask(draw.randrange(2**31), draw.choice(STEPS))
            done += 1

    await asyncio.gather(*(ask_again() for _ in range(2 * BATCH)))
    return done / (time.perf_counter() - began)


def judged(
    latencies: Sequence[tuple[int, float]], alone_s: dict[int, float], seconds: float
) -> dict[str, float]:
    """p50, p99 and goodput."""
    ordered = sorted(latency for _, latency in latencies if latency < float("inf"))

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 1e9

    good = sum(latency <= 2 * alone_s[steps] for steps, latency in latencies)
    return {
        "requests": float(len(latencies)),
        "answered": float(len(ordered)),
        "p50_s": at(0.5),
        "p99_s": at(0.99),
        "goodput_per_s": good / seconds,
        "good_share": good / len(latencies),
    }


def measure(pipeline: AskOverHttp, seconds: float, shares: Sequence[float], which: Which) -> dict[str, Any]:
    """Each system in turn; the others are up and idle."""
    replica = serve.run(Replica.bind(which), name="benchmark", route_prefix=None)
    alone_s = asyncio.run(alone(Ask(replica.single)))
    sustained = asyncio.run(capacity(Ask(replica.static), seconds))
    asyncio.run(alone(pipeline))  # warmed up as the others are
    asked = {
        "static": Ask(replica.static),
        "single": Ask(replica.single),
        "pipeline": pipeline,
        "ours": Ask(replica.ours),
        "ours_due": Ask(replica.ours, alone_s),
    }
    systems: dict[str, Any] = {name: {} for name in asked}
    for share in shares:
        plan = arrivals(share * sustained, seconds)
        for name, ask in asked.items():
            systems[name][f"{share:g}"] = judged(asyncio.run(offer(ask, plan)), alone_s, seconds)
    return {
        "alone_s": alone_s,
        "static_capacity_per_s": sustained,
        "systems": systems,
        "engine": replica.overhead.remote().result(),
    }


def verdicts(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What was asked of the engine, beside what was found."""
    systems = results["systems"]
    share = "0.8" if "0.8" in systems["ours"] else next(iter(systems["ours"]))
    ours, static = systems["ours"][share], systems["static"][share]
    best = {name: max(run["goodput_per_s"] for run in runs.values()) for name, runs in systems.items()}
    return {
        "p50 of static's, at most": {"asked": 0.5, "found": ours["p50_s"] / static["p50_s"]},
        "p99 of static's, at most": {"asked": 0.7, "found": ours["p99_s"] / static["p99_s"]},
        "goodput of static's, at least": {
            "asked": 1.8,
            "found": best["ours_due"] / max(best["static"], 1e-9),
        },
        "overhead of a tick, at most": {"asked": 0.03, "found": results["engine"]["overhead_share"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one load, a few seconds each")
    parser.add_argument("--store", help="whose newest bundle has the network")
    parser.add_argument("--seconds", type=float, default=0.0, help="of arrivals at each load")
    parser.add_argument("--shares", type=float, nargs="+", help="loads, over what static batches sustain")
    parser.add_argument("--out", type=Path, help="a JSON file of the results")
    arguments = parser.parse_args()
    which = Which(arguments.store and str(Path(arguments.store).resolve()), arguments.quick)
    seconds = arguments.seconds or (4.0 if arguments.quick else 120.0)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    shares = arguments.shares or (QUICK_SHARES if arguments.quick else SHARES)
    with pipeline_up(which) as pipeline, session(ClusterSpec(address="local")):
        serve.start(http_options={"location": None}, logging_config=QUIET)
        results = measure(pipeline(), seconds, shares, which)
        serve.delete("benchmark")
    print(f"{'system':9} {'load':>5} {'p50 s':>8} {'p99 s':>8} {'goodput/s':>10} {'in time':>8}")
    for name, runs in results["systems"].items():
        for share, run in runs.items():
            print(
                f"{name:9} {share:>5} {run['p50_s']:8.2f} {run['p99_s']:8.2f} {run['goodput_per_s']:10.2f} "
                f"{run['good_share']:8.1%}"
            )
    results["verdicts"] = verdicts(results)
    for name, verdict in results["verdicts"].items():
        print(f"{name:32} {verdict['asked']:6.2f} asked {verdict['found']:8.3f} found")
    results |= {"benchmark": "serving", "seconds": seconds, "store": which.store is not None}
    results |= {"torch": torch.__version__, "code_version": code_version(), "load": os.getloadavg()}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
