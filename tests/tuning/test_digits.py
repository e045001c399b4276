"""The experiment digits in miniature, on real parts: data, two denoisers, plans."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raydiance.config import DigitsExperiment, compose, project_folder
from raydiance.data.digits import digits
from raydiance.diffusion import plans, preconditioning, sample, schedules
from raydiance.generation import sampler_table
from raydiance.generation.assemble import read_latents
from raydiance.models import read_unet
from raydiance.storage import Artifact, Store
from raydiance.tracking import MemoryTracker, local_run
from raydiance.training import train_diffusion
from raydiance.tuning import tune

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


@pytest.mark.slow
def test_plans_are_searched_for_as_for_any_denoiser(
    ray_here: None, made: tuple[Store, dict[str, Artifact]]
) -> None:
    store, artifacts = made
    inputs = {stage: artifacts[stage] for stage in ("train_diffusion", "digits")}
    found = tune(MICRO.tune, local_run(store, name="tune", inputs=inputs)).artifact
    texts = {name: found.path(f"plans/{name}.json").read_text() for name in ("draft", "best", "learned-2")}
    named = {name: plans.from_json(text) for name, text in texts.items()}
    assert named["draft"].nfe <= MICRO.tune.draft_nfe and named["best"].nfe <= max(MICRO.tune.nfe)
    assert named["learned-2"].nfe == 2


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
def test_the_stages_run_from_the_command_line(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(project_folder() / "platform"),
        "RAYDIANCE_STORE": str(tmp_path / "store"),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raydiance.cli", "run", *arguments]
        settings = ["experiment=digits", "size=micro", "tracking.kind=none"]
        return subprocess.run(
            [*command, *settings], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    for stage in ("digits", "train_diffusion"):
        done = run(stage)
        assert done.returncode == 0, done.stderr
        pointer = json.loads((tmp_path / f"outputs/pipeline/digits/{stage}.json").read_text())
        assert Store.open(tmp_path / "store").get(pointer["key"]).ref.sha256 == pointer["sha256"]
    wrong = run("render")
    assert wrong.returncode == 2
    assert "render: digits (kind digits) has no such stage" in wrong.stderr.splitlines()[-1]
