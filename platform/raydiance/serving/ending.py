"""When an endpoint is to end: at ^C, or when it is told to (SIGTERM)."""

import signal
from threading import Event

__all__ = ["wait_for_the_end"]


def wait_for_the_end() -> None:
    """Return at SIGINT or SIGTERM; called from the main thread. A second one ends the process at once."""
    told = Event()
    before = {
        name: signal.signal(name, lambda number, frame: told.set())
        for name in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while not told.wait(0.5):  # a signal that another thread gets does not wake this one
            pass
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
