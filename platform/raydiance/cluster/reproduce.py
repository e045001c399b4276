"""Doing a recorded run again: its code, its settings, its inputs; and whether the same came out."""

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from raydiance.cluster.pointers import folder_of, read_pointer
from raydiance.cluster.record import INPUT, PARAMS_FILE
from raydiance.errors import ArtifactError, ClusterError
from raydiance.storage import Artifact, Store

__all__ = ["Comparison", "compare_results", "reproduce"]

TIMES = re.compile(r"(^|[/_])(duration|seconds|cpu|gpu|s)($|[/_])|seconds")
Verdict = Literal["same", "within tolerance", "different"]


@dataclass(frozen=True)
class Comparison:
    """What came out: the files whose bytes differ, and the figures that differ by more than the tolerance."""

    files: tuple[str, ...]
    figures: Mapping[str, tuple[float, float]]
    largest: float  # relative difference of any figure

    @property
    def verdict(self) -> Verdict:
        if not self.files and not self.figures:
            return "same"
        return "different" if self.figures else "within tolerance"


def reproduce(
    stage: str,
    experiment: str,
    params: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    *,
    project: Path,
    tolerance: float = 1e-3,
) -> Comparison:
    """Run a stage again from what its run recorded, in a checkout of its commit, beside no record of its own.

    What it makes is removed again after the comparison. Raises ClusterError if the commit is not here or the
    stage fails, ArtifactError if an input or the result is gone.
    """
    try:
        store = Store.open(tags["store"])
        original = store.get(tags["artifact"])
    except KeyError as missing:
        raise ArtifactError(f"the run has no tag {missing}: it ended before its result was kept") from missing
    if original.ref.sha256 != tags["artifact_sha256"]:
        raise ArtifactError(f"{original.ref.key}: is not what the run made; nothing to compare with")
    with (
        _checkout(project, tags.get("raydiance.code_version", "")) as code,
        tempfile.TemporaryDirectory() as here,
    ):
        folder = Path(here)
        (folder / PARAMS_FILE).write_text(_without_record(params), encoding="utf-8")
        inputs = [
            f"--input={name.removeprefix(INPUT)}={key}"
            for name, key in tags.items()
            if name.startswith(INPUT)
        ]
        _run(code, folder, stage, inputs, store)
        pointer = read_pointer(stage, folder / folder_of(experiment))
        if pointer is None:
            raise ClusterError(f"{stage} ended well, but left no pointer")
        again = store.get(pointer.ref)
        try:
            repeated = yaml.safe_load(
                (folder / folder_of(experiment) / "metrics" / f"{stage}.json").read_text()
            )
            return compare_results(original, again, metrics, repeated, tolerance)
        finally:
            store.delete(again.ref)


def compare_results(
    original: Artifact,
    again: Artifact,
    metrics: Mapping[str, float],
    repeated: Mapping[str, float],
    tolerance: float,
) -> Comparison:
    """Files by their SHA-256, figures by their relative difference; times are not compared."""
    files = [
        {entry.name: entry.sha256 for entry in artifact.manifest.files} for artifact in (original, again)
    ]
    differing = sorted(
        name for name in files[0].keys() | files[1].keys() if files[0].get(name) != files[1].get(name)
    )
    figures, largest = {}, 0.0
    for name in sorted(metrics.keys() & repeated.keys()):
        if TIMES.search(name):
            continue
        old, new = metrics[name], repeated[name]
        difference = (
            abs(old - new) / max(abs(old), abs(new), 1e-12)
            if not math.isclose(old, new, rel_tol=2e-6)
            else 0.0
        )
        largest = max(largest, difference)
        if difference > tolerance:
            figures[name] = (old, new)
    return Comparison(tuple(differing), figures, largest)


@contextmanager
def _checkout(project: Path, version: str) -> Iterator[Path]:
    """The project at the commit of a code version, for as long as the block runs."""
    found = re.search(r"\+g([0-9a-f]{7,40})(\.dirty)?$", version)
    if found is None:
        raise ClusterError(
            f"code version {version!r} names no commit; the code that ran cannot be found again"
        )
    if found[2]:
        print(
            f"reproduce: {version}: changes that were not committed are lost; this is its commit",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "code"
        _git(project, "worktree", "add", "--quiet", "--detach", str(code), found[1])
        try:
            yield code
        finally:
            _git(project, "worktree", "remove", "--force", str(code))


def _git(project: Path, *arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"git {' '.join(arguments[:2])} in {project}: {done.stderr.strip()}; fetch the commit"
        )


def _without_record(params: str) -> str:
    plain = yaml.safe_load(params)
    return yaml.safe_dump({**plain, "tracking": {"kind": "none", "url": None}}, sort_keys=False)


def _run(code: Path, folder: Path, stage: str, inputs: list[str], store: Store) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAYDIANCE_")}
    command = [
        sys.executable,
        str(code / "jobs" / f"{stage}.py"),
        "--params",
        PARAMS_FILE,
        "--fresh",
        *inputs,
    ]
    environment = kept | {"PYTHONPATH": str(code / "platform"), "RAYDIANCE_STORE": store.url}
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode:
        raise ClusterError(
            f"{stage} ended with exit status {done.returncode} when it was run again; why stands above"
        )
