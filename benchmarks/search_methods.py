"""Two ways to search for sampling plans at equal trials: the grid, and Optuna's proposals.

    PYTHONPATH=platform python benchmarks/search_methods.py --denoiser KEY --latents KEY
        [--trials 24] [--seeds 0 1 2]

Both are judged on the same noises against the same teacher, on one thread, without Ray: what a trial finds does
not depend on where it runs. Told are the front's volume (raydiance.tuning.front) after each method, and the best
error within 6, 12 and 24 calls. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from ray.tune.search import Searcher

from raydiance.config import DigitsExperiment, TuneSpec, compose
from raydiance.storage import ArtifactRef, Store
from raydiance.tuning.candidates import Candidate, build, teacher_plan
from raydiance.tuning.front import front, nfe, volume
from raydiance.tuning.judge import Judge, Score, load_judge
from raydiance.tuning.search import Result, StagedSearch

BUDGETS = (6, 12, 24)
NO_TEACHER = ArtifactRef(kind="none", key="none", sha256="0" * 64)


def searched(tune: TuneSpec, seed: int, score: Callable[[Candidate], Score]) -> list[Result]:
    """The results of a search whose trials run one behind the other in this process."""
    search = StagedSearch(tune, seed, [(0, 1)], {0: NO_TEACHER}, {}, lambda result: None)
    while (config := search.suggest("only")) != Searcher.FINISHED:
        told = json.loads(config["task"])["candidate"]
        found = score(Candidate(**told))
        answer = {name: getattr(found, name) for name in ("error", "frechet", "frechet_spread", "call_ms")}
        search.on_trial_complete("only", {"score": json.dumps(answer)})
    return search.results


def judged(judge: Judge) -> Callable[[Candidate], Score]:
    """The judge's word, asked for once."""
    return cache(lambda candidate: judge.score(build(candidate)))


def row(tune: TuneSpec, seed: int, results: list[Result]) -> dict[str, Any]:
    """What a search has found."""
    best = front(tune, results)
    errors = {
        f"error_{budget}": min(float(each.score.error or 1.0) for each in best if nfe(each) <= budget)
        for budget in BUDGETS
        if any(nfe(each) <= budget for each in best)
    }
    return {"method": tune.method, "seed": seed, "volume": volume(tune, best), "front": len(best), **errors}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind in ("denoiser", "latents"):
        parser.add_argument(f"--{kind}", required=True, help=f"key of the artifact of kind {kind}")
    parser.add_argument("--trials", type=int, nargs="+", default=[24])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    store, experiment = Store.open(), compose(["experiment=digits", "size=tiny"])
    assert isinstance(experiment, DigitsExperiment)
    base = replace(experiment.tune, learn=())
    keys = [store.get(key).ref for key in (asked.denoiser, asked.latents)]
    judge = load_judge(store, *keys, base.num_samples, base.batch_size, base.components)
    score = judged(replace(judge, teacher=judge.draw(teacher_plan(base))))
    rows = []
    for trials in asked.trials:
        for seed in asked.seeds:
            for method in ("grid", "optuna"):
                tune = replace(base, method=method, num_trials=trials)
                rows.append({"trials": trials, **row(tune, seed, searched(tune, seed, score))})
                print(*(f"{key} {_short(value)}" for key, value in rows[-1].items()), flush=True)
    volumes = {
        f"{method} {trials}": round(
            float(np.mean([r["volume"] for r in rows if (r["method"], r["trials"]) == (method, trials)])), 4
        )
        for trials in asked.trials
        for method in ("grid", "optuna")
    }
    print(json.dumps({"benchmark": "search_methods", "volumes": volumes, "rows": rows}))


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
