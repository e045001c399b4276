"""Our plans beside diffusers' schedulers, element by element (numbers and their origin: tests/golden)."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydiance.diffusion import Grid, SamplingPlan, grids, mixtures, plans, sample, schedules

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "diffusion_diffusers.json").read_text())
LINEAR = schedules.linear()


def leading(case: dict[str, Any]) -> Grid:
    return grids.leading(LINEAR, case["num_steps"])


def given(case: dict[str, Any]) -> Grid:
    return grids.explicit(case["sigmas"])


PLANS: dict[str, tuple[Callable[[dict[str, Any]], SamplingPlan], float]] = {
    "ddim-10": (lambda case: plans.ddim(LINEAR, leading(case)), 1e-5),
    "ddim-50": (lambda case: plans.ddim(LINEAR, leading(case)), 1e-5),
    "ddim-eta0.5-10": (lambda case: plans.ddim(LINEAR, leading(case), eta=0.5), 1e-5),
    "ddim-eta1-20": (lambda case: plans.ddpm(LINEAR, leading(case)), 1e-5),
    "plms-10": (lambda case: plans.plms(LINEAR, leading(case)), 1e-5),
    # their Runge-Kutta stages are at T // S // 2, ours half way in time: the same if T // S is even
    "fpndm-10": (lambda case: plans.fpndm(LINEAR, leading(case)), 1e-5),
    "fpndm-50": (lambda case: plans.fpndm(LINEAR, leading(case)), 1e-5),
    "dpmpp2m-12": (lambda case: plans.dpm_solver_pp(LINEAR, given(case)), 1e-5),
    "dpmpp3m-20": (lambda case: plans.dpm_solver_pp(LINEAR, given(case), order=3), 1e-5),
}


def test_every_golden_case_is_compared() -> None:
    assert PLANS.keys() == GOLDEN["cases"].keys()
    assert {"tool", "version", "seed", "script"} <= GOLDEN["certificate"].keys()


@pytest.mark.parametrize("name", PLANS)
def test_the_end_point_is_the_same(name: str) -> None:
    case, (make, tolerance) = GOLDEN["cases"][name], PLANS[name]
    plan = make(case)
    generator = torch.Generator().manual_seed(GOLDEN["certificate"]["seed"])
    noise = torch.randn(GOLDEN["certificate"]["shape"], generator=generator, dtype=torch.float64)
    fresh = torch.Generator().manual_seed(case["noise_seed"]) if case["noise_seed"] else None
    x = noise * math.sqrt(1 + plan.sigma_max**2)
    end = sample(mixtures.smooth().predict_noise, plan, x, generator=fresh)
    expected = torch.tensor(case["end"], dtype=torch.float64)
    assert float((end - expected).abs().max()) < tolerance
