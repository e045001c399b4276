"""The job `publish`: the model as a bundle in the store and as a version in the registry.

Each version gets the alias "candidate". It becomes "champion", and so what is served, only if the evaluation
passes the gate; the one that was champion is then "previous".
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from raydiance.errors import ArtifactError, UnknownModelError
from raydiance.generation.assemble import assemble, needed
from raydiance.generation.bundle import Bundle, load_bundle, write_bundle
from raydiance.generation.sampler import generate_fields
from raydiance.spec import spec
from raydiance.tracking import Outcome, Registry, Run

__all__ = ["Check", "Gate", "PublishSpec", "check_gate", "publish"]


@spec
class Gate:
    """What an evaluation must show before its model is served. None: not asked for.

    max_fd_ratio: fd_views of the samples over that of direct latent sampling; below 1 diffusion is the
    better.
    """

    min_psnr_held_out: float | None = 20.0
    min_ssim_held_out: float | None = None
    max_fd_views: float | None = None
    max_fd_ratio: float | None = None
    min_coverage: float | None = None


@spec
class PublishSpec:
    """Under which name the bundle is registered, which plan is its default, and the gate to the champion's
    place.
    """

    name: str = "furniture"
    plan: str | None = None
    gate: Gate = Gate()
    smoke_samples: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class Check:
    """One condition of the gate: the figure that was found and the one that was asked for."""

    metric: str
    found: float | None
    rule: str
    bound: float
    passed: bool

    def __str__(self) -> str:
        found = "missing" if self.found is None else f"{self.found:.4g}"
        return f"{self.metric} {found}, {self.rule} {self.bound:g}: {'passed' if self.passed else 'failed'}"


def check_gate(gate: Gate, metrics: Mapping[str, float]) -> list[Check]:
    """Every condition that the gate sets. A metric that is missing or NaN fails."""
    conditions = {
        "psnr_held_out": ("at least", gate.min_psnr_held_out),
        "ssim_held_out": ("at least", gate.min_ssim_held_out),
        "fd_views": ("at most", gate.max_fd_views),
        "fd_ratio": ("at most", gate.max_fd_ratio),
        "coverage": ("at least", gate.min_coverage),
    }
    checks = []
    for metric, (rule, bound) in conditions.items():
        if bound is None:
            continue
        found = metrics.get(metric)
        passed = found is not None and (found >= bound if rule == "at least" else found <= bound)
        checks.append(Check(metric, found, rule, bound, passed))
    return checks


def publish(spec: PublishSpec, run: Run) -> Outcome:
    """Artifact kind "bundle", registered through run.tracker.registry under `spec.name`.

    Reads inputs train_autodecoder, encode, train_diffusion, tune and evaluate. Raises ArtifactError if the
    bundle, read back from the store, does not give finite samples.
    """
    metrics: Mapping[str, float] = needed(run.inputs, "evaluate").read_json("metrics.json")
    for stage, artifact in run.inputs.items():
        run.tracker.log_input(artifact, stage)
    model = assemble(run.inputs, default_plan=spec.plan, metrics=metrics)
    artifact = write_bundle(run.store, spec.name, model, made_by=spec, seeds={"seed": run.seed})
    _try(load_bundle(artifact), spec.smoke_samples)

    checks = check_gate(spec.gate, metrics)
    passed = all(check.passed for check in checks)
    description = _describe(artifact.ref.key, checks, passed)
    version = run.tracker.registry.register_bundle(
        spec.name, artifact, description=description, tags={"gate": "passed" if passed else "failed"}
    )
    run.tracker.registry.set_alias(spec.name, "candidate", version)
    if passed:
        _crown(run.tracker.registry, spec.name, version)
    run.tracker.describe(description)
    run.tracker.set_tags(
        {"model": spec.name, "model_version": version, "gate": "passed" if passed else "failed"}
    )
    rows = [
        {
            "metric": check.metric,
            "found": check.found,
            "rule": check.rule,
            "bound": check.bound,
            "passed": check.passed,
        }
        for check in checks
    ]
    return Outcome(artifact, {"gate_passed": float(passed), "model_version": float(version)}, {"gate": rows})


def _try(bundle: Bundle, count: int) -> None:
    field = generate_fields(bundle, range(count))
    if not bool(torch.isfinite(field.grid).all()):
        raise ArtifactError(
            f"{bundle.ref.key}: samples of plan {bundle.spec.default_plan} are not finite, so it was not "
            "registered. Choose another plan (publish.plan) or train longer"
        )


def _crown(registry: Registry, name: str, version: str) -> None:
    with suppress(UnknownModelError):  # the first champion has no predecessor
        registry.set_alias(name, "previous", registry.resolve(name, "champion").version)
    registry.set_alias(name, "champion", version)


def _describe(key: str, checks: Sequence[Check], passed: bool) -> str:
    """What a reader of the registry should know, in Markdown; failures first."""
    verdict = "It passed the gate: champion." if passed else "It failed the gate: candidate only."
    lines = [f"- {check}" for check in sorted(checks, key=lambda check: check.passed)]
    return "\n".join([f"Bundle `{key}`. {verdict}", "", *(lines or ["- the gate asks for nothing"])])
