"""What a run is made from: Hydra composes plain YAML, pydantic validates it into specs, once.

A worker that was sent its spec imports neither of them; a name loads when it is used.
"""

from typing import TYPE_CHECKING

from raydiance.lazy import lazily

if TYPE_CHECKING:
    from raydiance.config.composition import compose, load_params, params_text, validate, write_params
    from raydiance.config.experiment import (
        ArticulatedExperiment,
        DigitsExperiment,
        Experiment,
        LatentExperiment,
    )
    from raydiance.config.platform import (
        ClusterSpec,
        RetrySpec,
        ServeSpec,
        StoreSpec,
        TrackingSpec,
        TuneSpec,
        ValidationSpec,
    )
    from raydiance.config.project import project_folder

__all__ = [
    "ArticulatedExperiment",
    "ClusterSpec",
    "DigitsExperiment",
    "Experiment",
    "LatentExperiment",
    "RetrySpec",
    "ServeSpec",
    "StoreSpec",
    "TrackingSpec",
    "TuneSpec",
    "ValidationSpec",
    "compose",
    "load_params",
    "params_text",
    "project_folder",
    "validate",
    "write_params",
]

_HOME = {
    "ArticulatedExperiment": "experiment",
    "ClusterSpec": "platform",
    "DigitsExperiment": "experiment",
    "Experiment": "experiment",
    "LatentExperiment": "experiment",
    "RetrySpec": "platform",
    "ServeSpec": "platform",
    "StoreSpec": "platform",
    "TrackingSpec": "platform",
    "TuneSpec": "platform",
    "ValidationSpec": "platform",
    "compose": "composition",
    "load_params": "composition",
    "params_text": "composition",
    "project_folder": "project",
    "validate": "composition",
    "write_params": "composition",
}

__getattr__ = lazily(__name__, _HOME)
