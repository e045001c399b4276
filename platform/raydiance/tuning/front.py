"""The front of quality against cost, the plans chosen from it, and its picture."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raydiance.config.platform import TuneSpec
from raydiance.errors import ConfigError
from raydiance.tuning.search import Result, is_better, quality, winners

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["chosen", "draw_front", "front", "learned", "row", "volume"]


def front(tune: TuneSpec, results: Sequence[Result]) -> list[Result]:
    """The plans that no other beats: each costs more network calls than the one before, and is better.

    Raises ConfigError if no candidate can be ranked.
    """
    best: list[Result] = []
    for cost in sorted({nfe(result) for result in results}):
        leaders = winners(tune, [result for result in results if nfe(result) == cost])
        if leaders and (not best or is_better(tune, leaders[0], best[-1])):
            best.append(leaders[0])
    if not best:
        raise ConfigError(
            "tune: every trial drew noise, and rank = error judges only plans that do not; "
            "add 0 to etas or another solver, or rank by frechet"
        )
    return best


def volume(tune: TuneSpec, found: Sequence[Result]) -> float:
    """The area of what a front dominates, ln calls by ln quality, up to the teacher's calls and to samples as far
    from right as from each other (1): the more, the better the front as a whole.
    """
    ends = [*(nfe(each) for each in found[1:]), tune.teacher_nfe]
    gains = [max(0.0, -math.log(quality(tune, each))) for each in found]
    return sum(math.log(end / nfe(each)) * gain for each, end, gain in zip(found, ends, gains, strict=True))


def chosen(tune: TuneSpec, found: Sequence[Result]) -> dict[str, Result]:
    """draft, standard and best: the last of the front within each budget of network calls."""
    budgets = {"draft": tune.draft_nfe, "standard": tune.standard_nfe, "best": max(tune.nfe)}
    within = {name: [result for result in found if nfe(result) <= budget] for name, budget in budgets.items()}
    return {name: results[-1] if results else found[0] for name, results in within.items()}


def learned(found: Sequence[Result]) -> dict[str, Result]:
    """The best of the learned plans at each number of calls: learned-5, learned-8, ..."""
    fitted = [result for result in found if result.learned is not None and result.score.error is not None]
    fitted.sort(key=lambda result: (nfe(result), result.score.error))
    best: dict[str, Result] = {}
    for result in fitted:
        best.setdefault(f"learned-{nfe(result)}", result)
    return best


def nfe(result: Result) -> int:
    """The calls that the plan really spends."""
    return result.plan.nfe


def row(result: Result) -> dict[str, object]:
    """A line of the table."""
    candidate, score = result.candidate, result.score
    plan = result.plan
    return {
        "plan": plan.name,
        "nfe": plan.nfe,
        "error": score.error,
        "frechet": score.frechet,
        "frechet_spread": score.frechet_spread,
        "call_ms": score.call_ms,
        "solver": _label(result),
        "grid": candidate.grid,
        "rho": candidate.rho,
        "eta": candidate.eta,
        "sigma_max": candidate.sigma_max,
    }


def draw_front(
    results: Sequence[Result], best: Sequence[Result], named: dict[str, Result], teacher_frechet: float
) -> "Figure":
    """Error and Frechet distance against network calls; the front as a line, the chosen plans by name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    solvers = sorted({_label(result) for result in results})
    for index, solver in enumerate(solvers):
        own = [result for result in results if _label(result) == solver]
        paired = [result for result in own if result.score.error is not None]
        colour = f"C{index}"
        left.plot([nfe(r) for r in paired], [r.score.error for r in paired], "o", color=colour, label=solver)
        for stochastic in (False, True):
            some = [result for result in own if result.candidate.is_stochastic == stochastic]
            right.errorbar(
                [nfe(result) for result in some],
                [result.score.frechet for result in some],
                [result.score.frechet_spread for result in some],
                fmt="s" if stochastic else "o",
                color=colour,
                mfc="none" if stochastic else colour,
                capsize=2,
            )
    _mark(left, best, named)
    left.set(yscale="log", ylabel="error against the teacher", title="discretisation (same noises)")
    right.axhline(teacher_frechet, color="grey", lw=1, ls="--", label="teacher")
    right.set(ylabel="Frechet distance to the latents", title="distribution (squares draw noise)")
    for axes in (left, right):
        axes.set(xlabel="network calls", xscale="log")
        ticks = sorted({nfe(result) for result in results})
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.legend(frameon=False)
    return figure


def _label(result: Result) -> str:
    return result.candidate.solver if result.learned is None else "learned"


def _mark(axes: "Axes", best: Sequence[Result], named: dict[str, Result]) -> None:
    paired = [(nfe(result), result.score.error) for result in best if result.score.error is not None]
    axes.plot(
        [calls for calls, _ in paired], [error for _, error in paired], "-", color="black", lw=1, zorder=0
    )
    for name, result in named.items():
        if result.score.error is not None:
            axes.annotate(name, (nfe(result), result.score.error), xytext=(4, 6), textcoords="offset points")
