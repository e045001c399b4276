"""A client of the endpoint: samples as bytes with their lineage, retries where the endpoint asks for them."""

import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from raydiance.errors import RequestError

__all__ = ["Client", "ProblemError", "Sample"]

RETRIED = (429, 503)
DEFAULT_TIMEOUT_S = 180.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0


class ProblemError(RequestError):
    """The endpoint answered with an error; `problem` is its document (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{problem.get('title', 'error')} ({status}): {problem.get('detail', 'no detail')}")
        self.status = status
        self.problem = dict(problem)


@dataclass(frozen=True)
class Sample:
    """What the endpoint sent: the file, and what it is made of."""

    content: bytes
    media_type: str
    filename: str
    bundle: str
    bundle_sha256: str
    plan: str
    seeds: tuple[int, ...]
    code_version: str
    milliseconds: Mapping[str, float]


class Client:
    """Talks to one endpoint. `retries` is how often a busy endpoint is asked again, after the pause it asks
    for.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S, retries: int = 5
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._retries = retries
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def sample(
        self,
        seed: int | None = None,
        *,
        seeds: Sequence[int] | None = None,
        plan: str | None = None,
        quality: str | None = None,
        format: str = "glb",
        **fields: Any,
    ) -> Sample:
        """Make samples; `fields` are the others of the request (resolution, size, views, category, ...).

        Raises ProblemError if the endpoint refuses, RequestError if it cannot be reached.
        """
        body = {"seed": seed, "plan": plan, "quality": quality, "format": format, **fields}
        if seeds is not None:
            body["seeds"] = list(seeds)
        response = self._send(
            "POST", "/v1/samples", {name: value for name, value in body.items() if value is not None}
        )
        said = response.headers
        return Sample(
            content=response.content,
            media_type=said["content-type"],
            filename=_filename(said.get("content-disposition", "")),
            bundle=said["raydiance-bundle"],
            bundle_sha256=said["raydiance-bundle-sha256"],
            plan=said["raydiance-plan"],
            seeds=tuple(int(part) for part in said["raydiance-seed"].split(",")),
            code_version=said["raydiance-code"],
            milliseconds=_milliseconds(said.get("server-timing", "")),
        )

    def models(self) -> list[dict[str, Any]]:
        """The bundles that are served."""
        models: list[dict[str, Any]] = self._send("GET", "/v1/models").json()["models"]
        return models

    def plans(self) -> list[dict[str, Any]]:
        """The sampling plans to choose from, fastest first."""
        plans: list[dict[str, Any]] = self._send("GET", "/v1/plans").json()["plans"]
        return plans

    def is_ready(self) -> bool:
        """Whether the endpoint has a bundle loaded and answers."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        for attempt in range(self._retries + 1):
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                raise RequestError(
                    f"{self._http.base_url}: {error or type(error).__name__}; "
                    "is the endpoint running (raydiance serve)?"
                ) from error
            if response.is_success:
                return response
            if response.status_code not in RETRIED or attempt == self._retries:
                raise ProblemError(response.status_code, _problem(response))
            time.sleep(_pause_s(response, attempt))
        raise AssertionError("the last attempt returns or raises")


def _pause_s(response: httpx.Response, attempt: int) -> float:
    """What Retry-After says, else a growing pause; with jitter, so that many clients do not come back at
    once.
    """
    asked = response.headers.get("retry-after", "")
    base = float(asked) if asked.isdigit() else FIRST_PAUSE_S * 2**attempt
    return min(base, LONGEST_PAUSE_S) * random.uniform(1.0, 1.5)


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        return {"title": response.reason_phrase, "detail": response.text[:200]}
    return (
        problem if isinstance(problem, Mapping) else {"title": response.reason_phrase, "detail": str(problem)}
    )


def _filename(disposition: str) -> str:
    found = re.search(r'filename="([^"/\\]+)"', disposition)
    return found.group(1) if found else "sample"


def _milliseconds(server_timing: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([0-9.]+)", server_timing)}
