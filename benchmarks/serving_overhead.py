"""What the engine adds to the network: the share of a tick that is not the network's.

    PYTHONPATH=platform:. python benchmarks/serving_overhead.py [--seconds 20] [--repeats 3] [--out FILE]

The furniture denoiser with random weights, one thread, no Ray and no HTTP: eight samples or more always under way,
on plans of 8, 16 and 50 calls at random, so that batches change all the time. Median and range of the repeats;
the last line is JSON.
"""

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.serving import PLANS, SHAPE, STEPS, Model, Which

from raydiance.generation import noise_generator
from raydiance.serving.engine import Engine
from raydiance.serving.orders import Order
from raydiance.storage import code_version, write_json

SLOTS, ASKED = 8, 0.03


def measure(model: Model, seconds: float, seed: int) -> dict[str, float]:
    """One engine for so long."""
    draw = random.Random(seed)
    engine = Engine(lambda x, sigma, labels: model.predict_noise(x, sigma), SHAPE, slots=SLOTS)
    end = time.perf_counter() + seconds
    with engine:
        while time.perf_counter() < end:
            tickets = [
                engine.submit(
                    Order(
                        PLANS[draw.choice(STEPS)],
                        torch.randn(SHAPE, generator=noise_generator(draw.randrange(2**31))),
                        finish=lambda x_0: float(x_0.sum()),
                    )
                )
                for _ in range(2 * SLOTS)
            ]
            for ticket in tickets[:SLOTS]:
                ticket.future.result()
            while engine.load["waiting"] + engine.load["running"] >= SLOTS:
                time.sleep(0.01)
        stats = engine.stats
    return {
        "overhead_share": stats.overhead,
        "overhead_ms": 1e3 * (stats.tick_s - stats.network_s) / stats.ticks,
        "tick_ms": 1e3 * stats.tick_s / stats.ticks,
        "samples_per_tick": stats.rows / stats.ticks,
        "ticks": float(stats.ticks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file of the results")
    arguments = parser.parse_args()
    model = Model(Which(None, quick=False))
    runs = [measure(model, arguments.seconds, seed) for seed in range(arguments.repeats)]
    shares = sorted(run["overhead_share"] for run in runs)
    results: dict[str, Any] = {"benchmark": "serving_overhead", "runs": runs, "asked": ASKED}
    results |= {"overhead_share": statistics.median(shares), "range": [shares[0], shares[-1]]}
    results |= {"torch": torch.__version__, "code_version": code_version(), "load": os.getloadavg()}
    results["seconds"] = arguments.seconds
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
