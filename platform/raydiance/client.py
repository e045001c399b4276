"""The endpoint from Python: `Client` for threads, `AsyncClient` for asyncio. It loads neither Ray nor torch."""

from raydiance.serving.client import AsyncClient, Client, ProblemError, Sample

__all__ = ["AsyncClient", "Client", "ProblemError", "Sample"]
