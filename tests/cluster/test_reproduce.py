"""A run done again from its commit, and results held against each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.test_end_to_end import copy_project

from raydiance.cluster.reproduce import compare_results
from raydiance.storage import Artifact, Store


def artifact(store: Store, files: dict[str, str]) -> Artifact:
    with store.create("things", "x") as draft:
        for name, text in files.items():
            draft.path(name).write_text(text)
    return draft.artifact


def test_results_are_the_same_within_tolerance_or_different(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    one, other = artifact(store, {"a": "1", "b": "2"}), artifact(store, {"a": "1", "b": "3"})
    then = {"psnr": 24.0, "duration_s": 3.0, "cpu_seconds": 1.0, "seconds_per_sample": 2.0, "gone": 1.0}
    same = compare_results(one, one, then, then | {"duration_s": 9.0, "seconds_per_sample": 7.0}, 1e-3)
    assert (same.verdict, same.files, same.largest) == ("same", (), 0.0)
    near = compare_results(one, other, then, then | {"psnr": 24.01}, 1e-3)
    assert (near.verdict, near.files) == ("within tolerance", ("b",))
    far = compare_results(one, one, then, then | {"psnr": 24.1}, 1e-3)
    assert (far.verdict, dict(far.figures)) == ("different", {"psnr": (24.0, 24.1)})


@pytest.mark.slow
def test_a_run_is_done_again_from_its_commit(tmp_path: Path) -> None:
    copy_project(tmp_path)

    def raydiance(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "raydiance.cli", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "platform"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    raydiance("run", "ingest", "size=micro")
    pointer = json.loads((tmp_path / "outputs/pipeline/furniture/ingest.json").read_text())
    traced = raydiance("trace", pointer["run_id"])
    assert pointer["key"] in traced
    assert "status FINISHED" in traced

    # What lies here now is another program; the run's own is in its commit.
    job = tmp_path / "jobs" / "ingest.py"
    job.write_text("raise SystemExit(7)\n")
    store = Store.open(tmp_path / "outputs/store")
    before = store.list()
    told = raydiance("reproduce", pointer["run_id"])
    assert f"{pointer['key'].partition('/')[2].rpartition('-')[0]}: same" in told
    assert store.list() == before, "what was made for the comparison is gone"
    worktrees = subprocess.run(
        ["git", "worktree", "list"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.splitlines()) == 1
    assert "run nothing" in raydiance("reproduce", "nothing", status=1)
