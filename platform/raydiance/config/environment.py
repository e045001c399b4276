"""Where a run happens: the cluster, the record of runs, the store.

An address that is None is read from the environment (RAYDIANCE_ADDRESS, RAYDIANCE_TRACKING, RAYDIANCE_STORE), else
it is the embedded default, so that one params.yaml serves a laptop and a cluster alike.
"""

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from raydiance.spec import spec

__all__ = ["ClusterSpec", "StoreSpec", "TrackingSpec"]


@spec
class ClusterSpec:
    """Ray: where it is, how many workers train together, how many tasks run beside each other.

    `address` is "local" (a Ray of our own for the length of the run), "auto" (the cluster this machine is part of)
    or "host:port" of a cluster's head. 0 workers or 0 tasks: in this process, without Ray.
    """

    address: str | None = None
    num_workers: Annotated[int, Ge(0)] = 0
    num_tasks: Annotated[int, Ge(0)] = 0
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Gt(0)] = 1.0
    max_failures: Annotated[int, Ge(0)] = 2


@spec
class TrackingSpec:
    """Where the record of runs is kept: an MLflow server or database (None: see above), or nowhere."""

    kind: Literal["mlflow", "none"] = "mlflow"
    url: str | None = None


@spec
class StoreSpec:
    """Where artifacts live: a folder or s3://bucket/prefix."""

    url: str | None = None
