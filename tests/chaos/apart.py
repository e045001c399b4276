"""Two network namespaces with a wire between them, so that nodes of a Ray have addresses of their own."""

import os
import subprocess
from contextlib import ExitStack
from types import TracebackType
from typing import Self

__all__ = ["Apart"]


class Apart:
    """Places "a" and "b", which reach each other and nothing else; needs root and iproute2."""

    def __init__(self) -> None:
        number = os.getpid() % 64000
        self._names = {place: f"rd{number}{place}" for place in "ab"}
        self._net = f"10.{200 + number // 250 % 50}.{number % 250}"
        self._stack = ExitStack()

    def address(self, place: str) -> str:
        return f"{self._net}.{1 + 'ab'.index(place)}"

    def inside(self, place: str, command: list[str]) -> list[str]:
        """The command, run there."""
        return ["ip", "netns", "exec", self._names[place], *command]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for place, name in self._names.items():
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "delete", name)
                _ip("-n", name, "link", "set", "lo", "up")
                if place == "b":
                    peers = [self._names["a"], "type", "veth", "peer", "wire", "netns", name]
                    _ip("link", "add", "wire", "netns", *peers)
            for place, name in self._names.items():
                _ip("-n", name, "address", "add", f"{self.address(place)}/24", "dev", "wire")
                _ip("-n", name, "link", "set", "wire", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
