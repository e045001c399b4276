"""Ours and diffusers' samplers in one process, on the same predictor and the same noise.

    python benchmarks/samplers.py [error] [order] [overhead] [--quick] [--ours-only]

error: how far plans end from the exact solution at equal numbers of network calls. Data: Gaussian mixtures, whose
    noise prediction is exact and whose probability-flow path is solved to 1e-8. All start from the same noise at
    t = 999 of the linear schedule. Root mean square on "smooth", median over items of the root mean square on the
    others, where a few items that fall into another component would decide the mean.
order: how the error on "smooth" falls from 20 to 50 steps.
overhead: what a step costs beside the network, in milliseconds. The network gives its input back, so that
    everything measured is the sampler; "hand" is the least a step can be, two torch operations with coefficients
    known beforehand. Contenders take turns, medians count, and the clock is the processor time of the thread.

Without a name, all three. The last line is JSON.
"""

import argparse
import importlib.metadata
import json
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from raydiance.diffusion import PlanBatch, SamplingPlan, grids, mixtures, plans, sample, schedules

BUDGETS, QUICK_BUDGETS = (5, 8, 10, 20, 35, 50), (10, 20)
STEPS = 50
SHAPES = ((1, 8, 8, 8, 8), (16, 4, 32, 32))
ORDERS = (
    ("ddim", "leading"),
    ("spndm", "trailing"),
    ("fpndm", "trailing"),
    ("heun", "karras"),
    ("dpm_solver_pp", "trailing"),
    ("unipc", "trailing"),
    ("deis", "quadratic"),
)
LINEAR = schedules.linear()
BASE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
Make = Callable[[], Any]


def error_of(name: str, x: Tensor, truth: Tensor) -> float:
    squares = (x - truth).square()
    return float(squares.mean().sqrt() if name == "smooth" else squares.mean(1).sqrt().median())


def problem(name: str, count: int) -> tuple[mixtures.Mixture, Tensor, Tensor]:
    """A mixture, noises at t = 999 in the variance-preserving coordinate, and where they end."""
    mixture = mixtures.LABORATORY[name]()
    generator = torch.Generator().manual_seed(1234)
    noise = torch.randn(count, mixture.means.shape[1], generator=generator, dtype=torch.float64)
    return mixture, noise, mixture.data(noise * math.sqrt(1 + LINEAR.sigma_max**2), LINEAR.sigma_max)


def run_plan(mixture: mixtures.Mixture, plan: SamplingPlan, noise: Tensor) -> Tensor:
    # unit variance in the variance-preserving coordinate, where diffusers starts
    return sample(mixture.predict_noise, plan, noise * math.sqrt(1 + plan.sigma_max**2))


def run_peer(mixture: mixtures.Mixture, make: Make, steps: int, noise: Tensor) -> tuple[Tensor, int]:
    """Where a scheduler ends, and the network calls it took."""
    scheduler = make()
    scheduler.set_timesteps(steps)
    x = noise.clone()
    for t in scheduler.timesteps:
        a = LINEAR.alphas_cumprod[int(t)]
        sigma = ((1 - a) / a).sqrt().expand(len(x))
        x = scheduler.step(mixture.predict_noise(x / a.sqrt(), sigma), t, x, return_dict=False)[0]
    return x.to(noise.dtype), len(scheduler.timesteps)


def schedulers() -> dict[str, tuple[Make, Callable[[int], int]]]:
    """diffusers' schedulers: a factory, and the steps that spend the calls given (0: cannot be had)."""
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSinglestepScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )

    found: dict[str, tuple[Make, Callable[[int], int]]] = {}

    def add(name: str, cls: Any, steps: Callable[[int], int] = lambda nfe: nfe, **options: Any) -> None:
        found[name] = (lambda: cls(**BASE, **options), steps)

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


def ours(mixture: mixtures.Mixture, noise: Tensor, nfe: int) -> Iterator[tuple[str, Tensor]]:
    for name, plan in plans.candidates(LINEAR, nfe).items():
        if not plan.is_stochastic:
            yield name, run_plan(mixture, plan, noise)


def peers(mixture: mixtures.Mixture, noise: Tensor, nfe: int) -> Iterator[tuple[str, Tensor]]:
    for name, (make, steps) in schedulers().items():
        if steps(nfe) == 0:
            continue
        try:
            x, calls = run_peer(mixture, make, steps(nfe), noise)
        except Exception as error:  # noqa: BLE001  (a combination it cannot run is not a result)
            print(f"    {name} at {nfe}: {type(error).__name__}: {str(error)[:60]}")
            continue
        if calls == nfe:
            yield name, x


def error(quick: bool, ours_only: bool) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for name in mixtures.LABORATORY:
        mixture, noise, truth = problem(name, 64 if quick else 256)
        for nfe in QUICK_BUDGETS if quick else BUDGETS:
            mine = min((error_of(name, x, truth), label) for label, x in ours(mixture, noise, nfe))
            line = f"{name:10s} NFE {nfe:3d}  ours {mine[0]:.2e} {mine[1]:32s}"
            row: dict[str, Any] = {"ours": mine[0], "plan": mine[1]}
            if not ours_only:
                peer = min((error_of(name, x, truth), label) for label, x in peers(mixture, noise, nfe))
                row |= {"peer": peer[0], "peer_name": peer[1], "ratio": peer[0] / mine[0]}
                line += f"  diffusers {peer[0]:.2e} {peer[1]:20s}  ratio {row['ratio']:.1f}"
            print(line, flush=True)
            report[f"{name}-{nfe}"] = row
    return report


