"""What writers that were killed have left behind: never an artifact, only what no manifest vouches for."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Garbage", "old_folders"]


@dataclass(frozen=True)
class Garbage:
    """Something that belongs to no artifact: a folder, an object, or (with `upload_id`) an upload cut off."""

    where: str
    size: int
    modified: float  # seconds since 1970
    upload_id: str | None = None


def old_folders(folders: Iterator[Path], older_than_s: float) -> Iterator[Garbage]:
    """Those folders in which nothing was changed for so long."""
    for folder in folders:
        stats = [path.lstat() for path in (folder, *folder.rglob("*"))]
        modified = max(stat.st_mtime for stat in stats)
        if time.time() - modified >= older_than_s:
            yield Garbage(str(folder), sum(stat.st_size for stat in stats[1:]), modified)
