"""The experiments that dvc.yaml walks: params.yaml names them, a file in params/ holds the settings of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from raydiance.config.composition import compose, load_params, params_text, parse_override
from raydiance.config.experiment import Experiment
from raydiance.config.files import dump_yaml, read_yaml, write_text
from raydiance.config.project import OUTPUTS, project_folder
from raydiance.errors import ConfigError

__all__ = ["NAMES", "Composed", "fan_out", "params_of", "read_pipeline", "write_pipeline"]

NAMES = Path("params.yaml")
HEADER = "# Written by `raydiance compose`: the experiments that dvc.yaml walks. Settings: params/NAME.yaml\n"
KIND = "latent"  # what dvc.yaml has the stages of

# What dvc.yaml draws of every experiment: a table that a stage leaves, and a column of it.
PLOTS = {
    "autodecoder_loss": ("train_autodecoder-curves.csv", "train/loss"),
    "autodecoder_held_out": ("train_autodecoder-held_out.csv", "psnr"),
    "diffusion_loss": ("train_diffusion-curves.csv", "train/loss"),
}


@dataclass(frozen=True)
class Composed:
    """An experiment, and the overrides that make it."""

    experiment: Experiment
    overrides: tuple[str, ...]


def params_of(name: str) -> Path:
    """Where the settings of an experiment lie that dvc.yaml walks."""
    return Path("params", f"{name}.yaml")


def fan_out(overrides: Sequence[str]) -> list[Composed]:
    """The experiments that overrides describe: one, or one for each combination where they give several values.

    `seed=0,1 size=micro,tiny` gives four, named after their values: "furniture-seed0-micro" and so on; a range is
    written `seed=range(0,4)`. Raises ConfigError as `compose` does, and if two would have one name.
    """
    found: list[Composed] = []
    for values in product(*(_values(parse_override(text)) for text in overrides)):
        lines = [line for line, _ in values]
        experiment = compose(lines)
        if ending := "".join(f"-{word}" for _, word in values if word):
            lines = [line for line in lines if not line.startswith("name=")]
            lines.append(f"name={experiment.name}{ending}")
            experiment = compose(lines)  # others of its settings may be named after it
        found.append(Composed(experiment, tuple(lines)))
    names = [each.experiment.name for each in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"name = {twice[0]!r}: {len(found)} experiments need as many names; leave name out")
    return found


def _values(override: Override) -> list[tuple[str, str]]:
    """Each value that the override gives, as an override of its own, and what it adds to the name."""
    line, key = str(override.input_line), override.key_or_group
    if not override.is_sweep_override():
        return [(line, "")]
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError(f"{line}: cannot be counted out; write {key}=A,B,C") from error
    is_group = (project_folder() / "configs" / key).is_dir()
    named = "" if is_group else key.rpartition(".")[2]
    is_name = key in ("name", "experiment")  # each brings its own
    return [
        (
            f"{line.partition('=')[0]}={value}",
            "" if is_name else named + re.sub(r"[^A-Za-z0-9_.-]+", "_", value).strip("_"),
        )
        for value in values
    ]


def write_pipeline(found: Sequence[Composed]) -> None:
    """Write the settings of each experiment, with every default spelled out, and the names of all.

    Raises ConfigError for an experiment that dvc.yaml has no stages of.
    """
    for each in found:
        if each.experiment.kind != KIND:
            raise ConfigError(
                f"{each.experiment.name} (kind {each.experiment.kind}): dvc.yaml has the stages of kind {KIND}; "
                f"`raydiance pipeline {' '.join(each.overrides)}` runs it, `raydiance compose --out FILE` writes "
                "its settings"
            )
    for each in found:
        write_text(params_of(each.experiment.name), params_text(each.experiment, each.overrides))
    names = [each.experiment.name for each in found]
    plots = {
        plot: {(OUTPUTS / name / "plots" / table).as_posix(): column for name in names}
        for plot, (table, column) in PLOTS.items()
    }
    write_text(NAMES, HEADER + dump_yaml({"experiments": names, "plots": plots}))


def read_pipeline(path: Path = NAMES) -> list[Experiment]:
    """The experiments that params.yaml names. Raises ConfigError if it names none, or one has no settings."""
    names = read_yaml(path).get("experiments")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{path}: experiments = {names!r}: a list of names is needed; `raydiance compose` writes it"
        )
    return [load_params(path.parent / params_of(name)) for name in names]
