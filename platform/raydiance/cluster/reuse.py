"""What another experiment has made of the same seed, settings and inputs is not made again."""

import shutil
from dataclasses import replace
from pathlib import Path

from raydiance.cluster.plan import same_work
from raydiance.cluster.pointers import Pointer, folder_of, read_pointer, write_pointer
from raydiance.config import Experiment
from raydiance.config.project import OUTPUTS
from raydiance.errors import ArtifactError
from raydiance.storage import Store

__all__ = ["reuse"]


def reuse(experiment: Experiment, stage: str, name: str, store: Store) -> Pointer | None:
    """Take over the results of a stage from an experiment beside this one; the run that would make them is called
    `name`. None if there are none, or if this experiment has them already: then they are wanted anew.
    """
    own = folder_of(experiment.name)
    if (mine := _readable(stage, own)) and same_work(mine.run_name, name):
        return None
    for folder in sorted(OUTPUTS.iterdir()) if OUTPUTS.is_dir() else []:
        found = None if folder == own else _readable(stage, folder)
        if found is None or not same_work(found.run_name, name):
            continue
        try:
            store.get(found.ref)
        except ArtifactError:  # in another store, or deleted
            continue
        for file in [folder / "metrics" / f"{stage}.json", *(folder / "plots").glob(f"{stage}-*.csv")]:
            target = own / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        pointer = replace(found, parent_run_id=None)  # what is made of it here stands below a run of its own
        write_pointer(pointer, own)
        return pointer
    return None


def _readable(stage: str, folder: Path) -> Pointer | None:
    try:
        return read_pointer(stage, folder)
    except ArtifactError:
        return None
