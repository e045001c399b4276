"""Reads foreign mesh files in a child process with limits on memory, time and files, and without a network.

One child reads many files; when one makes it stop or takes too long, the next file gets a new child. It gets
paths and answers with a reason or with the bytes of a clean mesh, which are checked again here.
"""

import ctypes
import json
import os
import resource
import selectors
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

from raydiance.data.meshes import MESH_SUFFIXES, Mesh, MeshLimits, UpAxis, unpack_mesh
from raydiance.errors import DataError
from raydiance.spec import to_plain

__all__ = ["MeshReader", "read_mesh", "serve"]

FOLDER = Path(__file__).resolve().parent
# The package is made by hand, because its own __init__ brings torch: seconds, and gigabytes of addresses.
CHILD = f"""
import sys, types
sys.path.insert(0, {str(FOLDER.parents[1])!r})
import raydiance
package = sys.modules["raydiance.data"] = types.ModuleType("raydiance.data")
package.__path__ = [{str(FOLDER)!r}]
from raydiance.data.sandbox import serve
serve()
"""
START_S = 60.0  # until a fresh child says that it is ready
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000


def read_mesh(path: Path | str, limits: MeshLimits | None = None, *, up: UpAxis = "auto") -> Mesh:
    """One GLB, OBJ, PLY or STL file as a mesh, +Z up, coordinates as in the file.

    up: the axis that points up in OBJ, PLY and STL files; "auto" is y for OBJ, z for the others; GLB has y.
    Raises DataError with the reason if it cannot or must not be read. Use a MeshReader for many files.
    """
    with MeshReader(limits or MeshLimits(), up=up) as reader:
        return reader.read(path)


class MeshReader:
    """A child process that reads mesh files; started with the first file, ended with the block."""

    def __init__(self, limits: MeshLimits, *, up: UpAxis = "auto") -> None:
        self.limits, self.up = limits, up
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def read(self, path: Path | str) -> Mesh:
        """The mesh in the file; errors as `read_mesh`."""
        path = Path(path)
        self._check_file(path)
        child = self._child or self._start()
        request = json.dumps({"path": str(path.resolve()), "up": self.up}) + "\n"
        try:
            _ask(child, request.encode())
            status, payload = self._answer(child, time.monotonic() + self.limits.wall_s)
        except _NoAnswerError as gone:
            raise DataError(self._farewell(child, gone)) from gone
        if status != b"m":
            raise DataError(payload.decode(errors="replace"))
        return unpack_mesh(payload)

    def _check_file(self, path: Path) -> None:
        try:
            facts = path.stat()
        except OSError as error:
            raise DataError(f"cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(facts.st_mode):
            raise DataError("is no plain file")
        if path.suffix.lower() not in MESH_SUFFIXES:
            raise DataError(f"{path.suffix or 'no suffix'} is not read, only {', '.join(MESH_SUFFIXES)}")
        if not facts.st_size:
            raise DataError("is empty")
        if facts.st_size > self.limits.file_bytes:
            raise DataError(
                f"has {facts.st_size} bytes, the limit is {self.limits.file_bytes}; "
                "raise limits.file_bytes to read it"
            )

    def _start(self) -> subprocess.Popen[bytes]:
        """A child that has said it is ready. It inherits no settings and no secrets of ours."""
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", CHILD, json.dumps(to_plain(self.limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            cwd="/",
        )
        self._child = child
        try:
            self._answer(child, time.monotonic() + START_S)
        except _NoAnswerError as gone:
            raise DataError(
                f"the process that reads meshes did not start ({self._farewell(child, gone)}); "
                f"limits.memory_bytes = {self.limits.memory_bytes} may be too small for it"
            ) from gone
        return child

    def _answer(self, child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
        assert child.stdout is not None
        head = _receive(child.stdout, 9, deadline)
        size = int.from_bytes(head[1:], "little")
        if size > self.limits.memory_bytes:
            raise _NoAnswerError("nonsense")
        return head[:1], _receive(child.stdout, size, deadline)

    def _farewell(self, child: subprocess.Popen[bytes], gone: "_NoAnswerError") -> str:
        """Ends the child; why it did not answer, in words."""
        if gone.why == "late":
            child.kill()
        code = child.wait() if gone.why == "end" else None
        self.close()
        if gone.why == "late":
            return f"took more than {self.limits.wall_s:g} s to read (limits.wall_s)"
        if code == -signal.SIGXCPU:
            return f"took more than {self.limits.cpu_s} s of processor time to read (limits.cpu_s)"
        return f"made the process that read it stop (status {code})"


class _NoAnswerError(Exception):
    """The child did not answer: it is "late", at its "end", or talks "nonsense"."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _ask(child: subprocess.Popen[bytes], request: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(request)
        child.stdin.flush()
    except BrokenPipeError as error:
        raise _NoAnswerError("end") from error


def _receive(stream: IO[bytes], size: int, deadline: float) -> bytes:
    """Exactly `size` bytes from a pipe before the deadline."""
    number = stream.fileno()
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(number, selectors.EVENT_READ)
        while size:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _NoAnswerError("late")
            part = os.read(number, min(size, 1 << 20))
            if not part:
                raise _NoAnswerError("end")
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def serve() -> None:
    """The child: limits itself, then answers requests from its standard input until that ends."""
    limits = MeshLimits(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not speak for us
    _leave_the_network()
    from raydiance.data.formats import read_file  # needs a second; before the limits, which count it too
    from raydiance.data.meshes import pack_mesh

    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _send(answers, b"r", b"")
    for line in sys.stdin:
        request = json.loads(line)
        spent = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + limits.cpu_s + 1, resource.RLIM_INFINITY))
        try:
            _send(answers, b"m", pack_mesh(read_file(Path(request["path"]), limits, request["up"])))
        except DataError as error:
            _send(answers, b"e", str(error).encode()[:2000])
        except MemoryError:
            _send(
                answers,
                b"e",
                f"needs more than {limits.memory_bytes} bytes of memory (limits.memory_bytes)".encode(),
            )


def _leave_the_network() -> None:
    """Moves into an empty network where the kernel lets us; nothing here opens an address in any case."""
    ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_NETWORK)


def _send(answers: BinaryIO, status: bytes, payload: bytes) -> None:
    answers.write(status + len(payload).to_bytes(8, "little"))
    answers.write(payload)
    answers.flush()
