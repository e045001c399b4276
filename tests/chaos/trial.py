"""One trial of a fault, what held in it, and the table of many."""

import atexit
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

__all__ = ["ENDINGS", "Fault", "Trial", "place_of_our_own", "read", "singly", "table"]

ENDINGS = ExitStack()
"""What all trials share is taken down here, when the process ends, or before."""

atexit.register(ENDINGS.close)


@dataclass
class Trial:
    """What one injection of a fault showed; `held` says of each invariant whether it held."""

    fault: str
    phase: str
    seed: int
    held: dict[str, bool] = field(default_factory=dict)
    lost_steps: int | None = None
    recovery_s: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.held) and all(self.held.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Fault:
    """A fault that can be injected: in which phases, what should come of it, and the experiment itself.

    An experiment injects it `together` times, in the phases it is given, with a trial for each.
    """

    name: str
    title: str
    outcome: str
    phases: Sequence[str]
    inject: Callable[[Sequence[str], Random, Path], list[Trial]]
    together: int = 1
    dear: bool = False  # a trial takes more than ten seconds


def singly(
    trial: Callable[[str, Random, Path], Trial],
) -> Callable[[Sequence[str], Random, Path], list[Trial]]:
    """An experiment for each trial."""
    return lambda phases, random, folder: [trial(phase, random, folder) for phase in phases]


def place_of_our_own(name: str) -> Path:
    """A folder that others may look into (PostgreSQL has a user of its own), until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"raydiance-{name}-"))
    folder.chmod(0o711)
    ENDINGS.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def read(path: Path) -> list[Trial]:
    """The trials of a file, one a line."""
    return [Trial(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def table(faults: Iterable[Fault], trials: Sequence[Trial]) -> str:
    """A row for each fault and phase: trials, failures and what that bounds, what was lost, how long until it went
    on.
    """
    lines = [
        "| fault | phase | trials, failures | at 95 % | held | steps lost, at most | recovery s, median (most) |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in faults:
        for phase in fault.phases:
            cell = [each for each in trials if (each.fault, each.phase) == (fault.name, phase)]
            if cell:
                lines.append(
                    "| " + " | ".join([f"{fault.name} {fault.title}", phase, *_figures(cell)]) + " |"
                )
    return "\n".join(lines)


def _figures(cell: Sequence[Trial]) -> list[str]:
    failures = sum(not each.passed for each in cell)
    held = sorted({name for each in cell for name in each.held}, key=_number)
    lost = [each.lost_steps for each in cell if each.lost_steps is not None]
    seconds = [each.recovery_s for each in cell if each.recovery_s is not None]
    bound = f"<= {min(1.0, 3 / len(cell)):.0%}" if not failures else "-"
    return [
        f"{len(cell)}, {failures}",
        bound,
        " ".join(held),
        str(max(lost)) if lost else "",
        f"{statistics.median(seconds):.1f} ({max(seconds):.1f})" if seconds else "",
    ]


def _number(name: str) -> tuple[int, str]:
    digits = "".join(letter for letter in name if letter.isdigit())
    return int(digits or 0), name
