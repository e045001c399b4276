"""How fast fields are rendered on the CPU: numba beside torch, one run, one machine.

    python benchmarks/render_fields.py [--quick] [--threads 2]

A solid ball in a 64^3 grid, 128^2 rays, 128 samples on each. Cases take turns, so that a busy machine is
busy for all of them; the least wall time of a case counts. The last line is one JSON object.
"""

import argparse
import json
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


def measure(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least wall time of each case in ms."""
    for run in cases.values():
        run()
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


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
        print(f"{title}: ms, million rays/s, million samples/s")
        for name, ms in times.items():
            print(
                f"  {name:28s} {ms:9.2f} {count / ms / 1e3:8.3f} {count * arguments.samples / ms / 1e3:8.1f}"
            )
    torch_ms = min(ahead[f"torch chunk {n}"] for n in CHUNKS)
    ratios = {
        "forward_dense": torch_ms / ahead["numba dense"],
        "forward_skipping": torch_ms / ahead["numba skipping, early stop"],
        "forward_backward": both["torch"] / both["numba"],
    }
    result = {
        "benchmark": "render_fields",
        "machine": f"{platform.machine()}, {arguments.threads} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "setting": {"grid": arguments.resolution, "rays": count, "samples": arguments.samples},
        "ms": {"forward": ahead, "forward_backward": both},
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "asked": ASKED,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
