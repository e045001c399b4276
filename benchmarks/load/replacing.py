"""Parts of the endpoint are killed or exchanged while it is asked."""

import asyncio
import hashlib
import itertools
import os
import signal
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.load.arrivals import SEEDS, Load, Moment, Seen, latent, quantile
from benchmarks.load.case import Case, cpu_s, pids, running_replicas

from raydiance.errors import RequestError
from raydiance.serving import AsyncClient

__all__ = ["faults", "killed", "rolling"]

KILL_AT_S = 6.0
NORMAL_WITHIN_S, REPLACED_WITHIN_S = 10.0, 30.0
PARTS = (
    ("controller", signal.SIGKILL, 1.0),
    ("proxy", signal.SIGKILL, 1.0),
    ("gateway", signal.SIGKILL, 1.0),
    ("replica", signal.SIGSTOP, 2.5),  # it takes longer to tell from one that is at work
)
PART_S = 2.0
PATIENT = 2  # clients that ask again, as raydiance.client does


def killed(case: Case) -> dict[str, Any]:
    """A replica dies in the middle."""

    async def go() -> dict[str, Any]:
        async with case.load(url, latent(case.plan)) as load:
            service_s, capacity = await case.capacity(load)
            asking = asyncio.create_task(load.poisson(0.6 * capacity, case.seconds + 2 * KILL_AT_S))
            began = time.perf_counter()
            victim = pids("replica")[0]
            await asyncio.sleep(max(0.0, KILL_AT_S - (time.perf_counter() - began)))
            os.kill(victim, signal.SIGKILL)
            at = time.perf_counter() - began
            replaced = await asyncio.to_thread(replaced_after, case.replicas, at + began, REPLACED_WITHIN_S)
            seen = await asking
            under_way = [m for m in seen.moments if m.due < at < m.due + m.latency]
            back_s = after(seen.moments, at, usual(seen.moments, at))
            found = {
                "replicas": case.replicas,
                "service_s": service_s,
                "capacity_per_s": round(capacity, 2),
                "under_way_when_killed": dict(Seen(0.0, under_way).statuses),
                "as_before_after_s": round(back_s, 2),
                **replaced,
                "p99_before_s": quantile([m.latency for m in seen.moments if m.due < at - 1], 0.99),
                "p99_from_10_s_on_s": quantile([m.latency for m in seen.moments if m.due > at + 10], 0.99),
            }
            found |= seen.facts() | {"compared": load.compared, "different": load.different}
            held = {
                "nothing but answers and 503 with Retry-After": seen.failed == 0,
                "what was under way was answered": all(m.status == "200" for m in under_way),
                "as before within 10 s": back_s <= NORMAL_WITHIN_S,
                "the same bytes": load.different == 0,
            }
            return found | {"held": held}

    with case.endpoint() as url:
        return asyncio.run(go())


def replaced_after(replicas: int, at: float, within_s: float) -> dict[str, float | None]:
    """When there are as many replicas again that answer, s, and what processor time the newest took to start."""
    known = set(pids("replica"))
    while time.perf_counter() - at < within_s:
        if running_replicas() == replicas and (new := set(pids("replica")) - known):
            took = round(time.perf_counter() - at, 1)
            return {"replaced_after_s": took, "start_cpu_s": round(cpu_s(new.pop()), 2)}
        time.sleep(0.25)
    return {"replaced_after_s": None, "start_cpu_s": None}


def usual(moments: Iterable[Moment], at: float) -> float:
    """A latency that hardly any request had before a moment, s."""
    before = quantile([moment.latency for moment in moments if moment.due < at - 1], 0.99)
    return 1.5 * (before or 0.0)


def after(moments: Iterable[Moment], at: float, normal_s: float) -> float:
    """How long after a moment a request was last due that was refused or slow (more than 1 % of a second's)."""
    by_second: dict[int, list[bool]] = {}
    for moment in moments:
        if moment.due > at:
            slow = moment.status != "200" or moment.latency > normal_s
            by_second.setdefault(int(moment.due - at), []).append(slow)
    late = [second + 1 for second, slow in by_second.items() if sum(slow) > 0.01 * len(slow) + 1]
    return float(max(late, default=0))


