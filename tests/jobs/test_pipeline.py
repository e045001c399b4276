"""The jobs, the stages and DVC's pipeline say the same."""

from pathlib import Path

import pytest
import yaml

from raydiance.config import Experiment, project_folder
from raydiance.config.explain import paths
from raydiance.config.stages import STAGES

ROOT = project_folder()
JOBS = sorted((ROOT / "jobs").glob("*.py"))
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def test_each_stage_has_a_job_and_each_job_is_a_stage() -> None:
    assert {path.stem for path in JOBS} == set(STAGES)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_thin_and_runs_the_stage_of_its_name(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 25
    assert f'main("{path.stem}", lambda experiment, run: {path.stem}(experiment.{path.stem}, run)' in text


def test_a_stage_reads_only_earlier_ones() -> None:
    order = list(STAGES)
    for stage, inputs in STAGES.items():
        assert all(order.index(name) < order.index(stage) for name in inputs), stage


def test_dvc_knows_the_same_stages_inputs_and_settings() -> None:
    assert list(PIPELINE["stages"]) == list(STAGES)
    settings = {path.split(".")[0] for path in paths(Experiment)}
    for stage, entry in PIPELINE["stages"].items():
        assert entry["cmd"] == f"raydiance run {stage} --params params.yaml"
        assert entry["params"] == ["seed", stage]
        assert set(entry["params"]) <= settings
        deps = [f"outputs/pipeline/{name}.json" for name in STAGES[stage]]
        assert sorted(entry.get("deps", [])) == sorted(deps)
        kept = {"cache": False, "persist": True}
        assert entry["outs"] == [{f"outputs/pipeline/{stage}.json": kept}]
        assert entry["metrics"] == [{f"outputs/pipeline/metrics/{stage}.json": kept}]
