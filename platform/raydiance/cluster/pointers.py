"""What a finished stage leaves on this machine: a pointer to its artifact, its numbers, its tables.

The artifact lies in the store under a key of its own, so a failed or repeated run never loses an earlier one.
"""

import csv
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from raydiance.config.project import OUTPUTS
from raydiance.errors import ArtifactError, ConfigError
from raydiance.spec import from_plain, spec, to_plain
from raydiance.storage import Artifact, ArtifactRef, Store, write_json

__all__ = [
    "Pointer",
    "folder_of",
    "read_pointer",
    "read_record",
    "resolve_input",
    "write_pointer",
    "write_record",
    "write_results",
]


@spec
class Pointer:
    """Which artifact a stage made, in which store, and the run that tells how.

    `run_name` says from which seed, settings and inputs: with others the artifact is out of date.
    """

    stage: str
    kind: str
    key: str
    sha256: str
    store: str
    run_name: str | None = None
    run_id: str | None = None
    parent_run_id: str | None = None

    @property
    def ref(self) -> ArtifactRef:
        return ArtifactRef(kind=self.kind, key=self.key, sha256=self.sha256)


def folder_of(experiment: str) -> Path:
    """Where the stages of an experiment, by its name, leave their pointers."""
    return OUTPUTS / experiment


def read_pointer(stage: str, folder: Path) -> Pointer | None:
    """The pointer that a stage left in the folder of its experiment, or None.

    Raises ArtifactError if it cannot be read.
    """
    path = folder / f"{stage}.json"
    try:
        return from_plain(Pointer, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: is no pointer ({error}); run {stage} again") from error


def resolve_input(stage: str, store: Store, given: Mapping[str, str], folder: Path) -> Artifact:
    """The artifact of an earlier stage: the key given for it, else the one its pointer names."""
    if stage in given:
        return store.get(given[stage])
    pointer = read_pointer(stage, folder)
    if pointer is None:
        raise ConfigError(
            f"{folder / stage}.json: {stage} has not run; run it first, or give --input {stage}=KEY"
        )
    try:
        return store.get(pointer.ref)
    except ArtifactError as error:
        if pointer.store == store.url:
            raise
        raise ArtifactError(
            f"{pointer.key}: {stage} put it into {pointer.store}, but the store is {store.url}; "
            f"set RAYDIANCE_STORE={pointer.store} or run {stage} again"
        ) from error


def write_results(
    pointer: Pointer,
    metrics: Mapping[str, float],
    tables: Mapping[str, Sequence[Mapping[str, object]]],
    folder: Path,
) -> list[Path]:
    """Metrics and tables first, the pointer last: a stage with a pointer is a stage that is done."""
    stage = pointer.stage
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    rounded = {name: float(f"{value:.6g}") for name, value in metrics.items() if math.isfinite(value)}
    files = [folder / "metrics" / f"{stage}.json"]
    write_json(files[0], rounded)
    for name, rows in tables.items():
        files.append(folder / "plots" / f"{stage}-{name}.csv")
        _write_csv(files[-1], rows)
    files.append(write_pointer(pointer, folder))
    return files


def write_pointer(pointer: Pointer, folder: Path) -> Path:
    """Leave the pointer in the folder of its experiment, after all that belongs to it."""
    path = folder / f"{pointer.stage}.json"
    write_json(path, to_plain(pointer))
    return path


def write_record(store: Store, name: str, files: Sequence[Path], folder: Path) -> None:
    """Keep the results in the store, where the machine that submitted the job can fetch them."""
    with store.create("records", name) as draft:
        for file in files:
            shutil.copy(file, draft.path(file.relative_to(folder).as_posix()))


def read_record(store: Store, name: str, folder: Path) -> bool:
    """Fetch what write_record kept, the pointer last; False if there is nothing under this name."""
    record = store.latest(f"records/{name}")
    if record is None:
        return False
    for file in sorted(record.files, key=lambda file: file.count("/"), reverse=True):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path(file), target)
    return True


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
