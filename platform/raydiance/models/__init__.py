"""Networks: the autodecoder of fields and U-Nets in any dimension."""

from raydiance.models.articulated import ArticulatedField, ArticulatedSpec
from raydiance.models.autodecoder import Autodecoder, AutodecoderSpec, FieldDecoder, LatentGenerator
from raydiance.models.codebooks import HashedCodes
from raydiance.models.files import (
    load_weights,
    read_articulated,
    read_autodecoder,
    read_decoder,
    read_unet,
    save_weights,
    spec_from_plain,
)
from raydiance.models.gaussian import GaussianPath
from raydiance.models.text import TextEncoder, vocabulary, word_numbers
from raydiance.models.unet import Condition, UNet, UNetSpec

__all__ = [
    "ArticulatedField",
    "ArticulatedSpec",
    "Autodecoder",
    "AutodecoderSpec",
    "Condition",
    "FieldDecoder",
    "GaussianPath",
    "HashedCodes",
    "LatentGenerator",
    "TextEncoder",
    "UNet",
    "UNetSpec",
    "load_weights",
    "read_articulated",
    "read_autodecoder",
    "read_decoder",
    "read_unet",
    "save_weights",
    "spec_from_plain",
    "vocabulary",
    "word_numbers",
]
