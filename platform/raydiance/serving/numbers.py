"""What /metrics tells, in the text format of Prometheus 0.0.4."""

import bisect
import time
from collections import defaultdict
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raydiance.serving.messages import Description

__all__ = ["Counted", "Counts", "exposition"]

BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
Sample = tuple[str, float]


class Counts:
    """Requests by route, method and status, and how long they took."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        self.buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        self.requests[route, method, status] += 1
        self.seconds[route] += seconds
        self.buckets[route][bisect.bisect_left(BOUNDS_S, seconds)] += 1


class Counted:
    """Counts requests by the route that answered them."""

    def __init__(self, app: ASGIApp, counts: Counts) -> None:
        self._app, self._counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._counts.add(route, scope["method"], status, time.perf_counter() - began)


def exposition(counts: Counts, jobs: int, description: Description | None) -> str:
    """The page that Prometheus reads; without a description only what the gateway knows itself."""
    lines = _metric(
        "requests_total",
        "counter",
        "Requests that were answered.",
        (
            (f'{{route="{route}",method="{method}",status="{status}"}}', count)
            for (route, method, status), count in sorted(counts.requests.items())
        ),
    )
    lines += _histogram(counts)
    lines += _metric("jobs", "gauge", "Jobs under way.", [("", jobs)])
    lines += _metric("ready", "gauge", "Whether a replica answers.", [("", description is not None)])
    if description is not None:
        model, load, stats = description.model, description.load, description.stats
        name = f'{{bundle="{model.bundle}",sha256="{model.bundle_sha256}"}}'
        lines += _metric("bundle_info", "gauge", "The bundle that is served.", [(name, 1)])
        states = [(f'{{state="{state}"}}', count) for state, count in sorted(load.items())]
        lines += _metric("samples", "gauge", "Samples by state, of one replica.", states)
        lines += _metric("call_seconds", "gauge", "One network call.", [("", description.call_ms / 1e3)])
        for key in ("ticks", "rows", "finished", "cancelled", "refused", "failed", "network_s", "tick_s"):
            unit = key.replace("_s", "_seconds") if key.endswith("_s") else key
            lines += _metric(f"engine_{unit}_total", "counter", f"Engine: {key}.", [("", stats[key])])
    return "\n".join(lines) + "\n"


def _histogram(counts: Counts) -> list[str]:
    found: list[str] = []
    for route, buckets in sorted(counts.buckets.items()):
        total = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), buckets, strict=True):
            total += count
            found.append(f'raydiance_request_seconds_bucket{{route="{route}",le="{bound}"}} {total}')
        found.append(f'raydiance_request_seconds_sum{{route="{route}"}} {counts.seconds[route]:.6f}')
        found.append(f'raydiance_request_seconds_count{{route="{route}"}} {total}')
    head = "raydiance_request_seconds"
    return [f"# HELP {head} From request to answer.", f"# TYPE {head} histogram", *found] if found else []


def _metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    rows = [f"raydiance_{name}{labels} {float(value):.10g}" for labels, value in samples]
    return [f"# HELP raydiance_{name} {text}", f"# TYPE raydiance_{name} {kind}", *rows]
