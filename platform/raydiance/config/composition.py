"""From overrides or params.yaml to a validated Experiment; what is wrong is said before anything starts."""

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, get_args

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from raydiance.config.experiment import (
    KINDS,
    DiffrfExperiment,
    DigitsExperiment,
    Experiment,
    LatentExperiment,
)
from raydiance.config.explain import explain, nearest, paths
from raydiance.config.files import dump_yaml, read_yaml, write_text
from raydiance.config.project import project_folder
from raydiance.config.search import SearchedStage, Values, proposals
from raydiance.errors import ConfigError
from raydiance.spec import to_plain

__all__ = [
    "SearchedExperiment",
    "compose",
    "load_params",
    "params_text",
    "parse_override",
    "trials_of",
    "validate",
    "with_values",
    "words",
    "write_params",
]

SearchedExperiment: TypeAlias = LatentExperiment | DigitsExperiment | DiffrfExperiment
SEARCHED = get_args(SearchedStage)


def compose(overrides: Sequence[str] = (), *, folder: Path | None = None) -> Experiment:
    """The experiment that `configs/` and the overrides (Hydra's grammar) describe.

    Raises ConfigError with path, value, rule and nearest valid name.
    """
    folder = (folder or project_folder() / "configs").resolve()
    for file in sorted(folder.rglob("*.yaml")):
        read_yaml(file)
    parsed = [_single(text) for text in overrides]
    lines = [_allow_defaults(override, folder) for override in parsed]
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            composed = hydra_compose("config", overrides=lines)
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_composition_problem(error, parsed, folder)) from error
    return validate(plain)


def validate(plain: Any) -> Experiment:
    """A tree of plain values as an Experiment. Raises ConfigError, a line for each thing that is wrong.

    Every trial of its search is made once, too.
    """
    experiment = _built(plain)
    if isinstance(experiment, SearchedExperiment):
        _check_trials(experiment)
    return experiment


def _check_trials(experiment: SearchedExperiment) -> None:
    stage = experiment.search.stage
    for index, values in enumerate(trials_of(experiment)):
        try:
            trial = with_values(experiment, values)
        except ConfigError as error:
            raise ConfigError(f"search.space, trial {index} ({words(values)}): {error}") from error
        if getattr(trial, stage).loop.steps != getattr(experiment, stage).loop.steps:
            raise ConfigError(
                f"search.space: {stage}.loop.steps is the clock of the search, the same for all trials; set it by "
                "itself"
            )


def trials_of(experiment: SearchedExperiment) -> list[Values]:
    """The values of each trial of the experiment's search, none without a space. Raises ConfigError that names the
    path at fault.
    """
    search, stage = experiment.search, experiment.search.stage
    if not hasattr(experiment, stage):
        there = [name for name in SEARCHED if hasattr(experiment, name)]
        raise ConfigError(f"search.stage = {stage!r}: {experiment.name} has {', '.join(there)}")
    known = [f"{stage}.{path}" for path in paths(type(getattr(experiment, stage)))]
    for path in search.space:
        if path not in known:
            raise ConfigError(f"search.space: {path}: no such setting{nearest(path, known)}")
    if not search.space:
        return []
    plain = to_plain(experiment)
    base = {path: _folder(plain, path)[path.rpartition(".")[2]] for path in search.space}
    return proposals(search.space, base, search.num_trials, experiment.seed)


def with_values(experiment: SearchedExperiment, values: Values) -> SearchedExperiment:
    """The experiment with these settings, without a search. Raises ConfigError if they do not go together."""
    plain = {**to_plain(experiment), "search": {}}
    for path, value in values.items():
        _folder(plain, path)[path.rpartition(".")[2]] = value
    built = _built(plain)
    assert isinstance(built, type(experiment))
    return built


def _folder(plain: Any, path: str) -> dict[str, Any]:
    """Where the setting of this path stands in a tree of plain values."""
    for part in path.split(".")[:-1]:
        plain = plain[part]
        if not isinstance(plain, dict):
            raise ConfigError(f"search.space: {path}: {part} is {plain!r} here; give it its settings first")
    if path.rpartition(".")[2] not in plain:
        raise ConfigError(f"search.space: {path}: no such setting here{nearest(path, list(plain))}")
    assert isinstance(plain, dict)
    return plain


