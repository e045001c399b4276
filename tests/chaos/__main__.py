"""Inject the faults, again and again, and write down what held: docs/reliability.jsonl, docs/reliability.md."""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.chaos import on_ceph, on_endpoints, on_processes, on_ray, on_searches, on_servers, on_stack
from tests.chaos.trial import Fault, read, table
from tests.conftest import ROOT

from raydiance.errors import RaydianceError

FAULTS: tuple[Fault, ...] = (
    *on_processes.FAULTS,
    *on_servers.FAULTS,
    *on_ceph.FAULTS,
    *on_ray.FAULTS,
    *on_searches.FAULTS,
    *on_stack.FAULTS,
    *on_endpoints.FAULTS,
)
RECORD, PAGE = ROOT / "docs" / "reliability.jsonl", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="for each fault and phase")
    parser.add_argument("--dear-trials", type=int, help="of those that take long, if not as many")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT[:PHASE]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only write the table anew from the record")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and end its servers
    failures = 0 if asked.table else _inject(asked)
    if not asked.dry:
        _write_page()
    return 1 if failures else 0


def _inject(asked: argparse.Namespace) -> int:
    failures = 0
    for fault in FAULTS:
        count = asked.trials if asked.dear_trials is None or not fault.dear else asked.dear_trials
        phases = [each for each in fault.phases if _is_asked(asked, fault, each)]
        cells = [(phase, asked.seed + number) for number in range(count) for phase in phases]
        for first in range(0, len(cells), fault.together):
            try:
                failures += _experiment(fault, cells[first : first + fault.together], asked.dry)
            except (
                AssertionError,
                OSError,
                RaydianceError,
            ):  # a fault of the experiment, to be looked into: the others go on
                traceback.print_exc()
                failures += 1
    return failures


def _is_asked(asked: argparse.Namespace, fault: Fault, phase: str) -> bool:
    return not asked.only or bool({fault.name, f"{fault.name}:{phase}"} & set(asked.only))


def _experiment(fault: Fault, cells: Sequence[tuple[str, int]], dry: bool) -> int:
    """How many of its trials failed; each is put on record."""
    began = time.monotonic()
    random = Random(f"{fault.name} {' '.join(f'{phase} {seed}' for phase, seed in cells)}")
    with tempfile.TemporaryDirectory(prefix="raydiance-chaos-") as folder:
        Path(folder).chmod(0o711)
        trials = fault.inject([phase for phase, _ in cells], random, Path(folder))
    seconds = (time.monotonic() - began) / len(trials)
    for trial, (phase, seed) in zip(trials, cells, strict=True):
        assert trial.phase == phase
        trial.seed = seed
        broken = [name for name, held in trial.held.items() if not held]
        told = f"FAILED {broken} {trial.note}" if broken else "held"
        print(f"{fault.name:<4} {phase:<22} seed {seed:<3} {seconds:6.1f} s  {told}", flush=True)
        if not dry:
            with RECORD.open("a") as record:
                record.write(trial.to_json() + "\n")
    return sum(not trial.passed for trial in trials)


def _write_page() -> None:
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(FAULTS, read(RECORD))}\n\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
