"""What `serve.compile` gives, and what it costs at the start: the network compiled beside the network as it is.

    PYTHONPATH=platform:. python benchmarks/serving_compiled.py [--quick] [--turns 40] [--out FILE]

The furniture denoiser with random weights (--quick: a small one, whose programs are written in a minute), one
thread. Twice in a process of its own, with an empty cache and with what the first left there: the seconds until
all sizes of calls are compiled, wall and processor time, the compiler's included. Then, in turn, calls of the
network as it is and compiled, at each size: medians of processor time (which other work on the machine leaves as
it is), the ratio within a turn, and samples/s at 16 calls a sample. The last line is JSON.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from benchmarks.serving import QUICK_SPEC, SHAPE, SPEC
from torch import Tensor

from raydiance.data.latents import RobustStatistics
from raydiance.generation import BundleSpec, LatentModel
from raydiance.generation.execution import NoiseNetwork, agreeing_sizes, call_sizes, noise_network
from raydiance.models import AutodecoderSpec, FieldDecoder, UNet, UNetSpec
from raydiance.serving.compiled import CompiledNetwork
from raydiance.storage import code_version, write_json

CALLS = 16  # of the network, for a sample


def model_of(denoiser: UNetSpec) -> LatentModel:
    """One of random weights, of which the denoiser is what matters."""
    torch.manual_seed(0)
    network = UNet(denoiser).eval().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    spec = BundleSpec(
        decoder=AutodecoderSpec(),
        denoiser=denoiser,
        sigma_data=1.0,
        plans=("none",),
        default_plan="none",
        provenance={},
        metrics={},
    )
    statistics_ = RobustStatistics(torch.zeros(1), torch.ones(1))
    return LatentModel(spec, FieldDecoder(spec.decoder), network, statistics_, {}, torch.device("cpu"))


def processor_s() -> float:
    """Of this process and of those that it started, compilers among them."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def inputs_of(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, *SHAPE, generator=generator), torch.logspace(-1, 1, size)


def seconds(network: NoiseNetwork, x: Tensor, sigma: Tensor) -> float:
    began = time.thread_time()
    network(x, sigma, None)
    return time.thread_time() - began


@torch.inference_mode()
def measure(quick: bool, cache: str, turns: int) -> dict[str, Any]:
    """Start, and `turns` calls of both kinds at each size."""
    torch.set_num_threads(1)
    os.environ["RAYDIANCE_CACHE"] = cache
    model = model_of(QUICK_SPEC if quick else SPEC)
    sizes, eager, compiled = call_sizes(model.device), noise_network(model), CompiledNetwork(model)
    sizes = sizes[-1:] if quick else sizes
    began, used = time.perf_counter(), processor_s()
    for size in sizes:
        compiled(*inputs_of(size), None)
    found: dict[str, Any] = {"start_s": time.perf_counter() - began, "start_cpu_s": processor_s() - used}
    if not turns:
        return found
    found["agreeing"] = agreeing_sizes(compiled, sizes, *inputs_of(sizes[-1]), None)
    found["calls"] = {str(size): compare(eager, compiled, size, turns) for size in sizes}
    return found


def compare(eager: NoiseNetwork, compiled: NoiseNetwork, size: int, turns: int) -> dict[str, float]:
    given = inputs_of(size)
    pairs = [(seconds(eager, *given), seconds(compiled, *given)) for _ in range(turns + 3)][3:]
    as_it_is, as_program = (statistics.median(each) for each in zip(*pairs, strict=True))
    worst = (eager(*given, None) - compiled(*given, None)).abs().max()
    return {
        "eager_ms": 1e3 * as_it_is,
        "compiled_ms": 1e3 * as_program,
        "compiled_to_eager": statistics.median(program / plain for plain, program in pairs),
        "eager_samples_per_s": size / as_it_is / CALLS,
        "compiled_samples_per_s": size / as_program / CALLS,
        "largest_difference": float(worst),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--out", type=Path, help="a JSON file of the results")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"benchmark": "serving_compiled", "quick": arguments.quick, "calls": CALLS}
    with tempfile.TemporaryDirectory() as cache:
        for name, turns in (("cold", 0), ("cached", arguments.turns)):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                results[name] = process.submit(measure, arguments.quick, cache, turns).result()
            print(name, results[name], flush=True)
    results |= {"torch": torch.__version__, "code_version": code_version(), "load": os.getloadavg()}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
