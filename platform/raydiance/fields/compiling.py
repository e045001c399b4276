"""Compilation of the numba backend, and where the machine code is kept."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba

__all__ = ["jit"]

SOURCES = ("compiling.py", "interpolation.py", "kernels.py", "occupancy.py", "rasterising.py")


def _cache_folder() -> Path | None:
    """The first folder that can be written, or None: no cache.

    Its name holds a digest of all sources, because numba looks for changes in a function's own file only.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES)).hexdigest()[:12]
    roots = [
        here / "__pycache__",
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raydiance",
    ]
    if "NUMBA_CACHE_DIR" in os.environ:
        roots.insert(0, Path(os.environ["NUMBA_CACHE_DIR"]))
    for root in roots:
        folder = root / f"kernels-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


CACHE_FOLDER = _cache_folder()


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call, without the GIL and with the machine code kept where that can be."""
    decorate: Any = partial(numba.njit, nogil=True, error_model="numpy")
    compiled: Callable[..., Any]
    if CACHE_FOLDER is None:
        compiled = decorate()(function)
        return compiled
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, str(CACHE_FOLDER)
    try:
        compiled = decorate(cache=True)(function)
    finally:
        config.CACHE_DIR = before
    return compiled
