"""Which trials there are, which of them win, and that an interrupted search ends like one that was not."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from ray.tune.search import Searcher

from raydiance.config import TuneSpec
from raydiance.errors import ConfigError
from raydiance.spec import canonical_json
from raydiance.storage import ArtifactRef
from raydiance.tuning.candidates import Candidate, build, candidates
from raydiance.tuning.front import chosen, draw_front, front, learned, row, volume
from raydiance.tuning.judge import Score
from raydiance.tuning.search import ATTEMPTS, Result, StagedSearch, scaled, winners

TUNE = TuneSpec(num_trials=14, nfe=(4, 8, 16), teacher_nfe=32)
LEARNING = replace(TUNE, learn=(4, 5), learn_starts=2)
PROPOSED = replace(LEARNING, method="optuna", round_size=3)
PARTS = [(0, 8), (8, 16)]


def verdict(candidate: Candidate) -> Score:
    """A made-up judge whose numbers depend on the candidate alone."""
    quality = int(candidate.identity, 16) % 1000 / 1000 + 1.0
    error = None if candidate.is_stochastic else quality / candidate.nfe**2
    return Score(error, quality / candidate.nfe, 0.01, 1.0)


def part(start: int) -> ArtifactRef:
    return ArtifactRef(kind="checkpoints/x", key=f"checkpoints/x/teacher-{start}", sha256="0" * 64)


class Driver:
    """Plays Ray Tune: asks for trials, `width` at a time, and answers them in the order given by `pick`."""

    def __init__(
        self, search: StagedSearch, width: int = 2, pick: Callable[[int], int] = lambda n: 0
    ) -> None:
        self.search, self.width, self.pick = search, width, pick
        self.running: dict[str, dict[str, object]] = {}
        self.seen: list[dict[str, object]] = []

    def run(self, stop_after: int = 10_000) -> None:
        number = 0
        while number < stop_after:
            while len(self.running) < self.width:
                name = f"trial-{len(self.seen)}"
                config = self.search.suggest(name)
                if config is None or config == Searcher.FINISHED:
                    break
                assert isinstance(config, dict)
                self.running[name] = json.loads(config["task"])
                self.seen.append(self.running[name])
            if not self.running:
                return
            name = list(self.running)[self.pick(len(self.running))]
            asked = self.running.pop(name)
            self.search.on_trial_complete(name, self.answer(asked))
            number += 1

    def answer(self, asked: dict[str, object]) -> dict[str, str]:
        if "candidate" in asked:
            assert len(asked["teacher"]) == len(PARTS), "a candidate is judged when the teacher is there"  # type: ignore[arg-type]
            candidate = Candidate(**asked["candidate"])  # type: ignore[arg-type]
            answer = {"score": canonical_json(asdict(verdict(candidate)))}
            return answer | ({"learned": build(candidate).to_json()} if candidate.learned else {})
        return {"part": canonical_json(part(int(asked["start"])))}  # type: ignore[call-overload]


def test_every_solver_is_screened_before_any_a_second_time() -> None:
    found = candidates(TUNE, 8, seed=0)
    assert len({each.identity for each in found}) == len(found)
    kinds = [(each.solver, each.is_stochastic) for each in found]
    assert len(set(kinds[: len(set(kinds))])) == len(set(kinds))
    assert found != candidates(TUNE, 8, seed=1)
    assert found == candidates(TUNE, 8, seed=0)


@pytest.mark.parametrize("nfe", [2, 4, 7, 16])
def test_no_plan_spends_more_than_its_budget(nfe: int) -> None:
    for candidate in candidates(TuneSpec(), nfe, seed=0):
        plan = build(candidate)
        assert nfe - 1 <= plan.nfe <= nfe
        assert plan.is_stochastic == candidate.is_stochastic
        assert plan.sigma_max == pytest.approx(candidate.sigma_max)


def test_the_search_screens_and_then_scales_the_best() -> None:
    search = StagedSearch(TUNE, 0, PARTS, {}, {}, lambda result: None)
    driver = Driver(search)
    driver.run()
    tried = [Candidate(**each["candidate"]) for each in driver.seen if "candidate" in each]  # type: ignore[arg-type]
    assert [each for each in driver.seen[:2] if "start" in each] == driver.seen[:2]
    assert len(tried) == len(search.results) == TUNE.num_trials
    screening = [each for each in tried if each.nfe == TUNE.levels[0]]
    assert tried[: len(screening)] == screening
    best = winners(TUNE, [Result(each, verdict(each)) for each in screening])[0].candidate
    assert {each.nfe for each in tried if replace(each, nfe=best.nfe) == best} == set(TUNE.nfe)


def test_the_best_from_each_start_is_scaled_whatever_the_others_are_worth() -> None:
    low = [(20.0, 7.0), (20.0, 5.0), (20.0, 3.0)]
    tried = [
        replace(some(4, error), candidate=replace(some(4, error).candidate, sigma_max=sigma_max, rho=rho))
        for (sigma_max, rho), error in zip([*low, (80.0, 7.0)], (0.1, 0.2, 0.3, 0.4))
    ]
    found = scaled(replace(TUNE, num_trials=10), 0, tried)
    assert [(each.sigma_max, each.rho, each.nfe) for each in found] == [
        (20.0, 7.0, 8), (20.0, 7.0, 16), (80.0, 7.0, 8), (80.0, 7.0, 16), (20.0, 5.0, 8), (20.0, 5.0, 16)
    ]  # fmt: skip


def test_what_can_be_learned_is_learned_last_from_the_best() -> None:
    search = StagedSearch(LEARNING, 0, PARTS, {}, {}, lambda result: None)
    driver = Driver(search)
    driver.run()
    tried = [Candidate(**each["candidate"]) for each in driver.seen if "candidate" in each]  # type: ignore[arg-type]
    fitted = [each for each in tried if each.learned]
    assert tried[-len(fitted) :] == fitted and {each.nfe for each in fitted} == {4, 5}
    assert all(each.is_learnable for each in fitted)
    free = [each for each in search.results if not each.candidate.learned and each.candidate.is_learnable]
    best = winners(LEARNING, [each for each in free if each.candidate.nfe == 4])[0].candidate
    assert replace(best, learned=True) in fitted
    named = learned(search.results)
    assert list(named) == ["learned-4", "learned-5"]
    errors = [each.score.error for each in search.results if each.learned and each.plan.nfe == 4]
    assert named["learned-4"].score.error == min(error for error in errors if error is not None)


@pytest.mark.parametrize(
    ("stop_after", "tune"),
    [*((count, LEARNING) for count in (1, 3, 7, 11, 17)), *((count, PROPOSED) for count in (3, 11))],
)
def test_an_interrupted_search_ends_like_one_that_was_not(stop_after: int, tune: TuneSpec) -> None:
    whole = StagedSearch(tune, 0, PARTS, {}, {}, lambda result: None)
    Driver(whole, width=1).run()
    kept: dict[str, Result] = {}
    first = StagedSearch(
        tune, 0, PARTS, {}, {}, lambda result: kept.update({result.candidate.identity: result})
    )
    Driver(first, width=3, pick=lambda n: n - 1).run(stop_after)
    teacher = {start: part(start) for start, _ in PARTS if part(start) in first._parts.values()}
    second = StagedSearch(tune, 0, PARTS, teacher, kept, lambda result: None)
    again = Driver(second, width=2, pick=lambda n: n // 2)
    again.run()
    assert second.results == whole.results
    assert len(again.seen) == len(whole.results) - len(kept) + len(PARTS) - len(teacher)
    assert front(tune, second.results) == front(tune, whole.results)


def proposals(tune: TuneSpec, seed: int, better: str) -> list[Candidate]:
    """What is tried where one solver is ten times better than all others."""
    driver = Driver(StagedSearch(tune, seed, PARTS, {}, {}, lambda result: None), width=4)
    usual = driver.answer

    def answer(asked: dict[str, object]) -> dict[str, str]:
        if "start" in asked:
            return usual(asked)
        error = 0.1 if asked["candidate"]["solver"] == better else 1.0  # type: ignore[index]
        return {"score": canonical_json(asdict(Score(error, 1.0, 0.1, 1.0)))}

    driver.answer = answer  # type: ignore[method-assign]
    driver.run()
    return [Candidate(**each["candidate"]) for each in driver.seen if "candidate" in each]  # type: ignore[arg-type]


def test_what_is_proposed_lies_between_the_ends_and_follows_the_results() -> None:
    tune = replace(TUNE, method="optuna", num_trials=30)
    found, other = proposals(tune, 0, "unipc"), proposals(tune, 0, "ddim")
    assert len({each.identity for each in found}) == len(found) == tune.num_trials
    assert found[:10] == other[:10] and found[12:] != other[12:], "drawn at first, then by results"
    assert sum(each.solver == "unipc" for each in found[15:]) > sum(
        each.solver == "unipc" for each in other[15:]
    )
    assert {each.grid for each in found} == set(tune.grids) and not any(each.is_stochastic for each in found)
    assert all(4 <= each.nfe <= 16 and 20 <= each.sigma_max <= 80 for each in found)
    assert all(3 <= each.rho <= 7 if each.grid == "karras" else each.rho == 1 for each in found)
    assert len({each.rho for each in found}) > 3
    few = replace(tune, num_trials=4)
    assert proposals(few, 0, "unipc") == proposals(few, 0, "unipc") != proposals(few, 1, "unipc")
    noisy = replace(few, rank="frechet", num_samples=128, solvers=("ddim",))
    assert any(each.is_stochastic for each in proposals(noisy, 0, "ddim"))


def test_a_space_without_so_many_plans_is_proposed_whole() -> None:
    small = replace(
        TUNE, method="optuna", solvers=("ddim",), grids=("log_snr",), sigma_max=(80.0,), nfe=(4, 6)
    )
    assert {each.nfe for each in proposals(small, 0, "ddim")} == {4, 5, 6}


def test_the_volume_of_a_front_is_the_area_it_dominates() -> None:
    tune = TuneSpec(teacher_nfe=64)
    best = [some(2, 3.0), some(4, math.exp(-1)), some(8, math.exp(-2))]
    assert volume(tune, best) == pytest.approx(math.log(2) * 1 + math.log(8) * 2)
    assert volume(tune, best[1:2]) == pytest.approx(math.log(16))


def test_trials_that_scaling_has_no_use_for_go_to_the_screening() -> None:
    tune = TuneSpec(num_trials=6, nfe=(4, 8), teacher_nfe=16, solvers=("ddim", "heun"), etas=(0.5, 1.0))
    search = StagedSearch(tune, 0, PARTS, {}, {}, lambda result: None)
    Driver(search).run()
    assert len(search.results) == tune.num_trials and search.failure is None


def test_a_search_that_tune_gave_up_says_so() -> None:
    search = StagedSearch(TUNE, 0, PARTS, {}, {}, lambda result: None)
    Driver(search).run(stop_after=4)
    assert search.failure == "Ray Tune ended early"


def test_a_trial_that_always_fails_ends_the_search_and_is_named() -> None:
    search = StagedSearch(TUNE, 0, [], {}, {}, lambda result: None)
    asked = []
    for attempt in range(ATTEMPTS):
        asked.append(search.suggest(f"{attempt}"))
        search.on_trial_complete(f"{attempt}", error=True)
    assert isinstance(asked[0], dict) and asked == [asked[0]] * ATTEMPTS
    assert search.suggest("b") == Searcher.FINISHED
    assert (
        search.failure is not None and json.loads(asked[0]["task"])["candidate"]["solver"] in search.failure
    )


def test_trials_that_are_lost_once_are_tried_again() -> None:
    searches = [StagedSearch(TUNE, 0, PARTS, {}, {}, lambda result: None) for _ in range(2)]
    whole, lossy = (Driver(search) for search in searches)
    whole.run()
    lost: list[object] = []

    def lose_each_once(asked: dict[str, object]) -> dict[str, str] | None:
        lost.append(asked)
        return whole.answer(asked) if lost.count(asked) == 2 else None

    lossy.answer = lose_each_once  # type: ignore[assignment, method-assign]
    lossy.run()
    assert len(lossy.seen) == 2 * len(whole.seen)
    assert searches[1].failure is None and searches[1].results == searches[0].results


def some(nfe: int, error: float | None, frechet: float = 1.0, eta: float = 0.0) -> Result:
    candidate = Candidate(
        solver="ddim", nfe=nfe, grid="karras", rho=7.0, eta=eta, sigma_min=0.01, sigma_max=80.0
    )
    return Result(candidate, Score(error, frechet, 0.05, 1.0))


def test_the_front_leaves_out_what_costs_more_and_is_no_better() -> None:
    results = [
        some(4, 0.5),
        some(6, 0.6),
        some(8, 0.2),
        some(16, 0.2),
        some(24, 0.1),
        some(24, None, 0.0, 1.0),
    ]
    best = front(TuneSpec(), results)
    assert [(each.candidate.nfe, each.score.error) for each in best] == [(4, 0.5), (8, 0.2), (24, 0.1)]
    named = chosen(TuneSpec(draft_nfe=6, standard_nfe=12), best)
    assert {name: each.candidate.nfe for name, each in named.items()} == {
        "draft": 4,
        "standard": 8,
        "best": 24,
    }
    assert chosen(TuneSpec(draft_nfe=3, standard_nfe=3), best)["draft"].candidate.nfe == 4


def test_by_frechet_distance_a_difference_must_be_beyond_doubt() -> None:
    tune = TuneSpec(rank="frechet", num_samples=128)
    results = [some(4, 0.5, 1.0), some(8, 0.2, 0.95), some(12, 0.1, 0.5), some(12, None, 0.45, eta=1.0)]
    best = front(tune, results)
    assert [(each.candidate.nfe, each.candidate.eta) for each in best] == [(4, 0.0), (12, 1.0)]
    with pytest.raises(ValueError, match="by chance"):
        TuneSpec(rank="frechet", num_samples=24)


def test_a_search_of_stochastic_plans_alone_cannot_be_ranked_by_error() -> None:
    with pytest.raises(ConfigError, match="add 0 to etas"):
        front(TuneSpec(), [some(4, None, eta=1.0)])


def test_the_front_is_drawn_and_told() -> None:
    results = [some(4, 0.5), some(8, 0.2), some(8, None, eta=1.0)]
    best = front(TuneSpec(), results)
    figure = draw_front(results, best, chosen(TuneSpec(), best), 0.9)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert set(texts) == {"draft", "standard", "best"}
    assert row(results[0])["plan"] == build(results[0].candidate).name


def test_the_middle_level_is_screened_unless_another_is_named() -> None:
    assert TuneSpec().levels == (8, 4, 6, 12, 16, 24)
    assert TuneSpec(nfe=(2, 4), teacher_nfe=8).levels == (2, 4)
    assert TuneSpec(screen_nfe=16).levels[0] == 16
    with pytest.raises(ValueError, match="one of nfe"):
        TuneSpec(screen_nfe=5)
