"""Ports for servers that are about to start.

A port that the kernel names as free may be given away before its server listens: a machine on which Ray starts
opens hundreds of connections in that time. So free ports are taken from below the kernel's range.
"""

import random
import socket
from collections.abc import Collection

__all__ = ["free_port", "why_taken"]

PORTS = range(20_000, 32_768)  # between those of Ray's workers and those that Linux gives to connections


def why_taken(port: int, host: str = "127.0.0.1") -> str | None:
    """Why nothing can listen there; None if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def free_port(host: str = "127.0.0.1", *, taken: Collection[int] = ()) -> int:
    """A port that nobody listens on, drawn at random, and none of those taken."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if port not in taken and why_taken(port, host) is None:
            return port
