"""How fast meshes become views on disk: rays per second, shading, antialiasing and writing included.

    python benchmarks/render_views.py [--quick] [--source FOLDER] [--processes 2]

Renders ingested objects as the render stage does, through a store on local disk; one JSON line comes last.
Renders ingested objects as the render stage does, through a store on local disk; ends with one JSON line.
The processes have been started and have compiled before the clock runs; `cold_s` is what that took.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from raydiance.data.ingest import PROCEDURAL, IngestSpec, ingest
from raydiance.data.render import RenderSpec, render
from raydiance.storage import Artifact, code_version
from raydiance.tracking import Run, local_run

T = TypeVar("T")
R = TypeVar("R")
Rate = dict[str, float]
BAR = 1e6  # rays per second on two cores


@dataclass(frozen=True)
class WarmPool:
    """A map over processes that are there already."""

    pool: ProcessPoolExecutor

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterator[R]:
        return self.pool.map(function, items)


def timed(spec: RenderSpec, run: Run) -> Rate:
    """Wall time of one whole render stage, and the rays it cast."""
    start = time.perf_counter()
    outcome = render(spec, run)
    seconds = time.perf_counter() - start
    rays = outcome.metrics["views"] * (spec.size * spec.supersample) ** 2
    size = sum(entry.size for entry in outcome.artifact.manifest.files)
    return {"size": spec.size, "s": seconds, "rays": rays, "rays_per_s": rays / seconds, "mb": size / 1e6}


def measure(store: Path, meshes: Artifact, sizes: Sequence[int], views: int, processes: int) -> list[Rate]:
    """The rate of a cold start, then one for each size of view."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        run = local_run(store, inputs={"ingest": meshes}, map=WarmPool(pool))
        cold = timed(RenderSpec(size=16, num_views=2, held_out_every=0), run)
        return [cold, *(timed(RenderSpec(size=size, num_views=views), run) for size in sizes)]


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer objects, within a minute")
    parser.add_argument("--source", default=PROCEDURAL)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    count, views = (16, 24) if options.quick else (96, 48)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        spec = IngestSpec(source=options.source, num_objects=count)
        ingested = ingest(spec, local_run(folder))
        seconds = time.perf_counter() - start
        print(f"{ingested.metrics['objects']:.0f} objects ingested in {seconds:.1f} s", flush=True)
        cold, *rates = measure(Path(folder), ingested.artifact, (64, 128), views, options.processes)
    for rate in rates:
        print(
            f"{rate['size']:4.0f}^2  {rate['rays_per_s'] / 1e6:6.2f} M rays/s  ({rate['s']:.2f} s)",
            flush=True,
        )
    worst = min(rate["rays_per_s"] for rate in rates)
    summary = {
        "benchmark": "render_views",
        "rays_per_s": round(worst),
        "passed": worst >= BAR,
        "bar": BAR,
        "processes": options.processes,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 2),
        "source": options.source,
        "ingest": {name: round(value, 3) for name, value in ingested.metrics.items()},
        "code": code_version(),
        "supersample": RenderSpec().supersample,
        "cold_s": round(cold["s"], 2),
        "runs": [{name: round(value, 2) for name, value in rate.items()} for rate in rates],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
