"""What a run is made from: Hydra composes plain YAML, pydantic validates it into specs, once."""

from raydiance.config.compose import compose, load_params, validate, write_params
from raydiance.config.experiment import Experiment, LatentExperiment
from raydiance.config.environment import ClusterSpec, StoreSpec, TrackingSpec
from raydiance.config.project import project_folder

__all__ = [
    "ClusterSpec",
    "Experiment",
    "LatentExperiment",
    "StoreSpec",
    "TrackingSpec",
    "compose",
    "load_params",
    "project_folder",
    "validate",
    "write_params",
]