def words(values: Values) -> str:
    """Values as overrides, in Hydra's grammar."""
    return " ".join(f"{path}={json.dumps(value)}" for path, value in values.items())


def _built(plain: Any) -> Experiment:
    _refuse_code(plain, "")
    kind = plain.get("kind") if isinstance(plain, dict) else None
    if kind not in KINDS:
        raise ConfigError(f"kind = {kind!r}: no such kind of experiment{nearest(str(kind), list(KINDS))}")
    try:
        # JSON in strict mode: lists become tuples, but "3" is no number and true is no 1.
        built = _adapter(kind).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, KINDS[kind], plain)) from error
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", built.name):
        raise ConfigError(
            f"name = {built.name!r}: folders are named after it; letters, digits, '_', '.' and '-' may stand in it"
        )
    return built


def load_params(path: Path) -> Experiment:
    """The experiment in a params.yaml that write_params wrote (or a person changed)."""
    plain = read_yaml(path)
    plain.pop("overrides", None)
    try:
        return validate(plain)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def write_params(path: Path, overrides: Sequence[str]) -> Experiment:
    """Compose, and write the result with every default spelled out."""
    experiment = compose(overrides)
    write_text(path, params_text(experiment, overrides))
    return experiment


def params_text(experiment: Experiment, overrides: Sequence[str]) -> str:
    """The experiment as YAML: each setting with its value, and the overrides it came from."""
    header = f"# Written by `{' '.join(['raydiance compose', *overrides])}`.\n"
    return header + dump_yaml({"overrides": list(overrides), **to_plain(experiment)})


@cache
def _adapter(kind: str) -> TypeAdapter[Experiment]:
    return TypeAdapter(KINDS[kind])


def parse_override(text: str) -> Override:
    """An override by Hydra's grammar, of one value or of several. Raises ConfigError."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{text!r} is no override ({reason}); write path=value, as in render.size=64"
        ) from error
    if override.key_or_group.split(".")[0] == "hydra":
        raise ConfigError(f"{text}: settings of Hydra itself have no effect here; leave it out")
    return override


def _single(text: str) -> Override:
    override = parse_override(text)
    if override.is_sweep_override():
        raise ConfigError(
            f"{text}: one run takes one value (`raydiance pipeline` several); write a list as "
            f"{override.key_or_group}=[...]"
        )
    return override


def _allow_defaults(override: Override, folder: Path) -> str:
    """Plain `path=value` may also set what only the specs know: pydantic says which names exist."""
    line = str(override.input_line)
    is_group = (folder / override.key_or_group).is_dir()
    return f"++{line}" if line[0] not in "+~" and not is_group else line


def _composition_problem(error: Exception, overrides: Sequence[Override], folder: Path) -> str:
    message = " ".join(str(error).split())
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", message):
        group, name = found.groups()
        options = sorted(file.stem for file in (folder / group).glob("*.yaml"))
        if group.startswith("preset/"):
            group, options = "size", sorted(options)
        return f"{group} = {name!r}: no such choice{nearest(name, options)}"
    if found := re.search(r"Interpolation key '([^']+)' not found full_key: (\S+)", message):
        hint = nearest(found[1], list(paths(Experiment)))
        return f"{found[2]} = '${{{found[1]}}}': nothing stands at {found[1]}{hint}"
    if found := re.search(r"Missing mandatory value: (\S+)", message):
        return f"{found[1]}: is not set and has no default; give {found[1]}=..."
    given = ", ".join(str(o.input_line) for o in overrides)
    return f"{given or folder}: cannot be composed: {message}"


def _refuse_code(value: Any, path: str) -> None:
    """Refuse names of code and numbers that JSON cannot hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            if isinstance(key, str) and re.fullmatch(r"_\w+_", key):
                raise ConfigError(f"{here} = {item!r}: code is never named in a config; choose with `kind`")
            _refuse_code(item, here)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_code(item, f"{path}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} = {value}: a finite number is needed")
