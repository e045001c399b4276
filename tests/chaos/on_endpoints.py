"""F4 where Ray's head keeps its state in Redis: an endpoint does without it until it is back."""

import asyncio
import functools
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import psutil
import yaml
from tests.chaos.apart import Apart
from tests.chaos.trial import ENDINGS, Fault, Trial, singly
from tests.conftest import ROOT, running
from tests.support.bundles import tiny_bundle

from raydiance.errors import RequestError
from raydiance.serving import AsyncClient
from raydiance.storage import Store

__all__ = ["FAULTS", "ask", "end", "killed_head"]

BOUND_S = 120.0
SLOW_S, AFTER_S = 5.0, 8.0
PORT, REDIS, DASHBOARD, GCS, AGENT = 8000, 6379, 8265, 6380, 52365
SEEDS, CLIENTS, PAUSE_S = 6, 2, 0.3
# no head starts where it sees a process that belongs to the head before it, as the node's are
ALONE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
RAY = str(Path(sys.executable).with_name("ray"))


class Endpoint:
    """A head without room for work, whose state is in Redis, in one namespace; a node with the gateway, a replica
    and a proxy in another, as KubeRay's RayService has them.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="re-", dir="/tmp"))  # Ray's sockets want short names
        self.password, self.token, self.key = (secrets.token_hex(16) for _ in range(3))
        self.apart = Apart()
        self.head = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.enter_context(self.apart)
            (self.folder / "token").write_text(self.token)
            (self.folder / "token").chmod(0o600)
            self._start_redis(stack)
            self._stack = stack
            self.begin_head()
            self._start_node(stack)
            self._deploy()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._stack.close()

    @property
    def url(self) -> str:
        """Of the proxy on the node."""
        return f"http://{self.apart.address('b')}:{PORT}"

    def environment(self) -> dict[str, str]:
        """Of both nodes, and of what speaks with the head."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # as KubeRay sets it
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAYDIANCE_API_KEYS": self.key,
            "RAYDIANCE_STORE": str(self.folder / "store"),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
        }

    def begin_head(self) -> None:
        """Start the head, or start it again: it goes on with what Redis holds."""
        redis = {
            "RAY_REDIS_ADDRESS": f"{self.apart.address('a')}:{REDIS}",
            "RAY_external_storage_namespace": "chaos",
        }
        options = ["--head", f"--port={GCS}", "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD}"]
        options += ["--num-cpus=0", f"--temp-dir={self.folder / 'ray'}", f"--redis-password={self.password}"]
        server = self._node("a", options, DASHBOARD, self.environment() | redis, ALONE)
        self.head = self._stack.enter_context(server)

    def kill_head(self) -> None:
        """SIGKILL of all that runs on it but Redis, as when its machine's power fails."""
        first = psutil.Process(self.head)
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def head_lives(self) -> bool:
        """Whether its process does. A head gives up where its agents are not there within 15 s, as on a busy
        machine; to start it again is then Kubernetes' part.
        """
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.head).status() != psutil.STATUS_ZOMBIE
        return False

    def serve_state(self) -> str | None:
        """What Serve's controller, which lives on the head, says of the endpoint; None where it says nothing."""
        with suppress(OSError, ValueError, KeyError, subprocess.SubprocessError):
            found = json.loads(
                self._from_b(f"http://{self.apart.address('a')}:{DASHBOARD}/api/serve/applications/")
            )
            return str(found["applications"]["raydiance"]["status"])
        return None

    def _start_redis(self, stack: ExitStack) -> None:
        address = self.apart.address("a")
        options = f"--port {REDIS} --bind {address} --requirepass {self.password} --appendonly no --save"
        command = ["redis-server", *options.split(), ""]  # saved never
        server = running(
            self.apart.inside("a", command),
            self.folder / "redis.log",
            lambda: self._accepts("a", REDIS),
            timeout_s=30,
        )
        stack.enter_context(server)

    def _start_node(self, stack: ExitStack) -> None:
        options = [f"--address={self.apart.address('a')}:{GCS}", "--num-cpus=2"]
        options.append(f"--dashboard-agent-listen-port={AGENT}")
        stack.enter_context(self._node("b", options, AGENT, self.environment()))

    def _node(
        self,
        place: str,
        options: list[str],
        port: int,
        environment: dict[str, str],
        before: Sequence[str] = (),
    ) -> Any:
        command = [
            *before,
            RAY,
            "start",
            "--block",
            f"--node-ip-address={self.apart.address(place)}",
            *options,
        ]
        command += ["--object-store-memory=134217728", "--disable-usage-stats"]
        return running(
            self.apart.inside(place, command),
            self.folder / f"{place}-{time.monotonic_ns()}.log",
            lambda: self._accepts(place, port),
            timeout_s=120,
            environment=environment,
        )

    def _deploy(self) -> None:
        """As `serve deploy` does it, of the configuration that KubeRay gets."""
        manifest = yaml.safe_load((ROOT / "infra/rendered/kuberay/rayservice.yaml").read_text())
        config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
        bundle = tiny_bundle(Store.open(str(self.folder / "store")))
        config["applications"][0]["args"]["bundle"] = bundle.ref.key
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        address = f"http://{self.apart.address('a')}:{DASHBOARD}"
        command = [str(Path(RAY).with_name("serve")), "deploy", str(path), "-a", address]
        done = subprocess.run(
            self.apart.inside("b", command),
            env=os.environ | self.environment(),
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        deadline = time.monotonic() + 120
        while (state := self.serve_state()) != "RUNNING":
            assert time.monotonic() < deadline, f"the endpoint is {state}"
            time.sleep(0.5)

    def _accepts(self, place: str, port: int) -> bool:
        probe = f"import socket; socket.create_connection(('{self.apart.address(place)}', {port}), 2)"
        command = self.apart.inside(place, [sys.executable, "-c", probe])
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def _from_b(self, url: str) -> str:
        headers = f"Authorization: Bearer {self.token}"
        command = self.apart.inside("b", [sys.executable, "-c", GET, url, headers])
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


GET = """
import sys, urllib.request
name, _, value = sys.argv[2].partition(": ")
asked = urllib.request.Request(sys.argv[1], headers={name: value})
print(urllib.request.urlopen(asked, timeout=10).read().decode())
"""


@functools.cache
def endpoint() -> Endpoint:
    """One for all trials: its head is killed and comes back in each."""
    ENDINGS.callback(end)
    return Endpoint().__enter__()


def end() -> None:
    """Take it down, if it is there."""
    if endpoint.cache_info().currsize:
        endpoint().__exit__(None, None, None)
        endpoint.cache_clear()


def killed_head(phase: str, random: Random, folder: Path) -> Trial:
    """SIGKILL of the head while samples are asked for all the time, by who never asks twice."""
    trial, here = Trial("F4", phase, 0), endpoint()
    away_s, said = random.uniform(2.0, 15.0), folder / "said.json"
    command = [sys.executable, "-m", "tests.chaos.on_endpoints", here.url, here.key, str(said)]
    asking = subprocess.Popen(
        here.apart.inside("b", command), env=os.environ | here.environment(), stdin=subprocess.PIPE, cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not said.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(random.uniform(0.0, 2.0))
    here.kill_head()
    trial.held["killed"] = here.serve_state() is None
    time.sleep(away_s)
    back = time.monotonic()
    while here.serve_state() != "RUNNING" and time.monotonic() - back < BOUND_S:
        if not here.head_lives():
            with suppress(RuntimeError):  # it did not start
                here.begin_head()
        time.sleep(0.5)
    trial.recovery_s = time.monotonic() - back
    time.sleep(AFTER_S)
    asking.communicate(timeout=120)  # with the end of its input it ends
    answers = json.loads(said.read_text())
    trial.held["I7"] = set(answers["said"]) == {"same"}
    trial.held["I7 nobody waits"] = answers["slowest_s"] < SLOW_S
    trial.held["I8"] = trial.recovery_s < BOUND_S
    trial.note = f"head away {away_s:.1f} s; {answers}"
    return trial


async def ask(url: str, key: str, told: Path, ended: Callable[[], bool]) -> None:
    """Write down what comes back to some clients at once that never ask again, and the longest that one of them
    waited: when all of them have had answers, and in the end.
    """
    said, known, slowest = Counter[str](), dict[int, str](), 0.0

    async def one(client: AsyncClient, first: int) -> None:
        nonlocal slowest
        number = first
        await client.sample(first, plan="fast", format="latent")  # Serve looks for replicas when first asked
        while not ended():
            seed, number, began = number % SEEDS, number + 1, time.monotonic()
            try:
                made = await client.sample(seed, plan="fast", format="latent")
            except RequestError as error:
                said[str(error)[:200]] += 1
            else:
                digest = hashlib.sha256(made.content).hexdigest()
                said["same" if known.setdefault(seed, digest) == digest else "other bytes"] += 1
            slowest = max(slowest, time.monotonic() - began)
            if not told.exists() and said.total() >= 2 * CLIENTS:
                tell()
            await asyncio.sleep(PAUSE_S)

    def tell() -> None:
        told.write_text(json.dumps({"said": said, "slowest_s": round(slowest, 2)}))

    async with AsyncClient(url, key=key, retries=0) as client:
        await asyncio.gather(*(one(client, first) for first in range(CLIENTS)))
    tell()


async def main(url: str, key: str, out: Path) -> None:
    """Ask until the input ends."""
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await ask(url, key, out, end.done)


FAULTS = (
    Fault(
        "F4",
        "Ray's head killed (SIGKILL)",
        "With its state in Redis an endpoint answers without it; when it is back, so is Serve's controller.",
        ("with Redis",),
        singly(killed_head),
        dear=True,
    ),
)

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
