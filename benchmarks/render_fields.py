"""How fast fields are rendered on the CPU: numba beside torch, one run, one machine.

    python benchmarks/render_fields.py [--quick] [--threads 2]

A solid ball in a 64^3 grid, 128^2 rays, 128 samples on each. Cases take turns, so that a busy machine is
busy for all of them; the least wall time of a case counts, and the least CPU time of all threads, which another
program on the machine disturbs less. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from raydiance.fields import Rays, VoxelField, render, spiral_cameras, torch_backend

ASKED = {"forward_dense": 5.0, "forward_skipping": 15.0, "forward_backward": 5.0}
CHUNKS = (512, 1024, 4096)  # rays in a piece of the torch backend: the best one counts
STOP = 1e-3


def solid_ball(resolution: int) -> torch.Tensor:
    """Grid [1, R, R, R, 4]: density 60 inside a radius of 0.6, nothing outside; smooth colours."""
    line = torch.linspace(-1, 1, resolution)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    density = 60.0 * (x.square() + y.square() + z.square() < 0.36)
    return torch.stack((density, 0.5 + 0.5 * x, 0.5 + 0.5 * y, 0.5 + 0.5 * z), dim=-1)[None]


def forward(grid: torch.Tensor, rays: Rays, samples: int) -> dict[str, Callable[[], Any]]:
    """The cases without gradient."""
    field = VoxelField(grid)

    def numba(**options: Any) -> Callable[[], Any]:
        return lambda: render(field, rays, num_samples=samples, backend="numba", **options).colour

    return {
        **{
            f"torch chunk {n}": lambda n=n: torch_backend.march(field, rays, samples, None, 0.0, n)
            for n in CHUNKS
        },
        "numba dense": numba(skip_empty=False),
        "numba dense, early stop": numba(skip_empty=False, early_stop=STOP),
        "numba skipping": numba(skip_empty=True),
        "numba skipping, early stop": numba(skip_empty=True, early_stop=STOP),
    }


def forward_backward(grid: torch.Tensor, rays: Rays, samples: int) -> dict[str, Callable[[], Any]]:
    """The cases with the gradient of the grid."""
    leaf = grid.clone().requires_grad_()

    def case(**options: Any) -> Callable[[], Any]:
        def run() -> torch.Tensor:
            leaf.grad = None
            result = render(VoxelField(leaf), rays, num_samples=samples, **options)
            (result.colour.square().mean() + result.opacity.mean()).backward()
            return leaf.grad

        return run

    return {
        "torch": case(backend="torch"),
        "numba": case(backend="numba"),
        "numba, early stop": case(backend="numba", early_stop=STOP),
        "numba, early stop, skipping": case(backend="numba", early_stop=STOP, skip_empty=True),
    }


def measure(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Least wall time and least CPU time of each case in ms."""
    for run in cases.values():
        run()
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    best = {name: dict.fromkeys(clocks, float("inf")) for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            start = {kind: clock() for kind, clock in clocks.items()}
            run()
            for kind, clock in clocks.items():
                best[name][kind] = min(best[name][kind], round(1e3 * (clock() - start[kind]), 3))
    return best


def ratios(
    ahead: dict[str, dict[str, float]], both: dict[str, dict[str, float]], kind: str
) -> dict[str, float]:
    """How many times faster than torch, by one of the clocks; the skipping case that is faster counts."""
    torch_ms = min(ahead[f"torch chunk {n}"][kind] for n in CHUNKS)
    skipping = min(ahead[name][kind] for name in ("numba skipping", "numba skipping, early stop"))
    found = {
        "forward_dense": torch_ms / ahead["numba dense"][kind],
        "forward_skipping": torch_ms / skipping,
        "forward_backward": both["torch"][kind] / both["numba"][kind],
        "forward_backward_skipping": both["torch"][kind] / both["numba, early stop, skipping"][kind],
    }
    return {name: round(ratio, 2) for name, ratio in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds in place of 8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--size", type=int, default=128, help="pixels along the edge of the view")
    parser.add_argument("--samples", type=int, default=128, help="on each ray")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 2 if arguments.quick else 8
    grid = solid_ball(arguments.resolution)
    camera = spiral_cameras(3, size=arguments.size, radius=2.5, fov_degrees=50.0)[1]
    rays = camera.rays().reshape(-1)
    setting = (grid, rays, arguments.samples)
    with torch.no_grad():
        ahead = measure(forward(*setting), rounds)
    both = measure(forward_backward(*setting), max(2, rounds // 2))
    count = rays.shape[0]
    for title, times in (("forward", ahead), ("forward and backward", both)):
        print(f"{title}: wall ms, CPU ms, million rays/s, million samples/s (wall)")
        for name, ms in times.items():
            rate = count / ms["wall"] / 1e3
            print(
                f"  {name:28s} {ms['wall']:9.2f} {ms['cpu']:9.2f} {rate:8.3f} {rate * arguments.samples:8.1f}"
            )
    result = {
        "benchmark": "render_fields",
        "machine": f"{platform.machine()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "setting": {"grid": arguments.resolution, "rays": count, "samples": arguments.samples},
        "ms": {"forward": ahead, "forward_backward": both},
        "times_torch": {kind: ratios(ahead, both, kind) for kind in ("wall", "cpu")},
        "asked": ASKED,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