def order(quick: bool, ours_only: bool) -> dict[str, float]:
    mixture, noise, truth = problem("smooth", 64 if quick else 256)
    runs: dict[str, Callable[[int], Tensor]] = {}
    for solver, grid in ORDERS:
        runs[f"ours {solver} {grid}"] = lambda steps, solver=solver, grid=grid: run_plan(
            mixture, plans.build(solver, LINEAR, grid, steps), noise
        )
    if not ours_only:
        known = schedulers()
        for name in ("ddim leading", "plms leading", "dpm++m2 default", "unipc2 default", "unipc3 karras"):
            make = known[name][0]
            runs[f"diffusers {name}"] = lambda steps, make=make: run_peer(mixture, make, steps, noise)[0]
    report = {}
    for name, run in runs.items():
        errors = [error_of("smooth", run(steps), truth) for steps in (20, 50)]
        report[name] = math.log(errors[0] / errors[1]) / math.log(50 / 20)
        print(f"{name:32s} {errors[0]:.2e} -> {errors[1]:.2e}   order {report[name]:.2f}", flush=True)
    return report


def identity(x: Tensor, sigma: Tensor) -> Tensor:
    return x


def run_hand(x: Tensor) -> None:
    for k in range(STEPS):
        x = torch.add(x * 0.99, x, alpha=0.01 * k)


def our_runs(x: Tensor) -> dict[str, Callable[[], object]]:
    grid, karras = grids.leading(LINEAR, STEPS), grids.karras(LINEAR, STEPS)
    table = {
        "ddim": plans.ddim(LINEAR, grid),
        "plms": plans.plms(LINEAR, grid),
        "deis3": plans.deis(LINEAR, grid),
        "dpm++2m": plans.dpm_solver_pp(LINEAR, karras),
        "dpm++3m": plans.dpm_solver_pp(LINEAR, karras, order=3),
        "unipc2": plans.unipc(LINEAR, karras),
    }
    runs = {name: (lambda plan=plan: sample(identity, plan, x)) for name, plan in table.items()}
    trailing = grids.trailing(LINEAR, STEPS)
    mixed = [make(LINEAR, trailing) for make in (plans.ddim, plans.ipndm, plans.deis, plans.dpm_solver_pp)]
    runs["batch of 4 plans"] = lambda: run_batch(mixed, x)
    return runs


def run_batch(mixed: list[SamplingPlan], x: Tensor) -> None:
    batch = PlanBatch.empty(x.shape[1:])
    for i, item in enumerate(x):
        batch = batch.admit(i, mixed[i % 4], item)
    while batch.items:
        query = batch.query()
        batch, _ = batch.advance(query, query.x)


def peer_runs(x: Tensor) -> dict[str, Callable[[], object]]:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UniPCMultistepScheduler

    made = {
        "ddim": DDIMScheduler(**BASE, clip_sample=False),
        "plms": PNDMScheduler(**BASE, skip_prk_steps=True, set_alpha_to_one=True),
        "dpm++2m": DPMSolverMultistepScheduler(**BASE, use_karras_sigmas=True),
        "dpm++3m": DPMSolverMultistepScheduler(**BASE, use_karras_sigmas=True, solver_order=3),
        "unipc2": UniPCMultistepScheduler(**BASE, use_karras_sigmas=True),
    }

    def run(scheduler: Any) -> None:
        scheduler.set_timesteps(STEPS)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(y, t, y, return_dict=False)[0]

    return {name: (lambda scheduler=scheduler: run(scheduler)) for name, scheduler in made.items()}


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.thread_time()
            run()
            times[name].append((time.thread_time() - begin) / STEPS * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def overhead(quick: bool, ours_only: bool) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        mine, theirs = our_runs(x), {} if ours_only else peer_runs(x)
        runs: dict[str, Callable[[], object]] = {"hand": lambda x=x: run_hand(x)}
        runs |= {f"ours {name}": run for name, run in mine.items()}
        runs |= {f"diffusers {name}": run for name, run in theirs.items()}
        medians(runs, 3)
        result = medians(runs, 15 if quick else 60)
        print(f"{tuple(shape)}   hand {result['hand']:.4f} ms per step")
        for name in mine:
            line = f"  {name:16s} ours {result[f'ours {name}']:.4f}"
            if name in theirs:
                ratio = result[f"diffusers {name}"] / result[f"ours {name}"]
                line += f"   diffusers {result[f'diffusers {name}']:.4f}   ratio {ratio:.1f}"
            print(line)
        report["x".join(map(str, shape))] = result
    return report


def main() -> None:
    parts = {"error": error, "order": order, "overhead": overhead}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--quick", action="store_true", help="fewer items, budgets and rounds")
    parser.add_argument("--ours-only", action="store_true", help="without diffusers")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"{sorted(unknown)[0]}: there is {', '.join(parts)}")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    begin = time.perf_counter()
    rows = {name: parts[name](options.quick, options.ours_only) for name in options.parts or parts}
    libraries = ["torch"] if options.ours_only else ["torch", "diffusers"]
    versions = {name: importlib.metadata.version(name) for name in libraries}
    seconds = time.perf_counter() - begin
    print(json.dumps({"benchmark": "samplers", "threads": 1, "seconds": seconds, **versions, **rows}))


if __name__ == "__main__":
    main()
