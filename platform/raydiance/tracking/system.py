"""How busy the nodes of a run are: processor, memory, disk and GPUs, as metrics of the run.

They are named as MLflow names its own, which its pages show apart from those of the training: "system/NODE/...".
"""

import csv
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from raydiance.tracking.tracker import Tracker

__all__ = ["gpu_metrics", "sample", "system_metrics"]

PERIOD_S = 10.0
MEGABYTE = 1e6
ASKED = "index,utilization.gpu,memory.used,memory.total,power.draw"
MEBIBYTE = 2**20 / MEGABYTE


@contextmanager
def system_metrics(tracker: Tracker, began: float, period_s: float = PERIOD_S) -> Iterator[None]:
    """Logs how busy this machine is while the block runs, every `period_s` and at its end, on another thread.

    The step is the seconds since `began` (of time.time()), so that all nodes and attempts share one axis. Where
    nobody keeps a record, nothing is measured.
    """
    if tracker.run_id is None:
        yield
        return
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(tracker, began, period_s, finished), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def _watch(tracker: Tracker, began: float, period_s: float, finished: threading.Event) -> None:
    place = f"system/{socket.gethostname()}/"
    psutil.cpu_percent()  # what it gives next is since now
    last = False
    while not last:
        last = finished.wait(period_s)
        found = {place + name: value for name, value in sample().items()}
        tracker.log_metrics(found, step=int(time.time() - began))


def sample() -> dict[str, float]:
    """How busy this machine is; its processor since it was last asked for."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(Path.cwd()))
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": (memory.total - memory.available) / MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_megabytes": disk.used / MEGABYTE,
        "disk_usage_percentage": disk.percent,
        **_gpus(),
    }


def _gpus() -> dict[str, float]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={ASKED}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PERIOD_S)
    except subprocess.TimeoutExpired:
        return {}
    return gpu_metrics(done.stdout) if done.returncode == 0 else {}


def gpu_metrics(table: str) -> dict[str, float]:
    """From what nvidia-smi says of `ASKED`, a line for each GPU; a figure that a GPU does not have is left out."""
    found: dict[str, float] = {}
    for index, *figures in csv.reader(table.splitlines(), skipinitialspace=True):
        busy, used, total, watts = (float(text) if _is_number(text) else None for text in figures)
        told = {
            "utilization_percentage": busy,
            "memory_usage_megabytes": None if used is None else used * MEBIBYTE,
            "memory_usage_percentage": 100 * used / total if used is not None and total else None,
            "power_usage_watts": watts,
        }
        found |= {f"gpu_{index}_{name}": value for name, value in told.items() if value is not None}
    return found


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
