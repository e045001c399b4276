"""How far learned plans are ahead of our own best training-free ones, on noises they were not fitted to.

    python benchmarks/samplers_learning.py [--quick] [--only NAME] [--denoiser KEY]

Three Gaussian mixtures with exact predictions, and, with the key of a denoiser of digits in the store, that
network (its reference is deis3 on the quadratic grid with 200 calls); the linear schedule. Errors as in
samplers.py; on digits the root mean square over the spread of the samples. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydiance.diffusion import learning, mixtures, plans, preconditioning, sample, schedules
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.models import read_unet
from raydiance.storage import Store

LINEAR = schedules.linear()


class Case(NamedTuple):
    """A predictor, noises to fit to and where they end, others to test on, and how errors are told."""

    predict_noise: NoisePredictor
    train: Tensor
    target: Tensor
    test: Tensor
    truth: Tensor
    error_of: Callable[[Tensor, Tensor], float]


def rms(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).square().mean().sqrt())


def median(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).square().mean(1).sqrt().median())


def relative(x: Tensor, truth: Tensor) -> float:
    return rms(x, truth) / float((truth - truth.mean(0)).square().mean().sqrt())


def mixture_case(name: str, count: int) -> Case:
    mixture = mixtures.LABORATORY[name]()

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, mixture.means.shape[1], generator=generator, dtype=torch.float64)
        return noise, mixture.data(noise * LINEAR.sigma_max, LINEAR.sigma_max, 500)

    error_of = rms if name == "smooth" else median
    return Case(mixture.predict_noise, *draw(count, 99), *draw(256, 1234), error_of)


def digits_case(key: str, count: int) -> Case:
    trained = Store.open().get(key)
    kind = preconditioning.from_plain(trained.read_json("spec.json"))
    network = read_unet(trained.path("spec.json"), trained.path("weights.safetensors"))
    predict_noise = kind.noise_predictor(network.requires_grad_(False))
    teacher = plans.build("deis", LINEAR, "quadratic", 200, order=3)

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, 8, 8, generator=torch.Generator().manual_seed(seed))
        return noise, sample(predict_noise, teacher, teacher.start(noise))

    return Case(predict_noise, *draw(count, 99), *draw(256, 1234), relative)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one number of calls, fewer noises and iterations"
    )
    parser.add_argument("--only", choices=[*mixtures.LABORATORY, "digits"], help="one kind of data alone")
    parser.add_argument("--denoiser", help="the key of a denoiser of digits in the store")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin, report = time.perf_counter(), dict[str, Any]()
    names = (
        [options.only] if options.only else [*mixtures.LABORATORY, *(["digits"] if options.denoiser else [])]
    )
    for name in names:
        count = 96 if options.quick else 128 if name == "digits" else 256
        case = digits_case(options.denoiser, count) if name == "digits" else mixture_case(name, count)
        for nfe in (5,) if options.quick else (5, 8):
            report[f"{name}-{nfe}"] = compare(name, case, nfe, options.quick)
    print(
        json.dumps({"benchmark": "samplers_learning", "seconds": time.perf_counter() - begin, "rows": report})
    )


def compare(name: str, case: Case, nfe: int, quick: bool) -> dict[str, Any]:
    """The best training-free plan and a learned one on the test noises."""
    free = {
        label: case.error_of(sample(case.predict_noise, plan, plan.start(case.test)), case.truth)
        for label, plan in plans.candidates(LINEAR, nfe).items()
        if not plan.is_stochastic
    }
    best = min(free, key=lambda label: free[label])
    fit = learning.learn(
        case.predict_noise,
        LINEAR,
        nfe,
        case.train,
        case.target,
        num_starts=2 if quick else 3,
        num_iterations=15 if quick or name == "digits" else 60,
        robust=name != "smooth",
    )
    error = case.error_of(sample(case.predict_noise, fit.plan, fit.plan.start(case.test)), case.truth)
    ratio = free[best] / error
    free_text = f"best {free[best]:.2e} {best:26s}"
    print(
        f"{name:10s} NFE {nfe}  {free_text} learned {error:.2e} {fit.plan.name:34s} {ratio:.1f}x", flush=True
    )
    return {"best": free[best], "plan": best, "learned": error, "ratio": ratio}


if __name__ == "__main__":
    main()