def faults(case: Case) -> dict[str, Any]:
    """Each part in turn; beside the crowd some ask again where they are refused or cut off."""

    async def patient(end: asyncio.Event, told: list[str], known: dict[int, str]) -> None:
        number = 0
        async with AsyncClient(url, retries=12) as client:
            while not end.is_set():
                seed, number = number % SEEDS, number + 1
                try:
                    made = await client.sample(seed, plan=case.plan, format="latent")
                except RequestError as error:
                    told.append(str(error)[:200])
                    continue
                digest = hashlib.sha256(made.content).hexdigest()
                told.append("same" if known.setdefault(seed, digest) == digest else "other bytes")

    async def go() -> dict[str, Any]:
        found: dict[str, Any] = {}
        held: dict[str, bool] = {}
        async with case.load(url, latent(case.plan)) as load:
            service_s, capacity = await case.capacity(load)
            for part, number, times in PARTS:
                if not load.has_time:
                    break
                end, told, known = asyncio.Event(), list[str](), dict[int, str]()
                patience = [asyncio.create_task(patient(end, told, known)) for _ in range(PATIENT)]
                asking = asyncio.create_task(load.poisson(0.4 * capacity, times * case.seconds))
                began = time.perf_counter()
                victim = pids(part)[0]
                await asyncio.sleep(max(0.0, 4.0 - (time.perf_counter() - began)))
                os.kill(victim, number)
                at = time.perf_counter() - began
                seen = await asking
                end.set()
                await asyncio.gather(*patience)
                unserved = [m.due for m in seen.moments if m.status != "200"]
                delayed = [m.due for m in seen.moments if m.latency > usual(seen.moments, at)]
                found[part] = seen.facts() | {
                    "last_unserved_after_s": round(max(unserved, default=at) - at, 2),
                    "last_delayed_after_s": round(max(delayed, default=at) - at, 2),
                    "slowest_s": quantile([m.latency for m in seen.moments], 1.0),
                    "who_ask_again": {"answers": len(told), "others": [t for t in told if t != "same"][:3]},
                }
                wrong = {s for s in seen.statuses if s[0].isdigit() and s not in ("200", "429", "503")}
                held |= {
                    f"{part}: no status but 200 and 503": not wrong and seen.mute == 0,
                    f"{part}: who ask again see nothing": set(told) == {"same"},
                }
            held |= {"the same bytes": load.different == 0, "there was time for all": load.has_time}
            found |= {"service_s": service_s, "capacity_per_s": round(capacity, 2), "compared": load.compared}
            return found | {"different": load.different, "held": held}

    with case.endpoint() as url:
        return asyncio.run(go())


def rolling(case: Case) -> dict[str, Any]:
    """The alias moves to the other bundle and back, until there were so many updates and requests."""

    async def keep_asking(load: Load, rate: float, end: asyncio.Event, parts: list[Seen]) -> None:
        async def part(number: int) -> None:
            parts.append(await load.poisson(rate, PART_S, seed=number))

        numbers = itertools.count()
        async with asyncio.TaskGroup() as asking:
            while load.has_time and not end.is_set():
                asking.create_task(part(next(numbers)))
                await asyncio.sleep(PART_S)

    def asked(parts: Iterable[Seen]) -> int:
        return sum(len(part.moments) for part in parts)

    async def go() -> dict[str, Any]:
        async with case.load(url, latent(case.plan)) as load:
            service_s, capacity = await case.capacity(load)
            end, parts = asyncio.Event(), list[Seen]()
            rate = case.rate or 0.6 * capacity
            asking = asyncio.create_task(keep_asking(load, rate, end, parts))
            took = list[float]()
            while len(took) < case.updates or asked(parts) < (case.count or 0):
                move = len(took)
                wanted, at = case.refs[(move + 1) % 2], time.perf_counter()
                case.meant[0] = wanted
                while not parts or set(parts[-1].bundles) != {wanted.key}:
                    await asyncio.sleep(0.2)
                    if not load.has_time:
                        break
                else:
                    took.append(round(time.perf_counter() - at, 1))
                    continue
                break
            end.set()
            await asking
            whole = Seen(0.0)
            for part in parts:
                whole.add(part)
            found = {
                "service_s": service_s,
                "capacity_per_s": round(capacity, 2),
                "rate_per_s": round(rate, 2),
            }
            found["slowest_s"] = quantile([moment.latency for moment in whole.moments], 1.0)
            found |= {
                "updates": len(took),
                "seconds_each": took,
                "by_bundle": dict(whole.bundles),
                **whole.facts(),
            }
            held = {
                "nothing but 200": set(whole.statuses) == {"200"},
                "all updates": len(took) >= case.updates,
                "all requests": len(whole.moments) >= (case.count or 0),
                "nobody waits for a replica to load": whole.facts()["p99_s"] < 0.3 * min(took, default=0.0),
                "bytes and bundle belong together": load.different == 0,
            }
            return found | {"compared": load.compared, "different": load.different, "held": held}

    with case.endpoint() as url:
        return asyncio.run(go())
