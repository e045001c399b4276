"""Candidates that Optuna proposes for quality and cost at once, out of ranges where the grid has values.

They come in rounds of a fixed size: a round is proposed from the results of those before it, in their order, and
by a seed. So who goes on with a search that was cut off is proposed the same again, whichever trial ended first.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from raydiance.config.platform import GridName, Solver, TuneSpec
from raydiance.tuning.candidates import Candidate

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["proposed"]

STARTUP = 1 / 3  # of the trials are drawn at random, before there is anything to learn from
PATIENCE = 2  # rounds for each trial, before a space is said to have no more of them
WORST = 50.0  # in the place of the logarithm of what is not finite


def proposed(
    tune: TuneSpec, seed: int, scores: Callable[[Candidate], tuple[float, int]]
) -> Iterator[Sequence[Candidate]]:
    """Round after round, until so many different ones have been proposed as there are trials.

    scores: quality (the less the better) and network calls of a candidate, asked for when the round is done. Both
    are told to a tree-structured Parzen estimator of two objectives (Ozaki et al. 2022) as logarithms.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    startup = max(tune.round_size, round(STARTUP * tune.num_trials))
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
    study = optuna.create_study(directions=("minimize", "minimize"), sampler=sampler)
    tried = set[str]()
    for _ in range(PATIENCE * tune.num_trials):
        if len(tried) == tune.num_trials:
            return
        trials = [study.ask() for _ in range(min(tune.round_size, tune.num_trials - len(tried)))]
        candidates = [_candidate(tune, trial) for trial in trials]
        yield candidates
        for trial, candidate in zip(trials, candidates):
            quality, calls = scores(candidate)
            told = math.log(quality) if 0 < quality < math.inf else WORST
            study.tell(trial, (told, math.log(calls)))
            tried.add(candidate.identity)


def _candidate(tune: TuneSpec, trial: "Trial") -> Candidate:
    """eta is drawn only where plans that draw noise can be ranked."""
    solver = cast(Solver, trial.suggest_categorical("solver", tune.solvers))
    grid = cast(GridName, trial.suggest_categorical("grid", tune.grids))
    etas = tune.etas if solver == "ddim" and tune.rank == "frechet" else (0.0,)
    return Candidate(
        solver=solver,
        nfe=trial.suggest_int("nfe", min(tune.nfe), max(tune.nfe), log=True),
        grid=grid,
        rho=_between(trial, "rho", tune.rhos) if grid == "karras" else 1.0,
        eta=_between(trial, "eta", etas),
        sigma_min=tune.sigma_min,
        sigma_max=_between(trial, "sigma_max", tune.sigma_max, log=True),
    )


def _between(trial: "Trial", name: str, values: Sequence[float], *, log: bool = False) -> float:
    """A number from the least to the largest of the values, in three digits."""
    low, high = min(values), max(values)
    return low if low == high else float(f"{trial.suggest_float(name, low, high, log=log):.3g}")
