"""Inject the faults, again and again, and write down what held: docs/reliability.jsonl, docs/reliability.md."""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.chaos import on_ceph, on_processes, on_ray, on_servers, on_stack
from tests.chaos.trial import Fault, read, table
from tests.conftest import ROOT

FAULTS: tuple[Fault, ...] = (
    *on_processes.FAULTS,
    *on_servers.FAULTS,
    *on_ceph.FAULTS,
    *on_ray.FAULTS,
    *on_stack.FAULTS,
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
    failures = 0 if asked.table else _inject(asked)
    if not asked.dry:
        _write_page()
    return 1 if failures else 0


def _inject(asked: argparse.Namespace) -> int:
    cells = [
        (fault, phase)
        for fault in FAULTS
        for phase in fault.phases
        if not asked.only or {fault.name, f"{fault.name}:{phase}"} & set(asked.only)
    ]
    failures = 0
    for fault, phase in cells:
        count = asked.trials if asked.dear_trials is None or not fault.dear else asked.dear_trials
        for number in range(count):
            seed = asked.seed + number
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="raydiance-chaos-") as folder:
                Path(folder).chmod(0o711)
                trial = fault.trial(phase, Random(f"{fault.name} {phase} {seed}"), Path(folder))
            trial.seed = seed
            broken = [name for name, held in trial.held.items() if not held]
            failures += not trial.passed
            told = f"FAILED {broken} {trial.note}" if broken else "held"
            seconds = time.monotonic() - began
            print(f"{fault.name:<4} {phase:<22} seed {seed:<3} {seconds:6.1f} s  {told}", flush=True)
            if not asked.dry:
                with RECORD.open("a") as record:
                    record.write(trial.to_json() + "\n")
    return failures


def _write_page() -> None:
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(FAULTS, read(RECORD))}\n\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
