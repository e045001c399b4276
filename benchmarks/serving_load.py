"""Load tests of the endpoint on Ray Serve, each by itself within three minutes.

    PYTHONPATH=platform:. python benchmarks/serving_load.py overload [killed ...] [--store outputs/store]
        [--seconds S] [--out FILE.jsonl]

knee       Poisson arrivals at 0.5 to 1 of the capacity C
overload   1.5, 2 and 4 C in turns with C: what is taken on is answered in time, the rest refused at once
killed     a replica of two is killed with -9 under 0.6 C
faults     controller, proxy and gateway are killed with -9, one after the other, and a replica of two
           (--replicas 2) stands still, under 0.4 C
rolling    the alias moves from one bundle to the other and back, --updates times and for --count requests at
           least, under 0.6 C or --rate
identical  GLBs of four plans under 0.9 C beside those that the library makes alone
canary     a bundle that fails gets a share of the requests, under 0.5 C
scaling    one replica and at most two: 1.6 C until there are two, then little until there is one
drain      SIGTERM to `raydiance serve` with samples and an upload under way (--no-ray: without Ray)
soak       --count requests of several kinds, 8 at a time, to one process without Ray

Open-loop Poisson arrivals over HTTP, latency from the moment a request was due. Without --store a small
bundle of random weights is served with a plan of many calls, so that most of the work is the network's. C, the
capacity, is what comes back with 16 requests always under way. Each test prints a line of JSON: what it found,
and what is asked of it as `held`; after --limit seconds nothing more is asked, and what there is is counted. Of
several tests the first six share one endpoint.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.load import ending, growing, pressing, replacing
from benchmarks.load.case import Case
from tests.support.bundles import tiny_bundle

from raydiance.storage import Store, code_version

TESTS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "knee": pressing.knee,
    "overload": pressing.overload,
    "identical": pressing.identical,
    "killed": replacing.killed,
    "faults": replacing.faults,
    "rolling": replacing.rolling,
    "canary": growing.canary,
    "scaling": growing.scaling,
    "drain": ending.drain,
    "soak": ending.soak,
}
SHARING = ("knee", "overload", "identical", "killed", "faults", "rolling")


@contextmanager
def served(arguments: argparse.Namespace) -> Iterator[Case]:
    """What is tested, in a store that is there or one of small bundles."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # Serve's own, when it is taken down
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(arguments.store or folder).resolve())
        refs = store.list("bundle/")[-2:]
        if not arguments.store:
            refs = [tiny_bundle(store, seed=seed).ref for seed in (0, 1)]
        plan = arguments.plan or ("standard" if arguments.store else "ddim-20")
        given = {key: vars(arguments)[key] for key in ("seconds", "replicas", "updates", "count", "rate")}
        given = {key: value for key, value in given.items() if value}
        until = time.monotonic() + arguments.limit
        yield Case(store, tuple(refs), plan, ray=arguments.ray, until=until, **given)


def run(name: str, case: Case, out: Path | None) -> bool:
    """One test; its line is printed, and added to the file."""
    began = time.monotonic()
    found = TESTS[name](case)
    told = {"test": name, "plan": case.plan, "took_s": round(time.monotonic() - began, 1)}
    told |= {"when": datetime.now(UTC).isoformat(timespec="seconds"), "code_version": code_version()}
    told |= {"load": [round(each, 1) for each in os.getloadavg()], "cores": os.cpu_count(), "cpu": cpu()}
    told |= found
    print(json.dumps(told), flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told, sort_keys=True) + "\n")
    return all(told["held"].values())


def cpu() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", nargs="+", choices=[*TESTS, "all"])
    parser.add_argument("--store", help="serve its newest bundle; else a small one is made")
    parser.add_argument("--plan", help="the plan of all requests")
    parser.add_argument("--seconds", type=float, help="of arrivals at each load")
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--updates", type=int, help="of the alias")
    parser.add_argument("--count", type=int, help="requests of the soak, and of the updates at least")
    parser.add_argument("--rate", type=float, help="of requests while bundles are rolled over, not 0.6 C")
    parser.add_argument("--no-ray", dest="ray", action="store_false", help="for drain")
    parser.add_argument(
        "--limit", type=float, default=165.0, help="seconds, after which nothing more is asked"
    )
    parser.add_argument("--out", type=Path, help="a file to which the lines are added")
    arguments = parser.parse_args()
    names = list(TESTS) if "all" in arguments.tests else arguments.tests
    sharing = [name for name in names if name in SHARING]
    with served(arguments) as case:
        held = [run(name, case, arguments.out) for name in names if name not in sharing]
        if sharing:
            with case.endpoint() as url:
                shared = replace(case, url=url)
                held += [run(name, shared, arguments.out) for name in sharing]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
