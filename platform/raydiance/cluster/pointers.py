"""What a finished stage leaves on this machine: a pointer to its artifact, its numbers, its tables.

The artifact lies in the store under a key of its own, so a failed or repeated run never loses an earlier one.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from raydiance.errors import ArtifactError, ConfigError
from raydiance.spec import spec, to_plain
from raydiance.storage import Artifact, ArtifactRef, Store, write_json

__all__ = ["FOLDER", "Pointer", "read_pointer", "resolve_input", "write_results"]

FOLDER = Path("outputs/pipeline")


@spec
class Pointer:
    """Which artifact a stage made, in which store, and the run that tells how."""

    stage: str
    kind: str
    key: str
    sha256: str
    store: str
    run_id: str | None = None
    parent_run_id: str | None = None

    @property
    def ref(self) -> ArtifactRef:
        return ArtifactRef(kind=self.kind, key=self.key, sha256=self.sha256)


def read_pointer(stage: str, folder: Path = FOLDER) -> Pointer | None:
    """The pointer that a stage left, None if it left none. Raises ArtifactError if it cannot be read."""
    path = folder / f"{stage}.json"
    try:
        return TypeAdapter(Pointer).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path}: not a pointer ({error}); run `raydiance run {stage}` again") from error


def resolve_input(stage: str, store: Store, given: Mapping[str, str], folder: Path = FOLDER) -> Artifact:
    """The artifact of an earlier stage: the key given for it, else the one its pointer names."""
    if stage in given:
        return store.get(given[stage])
    pointer = read_pointer(stage, folder)
    if pointer is None:
        raise ConfigError(
            f"{folder / stage}.json: {stage} has not run; `raydiance run {stage}` first, or give --input {stage}=KEY"
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
    folder: Path = FOLDER,
) -> None:
    """Metrics and tables first, the pointer last: a stage with a pointer is a stage that is done."""
    stage = pointer.stage
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    rounded = {name: float(f"{value:.6g}") for name, value in metrics.items() if math.isfinite(value)}
    write_json(folder / "metrics" / f"{stage}.json", rounded)
    for name, rows in tables.items():
        _write_csv(folder / "plots" / f"{stage}-{name}.csv", rows)
    write_json(folder / f"{stage}.json", to_plain(pointer))


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
