"""The bundle over HTTP: an engine that batches network calls, a schema, the endpoint on Ray Serve, a client.

Importing this package loads neither Ray nor torch; a name does when it is used.
"""

from typing import TYPE_CHECKING

from raydiance.lazy import lazily

if TYPE_CHECKING:
    from raydiance.serving.bundles import find_bundle
    from raydiance.serving.client import AsyncClient, Client, ProblemError, Sample
    from raydiance.serving.engine import Engine
    from raydiance.serving.orders import Order
    from raydiance.serving.sampler import Sampler
    from raydiance.serving.schema import Format, SampleRequest
    from raydiance.serving.server import Endpoint, running, serve

__all__ = [
    "AsyncClient",
    "Client",
    "Endpoint",
    "Engine",
    "Format",
    "Order",
    "ProblemError",
    "Sample",
    "SampleRequest",
    "Sampler",
    "find_bundle",
    "running",
    "serve",
]

_HOME = {
    "AsyncClient": "client",
    "Client": "client",
    "Endpoint": "server",
    "Engine": "engine",
    "Format": "schema",
    "Order": "orders",
    "ProblemError": "client",
    "Sample": "client",
    "SampleRequest": "schema",
    "Sampler": "sampler",
    "find_bundle": "bundles",
    "running": "server",
    "serve": "server",
}

__getattr__ = lazily(__name__, _HOME)
