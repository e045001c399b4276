"""Where the data of a run comes from, as DVC knows it, and which job of a cluster it is."""

import json
import os
from pathlib import Path

import yaml

__all__ = ["DVC_VARIABLE", "JOB_VARIABLE", "dvc_tags", "job_tags"]

# By these a submitted job is told what only the folder it came from knows.
DVC_VARIABLE = "RAYDIANCE_DVC"
JOB_VARIABLE = "RAYDIANCE_JOB"


def dvc_tags(folder: Path, experiment: str) -> dict[str, str]:
    """The hashes in the folder's dvc.lock as {"dvc.<path>": md5}, of deps and outs; {} without one.

    Of stages that are walked for several experiments ("train@name") those of this one count.

    RAYDIANCE_DVC, a JSON object, stands for the file where the code came without it.
    """
    if given := os.environ.get(DVC_VARIABLE):
        return {str(name): str(value) for name, value in json.loads(given).items()}
    lock = folder / "dvc.lock"
    if not lock.is_file():
        return {}
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {
        f"dvc.{entry['path']}": entry["md5"]
        for name, stage in stages.items()
        if name.partition("@")[2] in ("", experiment)
        for entry in [*stage.get("deps", []), *stage.get("outs", [])]
        if "md5" in entry
    }


def job_tags() -> dict[str, str]:
    """{"ray.job": the id of the job this process is, in Ray Jobs}; {} if it is none."""
    job = os.environ.get(JOB_VARIABLE)
    return {"ray.job": job} if job else {}
