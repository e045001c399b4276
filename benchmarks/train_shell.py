"""What Ray Train's shell costs per step over the bare loop, side by side on this machine.

The same training (objective, seed, number of threads) runs bare in this process and under Ray Train with
one worker, in turns. Timed are the steps of the second half, with their logs, reports and checkpoints; the
shell's start is reported apart; its last processes still import in the background for some seconds, so that
shorter runs than these would measure that instead. Prints a line of JSON at the end:

    PYTHONPATH=platform python benchmarks/train_shell.py [--quick]
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from raydiance.cluster.session import session
from raydiance.cluster.train import Launcher
from raydiance.config import ClusterSpec
from raydiance.storage import Store, code_version
from raydiance.tracking import NullTracker, QuietProgress, Worker
from raydiance.training import Batch, LoopSpec, Objective, fit

LIMIT = 1.05  # over the bare loop


class Denoising(Objective):
    """A 3D convolutional network against noise: a step of tens of milliseconds, as in the tiny preset."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(
                nn.Conv3d(16, 48, 3, padding=1),
                nn.SiLU(),
                nn.Conv3d(48, 48, 3, padding=1),
                nn.SiLU(),
                nn.Conv3d(48, 16, 3, padding=1),
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        noise = torch.stack([torch.randn(16, 8, 8, 8, generator=each) for each in batch.generators()])
        return {"loss": (self.model(noise) - noise.tanh()).square().mean()}


def train(steps: int, worker: Worker) -> float:
    """Seconds per step, the median over the run's second half; checkpoints and reports are part of it."""
    torch.set_num_threads(1)
    clock = Clock()
    loop = LoopSpec(
        steps=steps, batch_size=16, log_every=10, checkpoint_every=max(steps // 4, 1), preview_every=steps
    )
    fit(clock.watch(Denoising()), loop, worker=worker, run_name=f"bench-{time.time_ns()}", seed=0)
    return clock.seconds_per_step()


class Clock:
    """Notes when each step begins."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def watch(self, objective: Objective) -> Objective:
        objective.register_forward_pre_hook(lambda module, inputs: self.times.append(time.perf_counter()))
        return objective

    def seconds_per_step(self) -> float:
        half = self.times[len(self.times) // 2 :]
        return (half[-1] - half[0]) / (len(half) - 1)


def measure(steps: int, rounds: int, folder: Path) -> dict[str, object]:
    """Bare and under Ray, in turns, so that what else the machine does falls on both."""
    store = Store.open(folder / "store")
    bare, shell, starts = [], [], []
    for _ in range(rounds):
        for spec, times in ((ClusterSpec(), bare), (ClusterSpec(num_workers=1), shell)):
            launch = Launcher(spec, "bench", store, NullTracker(), QuietProgress(), NullTracker)
            started = time.perf_counter()
            times.append(launch(train, steps))
            if spec.num_workers:
                starts.append(time.perf_counter() - started - times[-1] * steps)
            print(f"{spec.num_workers} workers: {1e3 * times[-1]:.2f} ms per step", file=sys.stderr)
    ratios = [b / a for a, b in zip(bare, shell)]
    return {
        "benchmark": "train_shell",
        "bare_ms": round(1e3 * statistics.median(bare), 3),
        "ray_ms": round(1e3 * statistics.median(shell), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "limit": LIMIT,
        "start_s": round(statistics.median(starts), 1),
        "steps": steps,
        "machine": platform.processor() or platform.machine(),
        "code_version": code_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder, session(ClusterSpec(address="local")):
        print(json.dumps(measure(100 if quick else 400, 1 if quick else 5, Path(folder))))


if __name__ == "__main__":
    main()
