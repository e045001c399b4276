"""Where a process of Serve listens beside what we ask of it."""

from importlib import import_module
from typing import Any

__all__ = ["only_on_loopback"]


def only_on_loopback() -> None:
    """From now on, have the server between deployments that Serve starts in this process listen on loopback only.

    Each replica has one, on all addresses; it unpickles what it is sent, with Ray's token as its only guard. It is
    for handles that speak gRPC, and ours do not.
    """
    replica: Any = import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server

    def add_loopback(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = add_loopback
