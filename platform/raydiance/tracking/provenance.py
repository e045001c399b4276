"""Where the data of a run comes from, as DVC knows it."""

from pathlib import Path

import yaml

__all__ = ["dvc_tags"]


def dvc_tags(folder: Path) -> dict[str, str]:
    """The hashes in the folder's dvc.lock as {"dvc.<path>": md5}, of deps and outs; {} without one."""
    lock = folder / "dvc.lock"
    if not lock.is_file():
        return {}
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {
        f"dvc.{entry['path']}": entry["md5"]
        for stage in stages.values()
        for entry in [*stage.get("deps", []), *stage.get("outs", [])]
        if "md5" in entry
    }
