"""Settings of the layers above config: tuning, serving, the cluster, tracking and the store.

An address that is None is read from the environment (RAYDIANCE_ADDRESS, RAYDIANCE_TRACKING, RAYDIANCE_STORE),
else it is the embedded default, so that one params.yaml serves a laptop and a cluster alike.
"""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from raydiance.spec import spec

__all__ = [
    "ClusterSpec",
    "GridName",
    "RetrySpec",
    "ServeSpec",
    "Solver",
    "StoreSpec",
    "TrackingSpec",
    "TuneSpec",
    "ValidationSpec",
]

Solver = Literal["ddim", "ipndm", "deis", "deis_asinh", "dpmpp", "unipc", "heun"]
GridName = Literal["karras", "log_snr", "asinh"]


@spec
class TuneSpec:
    """What the search for sampling plans may try and how it judges.

    By `method` grid about half of the trials screen solvers and grids at `screen_nfe` network calls (None: the
    middle one of `nfe`); the best of those, from each of `sigma_max` in turn, are then tried at the other numbers
    of calls. By optuna `round_size` trials at a time are proposed by what the ones before were worth, for quality
    and cost at once, and of `nfe`, `rhos`, `etas` and `sigma_max` all that lies between the least and the largest
    may be tried.

    Judged on `num_samples` noises, against a teacher of `teacher_nfe` calls and against the training latents.
    `draft_nfe` and `standard_nfe` are what plans of these names may spend.

    At each number of calls in `learn` a plan is then fitted to the teacher's samples of `learn_samples` other
    noises, from each of the `learn_starts` best that were found. An iteration of a fit at K calls asks the
    network about learn_samples K^3 / 2 times.
    """

    method: Literal["grid", "optuna"] = "grid"
    num_trials: Annotated[int, Ge(1)] = 24
    round_size: Annotated[int, Ge(1)] = 4
    num_samples: Annotated[int, Ge(4)] = 24
    batch_size: Annotated[int, Ge(1)] = 8
    nfe: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] = (4, 6, 8, 12, 16, 24)
    screen_nfe: Annotated[int, Ge(2)] | None = None
    draft_nfe: Annotated[int, Ge(2)] = 6
    standard_nfe: Annotated[int, Ge(2)] = 12
    teacher_nfe: Annotated[int, Ge(4)] = 48
    rank: Literal["error", "frechet"] = "error"
    solvers: Annotated[tuple[Solver, ...], MinLen(1)] = (
        "ddim",
        "ipndm",
        "deis",
        "deis_asinh",
        "dpmpp",
        "unipc",
        "heun",
    )
    grids: Annotated[tuple[GridName, ...], MinLen(1)] = ("karras", "log_snr", "asinh")
    rhos: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)] = (3.0, 5.0, 7.0)
    etas: Annotated[tuple[Annotated[float, Interval(ge=0, le=1)], ...], MinLen(1)] = (0.0, 0.5, 1.0)
    sigma_min: Annotated[float, Gt(0)] = 0.01
    sigma_max: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)] = (80.0, 20.0)
    components: Annotated[int, Ge(1)] = 16
    learn: tuple[Annotated[int, Ge(1)], ...] = ()
    learn_samples: Annotated[int, Ge(4)] = 16
    learn_iterations: Annotated[int, Ge(1)] = 12
    learn_starts: Annotated[int, Ge(1)] = 1
    cpus_per_trial: Annotated[float, Gt(0)] = 1.0
    gpus_per_trial: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        if self.screen_nfe is not None and self.screen_nfe not in self.nfe:
            raise ValueError(f"screen_nfe = {self.screen_nfe} must be one of nfe = {self.nfe}")
        most = max(*self.nfe, *self.learn)
        if self.teacher_nfe < 2 * most:
            raise ValueError(
                f"teacher_nfe = {self.teacher_nfe} cannot judge plans of {most} network calls: "
                f"use {2 * most} or more"
            )
        if self.draft_nfe > self.standard_nfe:
            raise ValueError(f"need draft_nfe <= standard_nfe, got {self.draft_nfe} and {self.standard_nfe}")
        if self.rank == "frechet" and self.num_samples < 8 * self.components:
            raise ValueError(
                f"rank = frechet on {self.num_samples} samples would choose plans by chance: "
                f"raise num_samples to {8 * self.components} or more, or lower components"
            )
        if self.sigma_min >= min(self.sigma_max):
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def levels(self) -> tuple[int, ...]:
        """The numbers of network calls to try: the one of the screening first, then the others upwards."""
        upwards = sorted(set(self.nfe))
        first = self.screen_nfe or upwards[len(upwards) // 2 - (len(upwards) > 1)]
        return (first, *(nfe for nfe in upwards if nfe != first))


@spec
class ServeSpec:
    """How the endpoint runs: where it listens, how much it takes on, how long it waits.

    `bundle` is a key in the store ("bundle/..."), NAME@ALIAS in the model registry, or "latest". A replica
    has at most `slots` samples in progress, and for each replica `queue` more wait; what comes beyond is refused,
    and where a replica is lost the others take on what it had. A client has at most `max_requests` under way.
    Finished jobs are kept for `job_ttl_s`, up to `max_job_bytes` of them. A bundle that is named by an alias is
    looked up again every `follow_s`, and a new one is rolled over to. `keys` is a file of API keys (raydiance
    keys), read again when it changes.

    `also` names more bundles in the same ways, for requests that ask for them; a replica keeps those used last
    within `memory_mb` of weights. A share `canary_share` of the requests that name no bundle goes to
    `canary`, until more than `canary_errors` of them fail beyond what fails elsewhere. With `max_replicas`,
    replicas are added where samples wait, and ended `shrink_s` after they are no longer needed.

    With `compile` a replica compiles the network as it starts, which takes a C++ compiler and, the first time,
    minutes. Such samples differ from those of the library in the last digits, and say so.
    """

    bundle: str = "latest"
    also: tuple[str, ...] = ()
    memory_mb: Annotated[float, Gt(0)] = 4096.0
    canary: str | None = None
    canary_share: Annotated[float, Interval(ge=0, le=1)] = 0.1
    canary_errors: Annotated[float, Interval(ge=0, le=1)] = 0.05
    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8000
    replicas: Annotated[int, Ge(1)] = 1
    max_replicas: Annotated[int, Ge(1)] | None = None
    grow_s: Annotated[float, Ge(0)] = 10.0
    shrink_s: Annotated[float, Ge(0)] = 300.0
    threads: Annotated[int, Ge(1)] = 1
    compile: bool = False
    cpus_per_replica: Annotated[float, Ge(0)] = 1.0
    gpus_per_replica: Annotated[float, Ge(0)] = 0.0
    slots: Annotated[int, Ge(1)] = 8
    queue: Annotated[int, Ge(0)] = 32
    finishers: Annotated[int, Ge(1)] = 1
    max_count: Annotated[int, Interval(ge=1, le=64)] = 8
    max_nfe: Annotated[int, Ge(1)] = 1000
    max_resolution: Annotated[int, Interval(ge=16, le=1024)] = 256
    max_pixels: Annotated[int, Ge(1024)] = 4_194_304
    max_body_bytes: Annotated[int, Ge(1024)] = 65536
    max_upload_bytes: Annotated[int, Ge(1024)] = 16_777_216
    max_texture: Annotated[int, Interval(ge=64, le=4096)] = 1024
    max_requests: Annotated[int, Ge(1)] = 64
    max_jobs: Annotated[int, Ge(1)] = 256
    max_job_bytes: Annotated[int, Ge(0)] = 268_435_456
    job_ttl_s: Annotated[float, Gt(0)] = 900.0
    keys: str | None = None
    follow_s: Annotated[float, Gt(0)] = 15.0
    request_timeout_s: Annotated[float, Gt(0)] = 120.0
    drain_timeout_s: Annotated[float, Ge(0)] = 30.0
    start_timeout_s: Annotated[float, Gt(0)] = 180.0

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas {self.max_replicas} must be at least replicas, {self.replicas}; or leave it out"
            )


