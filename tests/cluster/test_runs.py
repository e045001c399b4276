"""The main() of a job, as real processes: pointer, metrics, tables, errors, exit status."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raydiance.cli.doctor import _store
from raydiance.cli.record import print_cost, print_stages
from raydiance.cluster.plan import plan
from raydiance.config import compose, project_folder
from raydiance.storage import Store
from raydiance.tracking.history import open_history

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ROOT = project_folder()
JOB = """
import sys
from raydiance.cluster.runs import main
from raydiance.errors import NonFiniteLossError
from raydiance.storage import write_json
from raydiance.tracking import Outcome

def work(experiment, run):
    if "--fail" in sys.orig_argv[-1]:
        raise NonFiniteLossError("step 7: the loss is nan")
    squares = list(run.map(abs, [-1, 2, -3]))
    parents = [artifact.ref for artifact in run.inputs.values()]
    with run.store.create("{kind}", run.name, parents=parents) as draft:
        write_json(draft.path("squares.json"), squares)
    rows = [{{"step": 1, "loss": 0.5}}, {{"step": 2, "loss": 0.25}}]
    return Outcome(draft.artifact, {{"psnr": 24.123456789}}, {{"loss": rows}})

main("{stage}", work)
"""


def job(folder: Path, stage: str, *arguments: str, kind: str = "things") -> subprocess.CompletedProcess[str]:
    script = folder / f"{stage}.py"
    script.write_text(JOB.format(stage=stage, kind=kind))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform"), "RAYDIANCE_STORE": "store"}
    return subprocess.run(
        [sys.executable, str(script), "tracking.kind=none", "size=micro", *arguments],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


def test_a_job_beyond_the_quota_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = job(tmp_path, "ingest", "store.quota=100", kind="meshes")
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert (
        told.startswith(f"raydiance ingest: store {tmp_path}/store: meshes/") and "raise store.quota" in told
    )
    store = Store.open(tmp_path / "store", quota=1000)
    assert store.list() == [] and store.used() == 0
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with (tmp_path / "configs/config.yaml").open("a") as file:
        file.write("store:\n  quota: 1000\n")
    (tmp_path / "store/half").write_bytes(bytes(500))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYDIANCE_STORE", "store")
    (finding,) = _store()
    assert finding.works and finding.found == f"{store.url}: 500 of the quota of 1,000 bytes used"
    (tmp_path / "store/rest").write_bytes(bytes(500))
    (finding,) = _store()
    assert not finding.works and finding.remedy == "raydiance gc, or raise store.quota"


def test_a_job_leaves_pointer_metrics_and_tables_and_the_next_one_finds_them(tmp_path: Path) -> None:
    first = job(tmp_path, "ingest", kind="meshes")
    assert first.returncode == 0, first.stderr
    pointer = read(tmp_path / "outputs/pipeline/furniture/ingest.json")
    store = Store.open(tmp_path / "store")
    artifact = store.get(str(pointer["key"]))
    assert artifact.ref.sha256 == pointer["sha256"]
    assert artifact.read_json("squares.json") == [1, 2, 3]
    metrics = read(tmp_path / "outputs/pipeline/furniture/metrics/ingest.json")
    assert metrics["psnr"] == 24.1235
    assert "duration_s" in metrics
    table = (tmp_path / "outputs/pipeline/furniture/plots/ingest-loss.csv").read_text()
    assert table.splitlines() == ["step,loss", "1,0.5", "2,0.25"]

    second = job(tmp_path, "render")
    assert second.returncode == 0, second.stderr
    made = store.get(str(read(tmp_path / "outputs/pipeline/furniture/render.json")["key"]))
    assert made.manifest.parents == (artifact.ref,)
    assert "stage 2 of 8: render" in second.stderr


def test_a_record_travels_through_the_store(tmp_path: Path) -> None:
    from raydiance.cluster.pointers import read_record

    done = job(tmp_path, "ingest", "--record", "one")
    assert done.returncode == 0, done.stderr
    store = Store.open(tmp_path / "store")
    assert read_record(store, "one", tmp_path / "here")
    for name in ("ingest.json", "metrics/ingest.json", "plots/ingest-loss.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (
            tmp_path / "outputs/pipeline/furniture" / name
        ).read_bytes()
    assert not read_record(store, "two", tmp_path / "there")


def test_a_dry_run_tells_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    done = job(tmp_path, "render", "--dry-run", "seed=5")
    assert done.returncode == 0, done.stderr
    assert "seed: 5" in done.stdout
    assert "ingest: missing" in done.stdout
    assert not (tmp_path / "outputs/pipeline").exists()


@pytest.mark.parametrize(
    ("stage", "arguments", "status", "message"),
    [
        ("ingest", ["sede=1"], 2, "raydiance ingest: sede = 1: no such setting; did you mean seed?"),
        ("render", [], 2, "ingest has not run"),
        ("render", ["--input", "tune=x"], 2, "render reads ingest"),
        ("render", ["--input", "ingest=meshes/none"], 1, "meshes/none"),
        ("ingest", ["--fail"], 2, "unrecognized arguments"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_status(
    tmp_path: Path, stage: str, arguments: list[str], status: int, message: str
) -> None:
    done = job(tmp_path, stage, *arguments)
    assert done.returncode == status
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / f"outputs/pipeline/furniture/{stage}.json").exists()


def test_a_dry_run_refuses_what_can_never_be_placed(tmp_path: Path) -> None:
    done = job(tmp_path, "ingest", "--dry-run", "cluster.num_workers=999")
    assert done.returncode == 1
    assert "999 x (1 CPU) can never be placed, there is room for" in done.stderr
    assert (
        job(tmp_path, "ingest", "--dry-run", "cluster.num_workers=999", "cluster.grows=true").returncode == 0
    )


def test_the_record_gives_cost_and_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(tmp_path, "ingest", "tracking.kind=mlflow", kind="meshes").returncode == 0
    planned = job(tmp_path, "ingest", "--dry-run", "tracking.kind=mlflow", kind="meshes").stdout
    assert "GPU-hours, as the last 1" in planned
    assert "pipeline    render (missing), " in planned
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYDIANCE_STORE", "store")
    print_stages(["size=micro"])
    assert "ingest done" in " ".join(capsys.readouterr().out.split())
    print_cost("stage", None)
    told = capsys.readouterr().out.split()
    assert "furniture ingest 1 0" in " ".join(told)
    (run,) = open_history().runs("furniture")
    assert 0.0 < run.cpu_seconds < 60.0
    assert (
        "none: no finished run" in dict(plan(compose(["size=micro"]), "render", Store.open(), {}))["estimate"]
    )
