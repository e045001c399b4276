"""A search over trainings: which settings it tries, and how long each trial trains before it is judged.

Halving is synchronous (Jamieson & Talwalkar 2016; Li et al. 2018 call the asynchronous kind ASHA): all trials of
a rung train to the same step, the best of them go on. An asynchronous one promotes whoever comes first, so that
its trials depend on timing; here they depend on the settings, the seed and the trained numbers alone, and a search
that was cut off ends as one that was not.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, MinLen
from torch.quasirandom import SobolEngine

from raydiance.errors import ConfigError
from raydiance.spec import canonical_json, spec

__all__ = [
    "Choice",
    "Domain",
    "Log",
    "Rung",
    "SearchSpec",
    "SearchedStage",
    "Uniform",
    "Values",
    "proposals",
    "rungs",
    "work_of",
]

SearchedStage = Literal["train_diffusion", "train_cosine", "train_autodecoder", "train_extractor"]
Values: TypeAlias = Mapping[str, Any]  # dotted path -> plain value

DRAWS = 64  # for each trial, before a space is said to have no more of them


@spec
class Choice:
    """One of some values, each as likely."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Any, ...], MinLen(1)]

    def at(self, u: float) -> Any:
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]


@spec
class Uniform:
    """A number between two, evenly."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float

    def __post_init__(self) -> None:
        _check_order(self.low, self.high)

    def at(self, u: float) -> float:
        return self.low + u * (self.high - self.low)


@spec
class Log:
    """A positive number between two, its logarithm evenly."""

    kind: Literal["log"] = "log"
    low: Annotated[float, Gt(0)]
    high: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        _check_order(self.low, self.high)

    def at(self, u: float) -> float:
        return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))


Domain: TypeAlias = Choice | Uniform | Log


@spec
class SearchSpec:
    """Trials of a training stage: settings by their dotted path, each from a domain, in Sobol's order.

    A trial trains to `grace_steps` (None: so that one of them is left at the last rung) and is judged there; of
    each rung the best 1 / `reduction` go on, to `reduction` times as many steps, until the stage's own
    `loop.steps`, which is also what the learning rate decays by. They are judged by `metric`, which the training
    logs, at the rung's step; all trials have one seed, hence the same data and noise.

    Without a word denoisers are judged by `examined/denoising_error`, the error of their averaged weights over
    noise levels that are the same for all, other networks by `train/recent_loss`, the mean of the last 50 losses.
    What enters a metric must not be searched by it: a loss under other noise levels or weights is another loss.
    """

    stage: SearchedStage = "train_diffusion"
    space: Mapping[str, Domain] = field(default_factory=dict)
    num_trials: Annotated[int, Ge(1)] = 9
    metric: str | None = None
    maximise: bool = False
    reduction: Annotated[int, Ge(2)] = 3
    grace_steps: Annotated[int, Ge(1)] | None = None

    @property
    def judged_by(self) -> str:
        """The metric, the chosen one or the usual one."""
        denoises = self.stage in ("train_diffusion", "train_cosine")
        return self.metric or ("examined/denoising_error" if denoises else "train/recent_loss")


@dataclass(frozen=True)
class Rung:
    """So many trials train to this step; the best of them go on."""

    step: int
    num_trials: int


def rungs(search: SearchSpec, steps: int) -> tuple[Rung, ...]:
    """The rungs up to the last step of a training."""
    halvings = next(k for k in itertools.count() if search.num_trials // search.reduction**k <= 1)
    grace = min(steps, search.grace_steps or max(1, steps // search.reduction**halvings))
    found = []
    for power in itertools.count():
        step = min(steps, grace * search.reduction**power)
        found.append(Rung(step, max(1, search.num_trials // search.reduction**power)))
        if step == steps:
            return tuple(found)
        if found[-1].num_trials == 1:  # nobody is left to compare with
            return (*found[:-1], Rung(steps, 1))
    raise AssertionError("unreachable")


def work_of(levels: Sequence[Rung]) -> int:
    """The steps of all trials together."""
    before = (0, *(rung.step for rung in levels))
    return sum(rung.num_trials * (rung.step - start) for rung, start in zip(levels, before))


def proposals(space: Mapping[str, Domain], base: Values, num_trials: int, seed: int) -> list[Values]:
    """Different values for each trial; the first n are the same for any number of trials.

    A setting that is a whole number in `base` is drawn as one. Raises ConfigError if there are not so many.
    """
    engine = SobolEngine(len(space), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    names, found = sorted(space), dict[str, Values]()
    for _ in range(DRAWS * num_trials):
        point: Sequence[float] = engine.draw(1)[0].tolist()
        values = {name: _value(space[name], u, base[name]) for name, u in zip(names, point)}
        found.setdefault(canonical_json(values), values)
        if len(found) == num_trials:
            return list(found.values())
    raise ConfigError(
        f"search.num_trials = {num_trials}: search.space has only {len(found)} different trials; set it to "
        f"{len(found)}, or give more values"
    )


def _value(domain: Domain, u: float, base: Any) -> Any:
    value = domain.at(u)
    if isinstance(domain, Choice):
        return value
    if isinstance(base, int):
        return round(value)
    return min(max(float(f"{value:.4g}"), domain.low), domain.high)  # who reads it can say it


def _check_order(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"need low < high, got {low} and {high}")
