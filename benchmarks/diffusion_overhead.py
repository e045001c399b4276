"""What a sampling step costs beside the network: ours and diffusers', medians in one run, in milliseconds per
step.

    python benchmarks/diffusion_overhead.py [--quick]

The network gives its input back, so that everything measured is the sampler. "hand" is the least a step can
be: two torch operations with coefficients known beforehand. Contenders take turns, and the clock is the
processor time of the thread, so that a busy machine favours nobody. The last line is JSON.
"""

import argparse
import importlib.metadata
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raydiance.diffusion import PlanBatch, grids, plans, sample, schedules

STEPS = 50
SHAPES = ((1, 8, 8, 8, 8), (16, 4, 32, 32))
LINEAR = schedules.linear()
BATCHED = [
    make(LINEAR, grids.trailing(LINEAR, STEPS))
    for make in (plans.ddim, plans.ipndm, plans.deis, plans.dpm_solver_pp)
]


def identity(x: Tensor, sigma: Tensor) -> Tensor:
    return x


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
    runs["batch of plans"] = lambda: run_batch(x)
    return runs


def run_batch(x: Tensor) -> None:
    """Items on four different plans, in one batch."""
    batch = PlanBatch.empty(x.shape[1:])
    for i, item in enumerate(x):
        batch = batch.admit(i, BATCHED[i % 4], item)
    while batch.items:
        query = batch.query()
        batch, _ = batch.advance(query, query.x)


def hand_run(x: Tensor) -> None:
    for k in range(STEPS):
        x = torch.add(x * 0.99, x, alpha=0.01 * k)


def peer_runs(x: Tensor) -> dict[str, Callable[[], object]]:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UniPCMultistepScheduler

    base = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    made = {
        "ddim": DDIMScheduler(**base, clip_sample=False),
        "plms": PNDMScheduler(**base, skip_prk_steps=True, set_alpha_to_one=True),
        "dpm++2m": DPMSolverMultistepScheduler(**base, use_karras_sigmas=True),
        "dpm++3m": DPMSolverMultistepScheduler(**base, use_karras_sigmas=True, solver_order=3),
        "unipc2": UniPCMultistepScheduler(**base, use_karras_sigmas=True),
    }

    def run(scheduler: Any) -> None:
        scheduler.set_timesteps(STEPS)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(y, t, y, return_dict=False)[0]

    return {name: (lambda scheduler=scheduler: run(scheduler)) for name, scheduler in made.items()}


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.thread_time()
            run()
            times[name].append((time.thread_time() - begin) / STEPS * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    with torch.inference_mode():
        for shape in SHAPES:
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            mine, theirs = our_runs(x), peer_runs(x)
            runs = {"hand": lambda x=x: hand_run(x)}
            runs |= {f"ours {name}": run for name, run in mine.items()}
            runs |= {f"diffusers {name}": run for name, run in theirs.items()}
            measure(runs, 3)
            result = measure(runs, 15 if options.quick else 60)
            print(f"{tuple(shape)}   hand {result['hand']:.4f} ms per step")
            for name in mine:
                line = f"  {name:16s} ours {result[f'ours {name}']:.4f}"
                if name in theirs:
                    ratio = result[f"diffusers {name}"] / result[f"ours {name}"]
                    line += f"   diffusers {result[f'diffusers {name}']:.4f}   ratio {ratio:.1f}"
                print(line)
            report["x".join(map(str, shape))] = result
    versions = {"torch": torch.__version__, "diffusers": importlib.metadata.version("diffusers")}
    print(json.dumps({"benchmark": "diffusion_overhead", "threads": 1, **versions, "ms_per_step": report}))


if __name__ == "__main__":
    main()
