"""Which code is running: the version, and the git commit where the source stands in a repository."""

import os
import subprocess
from functools import cache
from pathlib import Path

from raydiance import __version__

__all__ = ["code_version"]


@cache
def code_version() -> str:
    """For example "0.1.0+g1a2b3c4d5e6f" or "0.1.0+g1a2b3c4d5e6f.dirty"; RAYDIANCE_CODE_VERSION overrides it,
    for workers to which the code came without its repository."""
    given = os.environ.get("RAYDIANCE_CODE_VERSION")
    if given:
        return given
    tracked = _git(
        "ls-files", "--error-unmatch", Path(__file__).name
    )  # not installed into someone else's repository
    commit = _git("rev-parse", "--short=12", "HEAD")
    if tracked is None or commit is None:
        return __version__
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{__version__}+g{commit}" + (".dirty" if changed else "")


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
