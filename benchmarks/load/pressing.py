"""More and more requests: the knee, what is beyond it, and whether the bytes stay the same."""

import asyncio
import hashlib
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.load.arrivals import SEEDS, Load, Seen, latent, quantile
from benchmarks.load.case import CAPACITY_S, CROWD, SPEC, Case, cpu_s, processes, rss_mb

from raydiance.generation import load_bundle, sample_glb

__all__ = ["identical", "knee", "overload"]

KNEE, BEYOND = (0.5, 0.7, 0.8, 0.9, 1.0), (1.5, 2.0, 4.0)
CALM_S, TIMES = 5.0, 3
PLANS = ("fast", "default", "stochastic", "ddim-20")
GLBS = 24


def knee(case: Case) -> dict[str, Any]:
    """Shares of the capacity."""

    async def go() -> dict[str, Any]:
        async with case.load(url, latent(case.plan)) as load:
            service_s, capacity = await case.capacity(load)
            found: dict[str, Any] = {"service_s": service_s, "capacity_per_s": round(capacity, 2)}
            held = {}
            for share in KNEE:
                if not load.has_time:
                    break
                seen = await load.poisson(share * capacity, case.seconds)
                found[f"{share:g} C"] = seen.facts()
                held[f"{share:g} C: nothing failed"] = seen.failed == 0
            held |= {"the same bytes": load.different == 0, "there was time for all": load.has_time}
            return found | {"compared": load.compared, "different": load.different, "held": held}

    with case.endpoint() as url:
        return asyncio.run(go())


def overload(case: Case) -> dict[str, Any]:
    """More than the capacity, which is measured before and after each time, since the machine has moods."""
    phase_s = case.seconds / TIMES

    async def go() -> dict[str, Any]:
        async with case.load(url, latent(case.plan)) as load:
            await load.closed(4, count=12)  # warm
            alone = await load.closed(1, count=8)
            service_s = quantile([moment.latency for moment in alone.answered], 0.5)
            assert service_s is not None, f"nothing was answered: {alone.statuses}"
            parts, bound_s = processes(), round((SPEC.queue + 1) * service_s * 1.5, 3)
            found: dict[str, Any] = {"service_s": service_s, "p99_bound_s": bound_s}
            held: dict[str, bool] = {}
            capacities = [await full(load, parts, phase_s)]
            for share in BEYOND:
                before, whole, rates, pressed = memory(parts), Seen(0.0), list[float](), list[Pressed]()
                cores = list[dict[str, float]]()
                for _ in range(TIMES):
                    seen, spared = await spent(parts, load.poisson(share * capacities[-1].rate, phase_s))
                    whole.add(seen)
                    pressed.append(full_from(seen, phase_s))
                    rates.append(seen.rate)
                    cores.append(spared)
                    capacities.append(await full(load, parts, phase_s))
                growth = [mb / before[pid] - 1 for pid, mb in memory(parts).items()]
                around = [each.rate for each in capacities[-TIMES - 1 :]]
                capacity = sum(around) / len(around)
                ratios = [2 * rate / (a + b) for rate, a, b in zip(rates, around, around[1:], strict=False)]
                calm = await load.poisson(0.3 * capacity, CALM_S)
                if not load.has_time:  # the last ones were cut off
                    break
                slow = [m.due for m in calm.moments if m.status != "200" or m.latency > 4 * service_s]
                quick = sum(s < 0.05 for s in whole.refusals)
                offered = sum(each.offered for each in pressed)
                refused = sum(each.refused for each in pressed) / offered
                facts = whole.facts() | {
                    "capacities_per_s": [round(each, 2) for each in around],
                    "goodput_per_s": [round(each, 2) for each in rates],
                    "goodput_of_C": [round(each, 3) for each in ratios],
                    "goodput_of_C_mean": round(sum(rates) / TIMES / capacity, 3),
                    "cpu_ms_per_answer": mean_ms(cores, rates),
                    "cpu_ms_per_answer_at_C": mean_ms([e.cores for e in capacities[-TIMES - 1 :]], around),
                    "refused_share": round(refused, 3),
                    "refused_share_expected": round(
                        1 - capacity * sum(each.seconds for each in pressed) / offered, 3
                    ),
                    "refused_within_50_ms": round(quick / max(1, len(whole.refusals)), 3),
                    "largest_growth_of_memory": round(max(growth), 4),
                    "back_to_normal_after_s": round(max(slow, default=0.0), 2),
                }
                found[f"{share:g} C"] = facts
                print(share, facts, file=sys.stderr, flush=True)
                expected = facts["refused_share_expected"]
                held |= {
                    f"{share:g} C: goodput >= 0.9 C": facts["goodput_of_C_mean"] >= 0.9,
                    f"{share:g} C: p99 of what is taken on": facts["p99_s"] <= bound_s,
                    f"{share:g} C: refused within 5 % of offered - C": abs(refused - expected) <= 0.05,
                    f"{share:g} C: nothing but answers and refusals": whole.failed == 0,
                    f"{share:g} C: refused within 50 ms (99 %)": facts["refused_within_50_ms"] >= 0.99,
                    f"{share:g} C: memory flat (2 %)": facts["largest_growth_of_memory"] <= 0.02,
                    f"{share:g} C: normal after 5 s": facts["back_to_normal_after_s"] <= 5,
                }
            held |= {"the same bytes": load.different == 0, "there was time for all": load.has_time}
            return found | {"compared": load.compared, "different": load.different, "held": held}

    with case.endpoint() as url:
        return asyncio.run(go())


