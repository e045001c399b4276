"""Digits at scale on a GPU: the whole sampling loop in one CUDA graph, beside diffusers on the same network.

    python benchmarks/samplers_gpu.py [--out benchmarks/results/DATE-samplers-gpu.json] [--quick]

Trains a 2D U-Net on scikit-learn's digits, then
- draws 100,000 samples with each plan and tells their Frechet distance to the data (pixels) and the seconds;
- times a step, network and all, for batches of 1 to 4096: our loop as it is and as one CUDA graph, and diffusers'
  scheduler of the same method with the same network. Milliseconds per step, medians by CUDA events, ratios.
It needs neither Ray nor MLflow. `--device cpu --quick` tries it out where there is no GPU: without graphs, small.
The last line is JSON, which --out keeps with the hardware's name.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydiance.data.digits import DigitsSpec, digits
from raydiance.diffusion import SamplingPlan, plans, preconditioning, sample, schedules
from raydiance.diffusion.preconditioning import NoisePredictor
from raydiance.generation.assemble import read_latents
from raydiance.metrics import frechet_distance, frechet_spread
from raydiance.models import UNet, read_unet
from raydiance.storage import Store
from raydiance.tracking import local_run
from raydiance.training import PixelTraining, train_diffusion

LINEAR = schedules.linear()
STEPS = 50
QUALITY = {  # name: solver, grid, steps
    "DDIM 1000": ("ddim", "leading", 1000),
    "DDIM 50": ("ddim", "leading", 50),
    "F-PNDM 50": ("fpndm", "leading", 50),
    "DEIS-3 20": ("deis", "quadratic", 20),
    "DEIS-3 10": ("deis", "quadratic", 10),
}
BASE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    channels: int
    training_steps: int
    training_batch: int
    samples: int
    batch: int
    batches: tuple[int, ...]
    turns: int


WHOLE = Scale(64, 4000, 512, 100_000, 4096, (1, 16, 256, 4096), 15)
QUICK = Scale(8, 20, 32, 256, 128, (1, 16), 3)


def trained(scale: Scale, device: str, folder: Path) -> tuple[UNet, Tensor]:
    """The network, on the device, and the pixels [N, 1, 8, 8] from -1 to 1."""
    store = Store.open(folder)
    data = digits(DigitsSpec(dims=2), local_run(store, name="digits")).artifact
    spec = PixelTraining()
    model = replace(
        spec.model, dims=2, in_channels=1, out_channels=1, channels=scale.channels, multipliers=(1, 2)
    )
    loop = replace(spec.loop, steps=scale.training_steps, batch_size=scale.training_batch)
    run = local_run(store, name="train", inputs={"digits": data}, device=device)
    made = train_diffusion(replace(spec, model=model, loop=loop), run).artifact
    network = read_unet(made.path("spec.json"), made.path("weights.safetensors"))
    found = read_latents(data)
    return network.requires_grad_(False).to(device), found.statistics.normalise(found.raw)


def captured(predict_noise: NoisePredictor, plan: SamplingPlan, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The whole loop as one CUDA graph, for the shape of x; the next call overwrites the result."""
    held, stream = x.clone(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries choose their kernels and the schedule's table comes to the device
            sample(predict_noise, plan, held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = sample(predict_noise, plan, held)

    def replay(x: Tensor) -> Tensor:
        held.copy_(x)
        graph.replay()
        return result

    return replay


def quality(predict_noise: NoisePredictor, pixels: Tensor, scale: Scale, device: str) -> dict[str, Any]:
    report = {}
    for name, (solver, grid, steps) in QUALITY.items():
        plan = plans.build(solver, LINEAR, grid, min(steps, 50) if scale is QUICK else steps)
        generator = torch.Generator(device).manual_seed(0)

        def noise(generator: torch.Generator = generator) -> Tensor:
            return torch.randn(scale.batch, *pixels.shape[1:], generator=generator, device=device)

        run = lambda x, plan=plan: sample(predict_noise, plan, x)  # noqa: E731
        if device != "cpu":
            run = captured(predict_noise, plan, plan.start(noise()))
        begin = time.perf_counter()
        drawn = torch.cat([run(plan.start(noise())).cpu() for _ in range(-(-scale.samples // scale.batch))])
        seconds = time.perf_counter() - begin
        features, reference = drawn.flatten(1), pixels.flatten(1)
        distance, spread = frechet_distance(features, reference), frechet_spread(features, reference)
        report[name] = {"frechet": distance, "spread": spread, "samples": len(drawn), "seconds": seconds}
        print(
            f"{name:10s} {len(drawn)} samples in {seconds:.2f} s   Frechet {distance:.3f} +- {spread:.3f}",
            flush=True,
        )
    return report


def peer(method: str, network: UNet, time_scale: float) -> Callable[[Tensor], Tensor]:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    scheduler: Any = {
        "ddim": lambda: DDIMScheduler(**BASE, clip_sample=False),
        "dpm_solver_pp": lambda: DPMSolverMultistepScheduler(**BASE, use_karras_sigmas=True),
        "unipc": lambda: UniPCMultistepScheduler(**BASE, use_karras_sigmas=True),
    }[method]()

    def run(x: Tensor) -> Tensor:
        scheduler.set_timesteps(STEPS, device=x.device)
        for t in scheduler.timesteps:
            eps = network(x, (t * time_scale).expand(len(x)).float())
            x = scheduler.step(eps, t, x, return_dict=False)[0]
        return x

    return run


def step_ms(run: Callable[[Tensor], Tensor], x: Tensor, turns: int) -> float:
    """Milliseconds per step, the median over turns."""
    cuda, times = x.is_cuda, []
    for turn in range(turns + 2):
        if cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run(x)
            end.record()
            torch.cuda.synchronize()
            took = begin.elapsed_time(end)
        else:
            started = time.perf_counter()
            run(x)
            took = 1e3 * (time.perf_counter() - started)
        if turn >= 2:
            times.append(took / STEPS)
    return statistics.median(times)


def speed(network: UNet, predict_noise: NoisePredictor, scale: Scale, device: str) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for method, grid in (("ddim", "leading"), ("dpm_solver_pp", "karras"), ("unipc", "karras")):
        plan = plans.build(method, LINEAR, grid, STEPS)
        for batch in scale.batches:
            x = torch.randn(batch, 1, 8, 8, device=device)
            row = {
                "ours": step_ms(lambda x, plan=plan: sample(predict_noise, plan, x), x, scale.turns),
                "diffusers": step_ms(peer(method, network, 2 / 1000), x, scale.turns),
            }
            if device != "cpu":
                row["ours, one graph"] = step_ms(captured(predict_noise, plan, x), x, scale.turns)
            best = min(value for name, value in row.items() if name.startswith("ours"))
            row["ratio"] = row["diffusers"] / best
            texts = [f"{name} {value:.4f}" for name, value in row.items()]
            print(f"{method:14s} batch {batch:5d}   {'   '.join(texts)}", flush=True)
            report[f"{method}-{batch}"] = row
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a toy, to try the script")
    parser.add_argument("--out", type=Path, help="keep the JSON there, too")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    scale = QUICK if options.quick else WHOLE
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        network, pixels = trained(scale, options.device, Path(folder))
    print(f"trained in {time.perf_counter() - begin:.0f} s", flush=True)
    predict_noise = preconditioning.discrete_epsilon("linear").noise_predictor(network)
    with torch.inference_mode():
        rows = {
            "quality": quality(predict_noise, pixels, scale, options.device),
            "ms_per_step": speed(network, predict_noise, scale, options.device),
        }
    hardware = platform.machine() if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers")}
    text = json.dumps({"benchmark": "samplers_gpu", "hardware": hardware, **versions, **rows})
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
