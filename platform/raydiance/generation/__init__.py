"""From noise to a sample, and what is known about the samples: bundles, sampling, evaluation, publishing."""

from raydiance.generation.bundle import Bundle, BundleSpec, LatentModel, load_bundle, write_bundle
from raydiance.generation.evaluate import EvaluateSpec, evaluate
from raydiance.generation.sampler import (
    decode,
    generate_fields,
    generate_latents,
    initial_noise,
    noise_generator,
    sample_glb,
    stamp,
    views,
)

__all__ = [
    "Bundle",
    "BundleSpec",
    "EvaluateSpec",
    "LatentModel",
    "decode",
    "evaluate",
    "generate_fields",
    "generate_latents",
    "initial_noise",
    "load_bundle",
    "noise_generator",
    "sample_glb",
    "stamp",
    "views",
    "write_bundle",
]
