"""MLflow for real: a server process on SQLite, and the embedded database."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from PIL import Image

from raydiance.errors import TrackingError, UnknownModelError
from raydiance.storage import Store
from raydiance.tracking import Tracker
from raydiance.tracking.history import open_history
from raydiance.tracking.mlflow import MlflowTracker, open_tracker
from raydiance.tracking.mlflow_registry import open_registry

matplotlib.use("Agg")

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(params=["server", "embedded"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "server":
        return str(request.getfixturevalue("mlflow_server"))
    return f"sqlite:///{tmp_path_factory.getbasetemp()}/embedded/mlflow.db"


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("[", "-").strip("]")


def test_a_run_holds_what_was_told(url: str, experiment: str, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store").create("views", "chairs") as draft:
        draft.path("a.txt").write_text("hello")
    (tmp_path / "x.json").write_text("{}")
    with open_tracker(
        url, experiment, "render", tags={"stage": "render"}, description="A **note**."
    ) as tracker:
        tracker.log_params({"model": {"width": 8, "levels": (1, 2)}, "name": "x", "ema": None})
        for step in range(5):
            tracker.log_metrics({"loss": 1.0 / (step + 1), "lr": 0.1}, step)
        tracker.log_metrics({"psnr": 24.0})
        for step in (0, 10):
            tracker.log_image("samples/sheet", np.full((8, 8, 3), step, np.uint8), step)
        turning = np.stack([np.full((8, 8, 3), 40 * frame, np.uint8) for frame in range(4)])
        tracker.log_film("turntable", turning, 10)
        figure = Figure()
        figure.subplots().plot([1, 2])
        tracker.log_figure("figures/loss.png", figure)
        tracker.log_text("report.html", "<h1>hello</h1>")
        tracker.log_table("cells.json", [{"a": 1}, {"b": "x"}])
        tracker.log_file(tmp_path / "x.json", "files")
        tracker.log_input(draft.artifact, "train")
        tracker.set_tags({"gate": "passed"})
    client = MlflowClient(tracker.url)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "render"
    assert run.data.params == {"model.width": "8", "model.levels": "[1, 2]", "name": "x", "ema": "null"}
    assert run.data.metrics == {"loss": 0.2, "lr": 0.1, "psnr": 24.0}
    film = client.download_artifacts(tracker.run_id, "films/turntable_00000010.gif", str(tmp_path))
    with Image.open(film) as played:
        assert played.n_frames == 4 and played.size == (8, 8)
    history = client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1.0 / (step + 1)) for step in range(5)]
    assert run.data.tags["mlflow.note.content"] == "A **note**."
    assert run.data.tags["stage"] == "render"
    assert run.data.tags["gate"] == "passed"
    assert run.data.tags["raydiance.code_version"].startswith("0.")
    images = [entry.path for entry in client.list_artifacts(tracker.run_id, "images")]
    assert {path.split("+")[0:3:2][0] for path in images} == {"images/samples~sheet"}
    assert {path.split("+")[2] for path in images} == {"0", "10"}
    paths = {
        entry.path
        for folder in ("", "figures", "files")
        for entry in client.list_artifacts(tracker.run_id, folder)
    }
    assert {"figures/loss.png", "files/x.json", "report.html", "cells.json"} <= paths
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "cells.json", "type": "table"}]
    data = run.inputs.dataset_inputs[0]
    assert data.dataset.name == draft.artifact.ref.key
    assert data.dataset.digest == draft.artifact.ref.sha256[:36]
    assert json.loads(data.dataset.source) == {"uri": draft.artifact.uri}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "train")]


def test_stages_stand_below_one_pipeline_and_trials_below_a_stage(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "ingest") as ingest:
        assert MlflowClient(ingest.url).get_run(ingest.parent_id).info.status == "RUNNING"
    client = MlflowClient(ingest.url)
    assert client.get_run(ingest.parent_id).info.status == "FINISHED"
    with open_tracker(url, experiment, "tune", parent_id=ingest.parent_id) as tune:
        assert client.get_run(ingest.parent_id).info.status == "RUNNING"
        with tune.child("trial-1", {"solver": "deis"}) as trial:
            trial.log_metrics({"distance": 2.0})
        with open_tracker(url, experiment, "trial-2", parent_id=tune.run_id) as other:
            pass
    assert tune.parent_id == ingest.parent_id
    assert trial.parent_id == other.parent_id == tune.run_id
    assert client.get_run(trial.run_id).data.tags["solver"] == "deis"
    runs = client.search_runs([client.get_run(tune.run_id).info.experiment_id])
    assert {run.info.run_name for run in runs} == {
        f"{experiment} pipeline",
        "ingest",
        "tune",
        "trial-1",
        "trial-2",
    }
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_an_unknown_parent_is_replaced_by_a_new_pipeline(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "render", parent_id="0" * 32) as tracker:
        pass
    assert tracker.parent_id not in (None, "0" * 32)
    with open_tracker(url, experiment, "alone", nested=False) as tracker:
        pass
    assert tracker.parent_id is None


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_ends_as_its_block_does(
    url: str, experiment: str, error: type[BaseException], status: str
) -> None:
    with (
        pytest.raises(error),
        open_tracker(url, experiment, "train") as tracker,
        tracker.child("trial") as trial,
    ):
        raise error
    client = MlflowClient(tracker.url)
    ids = (tracker.run_id, tracker.parent_id, trial.run_id)
    assert {client.get_run(run_id).info.status for run_id in ids} == {status}


def test_trials_left_open_are_ended_with_their_search(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "tune") as tune:
        lost = open_tracker(url, experiment, "lost", parent_id=tune.run_id)
        deeper = open_tracker(url, experiment, "deeper", parent_id=lost.run_id)
    client = MlflowClient(tune.url)
    assert {client.get_run(run.run_id).info.status for run in (lost, deeper)} == {"KILLED"}
    assert client.get_run(tune.run_id).info.status == "FINISHED"


def count(tracker: MlflowTracker) -> None:
    with tracker:
        for step in range(100):
            tracker.log_metrics({f"count-{os.getpid()}": step}, step)


@pytest.mark.parametrize("url", ["embedded"], indirect=True)
def test_several_processes_write_into_one_run_and_do_not_end_it(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "train") as tracker:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            pool.map(count, [tracker] * 2, chunksize=1)
        client = MlflowClient(tracker.url)
        assert client.get_run(tracker.run_id).info.status == "RUNNING"
        metrics = client.get_run(tracker.run_id).data.metrics
    assert set(metrics.values()) == {99.0}
    for name in metrics:
        assert len(client.get_metric_history(tracker.run_id, name)) == 100


def test_a_joined_run_knows_its_parent(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "train") as tracker:
        joined = pickle.loads(pickle.dumps(tracker))
        assert (joined.run_id, joined.parent_id) == (tracker.run_id, tracker.parent_id)
    with pytest.raises(TrackingError, match="could not join run"):
        open_tracker(url, experiment, run_id="0" * 32)


def test_a_parameter_is_written_once(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "train") as tracker:
        tracker.log_params({"a": 1})
        tracker.log_params({"a": 1})
        with pytest.raises(TrackingError, match="could not write parameters"):
            tracker.log_params({"a": 2})


def test_logging_does_not_wait_for_the_database(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "train") as tracker:
        began = time.perf_counter()
        for step in range(1000):
            tracker.log_metrics({"loss": 1.0}, step)
        assert time.perf_counter() - began < 0.5
    assert len(MlflowClient(tracker.url).get_metric_history(tracker.run_id, "loss")) == 1000


def test_a_killed_writer_loses_no_more_than_two_seconds(mlflow_server: str, experiment: str) -> None:
    tracker = open_tracker(mlflow_server, experiment, "train")
    script = """
