"""Whether a job can ever be placed: what it asks of one node at a time, against the nodes there are."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raydiance.cluster.session import address_of, probe, session, settings
from raydiance.config.platform import ClusterSpec
from raydiance.errors import ClusterError

__all__ = ["fewer_workers", "nodes_at", "nodes_joined", "nodes_of", "refuse_impossible", "room_for"]

LISTENS_S = 2.0
Node = Mapping[str, float]  # what a node has: {"CPU": 8, "GPU": 1, ...}


def nodes_of(spec: ClusterSpec) -> list[Node]:
    """The nodes of the Ray that this spec names; of a Ray of our own, without starting it."""
    address = address_of(spec)
    if address.startswith(("http://", "https://")):
        return nodes_at(address)
    if address == "local":
        return [_this_machine()]
    with session(spec):
        return nodes_joined()


def nodes_joined() -> list[Node]:
    """The living nodes of the Ray that this process has joined, less those that are being drained.

    Ray takes a lost node for a living one for some fifteen seconds after its workers are known to be lost; but
    nobody listens there any more.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    leaving = ray._private.state.state.get_draining_nodes()
    return [node["Resources"] for node in nodes if node["NodeID"] not in leaving and _listens(node)]


def _listens(node: Mapping[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), LISTENS_S).close()
    except OSError:
        return False
    return True


def nodes_at(address: str) -> list[Node]:
    """The nodes of the cluster whose dashboard is at http(s)://host:port. Raises ClusterError."""
    probe(address, 8265)
    settings()
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    logging.getLogger("ray.util.state").setLevel(logging.ERROR)
    try:
        nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")], limit=10_000)
    except (OSError, RuntimeError, RayStateApiException) as error:
        raise ClusterError(f"Ray at {address} does not say what nodes it has ({error})") from error
    return [dict(node.resources_total or {}) for node in nodes]


def refuse_impossible(spec: ClusterSpec, nodes: Sequence[Node]) -> None:
    """Raise ClusterError, with what is missing, if the job's workers, and what validates their checkpoints, cannot
    all be placed at once.

    A cluster that grows is not asked: it may have the nodes when they are needed.
    """
    if spec.grows:
        return
    count, each = _asked(spec)
    room = room_for(spec, nodes)
    remedy = "ask for less, or say cluster.grows=true where nodes are added on demand"
    if room < count:
        raise ClusterError(
            f"cluster.num_workers = {spec.num_workers}: {count} x ({_told(each)}) can never be placed, there is "
            f"room for {room} (nodes: {_there(nodes)}); {remedy}"
        )
    beside = _asked_beside(spec)
    if beside and not any(room_for(spec, left) >= count for left in _left(nodes, beside)):
        workers = f" beside {count} x ({_told(each)})" if count else ""
        raise ClusterError(
            f"cluster.validation: {_told(beside)} can never be placed{workers} (nodes: {_there(nodes)}); "
            f"{remedy}, or cluster.validation.every=0"
        )


def room_for(spec: ClusterSpec, nodes: Sequence[Node]) -> int:
    """How many of the job's workers these nodes can hold together."""
    count, each = _asked(spec)
    return sum(_fitting(node, each) for node in nodes) if count else 0


def fewer_workers(spec: ClusterSpec, room: int) -> int:
    """With how many workers a training goes on that has lost some: a divisor of `num_workers`, so that a batch
    that could be shared still can be. 0: with none.
    """
    least = spec.min_workers or spec.num_workers
    counts = range(min(room, spec.num_workers), least - 1, -1)
    return next((count for count in counts if spec.num_workers % count == 0), 0)


def _asked(spec: ClusterSpec) -> tuple[int, Node]:
    """How many places the job needs, and what each must have."""
    gpus = {"GPU": 1.0} if spec.use_gpu else {}
    if spec.num_workers:
        return spec.num_workers, {"CPU": spec.cpus_per_worker} | gpus
    return (1, gpus) if gpus else (0, {})


def _asked_beside(spec: ClusterSpec) -> Node:
    """What a validation must have; nothing, if it makes do with what is left."""
    asked = {"CPU": spec.validation.cpus, "GPU": spec.validation.gpus} if spec.validation.every else {}
    return {name: amount for name, amount in asked.items() if amount}


def _left(nodes: Sequence[Node], taken: Node) -> Iterator[list[Node]]:
    """What is left of the nodes, for each of them that may give what is taken."""
    for index, node in enumerate(nodes):
        if _fitting(node, taken):
            rest = {name: amount - taken.get(name, 0.0) for name, amount in node.items()}
            yield [*nodes[:index], rest, *nodes[index + 1 :]]


def _told(asked: Node) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in asked.items())


def _there(nodes: Sequence[Node]) -> str:
    shown = [{name: node.get(name, 0.0) for name in ("CPU", "GPU")} for node in nodes[:4]]
    return "; ".join(map(_told, shown)) or "none"


def _fitting(node: Node, each: Node) -> int:
    return min(int(node.get(name, 0.0) / amount) for name, amount in each.items())


def _this_machine() -> Node:
    import torch

    return {"CPU": float(max(os.cpu_count() or 1, 2)), "GPU": float(torch.cuda.device_count())}
