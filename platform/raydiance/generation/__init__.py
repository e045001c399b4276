"""From noise to a sample, and what is known about the samples: bundles, sampling, evaluation, publishing."""

from raydiance.generation.bundle import Bundle, BundleSpec, LatentModel, load_bundle, write_bundle
from raydiance.generation.evaluate import EvaluateSpec, evaluate
from raydiance.generation.publish import Check, Gate, PublishSpec, check_gate, publish
from raydiance.generation.report import Command, StageRow, write_report
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
from raydiance.generation.sampler_table import SamplerTableSpec, sampler_table

__all__ = [
    "Bundle",
    "BundleSpec",
    "Check",
    "Command",
    "EvaluateSpec",
    "Gate",
    "LatentModel",
    "PublishSpec",
    "SamplerTableSpec",
    "StageRow",
    "check_gate",
    "decode",
    "evaluate",
    "generate_fields",
    "generate_latents",
    "initial_noise",
    "load_bundle",
    "noise_generator",
    "publish",
    "sample_glb",
    "sampler_table",
    "stamp",
    "views",
    "write_bundle",
    "write_report",
]
