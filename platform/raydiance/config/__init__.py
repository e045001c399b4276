"""What a run is made from: Hydra composes plain YAML, pydantic validates it into specs, once."""

from raydiance.config.compose import compose, load_params, params_text, validate, write_params
from raydiance.config.experiment import DigitsExperiment, Experiment, LatentExperiment
from raydiance.config.platform import (
    ClusterSpec,
    RetrySpec,
    ServeSpec,
    StoreSpec,
    TrackingSpec,
    TuneSpec,
)
from raydiance.config.project import project_folder

__all__ = [
    "ClusterSpec",
    "DigitsExperiment",
    "Experiment",
    "LatentExperiment",
    "RetrySpec",
    "ServeSpec",
    "StoreSpec",
    "TrackingSpec",
    "TuneSpec",
    "compose",
    "load_params",
    "params_text",
    "project_folder",
    "validate",
    "write_params",
]
