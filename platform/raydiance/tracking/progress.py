"""How far a job is: a bar on a terminal, a line every few seconds elsewhere, or nothing.

with progress.task("autodecoder", total=steps) as task:
    for ...: task.update(loss=loss)
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

__all__ = ["LineProgress", "Progress", "QuietProgress", "RichProgress", "Task", "open_progress"]


class Task(Protocol):
    """One piece of work under way."""

    def update(self, n: int = 1, **values: float) -> None:
        """`n` more steps are done; the values (a loss) are shown beside them."""


class Progress(Protocol):
    """Shows tasks."""

    def task(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Show a task of `total` steps while the block runs."""


class QuietProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        yield _QuietTask()


@dataclass
class LineProgress:
    """A plain line at most every `interval_s` seconds, and one at the end: for logs and pipes.

    Without a stream it writes to standard error, looked up at each line, so that it can be pickled.
    """

    stream: TextIO | None = None
    interval_s: float = 5.0
    clock: Callable[[], float] = time.monotonic

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        task = _LineTask(name, total, self)
        yield task
        task.show()


class RichProgress:
    """A bar with the values, the speed and the time left, on standard error."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            number = bars.add_task(name, total=total, values="")

            class RichTask:
                def update(self, n: int = 1, **values: float) -> None:
                    bars.update(number, advance=n)
                    if values:
                        bars.update(number, values=_text(values))

            yield RichTask()


def open_progress() -> Progress:
    """Bars if standard error is a terminal, lines otherwise."""
    return RichProgress() if sys.stderr.isatty() else LineProgress()


class _QuietTask:
    def update(self, n: int = 1, **values: float) -> None:
        pass


class _LineTask:
    def __init__(self, name: str, total: int, progress: LineProgress) -> None:
        self.name = name
        self.total = total
        self.progress = progress
        self.done = 0
        self.values: dict[str, float] = {}
        self.began = self.shown = progress.clock()

    def update(self, n: int = 1, **values: float) -> None:
        self.done += n
        self.values |= values
        if self.progress.clock() - self.shown >= self.progress.interval_s:
            self.show()

    def show(self) -> None:
        self.shown = self.progress.clock()
        elapsed = self.shown - self.began
        step_s = elapsed / max(self.done, 1)
        parts = [f"{self.name} {self.done}/{self.total}", _text(self.values), f"{step_s:.3g} s/step"]
        if self.done < self.total:
            parts.append(
                f"ETA {_duration(step_s * (self.total - self.done))}" if self.done else "ETA unknown"
            )
        else:
            parts.append(f"done in {_duration(elapsed)}")
        print("  ".join(part for part in parts if part), file=self.progress.stream or sys.stderr, flush=True)


def _text(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
