"""Settings of the layers above config: tuning, serving, the cluster, tracking and the store.

An address that is None is read from the environment (RAYDIANCE_ADDRESS, RAYDIANCE_TRACKING, RAYDIANCE_STORE) and
falls back to the embedded default, so one params.yaml serves a laptop and a cluster alike.
"""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from raydiance.spec import spec

__all__ = ["ClusterSpec", "ServeSpec", "StoreSpec", "TrackingSpec", "TuneSpec"]

Positive = Annotated[int, Gt(0)]
NonNegative = Annotated[int, Ge(0)]
Seconds = Annotated[float, Gt(0)]


@spec
class TuneSpec:
    """The search for the fastest sampling plan: what is tried, on how many samples, by how many at once."""

    num_trials: Positive = 24
    num_samples: Positive = 32
    max_concurrent: NonNegative = 2
    solvers: tuple[str, ...] = ("ddim", "ipndm", "heun", "dpm_solver_pp", "unipc")
    grids: tuple[str, ...] = ("karras", "uniform_log_snr")
    num_steps: tuple[Positive, ...] = (4, 6, 8, 12, 16, 24)
    etas: tuple[Annotated[float, Ge(0), Le(1)], ...] = (0.0, 1.0)
    reference_steps: Positive = 64
    quality_tolerance: Annotated[float, Ge(0)] = 0.05


@spec
class ServeSpec:
    """The endpoint: where it listens, how many requests it holds, and which bundle it loads."""

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 8000
    model: str = "furniture"
    alias: str = "champion"
    num_replicas: Positive = 1
    num_cpus: Annotated[float, Gt(0)] = 1.0
    num_gpus: Annotated[float, Ge(0)] = 0.0
    max_batch: Positive = 8
    max_ongoing_requests: Positive = 16
    max_queued_requests: Positive = 32
    request_timeout_s: Seconds = 60.0
    max_body_bytes: Positive = 65536


@spec
class ClusterSpec:
    """Ray: where it is, how many workers train and how many tasks run beside each other."""

    address: str | None = None
    num_workers: NonNegative = 0
    num_tasks: NonNegative = 0
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Gt(0)] = 1.0
    max_failures: NonNegative = 2
    timeout_s: Seconds = 10.0


@spec
class TrackingSpec:
    """Where the record is kept: an MLflow server, a database, or nowhere."""

    kind: Literal["mlflow", "none"] = "mlflow"
    url: str | None = None


@spec
class StoreSpec:
    """Where artifacts live: a folder or s3://bucket/prefix."""

    url: str | None = None
