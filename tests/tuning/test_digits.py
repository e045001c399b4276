"""The experiment digits in miniature, on real parts: data, two denoisers, plans."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from raydiance.cluster.tasks import TaskMap
from raydiance.config import ClusterSpec, DigitsExperiment, compose, project_folder
from raydiance.data.digits import digits
from raydiance.diffusion import plans, preconditioning, sample, schedules
from raydiance.generation import sampler_table
from raydiance.generation.assemble import read_latents, read_plans
from raydiance.models import read_unet
from raydiance.storage import Artifact, Store
from raydiance.tracking import MemoryTracker, local_run, serial_map
from raydiance.training import train_diffusion

MICRO = compose(["experiment=digits", "size=micro"])
assert isinstance(MICRO, DigitsExperiment)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Artifact]]:
    """The artifacts of digits, train_diffusion and train_cosine."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    artifacts = {"digits": digits(MICRO.digits, local_run(store, name="digits")).artifact}
    for stage in ("train_diffusion", "train_cosine"):
        tracker = MemoryTracker()
        run = local_run(store, name=stage, inputs={"digits": artifacts["digits"]}, tracker=tracker)
        artifacts[stage] = train_diffusion(getattr(MICRO, stage), run).artifact
        assert "samples" in tracker.images, "the digits drawn while training are shown"
    return store, artifacts


def test_the_digits_are_all_there_and_scaled_to_one(tmp_path: Path) -> None:
    whole = digits(compose(["experiment=digits"]).digits, local_run(tmp_path)).artifact
    found = read_latents(whole)
    pixels = found.statistics.normalise(found.raw)
    assert found.raw.shape == (1797, 8, 8)
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    assert sorted(set(found.categories)) == [str(k) for k in range(10)]
    # the images are upright: the first one is a zero, whose middle is empty and whose ring is not
    assert found.categories[0] == "0" and pixels[0, 3:5, 3:5].mean() < -0.9 < 0 < pixels[0, 2, 2]


def test_a_denoiser_says_what_it_is_and_predicts_noise(made: tuple[Store, dict[str, Artifact]]) -> None:
    _, artifacts = made
    for stage, schedule in (("train_diffusion", "linear"), ("train_cosine", "cosine")):
        trained = artifacts[stage]
        described = trained.read_json("spec.json")
        assert described["schedule"] == schedule
        network = read_unet(trained.path("spec.json"), trained.path("weights.safetensors"))
        kind = preconditioning.from_plain(described)
        assert isinstance(kind, preconditioning.Epsilon) and kind.schedule.name == schedule
        plan = plans.build("deis", kind.schedule, "quadratic", 5)
        noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            drawn = sample(kind.noise_predictor(network), plan, plan.start(noise))
        assert drawn.shape == (4, 8, 8) and bool(drawn.isfinite().all())


