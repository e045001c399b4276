"""A plan is judged by its distance from a fine-step teacher, and its samples by their distribution."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.support.denoisers import gaussian_inputs

from raydiance.config import TuneSpec
from raydiance.diffusion import grids, plans, schedules
from raydiance.storage import Store
from raydiance.tuning.candidates import teacher_plan
from raydiance.tuning.judge import Features, Judge, load_judge

SCHEDULE = schedules.edm(0.01, 80.0)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    store = Store.open(tmp_path_factory.mktemp("store"))
    inputs = gaussian_inputs(store)
    bare = load_judge(store, inputs["train_diffusion"].ref, inputs["encode"].ref, 24, 8, 6)
    teacher = bare.draw(teacher_plan(TuneSpec()))
    return Judge(**{**{name: getattr(bare, name) for name in bare.__dataclass_fields__}, "teacher": teacher})


def test_the_error_falls_with_the_order_of_the_solver(judge: Judge) -> None:
    def error(steps: int) -> float:
        return judge.score(plans.ddim(SCHEDULE, grids.karras(SCHEDULE, steps))).error or math.nan

    errors = [error(steps) for steps in (8, 16, 32)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(0.7 < order < 1.4 for order in orders), (errors, orders)
    better = judge.score(plans.deis(SCHEDULE, grids.karras(SCHEDULE, 16), order=3)).error
    assert better is not None and better < errors[1] / 5


def test_the_teacher_is_far_finer_than_what_it_judges(judge: Judge) -> None:
    finer = plans.deis(SCHEDULE, grids.karras(SCHEDULE, 200), order=3)
    exact = judge.draw(finer)
    assert judge.teacher is not None
    gap = float((judge.teacher - exact).square().mean().sqrt())
    best = min(
        judge.score(plans.deis(SCHEDULE, grids.karras(SCHEDULE, 24), order=order)).error or 1.0
        for order in (2, 3)
    )
    assert gap < best / 2, (gap, best)


def test_a_stochastic_plan_has_a_distribution_but_no_error(judge: Judge) -> None:
    score = judge.score(plans.ddim(SCHEDULE, grids.karras(SCHEDULE, 24), eta=1.0))
    assert score.error is None
    assert score.frechet_spread > 0


def test_samples_of_another_spread_are_farther_from_the_latents(judge: Judge) -> None:
    assert judge.teacher is not None
    right, spread = judge.frechet(judge.teacher)
    assert judge.frechet(2.0 * judge.teacher)[0] > right + 3 * spread
    assert judge.frechet(judge.teacher + 1.0)[0] > right + 3 * spread


def test_noise_is_the_same_for_every_plan_and_in_parts(judge: Judge) -> None:
    plan = plans.ddim(SCHEDULE, grids.karras(SCHEDULE, 4), eta=0.5)
    whole = judge.draw(plan)
    parts = torch.cat([judge.draw(plan, range(8)), judge.draw(plan, range(8, 24))])
    assert torch.equal(whole, parts)


def test_features_keep_lengths_along_and_across() -> None:
    latents = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    features = Features.fit(latents, 4)
    seen = features(latents)
    assert seen.shape == (20, 5)
    whole = (latents.flatten(1) - latents.flatten(1).mean(0)).norm(dim=1) / features.scale
    torch.testing.assert_close(seen.norm(dim=1), whole)


def test_labels_go_round_where_the_network_was_taught_classes(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    inputs = gaussian_inputs(store, classes=("chair", "table"))
    judge = load_judge(store, inputs["train_diffusion"].ref, inputs["encode"].ref, 5, 2, 6)
    assert judge.draw(plans.ddim(SCHEDULE, grids.karras(SCHEDULE, 2))).shape == (5, 3, 4, 4, 4)
