"""Clients of the endpoint, for threads and for asyncio: samples as bytes with their lineage, steps as they come.

A request is asked again where the endpoint is busy and where the connection breaks: one seed is one sample, so
asking twice does no harm.
"""

import asyncio
import base64
import json
import random
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from raydiance.errors import RequestError
from raydiance.serving.messages import Step

__all__ = ["AsyncClient", "Client", "ProblemError", "Sample"]

RETRIED = (429, 503)
DEFAULT_TIMEOUT_S, READY_TIMEOUT_S = 180.0, 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
Box = tuple[Sequence[float], Sequence[float]]
"""The lower and the upper corner of what is kept; the world is [-1, 1]^3."""
BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
GONE = (httpx.ConnectError,)  # broken off before, it may be about to come back; at first, nothing is there


class ProblemError(RequestError):
    """The endpoint answered with an error; `problem` is its document (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{problem.get('title', 'error')} ({status}): {problem.get('detail', 'no detail')}")
        self.status = status
        self.problem = dict(problem)


@dataclass(frozen=True)
class Sample:
    """What the endpoint sent: the file, and what it is made of. `ids` name the samples for ever."""

    content: bytes
    media_type: str
    filename: str
    bundle: str
    bundle_sha256: str
    plan: str
    seeds: tuple[int, ...]
    ids: tuple[str, ...]
    code_version: str
    milliseconds: Mapping[str, float]


class _Patience:
    """How often and after which pauses a request is asked again."""

    def __init__(self, where: object, retries: int) -> None:
        self._where, self._retries, self._attempt = where, retries, 0

    def after(self, response: httpx.Response) -> float:
        """The pause before asking again, s. Raises ProblemError where asking again is no use."""
        if response.status_code not in RETRIED or self._attempt == self._retries:
            raise ProblemError(response.status_code, _problem(response))
        asked = response.headers.get("retry-after", "")
        return self._pause_s(float(asked) if asked.isdigit() else None)

    def broken(self, error: httpx.TransportError) -> float:
        """The pause before asking again, s. Raises RequestError where nothing answers."""
        passing = BROKEN if self._attempt == 0 else (*BROKEN, *GONE)
        if not isinstance(error, passing) or self._attempt == self._retries:
            raise RequestError(
                f"{self._where}: {error or type(error).__name__}; is the endpoint running (raydiance serve)?"
            ) from error
        return self._pause_s(None)

    def _pause_s(self, asked_s: float | None) -> float:
        """What was asked for, else a growing pause; with jitter, lest many clients come back at once."""
        base = FIRST_PAUSE_S * 2**self._attempt if asked_s is None else asked_s
        self._attempt += 1
        return min(base, LONGEST_PAUSE_S) * random.uniform(1.0, 1.5)


class Client:
    """Talks to one endpoint. `retries` is how often a busy or broken one is asked again."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S, retries: int = 5
    ) -> None:
        self._retries = retries
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=_headers(key), timeout=timeout_s, trust_env=False
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

    def sample(self, seed: int | None = None, *, format: str = "glb", **fields: Any) -> Sample:
        """Make samples; `fields` are the others of the request (seeds, plan, quality, resolution, ...).

        Raises ProblemError if the endpoint refuses, RequestError if it cannot be reached.
        """
        return _sample(self._send("POST", "/v1/samples", _body(seed, format, fields)))

    def complete(
        self, shape: Path, keep: Box, seed: int | None = None, *, format: str = "glb", **fields: Any
    ) -> Sample:
        """Keep what lies in a box of a mesh, or of a latent of the same bundle, and make the rest anew."""
        body = _body(seed, format, fields | _shape(shape, keep))
        return _sample(self._send("POST", "/v1/completions", body))

    def reconstruct(
        self, image: Path, seed: int | None = None, *, format: str = "glb", **fields: Any
    ) -> Sample:
        """A sample that looks like a square picture; `view` in `fields` says from where it was taken."""
        body = _body(seed, format, fields | {"image": _base64(image)})
        return _sample(self._send("POST", "/v1/reconstructions", body))

    def watch(
        self, seed: int | None = None, *, format: str = "glb", **fields: Any
    ) -> Iterator[Step | Sample]:
        """Steps with previews as they come, and the sample at last; leaving the loop gives the sample up."""
        body = _body(seed, format, fields)
        headers = {"Accept": "text/event-stream"}
        with self._http.stream("POST", "/v1/samples", json=body, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise ProblemError(response.status_code, _problem(response))
            result = ""
            for event in _events(response.iter_lines()):
                if isinstance(event, Step):
                    yield event
                else:
                    result = event
        yield _sample(self._send("GET", result))

    def draw(self, sample: str, *, format: str = "glb", **fields: Any) -> Sample:
        """The sample of this name again, as whatever is wanted."""
        return _sample(self._send("GET", f"/v1/samples/{sample}", query={"format": format, **fields}))

    def lineage(self, sample: str) -> dict[str, Any]:
        """What the sample was made from, down to its data set."""
        found: dict[str, Any] = self._send("GET", f"/v1/samples/{sample}/lineage").json()
        return found

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
            return self._http.get("/readyz", timeout=READY_TIMEOUT_S).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        patience = _Patience(self._http.base_url, self._retries)
        while True:
            try:
                response = self._http.request(method, path, json=body, params=query)
            except httpx.TransportError as error:
                pause_s = patience.broken(error)
            else:
                if response.is_success:
                    return response
                pause_s = patience.after(response)
            time.sleep(pause_s)


class AsyncClient:
    """The client for asyncio; see `Client`."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S, retries: int = 5
    ) -> None:
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=_headers(key), timeout=timeout_s, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def sample(self, seed: int | None = None, *, format: str = "glb", **fields: Any) -> Sample:
        """Make samples, as Client.sample."""
        return _sample(await self._send("POST", "/v1/samples", _body(seed, format, fields)))

    async def complete(
        self, shape: Path, keep: Box, seed: int | None = None, *, format: str = "glb", **fields: Any
    ) -> Sample:
        """As Client.complete."""
        body = _body(seed, format, fields | _shape(shape, keep))
        return _sample(await self._send("POST", "/v1/completions", body))

    async def reconstruct(
        self, image: Path, seed: int | None = None, *, format: str = "glb", **fields: Any
    ) -> Sample:
        """As Client.reconstruct."""
        body = _body(seed, format, fields | {"image": _base64(image)})
        return _sample(await self._send("POST", "/v1/reconstructions", body))

    async def watch(
        self, seed: int | None = None, *, format: str = "glb", **fields: Any
    ) -> AsyncIterator[Step | Sample]:
        """Steps as they come, and the sample at last, as Client.watch."""
        body = _body(seed, format, fields)
        headers = {"Accept": "text/event-stream"}
        async with self._http.stream("POST", "/v1/samples", json=body, headers=headers) as response:
            if not response.is_success:
                await response.aread()
                raise ProblemError(response.status_code, _problem(response))
            result, name = "", ""
            async for line in response.aiter_lines():
                name, event = _event(name, line)
                if isinstance(event, Step):
                    yield event
                elif event:
                    result = event
        yield _sample(await self._send("GET", result))

    async def lineage(self, sample: str) -> dict[str, Any]:
        """What the sample was made from, down to its data set."""
        found: dict[str, Any] = (await self._send("GET", f"/v1/samples/{sample}/lineage")).json()
        return found

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        patience = _Patience(self._http.base_url, self._retries)
        while True:
            try:
                response = await self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                pause_s = patience.broken(error)
            else:
                if response.is_success:
                    return response
                pause_s = patience.after(response)
            await asyncio.sleep(pause_s)


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _body(seed: int | None, form: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    body = {"seed": seed, "format": form, **fields}
    found = {name: value for name, value in body.items() if value is not None}
    if isinstance(found.get("seeds"), Sequence):
        found["seeds"] = list(found["seeds"])
    return found


def _shape(path: Path, keep: Box) -> dict[str, Any]:
    kind, (lower, upper) = path.suffix.lower().removeprefix("."), keep
    data = _base64(path)
    given = {"latent": data} if kind == "safetensors" else {"mesh": {"format": kind, "data": data}}
    return {**given, "keep": {"lower": list(lower), "upper": list(upper)}}


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _sample(response: httpx.Response) -> Sample:
    said = response.headers
    return Sample(
        content=response.content,
        media_type=said["content-type"],
        filename=_filename(said.get("content-disposition", "")),
        bundle=said["raydiance-bundle"],
        bundle_sha256=said["raydiance-bundle-sha256"],
        plan=said["raydiance-plan"],
        seeds=tuple(int(part) for part in said["raydiance-seed"].split(",")),
        ids=tuple(name for name in said.get("raydiance-sample", "").split(",") if name),
        code_version=said["raydiance-code"],
        milliseconds=_milliseconds(said.get("server-timing", "")),
    )


def _events(lines: Iterator[str]) -> Iterator[Step | str]:
    """Steps, and at last where the result is."""
    name = ""
    for line in lines:
        name, event = _event(name, line)
        if event:
            yield event


def _event(name: str, line: str) -> tuple[str, Step | str]:
    """The name of the event that a line belongs to, and the event if this line makes it whole."""
    if line.startswith("event: "):
        return line.removeprefix("event: "), ""
    if not line.startswith("data: "):
        return name, ""
    data = json.loads(line.removeprefix("data: "))
    if name == "problem":
        raise ProblemError(data["status"], data)
    if name == "step":
        preview = base64.b64decode(data.get("preview", ",").partition(",")[2])
        return name, Step(data["seed"], data["step"], data["steps"], preview)
    return name, str(data["result"]) if name == "done" else ""


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
