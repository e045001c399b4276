"""Threads for kernels that release the GIL: as many as torch uses, none left over in a forked child."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["for_ranges"]

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child inherits the executor but not its threads."""
    global _pool  # noqa: PLW0603 - one pool per process is the point
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def for_ranges(work: Callable[[int, int], None], count: int, *, smallest: int = 1) -> None:
    """Call work(begin, end) on ranges that make up 0 .. count, on torch.get_num_threads() threads.

    smallest: no range but the last is shorter. Errors of the first range that failed are raised.
    """
    global _pool  # noqa: PLW0603
    threads = min(torch.get_num_threads(), -(-count // smallest))
    if threads <= 1:
        work(0, count)
        return
    size = max(smallest, -(-count // (4 * threads)))
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="fields")
    jobs = [_pool.submit(work, begin, min(begin + size, count)) for begin in range(0, count, size)]
    for job in jobs:
        job.result()
