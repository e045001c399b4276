"""Writes diffusion_diffusers.json: where diffusers' schedulers end on a Gaussian mixture with exact
predictions.

    PYTHONPATH=platform python tests/golden/make_diffusion_golden.py      # needs the extra `bench`

Float64, element by element, with the noise levels each scheduler used, so that a plan on the same levels must
end at the same place.
"""

import importlib.metadata
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydiance.diffusion import mixtures, schedules

SEED, SHAPE = 7, (3, 16)
BASE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
LINEAR = schedules.linear()
MIXTURE = mixtures.smooth()


def run(
    scheduler: Any, num_steps: int, *, by_sigma: bool = False, noise_seed: int | None = None, **options: Any
) -> Any:
    """The end point; the network is asked at the scheduler's own noise level (sigma, if it has one)."""
    scheduler.set_timesteps(num_steps)
    noise = torch.Generator().manual_seed(noise_seed or 0)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    levels = []
    for i, t in enumerate(scheduler.timesteps):
        a = 1 / (1 + scheduler.sigmas[i].double() ** 2) if by_sigma else LINEAR.alphas_cumprod[int(t)]
        sigma = ((1 - a) / a).sqrt()
        levels.append(float(sigma))
        if noise_seed is not None and "eta" in options:
            options["variance_noise"] = torch.randn(SHAPE, generator=noise, dtype=torch.float64)
        eps = MIXTURE.predict_noise(x / a.sqrt(), sigma.expand(len(x)))
        x = scheduler.step(eps, t, x, return_dict=False, **options)[0]
    return {"num_steps": num_steps, "noise_seed": noise_seed, "sigmas": levels, "end": as_list(x)}


def as_list(x: Tensor) -> list[list[float]]:
    assert bool(x.isfinite().all()) and x.dtype == torch.float64
    return [[float(value) for value in item] for item in x]


def main() -> None:
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        PNDMScheduler,
    )

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    ddim = DDIMScheduler(**BASE, clip_sample=False)
    cases = {
        "ddim-10": run(ddim, 10),
        "ddim-50": run(ddim, 50),
        "ddim-eta0.5-10": run(ddim, 10, noise_seed=11, eta=0.5),
        "ddim-eta1-20": run(ddim, 20, noise_seed=12, eta=1.0),
        "fpndm-10": run(PNDMScheduler(**BASE, set_alpha_to_one=True), 10),
        "fpndm-50": run(PNDMScheduler(**BASE, set_alpha_to_one=True), 50),
        "plms-10": run(PNDMScheduler(**BASE, set_alpha_to_one=True, skip_prk_steps=True), 10),
        "dpmpp2m-12": run(DPMSolverMultistepScheduler(**BASE, use_karras_sigmas=True), 12, by_sigma=True),
        "dpmpp3m-20": run(
            DPMSolverMultistepScheduler(**BASE, use_lu_lambdas=True, solver_order=3), 20, by_sigma=True
        ),
    }
    certificate = {
        "tool": "diffusers",
        "version": importlib.metadata.version("diffusers"),
        "torch": torch.__version__,
        "script": "tests/golden/make_diffusion_golden.py",
        "seed": SEED,
        "shape": SHAPE,
        "schedule": BASE,
        "data": "raydiance.diffusion.mixtures.smooth()",
        "start": "noise of unit variance in x_vp, that is sqrt(1 + sigma^2) times it in x",
    }
    path = Path(__file__).with_name("diffusion_diffusers.json")
    path.write_text(json.dumps({"certificate": certificate, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
