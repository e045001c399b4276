"""The order of trials: the teacher's samples, a screening of solvers and grids, then the best at other costs; or
in the place of both, rounds of what Optuna proposes.

Which trials there are depends on the spec, the seed and the results alone, never on their timing: a search
that was cut off and goes on ends with the same trials and the same plans as one that was not.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.search import Searcher

from raydiance.config.platform import TuneSpec
from raydiance.diffusion.plans import SamplingPlan, from_json
from raydiance.errors import ClusterError
from raydiance.spec import canonical_json
from raydiance.storage import ArtifactRef
from raydiance.tuning.candidates import Candidate, build, by_turns, candidates
from raydiance.tuning.judge import Score
from raydiance.tuning.proposals import proposed

__all__ = [
    "ATTEMPTS",
    "Result",
    "StagedSearch",
    "is_better",
    "quality",
    "scaled",
    "screened",
    "taught",
    "winners",
]

SPREADS = 2.0  # standard errors that make a difference in Frechet distance
SCREENED = 0.5  # the share of trials that screen
ATTEMPTS = 3  # at a trial, which may be lost with its node


@dataclass(frozen=True)
class Result:
    """A candidate and its score; `learned` holds the plan of one that was learned, as JSON."""

    candidate: Candidate
    score: Score
    learned: str | None = None

    @property
    def plan(self) -> SamplingPlan:
        return build(self.candidate) if self.learned is None else from_json(self.learned)


def screened(tune: TuneSpec, seed: int) -> list[Candidate]:
    """The trials of the screening."""
    first, *others = tune.levels
    count = max(1, round(SCREENED * tune.num_trials)) if others else tune.num_trials
    return candidates(tune, first, seed)[:count]


def scaled(tune: TuneSpec, seed: int, results: Sequence[Result]) -> list[Candidate]:
    """The trials after the screening: its best candidates at the other numbers of calls.

    The best from each sigma_max first: what starts low is ahead at few calls, and has a floor that no number of
    calls goes below. Where those are few, what is left of the trials goes to more screening.
    """
    turns = by_turns(winners(tune, results), lambda result: result.candidate.sigma_max)
    wanted = [replace(result.candidate, nfe=nfe) for result in turns for nfe in tune.levels[1:]]
    wanted += candidates(tune, tune.levels[0], seed)[len(results) :]
    return wanted[: max(0, tune.num_trials - len(results))]


def taught(tune: TuneSpec, results: Sequence[Result]) -> list[Candidate]:
    """The trials that learn: at each number of calls asked for, from the best that can be fitted, one a grid."""
    paired = [each for each in results if each.candidate.is_learnable and not each.candidate.learned]
    found = []
    for nfe in tune.learn:
        near = min((abs(each.candidate.nfe - nfe) for each in paired), default=0)
        starts: dict[tuple[object, ...], Candidate] = {}
        for each in winners(tune, [each for each in paired if abs(each.candidate.nfe - nfe) == near]):
            candidate = each.candidate
            grid = (candidate.grid, candidate.rho, candidate.sigma_max)
            starts.setdefault(grid, replace(candidate, nfe=nfe, learned=True))
        found += list(starts.values())[: tune.learn_starts]
    return found


def winners(tune: TuneSpec, results: Sequence[Result]) -> list[Result]:
    """The candidates of one cost that can be chosen, the best first.

    By their error, which a stochastic plan does not have; or all of them by their Frechet distance.
    """
    if tune.rank == "frechet":
        return sorted(results, key=lambda result: (result.score.frechet, result.candidate.identity))
    paired = [(result.score.error, result) for result in results if result.score.error is not None]
    return [result for _, result in sorted(paired, key=lambda pair: (pair[0], pair[1].candidate.identity))]


def is_better(tune: TuneSpec, one: Result, other: Result) -> bool:
    """Whether one is worth more network calls than the other: a smaller error, or a Frechet distance that is
    smaller beyond doubt.
    """
    if tune.rank == "frechet":
        doubt = math.hypot(one.score.frechet_spread, other.score.frechet_spread)
        return one.score.frechet + SPREADS * doubt < other.score.frechet
    assert one.score.error is not None and other.score.error is not None, "only such are ranked by error"
    return one.score.error < other.score.error


def quality(tune: TuneSpec, result: Result) -> float:
    """What it is ranked by, the less the better; infinite for one that cannot be ranked."""
    found = result.score.frechet if tune.rank == "frechet" else result.score.error
    return math.inf if found is None else found


class StagedSearch(Searcher):
    """Hands trials to Ray Tune stage by stage, and their results to `on_result`.

    parts: the ranges of the teacher's samples; teacher: those that are there, by their start. known: what
    earlier attempts found out.
    """

    def __init__(
        self,
        tune: TuneSpec,
        seed: int,
        parts: list[tuple[int, int]],
        teacher: Mapping[int, ArtifactRef],
        known: Mapping[str, Result],
        on_result: Callable[[Result], None],
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._tune, self._seed, self._known = tune, seed, dict(known)
        self._starts, self._parts = [start for start, _ in parts], dict(teacher)
        self._on_result = on_result
        self._running: dict[str, dict[str, Any]] = {}
        self._failures = Counter[str]()
        self._stages = self._in_turn()
        self._pending: list[dict[str, Any]] = [
            {"start": start, "stop": stop} for start, stop in parts if start not in teacher
        ]
        self._failure: str | None = None
        self._finished = False

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of who proposes, which nobody goes on with; an iterator cannot be copied."""
        return self.__dict__ | {"_stages": None}

    @property
    def failure(self) -> str | None:
        """What went wrong, if something did: a trial, or Tune ended before the search had."""
        return self._failure or (None if self._finished else "Ray Tune ended early")

    @property
    def teacher(self) -> tuple[ArtifactRef, ...]:
        """The parts of the teacher's samples, in their order, once all are drawn."""
        return tuple(self._parts[start] for start in self._starts)

    @property
    def results(self) -> list[Result]:
        """What is known now, in a fixed order."""
        return [self._known[name] for name in sorted(self._known)]

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config (as JSON, because Tune takes apart what is nested); None while a stage
        waits.
        """
        while not self._pending and self._failure is None:
            if self._running:
                return None
            stage = next(self._stages, None)
            if stage is None:
                self._finished = True
                return Searcher.FINISHED
            missing = {each.identity: each for each in stage if each.identity not in self._known}
            self._pending = [
                {"candidate": candidate, "teacher": self.teacher} for candidate in missing.values()
            ]
        if self._failure is not None:
            return None if self._running else Searcher.FINISHED
        config = self._running[trial_id] = self._pending.pop(0)
        return {"task": canonical_json(config)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take a trial's result in. One that failed is tried again before others, at last it ends the search.

        Not by Tune, which gives up a trial that was to begin where another had ended, if that place is lost.
        """
        config = self._running.pop(trial_id, None)
        if config is None:
            return  # Tune tells of a trial again when its end did not go well
        if error or not result:
            name = canonical_json(config)
            self._failures[name] += 1
            if self._failures[name] < ATTEMPTS:
                self._pending.insert(0, config)
            else:
                self._failure = self._failure or f"the trial {name} failed (its error stands above)"
        elif "part" in result:
            self._parts[config["start"]] = ArtifactRef(**json.loads(result["part"]))
        else:
            found = Result(config["candidate"], Score(**json.loads(result["score"])), result.get("learned"))
            self._known[found.candidate.identity] = found
            self._on_result(found)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is known stands in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Never: a search is resumed from the store."""
        raise ClusterError(f"{checkpoint_path}: run tune again; it goes on from the store")

    def _in_turn(self) -> Iterator[Sequence[Candidate]]:
        """The trials of each stage, once those of the stages before have results."""
        if self._tune.method == "optuna":
            yield from proposed(self._tune, self._seed, self._scores)
        else:
            first = screened(self._tune, self._seed)
            yield first
            yield scaled(self._tune, self._seed, [self._known[each.identity] for each in first])
        yield taught(self._tune, self.results)

    def _scores(self, candidate: Candidate) -> tuple[float, int]:
        result = self._known[candidate.identity]
        return quality(self._tune, result), result.plan.nfe