@spec
class RetrySpec:
    """When a submitted job that failed is run again, by whoever follows it; it resumes from its checkpoint.

    `exit_codes` are of errors that pass (75: a temporary failure, 137: killed, as when memory is short), worth
    `times` more attempts. A lost node has a budget of its own, since a spot instance that is taken away says
    nothing about the job; a job that was ended by SIGTERM, but not through Ray, sat on such a one. The pause of
    `backoff_s` doubles each time.
    """

    exit_codes: tuple[Annotated[int, Interval(ge=1, le=255)], ...] = (75, 137)
    times: Annotated[int, Ge(0)] = 2
    node_losses: Annotated[int, Ge(0)] = 5
    backoff_s: Annotated[float, Ge(0)] = 10.0


@spec
class ValidationSpec:
    """Of a training's checkpoints, while it goes on: what they are worth stands as val/... beside its loss.

    `every` N-th checkpoint has values, and the last one; 0: none has. Under Ray a task that asks for `cpus` and
    `gpus` finds them, elsewhere a process beside the training; with 0 cpus on one thread, which has what the
    training leaves. One is worked on at a time, and of those that wait the newest. At the end of a training the
    last one is waited for, at most `wait_s`.
    """

    every: Annotated[int, Ge(0)] = 1
    cpus: Annotated[float, Ge(0)] = 0.0
    gpus: Annotated[float, Ge(0)] = 0.0
    wait_s: Annotated[float, Ge(0)] = 300.0


@spec
class ClusterSpec:
    """Ray: where it is, how many workers train together, how many tasks run beside each other.

    `address` is "local" (a Ray of our own for the length of the run), "auto" (the cluster this machine is
    part of) or "host:port" of a cluster's head. 0 workers or 0 tasks: in this process, without Ray.
    A cluster that `grows` adds nodes when they are asked for: no job is refused for want of room.

    Workers that are lost are replaced `max_failures` times; those whose node is taken away with a warning, so that
    they end with a checkpoint, do not count as such: `max_preemptions`.
    Workers that are lost with their node are given `replace_s` for another one to appear; then the training goes
    on with fewer, if `min_workers` allows that: as many as the cluster has room for and divide `num_workers`.
    """

    address: str | None = None
    num_workers: Annotated[int, Ge(0)] = 0
    num_tasks: Annotated[int, Ge(0)] = 0
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Gt(0)] = 1.0
    max_failures: Annotated[int, Ge(0)] = 2
    max_preemptions: Annotated[int, Ge(0)] = 20
    min_workers: Annotated[int, Ge(1)] | None = None
    replace_s: Annotated[float, Ge(0)] = 60.0
    grows: bool = False
    retry: RetrySpec = RetrySpec()
    validation: ValidationSpec = ValidationSpec()

    def __post_init__(self) -> None:
        if self.min_workers is not None and self.min_workers > max(self.num_workers, 1):
            raise ValueError(
                f"min_workers = {self.min_workers} is more than num_workers = {self.num_workers}: lower it"
            )


@spec
class TrackingSpec:
    """Where the record of runs is kept: an MLflow server or database (None: see above), or nowhere."""

    kind: Literal["mlflow", "none"] = "mlflow"
    url: str | None = None


@spec
class StoreSpec:
    """Where artifacts live: a folder or s3://bucket/prefix. quota: the bytes that runs of this experiment may
    fill it to.
    """

    url: str | None = None
    quota: Annotated[int, Gt(0)] | None = None
