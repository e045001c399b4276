"""A bundle on trial that fails, and replicas that come and go."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import httpx
from benchmarks.load.arrivals import Load, Seen, latent, quantile
from benchmarks.load.case import Case, running_replicas
from tests.support.bundles import tiny_model

from raydiance.generation import write_bundle

__all__ = ["canary", "scaling"]

SHARE = 0.3
GROW_S, SHRINK_S, ADDED_WITHIN_S, ENDED_WITHIN_S = 2.0, 6.0, 60.0, 60.0


def canary(case: Case) -> dict[str, Any]:
    """Its network gives what is no number, so every request that it gets fails there."""
    broken = tiny_model(seed=5)
    for parameter in broken.denoiser.parameters():
        parameter.data.fill_(float("nan"))
    trial = write_bundle(case.store, "tiny", broken)

    async def go() -> dict[str, Any]:
        async with case.load(url, latent(case.plan)) as load:
            service_s, capacity = await case.capacity(load)
            seen = await load.poisson(0.5 * capacity, case.seconds)
            async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                told = (await http.get("/v1/models")).json()["canary"]
            held = {
                "nothing but 200": set(seen.statuses) == {"200"},
                "all from the bundle that works": set(seen.bundles) == {case.refs[0].key},
                "it gets no more": told["share"] == 0.0 and told["failed"] >= 1,
            }
            found = {"service_s": service_s, "capacity_per_s": round(capacity, 2), "canary": told}
            return found | seen.facts() | {"held": held}

    case = replace(case, refs=(*case.refs[:1], trial.ref))
    with case.endpoint(canary="load@candidate", canary_share=SHARE) as url:
        return asyncio.run(go())


def scaling(case: Case) -> dict[str, Any]:
    """More than one replica can do, then hardly anything."""

    async def replicas(wanted: int, within_s: float) -> float | None:
        """Seconds until there are so many."""
        began = time.perf_counter()
        while time.perf_counter() - began < within_s:
            if await asyncio.to_thread(running_replicas) == wanted:
                return round(time.perf_counter() - began, 1)
            await asyncio.sleep(0.5)
        return None

    async def keep_asking(load: Load, rate: float, parts: list[Seen]) -> None:
        while load.has_time:
            parts.append(await load.poisson(rate, 2.0, seed=len(parts)))

    async def under(load: Load, rate: float, wanted: int, within_s: float) -> tuple[float | None, Seen]:
        parts = list[Seen]()
        asking = asyncio.create_task(keep_asking(load, rate, parts))
        took = await replicas(wanted, within_s)
        await asyncio.sleep(2.5)
        asking.cancel()
        whole = Seen(0.0)
        for part in parts:
            whole.add(part)
        return took, whole

    async def go() -> dict[str, Any]:
        async with case.load(url, latent(case.plan)) as load:
            service_s, capacity = await case.capacity(load)
            added_s, busy = await under(load, 1.6 * capacity, 2, ADDED_WITHIN_S)
            with_two = await load.poisson(capacity, 8.0)
            ended_s, calm = await under(load, 0.1 * capacity, 1, ENDED_WITHIN_S)
            held = {
                "a replica was added": added_s is not None,
                "and ended": ended_s is not None,
                "nothing but answers and refusals": busy.failed + with_two.failed + calm.failed == 0,
                "nothing but 200 while one ends": set(calm.statuses) == {"200"},
                "the same bytes": load.different == 0,
            }
            found = {"service_s": service_s, "capacity_per_s": round(capacity, 2), "added_after_s": added_s}
            found |= {"ended_after_s": ended_s, "grow_s": GROW_S, "shrink_s": SHRINK_S}
            found["p99_with_two_s"] = quantile([m.latency for m in with_two.answered], 0.99)
            found |= {"busy": busy.facts(), "calm": calm.facts()}
            return found | {"compared": load.compared, "different": load.different, "held": held}

    with case.endpoint(max_replicas=2, grow_s=GROW_S, shrink_s=SHRINK_S) as url:
        return asyncio.run(go())