class Full(NamedTuple):
    """Answers per second at most, and the cores that each part of the endpoint had for them."""

    rate: float
    cores: dict[str, float]


class Pressed(NamedTuple):
    """Requests of a time in which all places were taken."""

    offered: int
    refused: int
    seconds: float


def full_from(seen: Seen, seconds: float) -> Pressed:
    """From the first refusal on; before it, what came found the places that were free when the load began."""
    first = min((m.due for m in seen.moments if m.status != "200"), default=seconds)
    later = [m.status != "200" for m in seen.moments if m.due >= first]
    return Pressed(len(later), sum(later), seconds - first)


async def full(load: Load, parts: Mapping[str, list[int]], seconds: float) -> Full:
    """The capacity now."""
    seen, cores = await spent(parts, load.closed(CROWD, seconds))
    seen.seconds = min(seconds, seen.seconds)  # then fewer and fewer were under way
    return Full(seen.rate, cores)


def mean_ms(cores: Sequence[Mapping[str, float]], rates: Sequence[float]) -> dict[str, float]:
    """Processor time of each part of the endpoint for one answer, ms."""
    return {part: round(1e3 * sum(e[part] for e in cores) / sum(rates), 1) for part in cores[0]}


async def spent(
    parts: Mapping[str, list[int]], asking: Coroutine[Any, Any, Seen]
) -> tuple[Seen, dict[str, float]]:
    """What came back, and the cores that each part of the endpoint had meanwhile."""

    def so_far() -> dict[str, float]:
        return {part: sum(map(cpu_s, running)) for part, running in parts.items()}

    before, began = so_far(), time.perf_counter()
    seen = await asking
    took = time.perf_counter() - began
    return seen, {part: (now - before[part]) / took for part, now in so_far().items()}


def memory(parts: Mapping[str, list[int]]) -> dict[int, float]:
    """MB of each process of the endpoint."""
    return {pid: rss_mb(pid) for part in ("replica", "gateway", "proxy") for pid in parts[part]}


def identical(case: Case) -> dict[str, Any]:
    """GLBs under load, beside those that the library makes with nothing else running."""
    bundle = load_bundle(case.store.get(case.refs[0]))

    def body(number: int) -> dict[str, Any]:
        return {"seed": number % GLBS, "plan": PLANS[number % len(PLANS)]}

    truth = {}
    for number in range(SEEDS):
        asked = body(number)
        content = sample_glb(bundle, asked["seed"], asked["plan"])
        truth[bundle.ref.key, number] = hashlib.sha256(content).hexdigest()

    async def go() -> dict[str, Any]:
        async with case.load(url, body) as load:
            load.known = truth
            service_s, capacity = await load.capacity(CAPACITY_S, CROWD)  # of these, not of latents
            seen = await load.poisson(0.9 * capacity, case.seconds)
            held = {
                "bytes of the library": load.different == 0,
                "200 or more compared": load.compared >= 200,
                "nothing failed": seen.failed == 0,
            }
            found = {"service_s": service_s, "capacity_per_s": round(capacity, 2), **seen.facts()}
            return found | {"compared": load.compared, "different": load.different, "held": held}

    with case.endpoint() as url:
        return asyncio.run(go())
