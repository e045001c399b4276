"""Put a model together from what the stages left in the store, before it is a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from raydiance.data.latents import RobustStatistics
from raydiance.diffusion import plans as plan_files
from raydiance.diffusion.plans import SamplingPlan
from raydiance.errors import ArtifactError, ConfigError
from raydiance.generation.bundle import BundleSpec, LatentModel
from raydiance.models import read_decoder, read_unet
from raydiance.storage import Artifact, ArtifactRef

__all__ = ["Latents", "assemble", "needed", "put_together", "read_latents", "read_plan_points"]

STAGES = ("train_autodecoder", "encode", "train_diffusion", "tune")
PREFERRED_PLANS = ("standard", "default", "best")


@dataclass(frozen=True)
class Latents:
    """The latents of N training objects as G1 gave them, [N, C, D, H, W], and what they are latents of."""

    raw: Tensor
    statistics: RobustStatistics
    object_ids: tuple[str, ...]
    categories: tuple[str, ...]
    captions: tuple[str, ...] = ()


def needed(inputs: Mapping[str, Artifact], stage: str) -> Artifact:
    """The artifact of an earlier stage. Raises ConfigError that names the stage if it is not there."""
    if stage not in inputs:
        raise ConfigError(
            f"this job needs the artifact of {stage}; run {stage} first, or name one as an input"
        )
    return inputs[stage]


def read_latents(artifact: Artifact) -> Latents:
    """The contents of an artifact of kind "latents"."""
    tensors = load_file(artifact.path("latents.safetensors"))
    described = artifact.read_json("latents.json")
    latents = Latents(
        tensors["latents"].float(),
        RobustStatistics(tensors["center"], tensors["scale"]),
        tuple(described["object_ids"]),
        tuple(described["categories"]),
        tuple(described.get("captions", ())),
    )
    if len(latents.raw) != len(latents.object_ids):
        raise ArtifactError(
            f"{artifact.ref.key}: {len(latents.raw)} latents, but {len(latents.object_ids)} objects are named"
        )
    return latents


def assemble(
    inputs: Mapping[str, Artifact],
    *,
    default_plan: str | None = None,
    metrics: Mapping[str, float] | None = None,
    device: torch.device | str = "cpu",
) -> LatentModel:
    """The model of inputs train_autodecoder, encode, train_diffusion and tune; all inputs are its provenance.

    default_plan: a plan of tune by name; without one the first of "standard", "default", "best", or of all.
    """
    autodecoder, latents, denoiser, tune = (needed(inputs, stage) for stage in STAGES)
    plans = read_plans(tune)
    return put_together(
        autodecoder,
        latents,
        denoiser,
        plans,
        default_plan=_default(default_plan, plans, tune),
        provenance={stage: artifact.ref for stage, artifact in inputs.items()},
        metrics=metrics,
        device=device,
    )


def put_together(
    autodecoder: Artifact,
    latents: Artifact,
    denoiser: Artifact,
    plans: Mapping[str, SamplingPlan],
    *,
    default_plan: str,
    provenance: Mapping[str, ArtifactRef],
    metrics: Mapping[str, float] | None = None,
    device: torch.device | str = "cpu",
) -> LatentModel:
    """The model of three artifacts, with these plans."""
    device = torch.device(device)
    decoder = read_decoder(autodecoder.path("spec.json"), autodecoder.path("weights.safetensors"))
    unet = read_unet(denoiser.path("spec.json"), denoiser.path("weights.safetensors"))
    described = denoiser.read_json("spec.json")
    spec = BundleSpec(
        decoder=decoder.spec,
        denoiser=unet.spec,
        sigma_data=float(described["sigma_data"]),
        plans=tuple(sorted(plans)),
        default_plan=default_plan,
        categories=tuple(described["classes"]) if unet.spec.num_classes else (),
        words=tuple(described.get("words", ())),
        provenance=provenance,
        metrics=dict(metrics or {}),
    )
    return LatentModel(
        spec=spec,
        decoder=decoder.requires_grad_(False).to(device),
        denoiser=unet.requires_grad_(False).to(device),
        statistics=read_latents(latents).statistics.to(device),
        plans=plans,
        device=device,
    )


def read_plans(tune: Artifact) -> dict[str, SamplingPlan]:
    """The plans of an artifact of kind "plans", by the names of their files."""
    names = [name for name in tune.files if name.startswith("plans/") and name.endswith(".json")]
    if not names:
        raise ArtifactError(f"{tune.ref.key}: holds no plans/*.json; run tune again")
    return {
        name.removeprefix("plans/").removesuffix(".json"): plan_files.from_json(tune.path(name).read_text())
        for name in names
    }


def read_plan_points(tune: Artifact) -> list[dict[str, object]]:
    """The plans that tune tried and could compare with its teacher: {nfe, error, front}, `front` for the
    best.

    Empty if the artifact has no front.json.
    """
    if "front.json" not in tune.files:
        return []
    found = tune.read_json("front.json")
    best = {row["plan"] for row in found["front"]}
    return [
        {"nfe": row["nfe"], "error": row["error"], "front": row["plan"] in best}
        for row in found["trials"]
        if row["error"] is not None
    ]


def _default(asked: str | None, plans: Mapping[str, SamplingPlan], tune: Artifact) -> str:
    if asked is not None and asked not in plans:
        raise ConfigError(f"plan {asked!r}: {tune.ref.key} has {', '.join(sorted(plans))}")
    return asked or next((name for name in PREFERRED_PLANS if name in plans), min(plans))
