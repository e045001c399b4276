"""Latents of 4^3, 8^3 and 16^3, on either scale, from views to samples."""

import pytest
import torch
from tests.training.scenes import balls

from raydiance.config import compose
from raydiance.data.encode import EncodeSpec, encode
from raydiance.data.latents import RobustStatistics
from raydiance.models import read_decoder, read_unet
from raydiance.storage import Store
from raydiance.tracking import local_run
from raydiance.training import train_autodecoder, train_diffusion

MODEL = "train_autodecoder.model"
VOLUMES = {
    4: ("base_resolution=4", "latent_resolution=4"),
    8: ("latent_resolution=8",),
    16: ("latent_resolution=16", "field_resolution=32"),
}


@pytest.mark.parametrize(("resolution", "statistics"), [(4, "moments"), (8, "robust"), (16, "robust")])
def test_every_volume_goes_the_whole_way(tmp_path, resolution, statistics):
    """One setting chooses the volume, and another the scale; the denoiser follows. Three stages, so seconds."""
    overrides = [f"{MODEL}.{each}" for each in VOLUMES[resolution]]
    steps = [
        f"{stage}.loop.{name}=2"
        for stage in ("train_autodecoder", "train_diffusion")
        for name in ("steps", "log_every", "checkpoint_every", "preview_every")
    ]
    scale = [
        f"encode.statistics={statistics}",
        f"encode.per_channel={'true' if resolution == 8 else 'false'}",
    ]
    e = compose(["size=micro", *overrides, *steps, *scale])
    assert e.train_diffusion.model.resolution == resolution and isinstance(e.encode, EncodeSpec)

    store = Store.open(tmp_path)
    inputs = {"render": balls(store)}
    for stage, job, spec in (
        ("train_autodecoder", train_autodecoder, e.train_autodecoder),
        ("encode", encode, e.encode),
        ("train_diffusion", train_diffusion, e.train_diffusion),
    ):
        inputs[stage] = job(spec, local_run(store, name=stage, inputs=dict(inputs))).artifact
    scales = RobustStatistics.load(inputs["encode"].path("latents.safetensors"))
    assert scales.scale.shape == ((4,) if resolution == 8 else (1,))

    trained, denoiser = inputs["train_autodecoder"], inputs["train_diffusion"]
    decoder = read_decoder(trained.path("spec.json"), trained.path("weights.safetensors"))
    network = read_unet(denoiser.path("spec.json"), denoiser.path("weights.safetensors"))
    x = torch.randn(1, *decoder.spec.latent_shape, generator=torch.Generator().manual_seed(0))
    assert x.shape[2:] == (resolution,) * 3
    with torch.no_grad():
        grid = decoder(scales.denormalise(network(x, torch.zeros(1))))
    assert grid.shape == (1, *(e.train_autodecoder.model.field_resolution,) * 3, 4) and grid.isfinite().all()
