"""Every error that Raydiance raises on purpose.

RaydianceError
|-- ConfigError        a setting is unknown, of the wrong type, or impossible beside another one
|-- StoreError         the store cannot be reached, read or written
|   `-- ArtifactError  an artifact has no manifest, or is not what its manifest says
|-- DataError          meshes, captures or views that cannot be used
|-- TrainingError      a run that cannot go on
|   `-- NonFiniteLossError   the loss became NaN or infinite; the last good checkpoint stands
|-- TrackingError      the tracking server cannot be reached or refuses
|   `-- UnknownModelError  the registry has no such model, version or alias
|-- ClusterError       the Ray cluster cannot be reached, or a job on it failed
`-- RequestError       a request to the endpoint that it cannot serve

Each message names the place (path, key or address), the value, the rule it breaks and what to do about it.
"""

__all__ = [
    "ArtifactError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "NonFiniteLossError",
    "RaydianceError",
    "RequestError",
    "StoreError",
    "TrackingError",
    "TrainingError",
    "UnknownModelError",
]


class RaydianceError(Exception):
    """The root: the command line prints its message as one line and exits with status 1."""


class ConfigError(RaydianceError, ValueError):
    """A setting is unknown, of the wrong type, or impossible beside another one."""


class StoreError(RaydianceError):
    """The store cannot be reached, read or written."""


class ArtifactError(StoreError):
    """An artifact has no manifest, or is not what its manifest says."""


class DataError(RaydianceError, ValueError):
    """Meshes, captures or views that cannot be used."""


class TrainingError(RaydianceError):
    """A training run that cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite; the last good checkpoint stands."""


class TrackingError(RaydianceError):
    """The tracking server cannot be reached or refuses."""


class UnknownModelError(TrackingError):
    """The registry has no such model, version or alias."""


class ClusterError(RaydianceError):
    """The Ray cluster cannot be reached, or a job on it failed."""


class RequestError(RaydianceError, ValueError):
    """A request to the endpoint that it cannot serve."""
