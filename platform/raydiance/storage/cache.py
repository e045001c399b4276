"""Where copies and what was made of them are kept on this machine."""

import os
from pathlib import Path

__all__ = ["PROGRAMS", "cache_root", "keep_programs"]

PROGRAMS = "TORCHINDUCTOR_CACHE_DIR"


def cache_root() -> Path:
    """Where verified copies of remote files and compiled programs are kept: RAYDIANCE_CACHE, or
    ~/.cache/raydiance.
    """
    return Path(os.environ.get("RAYDIANCE_CACHE") or Path.home() / ".cache" / "raydiance").absolute()


def keep_programs() -> None:
    """Have torch.compile keep its programs below `cache_root`, unless TORCHINDUCTOR_CACHE_DIR names another place.

    Torch finds programs by a key that does not tell for registers of which width they were made (2.13), and those
    for others make garbage; so each kind of processor has a folder.
    """
    import torch
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(PROGRAMS) in (None, default_cache_dir()):  # torch itself sets it as it is imported
        folder = cache_root() / "compiled" / torch.backends.cpu.get_cpu_capability().lower()
        # they are run from there: nobody else may write
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[PROGRAMS] = str(folder)
