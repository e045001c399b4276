"""What works on this machine, what does not, and how to mend it."""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raydiance import __version__
from raydiance.errors import RaydianceError

__all__ = ["examine"]

PACKAGES = ("torch", "ray", "mlflow", "dvc", "hydra-core", "pydantic", "trimesh", "embreex", "numba", "s3fs")
NEEDED_MEMORY_GIB, NEEDED_DISK_GIB = 6, 5


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` where it does not work."""

    subject: str
    works: bool
    found: str
    remedy: str = ""


def examine() -> int:
    """Print a table of all findings; 0 if everything that is needed works."""
    table = Table(title=f"raydiance {__version__}", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "what", "found", "how to mend it"):
        table.add_column(heading, overflow="fold")
    failures = 0
    for check in (_python, _packages, _machine, _gpu, _project, _store, _tracking, _ray, _dvc):
        for finding in _safely(check):
            failures += not finding.works
            mark = "[green]ok[/]" if finding.works else "[red]no[/]"
            table.add_row(mark, finding.subject, finding.found, finding.remedy)
    Console().print(table)
    return 1 if failures else 0


def _safely(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check's findings; what Raydiance itself says is wrong becomes one."""
    try:
        yield from check()
    except RaydianceError as error:
        yield Finding(check.__name__.strip("_"), False, str(error), "see the message")


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}"
    yield Finding(
        "Python",
        sys.version_info >= (3, 11),
        found,
        "" if sys.version_info >= (3, 11) else "use 3.11 or later",
    )


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, "not installed", "make setup")


def _machine() -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("cores", True, str(cores))
    yield Finding(
        "memory",
        memory >= NEEDED_MEMORY_GIB,
        f"{memory:.0f} GiB",
        "" if memory >= NEEDED_MEMORY_GIB else "size=micro",
    )
    yield Finding(
        "disk",
        free >= NEEDED_DISK_GIB,
        f"{free:.0f} GiB free",
        "" if free >= NEEDED_DISK_GIB else "make room",
    )


def _gpu() -> Iterator[Finding]:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("GPU", True, ", ".join(names))
    else:
        yield Finding("GPU", True, "none that torch can use; everything runs on the CPU")


def _project() -> Iterator[Finding]:
    from raydiance.config import compose, project_folder

    experiment = compose()
    yield Finding("configs", True, f"{project_folder()}: {experiment.name}, size {experiment.size}")


def _store() -> Iterator[Finding]:
    from raydiance.config import compose
    from raydiance.storage import Store

    given = compose().store
    store = Store.open(given.url, given.quota)
    subject = "S3" if store.url.startswith("s3://") else "store"
    if store.quota is None:
        yield Finding(subject, True, store.url)
        return
    used = store.used()
    remedy = "" if used < store.quota else "raydiance gc, or raise store.quota"
    yield Finding(
        subject, not remedy, f"{store.url}: {used:,} of the quota of {store.quota:,} bytes used", remedy
    )


def _tracking() -> Iterator[Finding]:
    from raydiance.tracking.address import reach

    yield Finding("MLflow", True, reach(None))


def _ray() -> Iterator[Finding]:
    from raydiance.cluster.session import address_of, probe, resources
    from raydiance.config import ClusterSpec

    address = address_of(ClusterSpec())
    if address.startswith("http"):
        probe(address, 8265)
        yield Finding("Ray Jobs", True, address)
        return
    there = resources(ClusterSpec())
    yield Finding("Ray", True, f"{address}: {there.get('CPU', 0):g} CPU, {there.get('GPU', 0):g} GPU")


def _dvc() -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dvc", "--cd", str(Path.cwd()), "status", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode == 255:
        yield Finding("DVC", False, done.stderr.strip().splitlines()[-1], "go to the project's folder")
    else:
        state = "up to date" if done.returncode == 0 else "something to do: raydiance pipeline"
        yield Finding("DVC", True, state)
