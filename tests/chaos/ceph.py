"""Ceph's object gateway as an S3 server with create-only PUT: one monitor, one disk, one gateway, as root."""

import os
import shutil
import subprocess
import tempfile
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3
from tests.conftest import accepts, free_port, healthy, running

__all__ = ["PROGRAMS", "USER", "Ceph"]

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph", "radosgw-admin", "ceph-authtool", "monmaptool")
KEY, SECRET, USER = "labkey", "labsecret", "lab"
GIB = 2**30


class Ceph:
    """The lab: `kill` and `start` take "radosgw" or "osd"."""

    def __init__(self, size_bytes: int = 16 * GIB) -> None:  # trials write a lot, and a full disk hangs
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise RuntimeError(
                f"{missing[0]} is not installed; on Debian: ceph-mon ceph-osd ceph-common radosgw"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="raydiance-ceph-", dir="/tmp"))
        self.monitor, self.port = free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._size, self._stacks = size_bytes, dict[str, ExitStack]()
        self._pids = dict[str, int]()
        os.environ["CEPH_CONF"] = str(self.folder / "ceph.conf")

    def environment(self) -> dict[str, str]:
        """The variables by which every client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> str:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def __enter__(self) -> Self:
        self._prepare()
        self.start("mon")
        self._make_disk()
        self.start("osd")
        self.start("radosgw")
        user = ["user", "create", f"--uid={USER}", "--display-name=lab"]
        self.admin(*user, f"--access-key={KEY}", f"--secret-key={SECRET}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._stacks)):
            self._stacks[name].close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str) -> None:
        """Start a part of it, and wait until it answers."""
        commands = {
            "mon": ["ceph-mon", "-i", "a", "-f"],
            "osd": ["ceph-osd", "-i", "0", "-f"],
            "radosgw": ["radosgw", "-n", "client.rgw.a", "-f"],
        }
        ready = {
            "mon": lambda: accepts(self.monitor),
            "osd": lambda: "1 up" in _output("ceph", "--connect-timeout", "5", "osd", "stat"),
            "radosgw": lambda: healthy(self.endpoint),
        }
        stack = self._stacks[name] = ExitStack()
        server = running(commands[name], self.folder / f"{name}.out", ready[name], timeout_s=120)
        self._pids[name] = stack.enter_context(server)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        os.killpg(self._pids[name], 9)
        with suppress(ProcessLookupError):
            self._stacks.pop(name).close()

    def admin(self, *arguments: str) -> None:
        subprocess.run(["radosgw-admin", *arguments], check=True, capture_output=True)

    def _prepare(self) -> None:
        fsid, here = str(uuid.uuid4()), self.folder
        for name in ("mon", "osd", "run"):
            (here / name).mkdir()
        address = f"v2:127.0.0.1:{self.monitor}"
        (here / "ceph.conf").write_text(f"""[global]
fsid = {fsid}
mon host = [{address}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {here}/keyring
run dir = {here}/run
admin socket = {here}/run/$name.asok
pid file = {here}/run/$name.pid
log file = {here}/$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data = {here}/mon
osd data = {here}/osd
osd objectstore = bluestore
bluestore block size = {self._size}
osd memory target = 939524096

[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{self.port} tcp_nodelay=1
""")
        self._key("--create-keyring", "-n", "mon.", "--cap", "mon", "allow *")
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        self._key("-n", "client.admin", *everything)
        self._key("-n", "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
        self._key("-n", "client.rgw.a", "--cap", "mon", "allow rw", "--cap", "osd", "allow rwx")
        monmap = str(here / "monmap")
        _run("monmaptool", "--create", "--addv", "a", f"[{address}]", "--fsid", fsid, monmap)
        _run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(here / "keyring"))

    def _make_disk(self) -> None:
        identity = str(uuid.uuid4())
        _run("ceph", "auth", "import", "-i", str(self.folder / "keyring"))
        _run("ceph", "osd", "new", identity, "0")
        _run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        host = os.uname().nodename.partition(".")[0]
        _run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", f"host={host}")

    def _key(self, *arguments: str) -> None:
        _run("ceph-authtool", str(self.folder / "keyring"), "--gen-key", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
