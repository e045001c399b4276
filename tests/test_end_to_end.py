"""The whole way in miniature on real processes: DVC, a Ray of two nodes, MLflow on PostgreSQL, an S3 server and
the endpoint.

A client that holds no data runs `dvc repro` on the preset `micro`; every artifact goes to S3, every run to
the server; then a sample is asked for over HTTP and walked back to the data it came from.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trimesh
from mlflow.tracking import MlflowClient
from tests.chaos.ray_nodes import Cluster
from tests.conftest import ROOT, S3Server, find_binary, free_port, healthy, running, serve_mlflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STAGES = [
    "ingest",
    "render",
    "train_autodecoder",
    "encode",
    "train_diffusion",
    "tune",
    "evaluate",
    "publish",
]


@dataclass(frozen=True)
class Checkout:
    """A copy of the project in which its processes run, by the code that lies here (it is compiled already)."""

    folder: Path
    environment: dict[str, str]
    store_folder: Path  # what the S3 server keeps of the store

    def run(self, *command: str, status: int = 0) -> str:
        """What the command prints; fails the test, with its output, on another exit status."""
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{output[-6000:]}"
        return output

    def pointer(self, stage: str, experiment: str = "furniture") -> dict[str, str]:
        """What a stage left behind."""
        path = self.folder / "outputs" / "pipeline" / experiment / f"{stage}.json"
        return json.loads(path.read_text())


def copy_project(folder: Path) -> None:
    """The files of the checkout as git sees them, in a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run([*git, *command], cwd=folder, check=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    return folder


@pytest.fixture(scope="module")
def mlflow_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> Iterator[str]:
    """MLflow with its files on S3, on PostgreSQL where that is installed."""
    folder = tmp_path_factory.mktemp("mlflow")
    installed = os.environ.get("RAYDIANCE_REQUIRE_SERVERS") == "1" or find_binary("postgres")
    database = request.getfixturevalue("postgres_server") if installed else f"sqlite:///{folder}/mlflow.db"
    with serve_mlflow(database, folder, s3=s3_server) as url:
        yield url


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Cluster]:
    """Two nodes with one core each, so that two workers are on both of them; their keys are their own."""
    known = s3_server.environment() | {"RAYDIANCE_CACHE": str(tmp_path_factory.mktemp("cache"))}
    with Cluster(known) as nodes:
        nodes.add("second")
        yield nodes


@pytest.fixture(scope="module")
def checkout(
    tmp_path_factory: pytest.TempPathFactory,
    project: Path,
    s3_server: S3Server,
    mlflow_url: str,
    cluster: Cluster,
) -> Checkout:
    programs = tmp_path_factory.mktemp("bin")
    command = programs / "raydiance"
    command.write_text(f"#!{sys.executable}\nfrom raydiance.cli import main\nmain()\n")
    command.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MLFLOW_"))},
        **cluster.environment(),
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAYDIANCE_ADDRESS": cluster.address,
        "RAYDIANCE_STORE": f"{s3_server.bucket('end-to-end')}/store",
        "RAYDIANCE_TRACKING": mlflow_url,
        "RAYDIANCE_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    return Checkout(project, environment, s3_server.folder / "end-to-end" / "store")


@pytest.fixture(scope="module")
def reproduced(checkout: Checkout) -> Checkout:
    """The checkout after the first `dvc repro`, with two training workers under Ray Train."""
    checkout.run("raydiance", "compose", "size=micro", "cluster.num_workers=2")
    checkout.run("dvc", "repro")
    return checkout


def test_every_stage_leaves_an_artifact_in_the_store(reproduced: Checkout) -> None:
    for stage in STAGES:
        pointer = reproduced.pointer(stage)
        assert pointer["store"] == reproduced.environment["RAYDIANCE_STORE"]
        assert len(pointer["sha256"]) == 64
    assert not (reproduced.folder / "outputs" / "store").exists(), "the client must hold no data"
    assert not (reproduced.folder / "outputs" / "mlartifacts").exists()


