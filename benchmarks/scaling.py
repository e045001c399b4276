"""What a training step of the autodecoder takes, in time and memory, by the field's size and number of objects.

Synthetic codes and images; each point is a process of its own on one thread, which takes real steps
(`raydiance.training.train_step`: gradients, clipping, Adam) of 4 objects, each seen by 4 views of 16 x 16 rays.

- The field has 32, 64, 128 voxels along each axis; a level of half the width is added for each doubling, and rays
  have 1.25 samples per voxel.
- At 32^3, 100 to 100,000 objects with codes of 1024 numbers, in a table or put together from 256 codebooks.

Time is processor time, which a busy machine changes least. Memory is the growth of the process's largest resident
size over that after a step of a model of next to nothing. Prints a line of JSON at the end; --picture draws it:

    PYTHONPATH=platform python benchmarks/scaling.py [--quick] [--picture docs/images/scaling.png]
"""

import argparse
import json
import math
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from raydiance.fields import VoxelField, orbit_cameras, render
from raydiance.models import Autodecoder, AutodecoderSpec
from raydiance.storage import Store, code_version
from raydiance.training import Batch, Checkpoints, LoopSpec, Objective, start, train_step
from raydiance.training.precision import choose_precision

BATCH, VIEWS, VIEW_SIZE = 4, 4, 16
SIZES, QUICK_SIZES = (32, 64, 128), (32, 64)
COUNTS, QUICK_COUNTS = (100, 1_000, 10_000, 100_000), (100, 10_000)
CODE_DIM, CODEBOOKS = 1024, 256


class Point(NamedTuple):
    """What is measured: the series it belongs to, the model, how many objects, samples per ray."""

    series: str
    model: AutodecoderSpec
    num_objects: int
    num_samples: int


NOTHING = Point("", AutodecoderSpec(code_dim=1, field_resolution=16, widths=(2,), depths=(0,)), BATCH, 4)


class Synthetic(Objective):
    """An autodecoder whose every object looks like noise."""

    def __init__(self, point: Point) -> None:
        super().__init__()
        self.model: Autodecoder = Autodecoder(point.model, point.num_objects)
        self.count, self.num_samples = point.num_objects, point.num_samples
        cameras = orbit_cameras(VIEWS, size=VIEW_SIZE, radius=2.8, fov_degrees=42.0, elevation_degrees=20.0)
        self.rays = cameras.rays().reshape(-1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows = torch.tensor(batch.items(self.count))
        colour = render(VoxelField(self.model(rows)), self.rays, num_samples=self.num_samples).colour
        truth = torch.stack([torch.rand(colour.shape[1:], generator=each) for each in batch.generators()])
        return {"loss": (colour - truth).square().mean()}


def points(quick: bool) -> list[Point]:
    found = []
    for size in QUICK_SIZES if quick else SIZES:
        levels = int(math.log2(size // 16))
        model = AutodecoderSpec(
            field_resolution=size,
            widths=tuple(64 >> k for k in range(levels + 1)),
            depths=(1,) + (0,) * levels,
        )
        found.append(Point("size", model, 64, 5 * size // 4))
    for count in QUICK_COUNTS if quick else COUNTS:
        for series, codebooks in (("table", 0), ("codebooks", CODEBOOKS)):
            model = AutodecoderSpec(
                code_dim=CODE_DIM,
                codebooks=codebooks,
                base_resolution=4,
                widths=(64, 64, 32),
                depths=(1, 1, 0),
            )
            found.append(Point(series, model, count, 40))
    return found


def measure(point: Point, steps: int) -> dict[str, Any]:
    """Milliseconds of processor time per step (the median), and the memory that it takes, in MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step_times(Synthetic(NOTHING), 1)  # libraries are loaded and kernels compiled by now
    before = psutil.Process().memory_info().rss
    objective = Synthetic(point)
    times = step_times(objective, steps + 2)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = {"codes": 0, "networks": 0}
    for name, each in objective.model.named_parameters():
        weights["codes" if name.startswith("codes") else "networks"] += each.numel()
    return {
        "series": point.series,
        "size": point.model.field_resolution,
        "objects": point.num_objects,
        "step_ms": round(1e3 * statistics.median(times[2:]), 2),
        "memory_mib": round((peak - before) / 2**20, 1),
        **weights,
    }


def step_times(objective: Synthetic, steps: int) -> list[float]:
    """Processor seconds of training steps."""
    loop, times = LoopSpec(batch_size=BATCH), []
    state, precision = start(objective, loop), choose_precision("float32", torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Store.open(folder), "scaling", keep=1)
        for step in range(steps):
            began = time.process_time()
            train_step(objective, state, loop, Batch(0, step, range(BATCH), BATCH), checkpoints, precision)
            times.append(time.process_time() - began)
    return times


def growth(rows: list[dict[str, Any]], x: str, y: str) -> float:
    """The exponent p of y ~ x^p between the last two points of a series."""
    first, last = rows[-2:]
    return round(math.log(last[y] / first[y]) / math.log(last[x] / first[x]), 2)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Two by two panels: time and memory, against size and number of objects."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    for column, (x, shown, label) in enumerate(
        (("size", ("size",), "voxels of the field"), ("objects", ("table", "codebooks"), "objects"))
    ):
        for axes, (y, name) in zip(
            panels[:, column], (("step_ms", "CPU-ms per step"), ("memory_mib", "MiB"))
        ):
            for series in shown:
                own = [row for row in rows if row["series"] == series]
                axes.plot([row[x] for row in own], [row[y] for row in own], "o-", label=series)
            axes.set(xscale="log", yscale="log", ylabel=name)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(which="both", color="0.92", lw=0.6)
            axes.set_axisbelow(True)
        panels[1, column].set_xlabel(label)
    for axes in panels[:, 0]:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(SIZES, [f"{size}^3" for size in SIZES])
    panels[0, 1].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer points and steps: within a minute")
    parser.add_argument("--picture", type=Path, help="draw the figures")
    asked = parser.parse_args()
    rows = []
    for point in points(asked.quick):
        # forked, so that a point costs no imports; this process itself never computes anything
        with multiprocessing.get_context("fork").Pool(1) as pool:
            rows.append(pool.apply(measure, (point, 3 if asked.quick else 7)))
        print(json.dumps(rows[-1]), file=sys.stderr)
    series = {name: [row for row in rows if row["series"] == name] for name in ("size", "table", "codebooks")}
    exponents = {
        f"{name}_{y}": growth(own, "size" if name == "size" else "objects", y)
        for name, own in series.items()
        for y in ("step_ms", "memory_mib")
    }
    if asked.picture:
        draw(rows, asked.picture)
    print(
        json.dumps(
            {
                "benchmark": "scaling",
                "rows": rows,
                "exponents": exponents,
                "machine": platform.processor() or platform.machine(),
                "code_version": code_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
