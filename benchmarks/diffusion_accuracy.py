"""How far our plans and diffusers' schedulers end from the exact solution, at equal numbers of network calls.

    python benchmarks/diffusion_accuracy.py [--quick] [--ours-only]

Data: Gaussian mixtures, whose noise prediction is exact and whose probability-flow path is solved to 1e-8.
All start from the same noise at t = 999 of the linear schedule. Error: root mean square on "smooth", median
over items of the root mean square on the others, where a few items that fall into another component would
decide the mean. The last line is JSON.
"""

import argparse
import importlib.metadata
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from raydiance.diffusion import SamplingPlan, mixtures, plans, sample, schedules

BUDGETS = (5, 8, 10, 20, 35, 50)
QUICK_BUDGETS = (10, 20)
LINEAR = schedules.linear()


def error_of(name: str, x: Tensor, truth: Tensor) -> float:
    squares = (x - truth).square()
    return float(squares.mean().sqrt() if name == "smooth" else squares.mean(1).sqrt().median())


def ours(mixture: mixtures.Mixture, noise: Tensor, nfe: int) -> Iterator[tuple[str, Tensor]]:
    for name, plan in plans.candidates(LINEAR, nfe).items():
        if not plan.is_stochastic:
            yield name, run_plan(mixture, plan, noise)


def run_plan(mixture: mixtures.Mixture, plan: SamplingPlan, noise: Tensor) -> Tensor:
    # unit variance in the variance-preserving coordinate, where diffusers starts
    return sample(mixture.predict_noise, plan, noise * math.sqrt(1 + plan.sigma_max**2))


def schedulers() -> dict[str, tuple[Callable[[], Any], Callable[[int], int]]]:
    """diffusers' schedulers: a factory, and the steps that spend the calls given (0: cannot be had)."""
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSinglestepScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )

    base = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    found: dict[str, tuple[Callable[[], Any], Callable[[int], int]]] = {}

    def add(name: str, cls: Any, steps: Callable[[int], int] = lambda nfe: nfe, **options: Any) -> None:
        found[name] = (lambda: cls(**base, **options), steps)

    for spacing in ("leading", "trailing", "linspace"):
        add(f"ddim {spacing}", DDIMScheduler, clip_sample=False, timestep_spacing=spacing)
    for spacing in ("leading", "trailing"):
        prk = {"set_alpha_to_one": True, "timestep_spacing": spacing}
        add(f"pndm {spacing}", PNDMScheduler, lambda nfe: nfe - 9 if nfe > 12 else 0, **prk)
        add(f"plms {spacing}", PNDMScheduler, lambda nfe: nfe - 1, skip_prk_steps=True, **prk)
    add("pndm default", PNDMScheduler, lambda nfe: nfe - 9 if nfe > 12 else 0)
    for cls, short in (
        (DPMSolverMultistepScheduler, "dpm++m"),
        (DPMSolverSinglestepScheduler, "dpm++s"),
        (UniPCMultistepScheduler, "unipc"),
    ):
        for order in (2, 3):
            add(f"{short}{order} default", cls, solver_order=order)
            for flag in ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas"):
                if flag != "use_lu_lambdas" or short == "dpm++m":
                    add(f"{short}{order} {flag.split('_')[1]}", cls, solver_order=order, **{flag: True})
            if short != "dpm++s":
                add(f"{short}{order} trailing", cls, solver_order=order, timestep_spacing="trailing")
    return found


def peers(mixture: mixtures.Mixture, noise: Tensor, nfe: int) -> Iterator[tuple[str, Tensor]]:
    for name, (make, steps) in schedulers().items():
        calls = 0
        if steps(nfe) == 0:
            continue
        try:
            scheduler = make()
            scheduler.set_timesteps(steps(nfe))
            x = noise.clone()
            for t in scheduler.timesteps:
                a = LINEAR.alphas_cumprod[int(t)]
                s = ((1 - a) / a).sqrt().expand(len(x))
                calls += 1
                x = scheduler.step(mixture.predict_noise(x / a.sqrt(), s), t, x, return_dict=False)[0]
        except Exception as error:  # noqa: BLE001  (a combination it cannot run is not a result)
            print(f"    {name} at {nfe}: {type(error).__name__}: {str(error)[:60]}")
            continue
        if calls == nfe:
            yield name, x.to(noise.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer items and budgets")
    parser.add_argument("--ours-only", action="store_true", help="without diffusers")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    begin, report = time.perf_counter(), dict[str, Any]()
    for name, make in mixtures.LABORATORY.items():
        mixture = make()
        generator = torch.Generator().manual_seed(1234)
        count = 64 if options.quick else 256
        noise = torch.randn(count, mixture.means.shape[1], generator=generator, dtype=torch.float64)
        truth = mixture.data(noise * math.sqrt(1 + LINEAR.sigma_max**2), LINEAR.sigma_max)
        for nfe in QUICK_BUDGETS if options.quick else BUDGETS:
            mine = sorted((error_of(name, x, truth), label) for label, x in ours(mixture, noise, nfe))
            line = f"{name:10s} NFE {nfe:3d}  ours {mine[0][0]:.2e} {mine[0][1]:32s}"
            row: dict[str, Any] = {"ours": mine[0][0], "plan": mine[0][1]}
            if not options.ours_only:
                theirs = sorted((error_of(name, x, truth), label) for label, x in peers(mixture, noise, nfe))
                row |= {"peer": theirs[0][0], "peer_name": theirs[0][1], "ratio": theirs[0][0] / mine[0][0]}
                line += f"  diffusers {theirs[0][0]:.2e} {theirs[0][1]:20s}  ratio {row['ratio']:.1f}"
            print(line, flush=True)
            report[f"{name}-{nfe}"] = row
    versions = {"torch": torch.__version__}
    if not options.ours_only:
        versions["diffusers"] = importlib.metadata.version("diffusers")
    print(
        json.dumps(
            {
                "benchmark": "diffusion_accuracy",
                "seconds": time.perf_counter() - begin,
                **versions,
                "rows": report,
            }
        )
    )


if __name__ == "__main__":
    main()
