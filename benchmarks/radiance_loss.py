"""What the rendering loss does for diffusion of fields: the same training with and without it.

    python benchmarks/radiance_loss.py --encode KEY --render KEY --fit KEY [--steps 400] [--seeds 0 1 2]
        [--weights 0 10] [--omega alpha_bar]

Each training has the same steps, batches, noise and first weights; only lambda_RGB (and omega_t) differ. A
training that was cut off goes on, one that is done is not done again. For each: fd_views, COV, MMD and 1-NNA of
samples of the same seeds. The last line is one JSON object.
"""

import argparse
import json
import os
from dataclasses import replace

import numpy as np
import torch

from raydiance.generation.radiance import FieldPlan, FieldSampling, sample
from raydiance.generation.radiance_evaluate import FieldEvaluation, evaluate_fields
from raydiance.storage import Artifact, Store
from raydiance.tracking import LineProgress, NullTracker, Run, local_run
from raydiance.training import RadianceTraining, train_diffusion

SHOWN = (
    "fd_views",
    "kd_views",
    "coverage",
    "minimum_matching_x1e3",
    "nearest_neighbour_accuracy",
    "nearest_training_x1e3",
)


def trained(run: Run, training: RadianceTraining) -> Artifact:
    """The denoiser of an earlier run of this script, or a new one."""
    for ref in reversed(run.store.list("denoiser")):
        if ref.key.rpartition("-")[0] == f"denoiser/{run.name}":
            return run.store.get(ref)
    return train_diffusion(training, run).artifact


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for stage in ("encode", "render", "fit"):
        parser.add_argument(f"--{stage}", required=True, help=f"key of the artifact of the stage {stage}")
    parser.add_argument("--store", default=None)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 10.0])
    parser.add_argument("--omega", nargs="+", default=["alpha_bar"])
    parser.add_argument("--samples", type=int, default=48)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.open(arguments.store)
    inputs = {stage: store.get(getattr(arguments, stage)) for stage in ("encode", "render", "fit")}
    base = RadianceTraining()
    loop = replace(base.loop, steps=arguments.steps, checkpoint_every=100, preview_every=arguments.steps)
    rows = []
    for seed in arguments.seeds:
        for weight in arguments.weights:
            for omega in arguments.omega if weight else arguments.omega[:1]:
                rendering = replace(base.rendering, weight=weight, omega=omega)
                name = f"loss-{arguments.steps}-{seed}-{weight:g}-{omega}"
                progress, tracker = LineProgress(), NullTracker()
                run = local_run(
                    store, name=name, inputs=inputs, seed=seed, tracker=tracker, progress=progress
                )
                denoiser = trained(run, replace(base, loop=loop, rendering=rendering))
                run = replace(run, inputs=inputs | {"train_diffusion": denoiser})
                wanted = FieldSampling(num_samples=arguments.samples, plan=FieldPlan(num_steps=24))
                samples = sample(wanted, run).artifact
                scores = evaluate_fields(
                    FieldEvaluation(), replace(run, inputs=inputs | {"sample": samples})
                ).metrics
                rows.append(
                    {"seed": seed, "weight": weight, "omega": omega, **{key: scores[key] for key in SHOWN}}
                )
                print(
                    *(
                        f"{key} {value:.4g}" if isinstance(value, float) else value
                        for key, value in rows[-1].items()
                    ),
                    flush=True,
                )
    means = {
        f"{weight:g} {omega}": {
            key: round(float(np.mean(found)), 4) for key in SHOWN if (found := _of(rows, weight, omega, key))
        }
        for weight in arguments.weights
        for omega in arguments.omega
        if _of(rows, weight, omega, SHOWN[0])
    }
    result = {
        "benchmark": "radiance_loss",
        "steps": arguments.steps,
        "load": os.getloadavg()[0],
        "rows": rows,
        "means": means,
    }
    print(json.dumps(result))


def _of(rows: list[dict[str, object]], weight: float, omega: str, key: str) -> list[float]:
    return [float(str(row[key])) for row in rows if row["weight"] == weight and row["omega"] == omega]


if __name__ == "__main__":
    main()
