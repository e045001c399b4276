"""Being told to end by a signal: a training then ends between two steps, with a checkpoint."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Protocol

__all__ = ["Ending", "Interrupted", "by_signal"]


class Interrupted(SystemExit):
    """A training ended because it was told to: its checkpoint at `step` is there.

    The process ends with the status of the signal, like any that a signal ends, if nobody stops it.
    """

    def __init__(self, run_name: str, step: int) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.run_name, self.step = run_name, step

    def __str__(self) -> str:
        return (
            f"{self.run_name}: told to end; a checkpoint is kept, run it again to go on from step {self.step}"
        )


class Ending(Protocol):
    """Whether a training is told to end."""

    def __call__(self) -> AbstractContextManager[Callable[[], int]]:
        """While the block runs, somebody asks what it gives between steps: the signal's number, 0 for none."""


@contextmanager
def by_signal() -> Iterator[Callable[[], int]]:
    """SIGTERM and ^C are told to whoever asks while the block runs; a second one acts as it did before.

    So does the first one, when the block ends by itself before anybody has asked. In a thread that is not the main
    one, no signal can be heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    told: list[int] = []
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    # what the process ignores (as ^C in the background) it goes on ignoring
    heard = {name: each for name, each in handlers.items() if each not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for name, handler in heard.items():
            signal.signal(name, handler)

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)
        restore()

    for name in heard:
        signal.signal(name, tell)
    try:
        yield lambda: told[0] if told else 0
    except Interrupted as interrupted:
        if told:
            interrupted.code = 128 + told[0]
        raise
    finally:
        if not told:
            restore()
    if told:
        signal.raise_signal(told[0])
