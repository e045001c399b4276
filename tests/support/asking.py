"""Asking an application in this process, as a client of it would."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

T = TypeVar("T")
Ask = Callable[[httpx.AsyncClient], Awaitable[T]]


def ask(app: FastAPI, what: Ask[T]) -> T:
    async def run() -> T:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await what(client)

    return asyncio.run(run())


def post(app: FastAPI, body: Any, **settings: Any) -> httpx.Response:
    return ask(app, lambda client: client.post("/v1/samples", json=body, **settings))


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = response.json()
    assert said["status"] == status and said["title"] and said["detail"]
    return said
