"""Composition and validation: what is right arrives, what is wrong is named."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError

from raydiance.config import compose, load_params, project_folder, validate, write_params
from raydiance.config.experiment import Experiment
from raydiance.config.explain import explain, paths
from raydiance.errors import ConfigError
from raydiance.models import Autodecoder, UNet
from raydiance.spec import spec, to_plain

CONFIGS = project_folder() / "configs"
EXPERIMENTS = sorted(file.stem for file in (CONFIGS / "experiment").glob("*.yaml"))
PRESETS = sorted((file.parent.name, file.stem) for file in (CONFIGS / "preset").glob("*/*.yaml"))


def test_every_experiment_has_the_sizes_that_work_is_done_in() -> None:
    assert set(PRESETS) >= {(name, size) for name in EXPERIMENTS for size in ("micro", "tiny", "small")}
    assert {size for _, size in PRESETS} == {file.stem for file in (CONFIGS / "size").glob("*.yaml")}


@pytest.mark.parametrize(("name", "size"), PRESETS)
def test_every_experiment_composes_in_each_of_its_sizes(name: str, size: str) -> None:
    experiment = compose([f"experiment={name}", f"size={size}"])
    assert (experiment.name, experiment.size) == (name, size)
    assert validate(to_plain(experiment)) == experiment


def test_a_size_that_an_experiment_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match="size = 'paper': no such choice"):
        compose(["experiment=digits", "size=paper"])


def test_the_size_paper_has_the_published_number_of_weights() -> None:
    """55 million in G1 and G2 (Ntavelis et al. 2023, Appendix B); ours has no block at 4^3, so a little fewer."""
    experiment = compose(["size=paper"])
    assert experiment.kind == "latent"
    with torch.device("meta"):
        autodecoder = Autodecoder(experiment.train_autodecoder.model, num_objects=1)
        denoiser = UNet(experiment.train_diffusion.model)
    networks = autodecoder.generator, autodecoder.decoder
    assert 52e6 < sum(weight.numel() for network in networks for weight in network.parameters()) < 56e6
    assert denoiser.stem.weight.shape[0] == 384  # 128 x 3 channels at 8^3


def test_an_override_sets_what_only_the_spec_knows() -> None:
    changed = compose(["tune.num_trials=7", "cluster.num_workers=2", "seed=3"])
    assert (changed.tune.num_trials, changed.cluster.num_workers, changed.seed) == (7, 2, 3)
    assert compose(["tune.num_trials=7"]).tune.nfe == compose().tune.nfe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("size=tny", "size = 'tny': no such choice; did you mean tiny?"),
        ("experiment=furnitur", "experiment = 'furnitur': no such choice; did you mean furniture?"),
        ("kind=digit", "kind = 'digit': no such kind of experiment; did you mean digits?"),
        ("sede=1", "sede = 1: no such setting; did you mean seed?"),
        (
            "cluster.num_worker=1",
            "cluster.num_worker = 1: no such setting; did you mean cluster.num_workers?",
        ),
        (
            "num_trials=3",
            "num_trials = 3: no such setting; did you mean search.num_trials or tune.num_trials?",
        ),
        ("tune.num_trials=many", "tune.num_trials = 'many': must be a valid integer"),
        ("tune.num_trials=0", "tune.num_trials = 0: must be greater than or equal to 1"),
        ("tune.etas=[0.5,2]", "tune.etas.1 = 2: must be less than or equal to 1"),
        ("seed=true", "seed = True: must be a valid integer"),
        ("seed='3'", "seed = '3': must be a valid integer"),
        ("tracking.kind=mlflo", "tracking.kind = 'mlflo': must be 'mlflow' or 'none'; did you mean mlflow?"),
        ("tune=7", "tune = 7: must be an object"),
        ("tune._target_=os.system", "tune._target_ = 'os.system': code is never named in a config; choose"),
        ("+_partial_=true", "_partial_ = True: code is never named in a config"),
        ("source=${sauce}", "source = '${sauce}': nothing stands at sauce; did you mean source?"),
        (
            "seed=1,2",
            "seed=1,2: one run takes one value (`raydiance pipeline` several); write a list as seed=[...]",
        ),
        ("seed={", "'seed={' is no override"),
        ("hydra.run.dir=x", "settings of Hydra itself have no effect here"),
        ("tune.teacher_nfe=10", "tune: teacher_nfe = 10 cannot judge plans of"),
    ],
)
def test_a_wrong_override_is_answered_with_path_value_rule_and_nearest_name(
    override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_denoiser_is_told_captions_by_one_word() -> None:
    told, untold = compose(["text=captions"]), compose()
    assert told.kind == untold.kind == "latent"
    assert (untold.train_diffusion.model.vocabulary, told.train_diffusion.model.vocabulary) == (0, 512)
    assert told.evaluate.guidance > 1 == untold.evaluate.guidance
    with torch.device("meta"):
        assert UNet(told.train_diffusion.model).text is not None
    with pytest.raises(ConfigError, match="text = 'caption': no such choice; did you mean captions"):
        compose(["text=caption"])


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["sede=1", "tune.num_trials=0"])
    assert len(str(caught.value).splitlines()) == 2


def test_params_hold_every_default_and_the_overrides(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    overrides = ["size=micro", "cluster.num_workers=1"]
    written = write_params(path, overrides)
    plain = yaml.safe_load(path.read_text())
    assert plain.pop("overrides") == overrides
    assert plain == to_plain(written)
    assert load_params(path) == written == compose(overrides)


def test_unchanged_params_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    write_params(path, [])
    before = path.stat().st_ino
    write_params(path, [])
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "line 2: the alias *x is not read"),
        ("seed: 1\nseed: 2\n", "line 2: the name 'seed' stands here a second time"),
        ("- 1\n", "holds a list"),
        ("seed: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
        ("1: 2\n", "the name 1 is no text"),
        ("seed: [\n", "line 2:"),
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml") as caught:
        load_params(path)
    assert message in str(caught.value)


def test_an_alias_in_the_configs_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: &x [1]\nb: *x\n")
    with pytest.raises(ConfigError, match="alias"):
        compose(folder=tmp_path)


def test_small_numbers_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    write_params(path, ["tune.sigma_min=1e-5"])
    assert load_params(path).tune.sigma_min == 1e-5
    path.write_text(path.read_text().replace("1.0e-05", "1e-5"))
    assert load_params(path).tune.sigma_min == 1e-5


@spec
class Round:
    kind: Literal["round"] = "round"
    radius: float


@spec
class Square:
    kind: Literal["square"] = "square"
    side: float = 1.0


@spec
class Table:
    top: Round | Square
    legs: tuple[Round, ...] = ()


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"top": {"kind": "round", "radiu": 1}}, "top.radiu = 1: no such setting; did you mean top.radius?"),
        ({"top": {"kind": "square", "side": "x"}}, "top.side = 'x': must be a valid number"),
        (
            {"top": {"kind": "square"}, "legs": [{"radius": None}]},
            "legs.0.radius = None: must be a valid number",
        ),
    ],
)
def test_in_a_union_only_the_chosen_kind_is_judged(plain: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Table).validate_json(json.dumps(plain), strict=True)
    assert message in explain(caught.value, Table, plain).splitlines()
    assert not any(
        "Round" in line or "Square" in line for line in explain(caught.value, Table, plain).splitlines()
    )


def test_a_kind_that_there_is_not_is_one_line() -> None:
    plain = {"top": {"kind": "squar", "radius": "x"}}
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Table).validate_python(plain)
    assert explain(caught.value, Table, plain) == (
        "top.kind = 'squar': must be one of 'round', 'square'; did you mean square?"
    )


def test_paths_lists_what_can_be_set() -> None:
    assert {"seed", "tune.num_trials", "cluster.num_workers"} <= set(paths(Experiment))
