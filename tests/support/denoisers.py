"""Trained-looking inputs for the search: a denoiser and the latents that it was taught."""

import torch
from safetensors.torch import save_file

from raydiance.models import UNet, UNetSpec, save_weights
from raydiance.spec import to_plain
from raydiance.storage import Artifact, Store, write_json

__all__ = ["gaussian_inputs"]

SHAPE = (3, 4, 4, 4)


def gaussian_inputs(
    store: Store, *, num_latents: int = 48, classes: tuple[str, ...] = ()
) -> dict[str, Artifact]:
    """A fresh U-Net and latents drawn from a unit Gaussian.

    The network's output is zero, so at sigma_data = 1 it is that Gaussian's exact denoiser.
    """
    spec = UNetSpec(
        in_channels=3,
        out_channels=3,
        channels=8,
        multipliers=(1,),
        attention_levels=(),
        embedding_dim=8,
        num_classes=len(classes),
    )
    with store.create("denoiser", "gaussian") as denoiser:
        save_weights(denoiser.path("weights.safetensors"), UNet(spec).state_dict())
        described = {"model": to_plain(spec), "sigma_data": 1.0, "classes": list(classes)}
        write_json(denoiser.path("spec.json"), described)
    drawn = torch.randn(num_latents, *SHAPE, generator=torch.Generator().manual_seed(1))
    with store.create("latents", "gaussian") as latents:
        tensors = {"latents": drawn, "center": torch.zeros(3), "scale": torch.ones(3)}
        save_file(tensors, latents.path("latents.safetensors"))
        names = {"object_ids": [f"{i:03d}" for i in range(num_latents)], "categories": ["a"] * num_latents}
        write_json(latents.path("latents.json"), names)
    return {"train_diffusion": denoiser.artifact, "encode": latents.artifact}
