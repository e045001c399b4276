"""The page and what it loads: files of the package, kept in memory with their compressed form and their tag."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from raydiance.serving.problems import NotFoundError

__all__ = ["SECURITY", "Asset", "page_assets", "page_routes"]

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
}
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Asset:
    """One file; `packed` is empty where compressing gains nothing."""

    content: bytes
    packed: bytes
    media_type: str
    tag: str


@cache
def page_assets() -> dict[str, Asset]:
    """The files of the built page by name."""
    folder = files("raydiance.serving").joinpath("page", "dist")
    return {
        entry.name: _asset(entry.name, entry.read_bytes()) for entry in folder.iterdir() if entry.is_file()
    }


def page_routes() -> APIRouter:
    """GET / and the files beside it; a file that has not changed is not sent again."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        return _send(request, "index.html")

    @router.get("/page/{name}")
    async def asset(request: Request, name: str) -> Response:
        return _send(request, name)

    return router


def _asset(name: str, content: bytes) -> Asset:
    packed = gzip.compress(content, 9, mtime=0)
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return Asset(content, packed if len(packed) < 0.9 * len(content) else b"", media_type, tag)


def _send(request: Request, name: str) -> Response:
    asset = page_assets().get(name)
    if asset is None:
        raise NotFoundError(f"/page/{name[:64]}: the page has no such file")
    headers = {"ETag": asset.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", **SECURITY}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    if asset.packed and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.packed, media_type=asset.media_type, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
