"""The stages of each kind of experiment, and the earlier ones that each of them reads."""

from collections.abc import Mapping
from typing import Any

from raydiance.config.experiment import Experiment
from raydiance.config.explain import nearest
from raydiance.config.search import SearchSpec
from raydiance.errors import ConfigError

__all__ = ["ASIDE", "HOMES", "STAGES", "Stages", "inputs_of", "settings_of", "stages_of"]

Stages = Mapping[str, tuple[str, ...]]

STAGES: dict[str, Stages] = {
    "latent": {
        "ingest": (),
        "render": ("ingest",),
        "train_autodecoder": ("render",),
        "encode": ("train_autodecoder",),
        "train_diffusion": ("encode", "train_autodecoder"),
        "tune": ("train_diffusion", "encode"),
        "evaluate": ("train_autodecoder", "encode", "train_diffusion", "tune", "render"),
        "publish": ("train_autodecoder", "encode", "train_diffusion", "tune", "evaluate"),
    },
    "digits": {
        "digits": (),
        "train_diffusion": ("digits",),
        "train_cosine": ("digits",),
        "tune": ("train_diffusion", "digits"),
        "sampler_table": ("train_diffusion", "train_cosine", "tune", "digits"),
    },
    "diffrf": {
        "ingest": (),
        "render": ("ingest",),
        "fit": ("render",),
        "encode": ("fit",),
        "train_diffusion": ("encode", "render"),
        "sample": ("train_diffusion", "encode"),
        "evaluate": ("sample", "fit", "render"),
        "complete": ("train_diffusion", "encode", "fit", "render"),
        "reconstruct": ("train_diffusion", "encode", "fit", "render"),
    },
    "capture": {"fit": ()},
    "articulated": {
        "articulate": (),
        "train_articulated": ("articulate",),
        "train_static": ("articulate",),
        "evaluate": ("train_articulated", "train_static", "articulate"),
    },
    "claims": {"ingest": (), "render": ("ingest",), "claims": ("render",)},
}

# Jobs beside the way: they read earlier stages, and no stage reads them.
ASIDE: dict[str, Stages] = {
    "latent": {
        "invert": ("render", "train_autodecoder", "encode"),
        "train_extractor": ("render",),
        "search": ("encode", "train_autodecoder"),
    },
    "digits": {"search": ("digits",)},
    "diffrf": {"train_extractor": ("render",), "search": ("encode", "render")},
}

# The experiment that is meant where a stage is asked for by itself; the others mean that of configs/config.yaml.
HOMES = {
    "fit": "capture",
    "digits": "digits",
    "train_cosine": "digits",
    "sampler_table": "digits",
    "sample": "diffrf",
    "complete": "diffrf",
    "reconstruct": "diffrf",
    "articulate": "articulated",
    "train_articulated": "articulated",
    "train_static": "articulated",
    "claims": "claims",
}


def stages_of(experiment: Experiment) -> Stages:
    """The stages of an experiment, in their order."""
    return STAGES[experiment.kind]


def inputs_of(experiment: Experiment, stage: str) -> tuple[str, ...]:
    """The earlier stages that a stage reads; a search, what the training reads that it is for.

    Raises ConfigError if the experiment has no such stage.
    """
    stages = {**stages_of(experiment), **ASIDE.get(experiment.kind, {})}
    if stage not in stages:
        raise ConfigError(
            f"{stage}: {experiment.name} (kind {experiment.kind}) has no such stage{nearest(stage, list(stages))}"
        )
    search: SearchSpec | None = getattr(experiment, "search", None)
    return stages[search.stage if stage == "search" and search else stage]


def settings_of(experiment: Experiment, stage: str) -> Any:
    """What the stage's result depends on: its spec; of a search also that of the training it is for."""
    found = getattr(experiment, stage)
    return {stage: found, found.stage: getattr(experiment, found.stage)} if stage == "search" else found
