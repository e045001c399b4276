"""Who listens where: of a process and all that it started."""

from contextlib import suppress
from ipaddress import ip_address

import psutil

__all__ = ["beyond_loopback", "listeners"]


def listeners(pids: list[int]) -> dict[tuple[str, int], str]:
    """The addresses and ports that these processes and their descendants accept connections on, by whom."""
    found = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    for each in process.net_connections(kind="tcp"):
                        if each.status == psutil.CONN_LISTEN:
                            found[each.laddr.ip, each.laddr.port] = " ".join(process.cmdline()[:3])
    return found


def beyond_loopback(found: dict[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    """Those that other machines can reach."""
    return {place: who for place, who in found.items() if not _is_loopback(place[0])}


def _is_loopback(address: str) -> bool:
    plain = ip_address(address)
    mapped = getattr(plain, "ipv4_mapped", None)
    return (mapped or plain).is_loopback
