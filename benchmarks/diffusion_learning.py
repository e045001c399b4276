"""How far learned plans are ahead of our own best training-free ones, on noises they were not fitted to.

    python benchmarks/diffusion_learning.py [--quick]

Three Gaussian mixtures with exact predictions; the linear schedule. Errors as in diffusion_accuracy.py. The
last line is JSON.
"""

import argparse
import json
import time
from typing import Any

import torch
from torch import Tensor

from raydiance.diffusion import learning, mixtures, plans, sample, schedules

LINEAR = schedules.linear()


def error_of(name: str, x: Tensor, truth: Tensor) -> float:
    squares = (x - truth).square()
    return float(squares.mean().sqrt() if name == "smooth" else squares.mean(1).sqrt().median())


def draw(mixture: mixtures.Mixture, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise, and where its exact path ends."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, mixture.means.shape[1], generator=generator, dtype=torch.float64)
    return noise, mixture.data(noise * LINEAR.sigma_max, LINEAR.sigma_max, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one number of calls, fewer noises and iterations"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin, report = time.perf_counter(), dict[str, Any]()
    for name, make in mixtures.LABORATORY.items():
        mixture = make()
        train, target = draw(mixture, 96 if options.quick else 256, seed=99)
        test, truth = draw(mixture, 256, seed=1234)
        for nfe in (5,) if options.quick else (5, 8):
            free = {
                label: error_of(name, sample(mixture.predict_noise, plan, plan.start(test)), truth)
                for label, plan in plans.candidates(LINEAR, nfe).items()
                if not plan.is_stochastic
            }
            best = min(free, key=lambda label: free[label])
            fit = learning.learn(
                mixture.predict_noise,
                LINEAR,
                nfe,
                train,
                target,
                num_starts=2,
                num_iterations=15 if options.quick else 60,
                robust=name != "smooth",
            )
            error = error_of(name, sample(mixture.predict_noise, fit.plan, fit.plan.start(test)), truth)
            ratio = free[best] / error
            free_text = f"best {free[best]:.2e} {best:26s}"
            print(
                f"{name:10s} NFE {nfe}  {free_text} learned {error:.2e} {fit.plan.name:34s} {ratio:.1f}x",
                flush=True,
            )
            report[f"{name}-{nfe}"] = {"best": free[best], "plan": best, "learned": error, "ratio": ratio}
    print(
        json.dumps(
            {"benchmark": "diffusion_learning", "seconds": time.perf_counter() - begin, "rows": report}
        )
    )


if __name__ == "__main__":
    main()
