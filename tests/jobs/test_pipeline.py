"""The jobs, the stages and DVC's pipeline say the same."""

from pathlib import Path

import pytest
import yaml

from raydiance.cli.work import run_pipeline
from raydiance.config import LatentExperiment, project_folder
from raydiance.config.experiment import KINDS
from raydiance.config.explain import paths
from raydiance.config.stages import ASIDE, STAGES, Stages
from raydiance.errors import ClusterError, StoreError

ROOT = project_folder()
LATENT = STAGES["latent"]  # the stages of dvc.yaml
JOBS = sorted((ROOT / "jobs").glob("*.py"))
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def test_each_stage_has_a_job_and_each_job_is_a_stage() -> None:
    known = [*STAGES.values(), *ASIDE.values()]
    assert {path.stem for path in JOBS} == {stage for stages in known for stage in stages}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_thin_and_runs_the_stage_of_its_name(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 25
    assert f'main("{path.stem}", lambda experiment, run: {path.stem}(experiment.{path.stem}, run' in text


def test_each_kind_of_experiment_has_its_stages_and_their_settings() -> None:
    assert set(STAGES) == set(KINDS)
    for kind, stages in STAGES.items():
        assert set(stages) <= {path.split(".")[0] for path in paths(KINDS[kind])}


@pytest.mark.parametrize("stages", STAGES.values(), ids=list(STAGES))
def test_a_stage_reads_only_earlier_ones(stages: Stages) -> None:
    order = list(stages)
    for stage, inputs in stages.items():
        assert all(order.index(name) < order.index(stage) for name in inputs), stage


def test_a_job_beside_the_way_reads_stages_and_has_settings() -> None:
    for kind, jobs in ASIDE.items():
        assert set(jobs) <= {path.split(".")[0] for path in paths(KINDS[kind])} - set(STAGES[kind])
        assert {name for inputs in jobs.values() for name in inputs} <= set(STAGES[kind])


def test_dvc_knows_the_same_stages_inputs_and_settings() -> None:
    """For each experiment that params.yaml names; what is published is published anew, under its name."""
    assert list(PIPELINE["stages"]) == list(LATENT)
    outputs, params = "outputs/pipeline/${item.experiment}", "params/${item.experiment}.yaml"
    settings, last = {path.split(".")[0] for path in paths(LatentExperiment)}, list(LATENT)[-1]
    for stage, entry in PIPELINE["stages"].items():
        assert entry["matrix"] == {"experiment": "${experiments}"}
        command = f"raydiance run {stage} --params {params}"
        report = f"raydiance report --params {params}"
        assert entry["cmd"] == ([command, report] if stage == last else f"{command} --reuse")
        assert entry["params"] == [{params: ["seed", stage]}]
        assert {"seed", stage} <= settings
        assert sorted(entry.get("deps", [])) == sorted(f"{outputs}/{name}.json" for name in LATENT[stage])
        kept = {"cache": False, "persist": True}
        assert entry["outs"] == [{f"{outputs}/{stage}.json": kept}]
        assert entry["metrics"] == [{f"{outputs}/metrics/{stage}.json": kept}]


@pytest.mark.parametrize(
    ("stores", "expected"), [(["file", "store"], StoreError), (["file", "store", "b"], ClusterError)]
)
def test_an_experiment_that_fails_leaves_the_others_alone(
    stores: list[str],
    expected: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in {"file", "b"} & set(stores):
        (tmp_path / name).write_text("no folder")
    urls = ",".join(str(tmp_path / name) for name in stores)
    with pytest.raises(expected) as raised:
        run_pipeline(["experiment=digits", "size=micro", f"store.url={urls}"], dry_run=True)
    assert all(str(tmp_path / name) in str(raised.value) for name in stores if name != "store")
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == list(STAGES["digits"])
