"""Overrides of several values make several experiments, and what dvc.yaml reads of them."""

from pathlib import Path

import pytest
import yaml

from raydiance.config import compose, load_params, project_folder
from raydiance.config.pipeline import fan_out, params_of, read_pipeline, write_pipeline
from raydiance.errors import ConfigError

ROOT = project_folder()


def names(*overrides: str) -> list[str]:
    return [each.experiment.name for each in fan_out(overrides)]


def test_without_several_values_there_is_one_experiment_with_its_own_name() -> None:
    (only,) = fan_out(["size=micro", "seed=3"])
    assert only.experiment == compose(["size=micro", "seed=3"])
    assert only.overrides == ("size=micro", "seed=3")
    assert names("tune.nfe=[4,8]") == ["furniture"], "a list is one value"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=0,1"], ["furniture-seed0", "furniture-seed1"]),
        (["seed=range(1,3)"], ["furniture-seed1", "furniture-seed2"]),
        (["size=micro,tiny"], ["furniture-micro", "furniture-tiny"]),
        (["name=a,b"], ["a", "b"]),
        (["name=a", "tune.sigma_min=0.5,1e-3"], ["a-sigma_min0.5", "a-sigma_min0.001"]),
        (["experiment=digits,diffrf"], ["digits", "diffrf"]),
        (
            ["seed=0,1", "size=micro,tiny"],
            [
                "furniture-seed0-micro",
                "furniture-seed0-tiny",
                "furniture-seed1-micro",
                "furniture-seed1-tiny",
            ],
        ),
    ],
)
def test_each_combination_of_values_is_an_experiment(overrides: list[str], expected: list[str]) -> None:
    assert names(*overrides) == expected


def test_an_experiment_of_several_is_made_by_its_own_overrides() -> None:
    for each in fan_out(["name=a", "seed=0,1", "size=micro"]):
        assert compose(each.overrides) == each.experiment
        assert each.experiment.publish.name == each.experiment.name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=interval(0,3)"], "seed=interval(0,3): cannot be counted out; write seed=A,B,C"),
        (["seed=1,1"], "name = 'furniture-seed1': 2 experiments need as many names"),
        (["seed=1,x"], "seed = 'x': must be a valid integer"),
        (["name=a/b"], "name = 'a/b': folders are named after it"),
        (["name=../a"], "name = '../a': folders are named after it"),
    ],
)
def test_what_makes_no_experiments_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fan_out(overrides)
    assert message in str(caught.value)


def test_where_one_is_meant_several_are_refused() -> None:
    with pytest.raises(ConfigError, match="one run takes one value"):
        compose(["seed=1,2"])


def test_what_is_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fan_out(["seed=0,1", "size=micro"])
    monkeypatch.chdir(tmp_path)
    write_pipeline(found)
    assert read_pipeline() == [each.experiment for each in found]
    assert load_params(params_of("furniture-seed1")) == found[1].experiment
    before = Path("params.yaml").stat().st_ino
    write_pipeline(found)
    assert Path("params.yaml").stat().st_ino == before, "unchanged, so not written"


def test_what_dvc_has_no_stages_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fan_out(["experiment=furniture,digits"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"`raydiance pipeline experiment=digits` runs it"):
        write_pipeline(found)
    assert not list(tmp_path.iterdir()), "nothing half done"


@pytest.mark.parametrize("text", ["{}", "experiments: []", "experiments: furniture", "experiments: [1]"])
def test_names_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml: experiments = .*`raydiance compose` writes it"):
        read_pipeline(tmp_path / "params.yaml")


def test_a_named_experiment_without_settings_is_missed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("experiments: [lost]")
    with pytest.raises(ConfigError, match=r"params/lost\.yaml: cannot be read"):
        read_pipeline(tmp_path / "params.yaml")


def test_the_settings_in_git_are_those_of_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fan_out([])
    monkeypatch.chdir(tmp_path)
    write_pipeline(found)
    for name in ("params.yaml", "params/furniture.yaml"):
        assert Path(name).read_text() == (ROOT / name).read_text(), "run `raydiance compose`"


def test_dvc_draws_what_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fan_out(["seed=0,1"])
    monkeypatch.chdir(tmp_path)
    write_pipeline(found)
    plots = yaml.safe_load(Path("params.yaml").read_text())["plots"]
    drawn = {
        name: plot["y"]
        for each in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
        for name, plot in each.items()
    }
    assert drawn == {name: f"${{plots.{name}}}" for name in plots}
    assert all(len(files) == 2 for files in plots.values())
