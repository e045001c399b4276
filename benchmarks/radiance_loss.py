"""What the rendering loss does for diffusion of fields: the same training with and without it.

    python benchmarks/radiance_loss.py --render KEY --fit KEY [--steps 400] [--seeds 0 1 2]
        [--weights 0 10] [--omega alpha_bar] [--resolution 16]

Each training has the same steps, batches, noise and first weights; only lambda_RGB (and omega_t) differ. A
training that was cut off goes on, what is done is not done again. For each: fd_views, COV, MMD and 1-NNA of
samples of the same seeds. The last line is one JSON object.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from raydiance.data.field_latents import FieldEncode, encode_fields
from raydiance.data.fieldsets import FieldSet
from raydiance.fields import save_field
from raydiance.generation.radiance import FieldPlan, FieldSampling, sample
from raydiance.generation.radiance_evaluate import FieldEvaluation, evaluate_fields
from raydiance.storage import Artifact, Store, write_json
from raydiance.tracking import LineProgress, Outcome, Run, local_run
from raydiance.training import FieldUNetSpec, RadianceTraining, train_diffusion

SHOWN = (
    "fd_views",
    "kd_views",
    "coverage",
    "minimum_matching_x1e3",
    "nearest_neighbour_accuracy",
    "nearest_training_x1e3",
)


def kept(run: Run, kind: str, job: Callable[[Run], Outcome]) -> Artifact:
    """What an earlier run of this script made, or what the job makes."""
    for ref in reversed(run.store.list(kind)):
        if ref.key.rpartition("-")[0] == f"{kind}/{run.name}":
            return run.store.get(ref)
    return job(run).artifact


def measured(run: Run, training: RadianceTraining, num_samples: int) -> dict[str, float]:
    """The scores of a training's samples."""
    wanted = FieldSampling(
        num_samples=num_samples, plan=FieldPlan(num_steps=24), mesh_resolution=16, sheet_size=64
    )
    for stage, kind, job in (
        ("train_diffusion", "denoiser", lambda run: train_diffusion(training, run)),
        ("sample", "samples", lambda run: sample(wanted, run)),
        ("evaluate", "evaluation", lambda run: evaluate_fields(FieldEvaluation(), run)),
    ):
        run = replace(run, inputs={**run.inputs, stage: kept(run, kind, job)})
    scores: dict[str, float] = run.inputs["evaluate"].read_json("metrics.json")
    return scores


def coarser(store: Store, fit: Artifact, resolution: int) -> Artifact:
    """The same fields with fewer samples; made once."""
    name = f"{fit.ref.key.rpartition('/')[2]}-at-{resolution}"
    if made := store.latest(f"fields/{name}"):
        return made
    found = FieldSet.of(fit)
    with store.create("fields", name, parents=[fit.ref]) as draft:
        for row, field in zip(found.rows, found, strict=True):
            save_field(field.resampled((resolution,) * 3), draft.path(str(row["file"])))
        write_json(draft.path("fields.json"), {"objects": found.rows, "failed": []})
    return draft.artifact


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for stage in ("render", "fit"):
        parser.add_argument(f"--{stage}", required=True, help=f"key of the artifact of the stage {stage}")
    parser.add_argument("--store", default=None)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 10.0])
    parser.add_argument("--omega", nargs="+", default=["alpha_bar"])
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--resolution", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.open(arguments.store)
    render, fit = store.get(arguments.render), store.get(arguments.fit)
    size = arguments.resolution
    fit = coarser(store, fit, size) if size != FieldSet.of(fit)[0].resolution[0] else fit
    encoding = local_run(store, name=f"loss-encode-{size}", inputs={"fit": fit})
    encoded = store.latest(f"latents/{encoding.name}") or encode_fields(FieldEncode(), encoding).artifact
    inputs = {"encode": encoded, "render": render, "fit": fit}
    base = RadianceTraining(model=FieldUNetSpec(resolution=size, channels=64 if size < 32 else 32))
    loop = replace(base.loop, steps=arguments.steps, checkpoint_every=50, preview_every=arguments.steps)
    rows = []
    for seed in arguments.seeds:
        for weight in arguments.weights:
            for omega in arguments.omega if weight else arguments.omega[:1]:
                rendering = replace(base.rendering, weight=weight, omega=omega)
                name = f"loss-{size}-{arguments.steps}-{seed}-{weight:g}-{omega}"
                run = local_run(store, name=name, inputs=inputs, seed=seed, progress=LineProgress())
                training = replace(base, loop=loop, rendering=rendering)
                scores = measured(run, training, arguments.samples)
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
