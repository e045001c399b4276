"""The table: what it says of itself, its file, and what it refuses."""

import json
from collections.abc import Callable
from operator import mul
from typing import Any

import pytest

from raydiance.diffusion import Form, Row, SamplingPlan, grids, plans, schedules
from raydiance.errors import ConfigError

LINEAR = schedules.linear()
PLAN = plans.edm_stochastic(LINEAR, grids.karras(LINEAR, 3), churn=1.0)


def test_json_round_trip_is_exact() -> None:
    for plan in (
        PLAN,
        plans.fpndm(LINEAR, grids.leading(LINEAR, 10)),
        plans.dpm_solver_pp(LINEAR, grids.log_snr(LINEAR, 5)),
    ):
        assert plans.from_json(plan.to_json()) == plan


def change(path: tuple[Any, ...], value: Any) -> Callable[[Any], Any]:
    def edit(plain: Any) -> Any:
        target = plain
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        return plain

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(("version",), 99), "version 99 is unknown"),
        (change(("format",), "other"), "format"),
        (change(("colour",), 1), r"unknown keys \['colour'\]"),
        (change(("rows", 0, "query", "x"), "1"), r"rows\[0\]\.query\.x: need a finite number, got '1'"),
        (change(("rows", 1, "query", "history"), [float("nan")]), "need a finite number"),
        (change(("rows", 1), {"sigma": 1.0}), r"rows\[1\].*missing keys \['commit', 'keep', 'query'\]"),
        (change(("rows", 0, "query", "history"), [1.0]), "row 0: query reads 1 past calls, but only 0"),
        (change(("rows", 0, "sigma"), 0), "row 0: need sigma > 0"),
        (change(("rows", 4, "commit"), None), "the last row must commit"),
        (change(("rows",), []), "at least one row"),
        (change(("order",), True), "order: need a whole number"),
        (change(("sigma_min",), 1e9), "sigma_min < sigma_max"),
    ],
)
def test_a_wrong_plan_file_is_refused_by_name(edit: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plans.from_json(json.dumps(edit(json.loads(PLAN.to_json()))))


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="not JSON"):
        plans.from_json("{")


def test_it_prints_as_a_table() -> None:
    plan = plans.spndm(LINEAR, grids.explicit([4.0, 2.0, 1.0]))
    assert str(plan).splitlines() == [
        "spndm/explicit-3: 4 calls, order 2, sigma 4 -> 0, deterministic",
        "row  sigma  query     remember  commit",
        "0    4      x         e",
        "1    2      x - 2 h0  e         x - h0 - h1",
        "2    2      x         e         x - 1.5 h0 + 0.5 h2",
        "3    1      x         e         x - 1.5 h0 + 0.5 h1",
    ]
    assert "x + " in str(PLAN) and "z" in str(PLAN) and "stochastic" in str(PLAN)


def test_what_a_plan_knows_of_itself() -> None:
    assert (PLAN.nfe, PLAN.is_stochastic, PLAN.memory) == (5, True, 2)
    plan = plans.fpndm(LINEAR, grids.leading(LINEAR, 10))
    assert (plan.nfe, plan.is_stochastic, plan.sigma_max) == (19, False, grids.leading(LINEAR, 10).sigmas[0])


def test_a_row_may_not_be_infinite() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        SamplingPlan("odd", 1, 1.0, (Row(1.0, Form(float("inf")), commit=Form()),))


def test_a_mean_is_reached_from_point_to_point() -> None:
    """Weights that sum to one have shares, unless the way would lead far beyond its ends."""
    assert Form(0.2, (1.2, -0.4)).shares == pytest.approx((-0.5, 0.2))
    for form in (Form(1.0, (0.3, -0.3)), Form(0.2, (1.2,)), Form(0.2, (1.0, -0.99, 0.79)), Form(0.5)):
        assert form.shares == ()
    for row in plans.unipc(LINEAR, grids.trailing(LINEAR, 20)).rows:
        assert row.commit is not None and row.commit.shares
        points = (3.0, -1.0, 0.5)[: len(row.commit.history)]
        reached = points[0]
        for share, point in zip(row.commit.shares, (*points[1:], 7.0)):
            reached += share * (point - reached)
        assert reached == pytest.approx(row.commit.x * 7.0 + sum(map(mul, row.commit.history, points)))