def test_a_table_fills_its_cells_once(made: tuple[Store, dict[str, Artifact]]) -> None:
    store, artifacts = made
    schedule = schedules.linear()
    with store.create("plans", "some") as draft:
        plan = plans.build("deis", schedule, "quadratic", 5)
        draft.path("plans/learned-5.json").write_text(plan.to_json())
    inputs = artifacts | {"tune": draft.artifact}
    tracker = MemoryTracker()
    first = replace(MICRO.sampler_table, budget_s=1e-6)
    cut = sampler_table(first, local_run(store, name="cut", inputs=inputs))
    assert (cut.metrics["cells"], cut.metrics["missing"]) == (1, 14)
    whole = sampler_table(MICRO.sampler_table, local_run(store, name="table", inputs=inputs, tracker=tracker))
    told = whole.artifact.read_json("cells.json")
    assert len(store.list("cells")) == len(told["cells"]) == 15 and not told["missing"]
    rows = {(row["schedule"], row["method"], row["eta"], row["steps"]): row for row in told["cells"]}
    assert rows["linear", "F-PNDM", None, 6]["nfe"] == 15
    assert rows["cosine", "PF", None, 0]["nfe"] > 20
    assert rows["linear", "tune: learned-5", None, 5]["nfe"] == 5
    assert all(row["frechet"] > told["floor"] > 0 and row["spread"] > 0 for row in told["cells"])
    again = sampler_table(MICRO.sampler_table, local_run(store, name="again", inputs=inputs))
    assert again.artifact.read_json("cells.json") == told, "nothing was measured anew"
    assert {"heat_maps.png", "curves.png"} <= set(tracker.figures)
    text = whole.artifact.path("tables.md").read_text()
    for heading in (
        "### eta x S, linear",
        "### method x S, cosine",
        "| sigma-hat |",
        "| eta 1 |",
        "| tune: learned-5 |",
    ):
        assert heading in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_the_pipeline_runs_the_stages_of_digits_once(tmp_path: Path) -> None:
    """Half a minute on idle cores: five processes, one that searches on Ray, and their record in MLflow."""
    environment = os.environ | {
        "PYTHONPATH": str(project_folder() / "platform"),
        "RAYDIANCE_STORE": str(tmp_path / "store"),
        "RAYDIANCE_TRACKING": f"sqlite:///{tmp_path}/mlflow.db",
    }

    def raydiance(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raydiance.cli", *arguments, "experiment=digits", "size=micro"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    planned = raydiance("pipeline", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    order = ("digits", "train_diffusion", "train_cosine", "tune", "sampler_table")
    assert tuple(line.partition(":")[0] for line in planned.stdout.splitlines()) == order
    assert not (tmp_path / "outputs").exists()

    done = raydiance("pipeline")
    assert done.returncode == 0, done.stderr
    pointers = [
        json.loads((tmp_path / f"outputs/pipeline/digits/{stage}.json").read_text()) for stage in order
    ]
    parents = {pointer["parent_run_id"] for pointer in pointers}
    assert len(parents) == 1 and None not in parents, "one run of the pipeline holds those of its stages"
    store = Store.open(tmp_path / "store")
    found = read_plans(store.get(pointers[-2]["key"]))
    assert found["draft"].nfe <= MICRO.tune.draft_nfe and found["best"].nfe <= max(MICRO.tune.nfe)
    assert found["learned-2"].nfe == 2
    table = store.get(pointers[-1]["key"])
    assert table.ref.sha256 == pointers[-1]["sha256"] and not table.read_json("cells.json")["missing"]
    client = MlflowClient(environment["RAYDIANCE_TRACKING"])
    logged = {file.path for file in client.list_artifacts(pointers[-1]["run_id"])}
    assert {"heat_maps.png", "curves.png", "tables.md"} <= logged

    again = raydiance("pipeline")
    assert [line.partition(": ")[2] for line in again.stdout.splitlines()] == ["did not change, skipping"] * 5

    wrong = raydiance("run", "render")
    assert wrong.returncode == 2
    assert "render: digits (kind digits) has no such stage" in wrong.stderr.splitlines()[-1]


@pytest.mark.slow
def test_cells_that_are_spread_over_ray_are_those_of_one_process(
    ray_here: str, made: tuple[Store, dict[str, Artifact]]
) -> None:
    store, artifacts = made
    with store.create("plans", "none") as draft:
        draft.path("plans/ddim-4.json").write_text(
            plans.build("ddim", schedules.linear(), "leading", 4).to_json()
        )
    spec = replace(MICRO.sampler_table, methods=("F-PNDM",), eta_steps=(), steps=(4, 6))
    tables = []
    for spread in (serial_map, TaskMap(ClusterSpec(address="local", num_tasks=2))):
        run = local_run(store, name="table", inputs=artifacts | {"tune": draft.artifact}, seed=1, map=spread)
        cells = sampler_table(spec, run).artifact.read_json("cells.json")["cells"]
        tables.append([(cell["method"], cell["steps"], cell["frechet"], cell["spread"]) for cell in cells])
        for ref in store.list("cells"):
            store.delete(ref)
    assert tables[0] == tables[1] and len(tables[0]) == 5
