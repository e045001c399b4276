"""What replicas send to the gateway. No torch in here, so that a gateway needs none."""

from dataclasses import dataclass, field

from raydiance.serving.schema import ModelInfo, PlanInfo, SolverInfo

__all__ = ["Answer", "Description", "Step"]


@dataclass(frozen=True)
class Answer:
    """A body with its media type, a file name that fits, and headers that say how it was made."""

    content: bytes
    media_type: str
    filename: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A sample under way: network call `row` of `nfe` is done; preview: a small picture of x_0, or empty."""

    seed: int
    row: int
    nfe: int
    preview: bytes


@dataclass(frozen=True)
class Description:
    """What the replica serves, how many samples wait, run and are being finished on it, and its counts."""

    model: ModelInfo
    plans: list[PlanInfo]
    solvers: list[SolverInfo]
    call_ms: float
    load: dict[str, int]
    stats: dict[str, float]
