"""A Ray of several nodes on this machine, each of which can be taken away by itself."""

import json
import os
import secrets
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from tests.conftest import ROOT, accepts, free_port, running

__all__ = ["Cluster"]


class Cluster:
    """A head with one core, and nodes with one core each; all of them ask for a token."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment or {}  # of the nodes, and so of what runs on them
        self._stack, self._nodes = ExitStack(), dict[str, int]()
        self.folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # Ray's sockets want short names
        self.port, self.dashboard = free_port(), free_port()
        self.address, self.token = f"127.0.0.1:{self.port}", secrets.token_hex(32)

    def environment(self) -> dict[str, str]:
        """What drivers and nodes need to be part of it."""
        path = self.folder / "token"
        if not path.exists():
            path.write_text(self.token)
            path.chmod(0o600)
        return {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(path),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            **self._environment,
        }

    def __enter__(self) -> Self:
        head = [f"--port={self.port}", "--head", f"--dashboard-port={self.dashboard}"]
        self._begin("head", [*head, f"--temp-dir={self.folder / 'ray'}"], self.dashboard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._nodes):
            self.kill(name)
        with suppress(OSError):
            self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, name: str) -> None:
        """Start a node; it has joined when its agent answers."""
        agent = free_port()
        self._begin(name, [f"--address={self.address}", f"--dashboard-agent-listen-port={agent}"], agent)

    def wait_for_nodes(self, count: int) -> None:
        """Add nodes until there are so many."""
        while len(self._nodes) < count:
            self.add(f"spare-{secrets.token_hex(3)}")

    @property
    def others(self) -> list[str]:
        """The nodes but the head, the newest last."""
        return [name for name in self._nodes if name != "head"]

    def held(self) -> list[str]:
        """What trainings and searches hold of it: actors and rooms that are still there."""
        found = []
        for kind, name, gone in (("actors", "class_name", "DEAD"), ("placement_groups", "name", "REMOVED")):
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.dashboard}/api/v0/{kind}?limit=10000",
                headers={"Authorization": f"Bearer {self.token}"},
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                rows = json.load(answer)["data"]["result"]["result"]
            found += [f"{kind} {row[name]} {row['state']}" for row in rows if row["state"] != gone]
        return found

    def kill(self, name: str, *, only_raylet: bool = False) -> None:
        """SIGKILL: the node's raylet alone, as when it crashes, or all of its processes, as when power fails."""
        pid = self._nodes.pop(name)
        first = [psutil.Process(pid)] if psutil.pid_exists(pid) else []
        family = [*first, *(child for each in first for child in each.children(recursive=True))]
        chosen = [each for each in family if not only_raylet or each.name() == "raylet"]
        for process in chosen:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _begin(self, name: str, options: list[str], port: int) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", *options]
        command += ["--object-store-memory=134217728", "--disable-usage-stats"]
        log = self.folder / f"{name}.log"
        server = running(command, log, lambda: accepts(port), timeout_s=120, environment=self.environment())
        self._nodes[name] = self._stack.enter_context(server)
