"""Where copies and what was made of them are kept on this machine."""

import os
from pathlib import Path

__all__ = ["cache_root"]


def cache_root() -> Path:
    """Where verified copies of remote files and compiled programs are kept: RAYDIANCE_CACHE, or
    ~/.cache/raydiance.
    """
    return Path(os.environ.get("RAYDIANCE_CACHE") or Path.home() / ".cache" / "raydiance").absolute()
