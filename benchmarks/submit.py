"""How long from the command until a submitted job's first line is seen, on a stack of this machine.

Starts a stack, submits the job `ingest` (size micro) a few times, and says when each line came: "submitted",
the job's first line, its end. Prints a line of JSON at the end:

    PYTHONPATH=platform python benchmarks/submit.py [--times 3]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raydiance.cluster import stack
from raydiance.storage import code_version

LIMIT_S = 12.0


def submit(folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds from the start of the command until each of its lines."""
    command = [sys.executable, "-m", "raydiance.cli", "submit", "ingest", "size=micro", "--fresh"]
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    seen: dict[str, float] = {}
    for line in process.stderr:
        print(line, end="")
        now = time.monotonic() - began
        # what stands between the two is Ray's
        first = {"submitted": "submitted", "stage": "first_line"}.get(line.split(" ")[0])
        if first:
            seen.setdefault(first, now)
    if process.wait():
        raise SystemExit(f"the job ended with {process.returncode}")
    return seen | {"end": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory(prefix="raydiance-submit-") as name:
        folder = Path(name)
        environment = dict(stack.up(folder / "stack", tell=print))
        try:
            found = [submit(folder, environment) for _ in range(times)]
        finally:
            stack.down(folder / "stack", tell=print)
    for each in found:
        print({name: round(seconds, 1) for name, seconds in each.items()})
    told = {
        "submit_to_first_line_s": round(statistics.median(each["first_line"] for each in found), 2),
        "limit_s": LIMIT_S,
        "times": times,
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "code": code_version(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
