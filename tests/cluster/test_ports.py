"""Ports that stay free until their servers listen."""

import socket
from pathlib import Path

from raydiance.cluster.ports import PORTS, free_port, why_taken


def test_a_free_port_is_none_that_the_kernel_gives_away(monkeypatch) -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() in PORTS and max(PORTS) < lowest
    with socket.socket() as server:
        port = free_port()
        server.bind(("127.0.0.1", port))
        server.listen()
        assert why_taken(port) == "Address already in use"
        monkeypatch.setattr("raydiance.cluster.ports.PORTS", [port, port + 1])
        assert free_port(taken=[]) == port + 1


def test_a_port_that_is_taken_by_name_is_not_drawn(monkeypatch) -> None:
    monkeypatch.setattr("raydiance.cluster.ports.PORTS", [PORTS[0], PORTS[1]])
    assert {free_port(taken=[PORTS[0]]) for _ in range(8)} <= {PORTS[1]}
