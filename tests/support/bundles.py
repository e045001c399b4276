"""A bundle of random weights, small enough to sample from in a tenth of a second: for tests of whatever uses
one.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from raydiance.data.latents import RobustStatistics
from raydiance.diffusion import grids, plans, schedules
from raydiance.generation import BundleSpec, LatentModel, write_bundle
from raydiance.models import AutodecoderSpec, FieldDecoder, UNet, UNetSpec
from raydiance.storage import Artifact, ArtifactRef, Store
from raydiance.training.randomness import seeded

DECODER = AutodecoderSpec(
    code_dim=8,
    latent_channels=4,
    base_resolution=4,
    latent_resolution=4,
    field_resolution=16,
    widths=(16, 8, 8),
    depths=(1, 1, 1),
    attention_resolutions=(),
)
DENOISER = UNetSpec(
    in_channels=4, out_channels=4, channels=8, multipliers=(1, 2), num_heads=2, embedding_dim=16
)


def tiny_model(*, num_classes: int = 0, words: tuple[str, ...] = (), seed: int = 0) -> LatentModel:
    """A model whose decoder makes blobs with a surface; the weights are drawn from the seed."""
    categories = tuple(f"class{i}" for i in range(num_classes))
    unet = UNetSpec(
        in_channels=4,
        out_channels=4,
        channels=8,
        multipliers=(1, 2),
        num_heads=2,
        embedding_dim=16,
        num_classes=num_classes,
        token_dim=8 if words else 0,
        vocabulary=2 + len(words) if words else 0,
    )
    schedule = schedules.edm()
    table = {
        "fast": plans.ddim(schedule, grids.karras(schedule, 3)),
        "default": plans.heun(schedule, grids.karras(schedule, 4)),
        "stochastic": plans.ddim(schedule, grids.karras(schedule, 4), eta=1.0),
    }
    spec = BundleSpec(
        decoder=DECODER,
        denoiser=unet,
        sigma_data=0.5,
        plans=tuple(sorted(table)),
        default_plan="default",
        categories=categories,
        words=words,
        provenance={},
        metrics={"psnr_held_out": 23.5},
    )
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        decoder, denoiser = FieldDecoder(DECODER), UNet(unet)
    randomised(decoder, generator)
    decoder.out.weight.data.mul_(8.0)  # dense here and empty there, not a haze
    return LatentModel(
        spec=spec,
        decoder=decoder,
        denoiser=randomised(denoiser, generator),
        statistics=RobustStatistics(torch.zeros(4), torch.full((4,), 2.0)),
        plans=table,
        device=torch.device("cpu"),
    )


def tiny_bundle(
    store: Store, *, num_classes: int = 0, seed: int = 0, provenance: Mapping[str, ArtifactRef] | None = None
) -> Artifact:
    """The model as a bundle in the store."""
    model = tiny_model(num_classes=num_classes, seed=seed)
    if provenance is not None:
        model = replace(model, spec=replace(model.spec, provenance=provenance))
    return write_bundle(store, "tiny", model, seeds={"weights": seed})


def tiny_provenance(store: Store) -> dict[str, ArtifactRef]:
    """Artifacts like those that a bundle is made from, each of the one before, by the names of the stages."""
    kinds = {
        "ingest": "meshes",
        "render": "views",
        "train_autodecoder": "autodecoder",
        "encode": "latents",
        "train_diffusion": "denoiser",
        "tune": "plans",
        "evaluate": "evaluation",
    }
    made: dict[str, ArtifactRef] = {}
    for stage, kind in kinds.items():
        parents = list(made.values())[-1:]
        with store.create(kind, "tiny", seeds={"seed": 0}, parents=parents) as draft:
            draft.path("facts.json").write_text("{}", encoding="ascii")
        made[stage] = draft.artifact.ref
    return made


def randomised(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """All weights at random, also those that start as zero, so that the output depends on the whole input."""
    for parameter in module.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        parameter.data = noise if parameter.ndim > 1 else 1.0 * (parameter.data + 0.1 * noise)
    return module.eval().requires_grad_(False)
