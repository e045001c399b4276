"""From a seed to a sample: noise -> latent -> field -> views, mesh, GLB.

One seed is one sample, whatever else is in its batch: each item's noise comes from its own CPU generator, on
every device. Legend: B batch, C channels, D H W latent, V views.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydiance.diffusion import NoisePredictor, sampling
from raydiance.diffusion.guidance import classifier_free
from raydiance.diffusion.plans import SamplingPlan
from raydiance.fields import Cameras, VoxelField, export_glb, extract_mesh, render_views
from raydiance.generation.bundle import Bundle, LatentModel
from raydiance.generation.execution import call_sizes, in_calls, noise_network, one_thread
from raydiance.models.text import to_words
from raydiance.storage import code_version

__all__ = [
    "decode",
    "generate_fields",
    "generate_latents",
    "initial_noise",
    "noise_generator",
    "sample_glb",
    "stamp",
    "views",
]

Images = NDArray[np.uint8]


def noise_generator(seed: int) -> torch.Generator:
    """The generator that all noise of one sample comes from: the initial noise first, then the plan's."""
    return torch.Generator().manual_seed(seed)


def initial_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise float32 of one sample, on the CPU; it depends on nothing but seed and shape."""
    return torch.randn(tuple(shape), generator=noise_generator(seed))


@torch.inference_mode()
def generate_latents(
    model: LatentModel,
    seeds: Sequence[int],
    plan: SamplingPlan | None = None,
    *,
    condition: Tensor | None = None,
    tokens: Tensor | None = None,
    guidance: float = 1.0,
    batch_size: int = 16,
    callback: Callable[[int], None] | None = None,
) -> Tensor:
    """Latents [B, C, D, H, W] on the decoder's own scale, one for each seed, float32 on the model's device.

    condition: class labels [B], for a model that was taught classes; tokens: numbers of words [B, T] or embeddings
    [B, T, D], for one that was taught texts. guidance: how far beyond the prediction without either (1: none;
    classifier-free, at the price of a second call of the network). callback: called with the number of samples
    done, after each batch.
    """
    plan = plan or model.plan()
    network, sizes = noise_network(model), call_sizes(model.device)

    def predict(told: Sequence[Tensor | None], x: Tensor, sigma: Tensor) -> Tensor:
        return in_calls(network, sizes, x, sigma, *told)

    def predictor(told: Sequence[Tensor | None]) -> NoisePredictor:
        guided = guidance != 1.0 and any(each is not None for each in told)
        conditional = partial(predict, told)
        return (
            classifier_free(conditional, partial(predict, (None, None)), guidance) if guided else conditional
        )

    latents = []
    for start in range(0, len(seeds), batch_size):
        chosen = slice(start, start + batch_size)
        told = [None if each is None else each[chosen].to(model.device) for each in (condition, tokens)]
        generators = [noise_generator(seed) for seed in seeds[chosen]]
        noise = torch.stack([torch.randn(model.latent_shape, generator=each) for each in generators])
        x = plan.start(noise.to(model.device))
        latents.append(sampling.sample(predictor(told), plan, x, generator=generators))
        if callback:
            callback(start + len(generators))
    return model.statistics.denormalise(torch.cat(latents))


@torch.inference_mode()
def decode(model: LatentModel, latents: Tensor) -> VoxelField:
    """The fields of latents [B, C, D, H, W] (on the decoder's own scale).

    One at a time, so that a field's bits do not depend on its batch; the volumes fill the machine anyway.
    """
    return VoxelField(torch.cat([model.decoder(latent[None]) for latent in latents.to(model.device)]))


def generate_fields(
    model: LatentModel,
    seeds: Sequence[int],
    plan: SamplingPlan | None = None,
    *,
    condition: Tensor | None = None,
    tokens: Tensor | None = None,
    guidance: float = 1.0,
) -> VoxelField:
    """The fields of these seeds, in their order; see generate_latents."""
    latents = generate_latents(model, seeds, plan, condition=condition, tokens=tokens, guidance=guidance)
    return decode(model, latents)


def sample_glb(
    bundle: Bundle,
    seed: int,
    plan: str | None = None,
    *,
    category: str | None = None,
    text: str | None = None,
    guidance: float = 1.0,
    resolution: int | None = None,
) -> bytes:
    """One sample as a GLB with vertex colours, which says in asset.extras how it was made.

    By one thread, as a replica does it: the last digits depend on how many threads add them up. Raises
    RequestError for a plan, a category or a text that the bundle does not have.
    """
    label = bundle.label(category)
    condition = None if label is None else torch.tensor([label])
    with one_thread():
        field = generate_fields(
            bundle,
            [seed],
            bundle.plan(plan),
            condition=condition,
            tokens=bundle.text(text),
            guidance=guidance,
        )
        mesh = extract_mesh(field, resolution=resolution)
    return export_glb(mesh, extras=stamp(bundle, seed, plan, category=category, text=text, guidance=guidance))


def stamp(
    bundle: Bundle,
    seed: int,
    plan: str | None = None,
    *,
    category: str | None = None,
    text: str | None = None,
    guidance: float = 1.0,
) -> Mapping[str, Any]:
    """What a sample says about itself: enough to make it again and to walk back to its data.

    Of a text the words are told, which is all that a network hears of it.
    """
    said = {
        "bundle": bundle.ref.key,
        "sha256": bundle.ref.sha256,
        "plan": plan or bundle.spec.default_plan,
        "seed": seed,
        "category": category,
        "code_version": code_version(),
    }
    said |= {} if text is None else {"text": " ".join(to_words(text))}
    said |= {} if guidance == 1.0 else {"guidance": guidance}
    return {"raydiance": said}


def views(field: VoxelField, cameras: Cameras, *, num_samples: int = 64) -> Images:
    """Images uint8 [B, V, H, W, 3] of the fields on white."""
    with torch.inference_mode():
        colour = render_views(field, cameras, num_samples=num_samples, early_stop=1e-3).colour
    return (colour.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu().numpy()