import os, pickle, signal, sys, time
from raydiance.tracking.mlflow import open_tracker
tracker = open_tracker(sys.argv[1], "", run_id=sys.argv[2])
tracker.log_metrics({"loss": 1.0}, 0)
time.sleep(2)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tracker.url, tracker.run_id],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    tracker.close()
    assert MlflowClient(tracker.url).get_run(tracker.run_id).data.metrics == {"loss": 1.0}


def test_runs_that_a_killed_process_left_are_ended_by_the_one_that_goes_on(
    mlflow_server: str, experiment: str
) -> None:
    script = """
import os, signal, sys, time
from raydiance.tracking.mlflow import open_tracker
tracker = open_tracker(sys.argv[1], sys.argv[2], "search", tags={"stage": "search"})
trial = tracker.child("trial-000")
trial.__enter__()
tracker.log_metrics({"system/here/load": 1.0})
time.sleep(2)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, mlflow_server, experiment], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    client, history = MlflowClient(mlflow_server), open_history(mlflow_server)
    where = [client.get_experiment_by_name(experiment).experiment_id]
    left = client.search_runs(where)
    assert len(left) == 3 and {run.info.status for run in left} == {"RUNNING"}
    assert [run.status for run in history.runs(experiment)] == ["KILLED"], "who looks is told, before that"

    now = int(time.time() * 1000)
    for host, seen in (("alive", now - 10_000), ("dead", now - 600_000)):
        tags = {"raydiance.machine": f"{host} pid:[1]", "raydiance.process": "1 0.0", "stage": "search"}
        run = client.create_run(where[0], start_time=now - 900_000, tags=tags, run_name="search")
        client.log_metric(run.info.run_id, f"system/{host}/load", 1.0, timestamp=seen)
    with open_tracker(mlflow_server, experiment, "other"):
        assert {client.get_run(run.info.run_id).info.status for run in left} == {"RUNNING"}
    with open_tracker(mlflow_server, experiment, "search", tags={"stage": "search"}) as tracker:
        with open_tracker(mlflow_server, experiment, "search") as beside:
            assert client.get_run(tracker.run_id).info.status == "RUNNING", "this process is alive"
        ended = [client.get_run(run.info.run_id) for run in left]
        assert {run.info.status for run in ended} == {"KILLED"}
        (search,) = (run for run in ended if run.info.run_name == "search")
        assert search.data.tags["raydiance.continued_by"] == tracker.run_id != beside.run_id
        (sign,) = client.get_metric_history(search.info.run_id, "system/here/load")
        assert search.info.end_time == sign.timestamp, "it costs nothing from then on"
        elsewhere = {
            run.data.tags["raydiance.machine"].split()[0]: (run.info.status, run.info.end_time)
            for run in client.search_runs(where, "tags.`raydiance.machine` LIKE '%pid:[1]'")
        }
        assert elsewhere == {"alive": ("RUNNING", None), "dead": ("KILLED", now - 600_000)}


@pytest.mark.slow
def test_a_server_that_goes_away_and_returns_has_every_metric(
    experiment: str, tmp_path: Path, mlflow_on: Callable[..., AbstractContextManager[str]]
) -> None:
    database = f"sqlite:///{tmp_path}/mlflow.db"
    with mlflow_on(database, tmp_path) as url:
        port = int(url.rpartition(":")[2])
        tracker = open_tracker(url, experiment, "train")
        tracker.log_metrics({"loss": 0.0}, 0)
    tracker.log_image("sheet", np.zeros((8, 8, 3), np.uint8), 50)
    slowest = 0.0
    for step in range(1, 100):
        began = time.perf_counter()
        tracker.log_metrics({"loss": float(step)}, step)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.02)
    with mlflow_on(database, tmp_path, port) as url:
        tracker.close()
        history = MlflowClient(url).get_metric_history(tracker.run_id, "loss")
        assert [point.step for point in sorted(history, key=lambda point: point.step)] == list(range(100))
        assert len(MlflowClient(url).list_artifacts(tracker.run_id, "images")) == 2
        assert MlflowClient(url).get_run(tracker.run_id).info.status == "FINISHED"
    assert slowest < 0.05


def test_a_bundle_is_found_by_its_alias(url: str, experiment: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    with store.create("bundle", "chairs") as draft:
        draft.path("weights.safetensors").write_bytes(bytes(10**6))
    with open_tracker(url, experiment, "publish") as tracker:
        registry = tracker.registry
        version = registry.register_bundle(
            experiment, draft.artifact, description="Chairs.", tags={"gate": "passed"}
        )
        assert version == "1"
        registry.set_alias(experiment, "champion", version)
        assert registry.register_bundle(experiment, draft.artifact) == "2"
    found = open_registry(url).resolve(experiment, "champion")
    assert (found.version, found.ref, found.store) == ("1", draft.artifact.ref, store.url)
    assert found.tags["gate"] == "passed"
    assert Store.open(found.store).get(found.ref).path("weights.safetensors").stat().st_size == 10**6
    assert open_registry(url).resolve(experiment, "2").version == "2"
    version = MlflowClient(tracker.url).get_model_version(experiment, "1")
    assert version.run_id == tracker.run_id
    assert version.description == "Chairs."
    model = MlflowClient(tracker.url).get_logged_model(version.tags["raydiance.logged_model"])
    assert model.source_run_id == tracker.run_id
    assert open_registry(url).register_bundle(experiment, draft.artifact) == "3"
    with pytest.raises(UnknownModelError, match="no version or alias 'candidate'"):
        open_registry(url).resolve(experiment, "candidate")
    with pytest.raises(UnknownModelError, match=r"model 'nothing' at .*no version or alias 'champion'"):
        open_registry(url).resolve("nothing", "champion")


def test_a_deleted_experiment_is_told(url: str, experiment: str) -> None:
    with open_tracker(url, experiment, "train") as tracker:
        pass
    client = MlflowClient(tracker.url)
    client.delete_experiment(client.get_run(tracker.run_id).info.experiment_id)
    with pytest.raises(TrackingError, match="was deleted on"):
        open_tracker(url, experiment, "train")


def test_the_embedded_default_lies_in_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAYDIANCE_TRACKING", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text(
        "stages: {render@furniture: {deps: [{path: a.json, md5: '12'}, {path: b}]},"
        " split: {outs: [{path: c.json, md5: '34'}]}, render@digits: {outs: [{path: d.json, md5: '56'}]}}"
    )
    with open_tracker(None, "furniture", "ingest") as tracker:
        tracker.log_text("report.html", "<p>")
    assert tracker.url == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert list((tmp_path / "outputs/mlartifacts/furniture").rglob("report.html"))
    tags = MlflowClient(tracker.url).get_run(tracker.run_id).data.tags
    assert {name: value for name, value in tags.items() if name.startswith("dvc.")} == {
        "dvc.a.json": "12",
        "dvc.c.json": "34",
    }


def refused(url: str) -> str:
    """The message with which the address is refused: one line, within 10 s (20 s on a busy machine)."""
    began = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_tracker(url, "furniture", "ingest")
    assert time.monotonic() - began < 20
    message = str(caught.value)
    assert "\n" not in message
    assert url in message
    return message


def test_an_address_where_nobody_answers_is_told(s3_server: object, tmp_path: Path) -> None:
    assert "cannot be reached" in refused("http://127.0.0.1:9")
    assert "cannot be reached" in refused("http://nowhere.invalid:5000")
    assert "cannot be reached" in refused("postgresql://user@127.0.0.1:9/mlflow")
    assert "not like an MLflow server" in refused(s3_server.endpoint)
    assert "give the http:// URL" in refused("mlruns")
    (tmp_path / "file").write_text("this is no database, however long one reads in it")
    assert "cannot be reached" in refused(f"sqlite:///{tmp_path}/file")
    assert "cannot be reached" in refused(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_the_trackers_are_interchangeable(url: str, experiment: str) -> None:
    def job(tracker: Tracker) -> str | None:
        return tracker.run_id

    with open_tracker(url, experiment, "train") as tracker:
        assert job(tracker) == tracker.run_id


def test_the_server_shows_html_inline(mlflow_server: str, experiment: str) -> None:
    with open_tracker(mlflow_server, experiment, "evaluate") as tracker:
        tracker.log_text("report.html", "<h1>hello</h1>")
    address = f"{mlflow_server}/get-artifact?path=report.html&run_uuid={tracker.run_id}"
    with urllib.request.urlopen(address) as answer:
        assert b"<h1>hello</h1>" in answer.read()
    page = f"{mlflow_server}/#/experiments/{experiment_of(tracker)}/runs/{tracker.run_id}"
    assert tracker.page == f"{page}?workflowType=machine_learning"


def experiment_of(tracker: MlflowTracker) -> str:
    return str(MlflowClient(tracker.url).get_run(tracker.run_id).info.experiment_id)