def test_the_workers_of_a_training_were_on_two_nodes(reproduced: Checkout, cluster: Cluster) -> None:
    answer = httpx.get(
        f"http://127.0.0.1:{cluster.dashboard}/api/v0/actors?limit=1000",
        headers={"Authorization": f"Bearer {cluster.token}"},
        timeout=60,
    )
    actors = answer.json()["data"]["result"]["result"]
    places = [actor["node_id"] for actor in actors if actor["class_name"].endswith("RayTrainWorker")]
    assert len(places) == 4 and len(set(places)) == 2, "two trainings, by two workers each"


def test_a_second_repro_has_nothing_to_do(reproduced: Checkout) -> None:
    """In five seconds at most, of processor time: others use the machine, too."""
    before = {stage: reproduced.pointer(stage) for stage in STAGES}
    began = seconds_of_children()
    assert "up to date" in reproduced.run("dvc", "repro")
    assert seconds_of_children() - began <= 5.0
    assert {stage: reproduced.pointer(stage) for stage in STAGES} == before
    assert "psnr" in reproduced.run("dvc", "metrics", "show")


def seconds_of_children() -> float:
    """Processor time of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_what_is_done_is_not_done_again_where_dvc_does_not_know(reproduced: Checkout) -> None:
    before = {stage: reproduced.pointer(stage) for stage in STAGES}
    lock = reproduced.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace("@furniture:", "@forgotten:"))
    again = reproduced.run("raydiance", "pipeline", "size=micro", "cluster.num_workers=2")
    assert "up to date" in again, again
    assert {stage: reproduced.pointer(stage) for stage in STAGES} == before


def test_the_stages_fan_out_over_experiments(reproduced: Checkout) -> None:
    """One that is as the first takes over all but what is published under its name."""
    before = {stage: reproduced.pointer(stage) for stage in STAGES}
    told = reproduced.run(
        "raydiance", "pipeline", "name=furniture,other", "size=micro", "cluster.num_workers=2"
    )
    assert all(f"Stage '{stage}@furniture' didn't change, skipping" in told for stage in STAGES)
    assert all(f"Running stage '{stage}@other'" in told for stage in STAGES)
    made = {stage: reproduced.pointer(stage, "other") for stage in STAGES}
    assert {stage for stage in STAGES if made[stage]["key"] != before[stage]["key"]} == {"publish"}
    assert made["publish"]["key"].startswith("bundle/other-")
    assert "up to date" in reproduced.run("dvc", "repro")
    shown = reproduced.run("dvc", "metrics", "show")
    assert "pipeline/furniture/metrics/tune.json" in shown and "pipeline/other/metrics/tune.json" in shown
    assert "other, size micro, seed 0" in reproduced.run("raydiance", "stages")
    curves = json.loads(reproduced.run("dvc", "plots", "show", "--json"))["data"]["diffusion_loss"]
    assert len({row["filename"] for row in curves[0]["content"]["data"]["values"]}) == 2


def test_the_record_nests_stages_and_trials(reproduced: Checkout, mlflow_url: str) -> None:
    client = MlflowClient(mlflow_url)
    parents = {reproduced.pointer(stage)["parent_run_id"] for stage in STAGES}
    assert len(parents) == 1
    pipeline = client.get_run(parents.pop())
    assert "report.html" in {file.path for file in client.list_artifacts(pipeline.info.run_id)}
    assert pipeline.data.metrics["psnr_held_out"] > 0
    experiment = pipeline.info.experiment_id
    runs = client.search_runs([experiment], max_results=500)
    assert {run.info.status for run in runs} == {"FINISHED"}
    stages = {reproduced.pointer(stage)["run_id"]: stage for stage in STAGES}
    children: dict[str, int] = dict.fromkeys(STAGES, 0)
    for run in runs:
        parent = run.data.tags.get("mlflow.parentRunId")
        if parent in stages:
            children[stages[parent]] += 1
    assert children["tune"] >= 2, children
    trained = client.get_metric_history(reproduced.pointer("train_autodecoder")["run_id"], "train/loss")
    assert len({point.step for point in trained}) > 1


def test_a_changed_search_leaves_the_training_alone(reproduced: Checkout) -> None:
    before = {stage: reproduced.pointer(stage)["key"] for stage in STAGES}
    reproduced.run("raydiance", "compose", "size=micro", "cluster.num_workers=2", "tune.num_trials=4")
    difference = reproduced.run("dvc", "params", "diff")
    assert "tune.num_trials" in difference
    reproduced.run("dvc", "repro")
    changed = {stage for stage in STAGES if reproduced.pointer(stage)["key"] != before[stage]}
    assert changed == {"tune", "evaluate", "publish"}


@pytest.fixture(scope="module")
def endpoint(reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint on the published bundle, as `raydiance serve` runs it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = str(Path(reproduced.environment["PATH"].split(":")[0]) / "raydiance")
    with running(
        ["sh", "-c", f"cd {reproduced.folder} && exec {program} serve size=micro serve.port={port}"],
        tmp_path_factory.mktemp("serve") / "serve.log",
        lambda: healthy(f"{url}/readyz"),
        timeout_s=240,
        environment=reproduced.environment,
    ):
        yield url


def test_a_served_sample_is_a_mesh_that_knows_where_it_came_from(
    reproduced: Checkout, endpoint: str, tmp_path: Path
) -> None:
    file, again = tmp_path / "sample.glb", tmp_path / "again.glb"
    for path in (file, again):
        reproduced.run("raydiance", "sample", "--url", endpoint, "--seed", "7", "--out", str(path))
    assert file.read_bytes() == again.read_bytes(), "one seed is one sample"
    mesh = trimesh.load(file, force="mesh")
    assert len(mesh.faces) > 0
    chain = reproduced.run("raydiance", "trace", str(file))
    for stage in ("ingest", "render", "train_autodecoder", "encode", "train_diffusion", "tune", "publish"):
        assert reproduced.pointer(stage)["key"] in chain, stage


def test_the_endpoint_refuses_by_name(endpoint: str) -> None:
    answer = httpx.post(f"{endpoint}/v1/samples", json={"seed": 1, "plan": "no-such-plan"}, timeout=60)
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "no-such-plan" in answer.text


def test_a_killed_training_goes_on_from_its_checkpoint(reproduced: Checkout) -> None:
    """Killed with SIGKILL behind its first checkpoint, the same command ends where an unbroken run ends."""
    overrides = [
        "size=micro",
        "seed=5",
        "cluster.num_workers=0",
        "train_autodecoder.loop.steps=30",
        "train_autodecoder.loop.checkpoint_every=5",
    ]
    command = ["raydiance", "run", "train_autodecoder", *overrides]
    process = subprocess.Popen(
        command,
        cwd=reproduced.folder,
        env=reproduced.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    checkpoints: list[Path] = []
    while not checkpoints and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        checkpoints = list(reproduced.store_folder.glob("checkpoints/*/*/manifest.json"))
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    resumed = reproduced.run(*command)
    first = reproduced.pointer("train_autodecoder")
    reproduced.run(*command, "--fresh")
    second = reproduced.pointer("train_autodecoder")
    assert first["key"] != second["key"]
    manifests = [weights_sha256(reproduced, pointer) for pointer in (first, second)]
    assert manifests[0] == manifests[1], resumed[-2000:]


def weights_sha256(checkout: Checkout, pointer: dict[str, str]) -> str:
    """Of the weights that the pointer's artifact holds."""
    manifest = json.loads((checkout.store_folder / pointer["key"] / "manifest.json").read_text())
    return next(entry["sha256"] for entry in manifest["files"] if entry["name"] == "weights.safetensors")
