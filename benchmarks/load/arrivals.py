"""Open-loop arrivals at an endpoint: requests at random moments, and the books of what came back."""

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp  # not httpx: the generator shares the cores with what it measures

__all__ = ["Load", "Moment", "Seen", "latent", "quantile"]

SEEDS = 40
TIMEOUT_S = 100.0
SETTLED_S = 1.0  # at first nothing is under way, and the calls are not full

Body = Callable[[int], dict[str, Any]]
"""The body of the request of a number below SEEDS; the same number, the same bytes."""


def latent(plan: str) -> Body:
    """The cheapest thing to ask for: numbers, with no mesh to be drawn."""
    return lambda number: {"seed": number, "plan": plan, "format": "latent"}


def quantile(found: Sequence[float], share: float) -> float | None:
    """The smallest of the numbers that this share of them does not exceed."""
    ordered = sorted(found)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else None


class Moment(NamedTuple):
    """One request: when it was due, s from the start, how long its answer took from then, and what it was."""

    due: float
    latency: float
    status: str


@dataclass
class Seen:
    """What came back."""

    seconds: float
    moments: list[Moment] = field(default_factory=list)
    bundles: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)  # seconds from sending to the refusal
    mute: int = 0  # refusals without Retry-After

    @property
    def statuses(self) -> Counter[str]:
        """How often each status, or each error of the connection."""
        return Counter(moment.status for moment in self.moments)

    @property
    def answered(self) -> list[Moment]:
        """The requests that got what they asked for."""
        return [moment for moment in self.moments if moment.status == "200"]

    @property
    def failed(self) -> int:
        """Neither an answer nor a refusal that says when to come again."""
        return self.mute + sum(
            n for status, n in self.statuses.items() if status not in ("200", "429", "503")
        )

    def add(self, other: "Seen") -> None:
        """What came back at another time is counted, too."""
        self.seconds += other.seconds
        self.moments += other.moments
        self.bundles += other.bundles
        self.refusals += other.refusals
        self.mute += other.mute

    @property
    def rate(self) -> float:
        """Answers per second while requests came, but for the first second."""
        done = [moment.due + moment.latency for moment in self.answered]
        return sum(SETTLED_S <= end <= self.seconds for end in done) / (self.seconds - SETTLED_S)

    def facts(self) -> dict[str, Any]:
        """Counts, rates and latencies."""
        found = [moment.latency for moment in self.answered]
        last = max((moment.due + moment.latency for moment in self.answered), default=0.0)
        return {
            "offered": len(self.moments),
            "statuses": dict(self.statuses),
            "failed": self.failed,
            "answered_per_s": round(len(found) / max(self.seconds, last), 2),
            "p50_s": quantile(found, 0.5),
            "p95_s": quantile(found, 0.95),
            "p99_s": quantile(found, 0.99),
            "refusal_p50_s": quantile(self.refusals, 0.5),
            "refusal_p99_s": quantile(self.refusals, 0.99),
        }


class Load:
    """Asks an endpoint and compares each answer with the first one of its bundle and number.

    until: when nothing more is asked (time.monotonic), whatever was meant to be.
    """

    def __init__(self, url: str, body: Body, until: float = float("inf")) -> None:
        self.body, self._until = body, until
        self.known: dict[tuple[str, int], str] = {}
        self.compared = self.different = 0
        timeout, unlimited = aiohttp.ClientTimeout(TIMEOUT_S), aiohttp.TCPConnector(limit=0)
        self._http = aiohttp.ClientSession(url, timeout=timeout, connector=unlimited)

    @property
    def has_time(self) -> bool:
        """Whether more is asked."""
        return time.monotonic() < self._until

    async def __aenter__(self) -> "Load":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.close()

    async def ask(self, seen: Seen, number: int, due: float, began: float) -> None:
        """One request that was due at a time since `began`."""
        sent = time.perf_counter()
        try:
            async with self._http.post("/v1/samples", json=self.body(number)) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.moments.append(Moment(due, time.perf_counter() - began - due, type(error).__name__))
            return
        now = time.perf_counter()
        seen.moments.append(Moment(due, now - began - due, str(answer.status)))
        if answer.status == 200:
            self._compare(seen, number, answer.headers["raydiance-bundle"], content)
        elif answer.status in (429, 503):
            seen.refusals.append(now - sent)
            seen.mute += "retry-after" not in answer.headers

    def _compare(self, seen: Seen, number: int, bundle: str, content: bytes) -> None:
        seen.bundles[bundle] += 1
        digest = hashlib.sha256(content).hexdigest()
        first = self.known.setdefault((bundle, number), digest)
        self.compared += 1
        self.different += first != digest

    async def poisson(self, rate: float, seconds: float, seed: int = 0) -> Seen:
        """Requests at random moments, whatever has come back by then."""
        draw, now, seen, tasks = random.Random(seed), 0.0, Seen(seconds), []
        began = time.perf_counter()
        while (now := now + draw.expovariate(rate)) < seconds and self.has_time:
            await asyncio.sleep(max(0.0, began + now - time.perf_counter()))
            tasks.append(asyncio.create_task(self.ask(seen, draw.randrange(SEEDS), now, began)))
        seen.seconds = min(seconds, now)
        await asyncio.gather(*tasks)
        return seen

    async def closed(self, workers: int, seconds: float = 1e9, count: int = 10**9) -> Seen:
        """Always so many requests under way."""
        seen, began, asked = Seen(seconds), time.perf_counter(), iter(range(count))

        async def work() -> None:
            for number in asked:
                due = time.perf_counter() - began
                if due > seconds or not self.has_time:
                    return
                await self.ask(seen, number % SEEDS, due, began)

        await asyncio.gather(*(work() for _ in range(workers)))
        seen.seconds = time.perf_counter() - began
        return seen

    async def capacity(self, seconds: float, crowd: int) -> tuple[float, float]:
        """(seconds of one request alone, requests per second with a crowd of them always under way)."""
        await self.closed(4, count=12)  # warm
        alone = await self.closed(1, count=8)
        many = await self.closed(crowd, seconds)
        service_s = quantile([moment.latency for moment in alone.answered], 0.5)
        assert service_s is not None, f"nothing was answered: {alone.statuses}"
        return service_s, len(many.answered) / many.seconds
