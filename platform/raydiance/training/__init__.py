"""The training loops: state, step, moving average, checkpoint, resume; no framework in here."""

from raydiance.training.articulated import ArticulatedLoop, ArticulatedTraining, train_articulated
from raydiance.training.autodecoder import (
    AutodecoderLoop,
    AutodecoderLosses,
    AutodecoderObjective,
    AutodecoderTraining,
    train_autodecoder,
)
from raydiance.training.averages import PowerAverages, Snapshot, combine
from raydiance.training.batches import Batch
from raydiance.training.checkpoint import (
    Checkpoints,
    TrainState,
    load_checkpoint,
    read_snapshots,
    save_checkpoint,
)
from raydiance.training.claim_draws import DrawSpec
from raydiance.training.claims import ClaimsSpec, claims
from raydiance.training.denoisers import (
    DiffusionLoop,
    DiffusionTraining,
    LatentUNetSpec,
    PixelLoop,
    PixelTraining,
    PixelUNetSpec,
)
from raydiance.training.diffusion import DiffusionObjective, train_diffusion
from raydiance.training.ema import Ema
from raydiance.training.extractor import ExtractorLoop, ExtractorTraining, train_extractor
from raydiance.training.inversion import InversionLoop, InversionSpec, invert
from raydiance.training.loop import LoopSpec, Objective, fit, start, train_step
from raydiance.training.radiance import FieldLoop, FieldUNetSpec, RadianceTraining, RenderingLoss

__all__ = [
    "ArticulatedLoop",
    "ArticulatedTraining",
    "AutodecoderLoop",
    "AutodecoderLosses",
    "AutodecoderObjective",
    "AutodecoderTraining",
    "Batch",
    "Checkpoints",
    "ClaimsSpec",
    "DiffusionLoop",
    "DiffusionObjective",
    "DiffusionTraining",
    "DrawSpec",
    "Ema",
    "ExtractorLoop",
    "ExtractorTraining",
    "FieldLoop",
    "FieldUNetSpec",
    "InversionLoop",
    "InversionSpec",
    "LatentUNetSpec",
    "LoopSpec",
    "Objective",
    "PixelLoop",
    "PixelTraining",
    "PixelUNetSpec",
    "PowerAverages",
    "RadianceTraining",
    "RenderingLoss",
    "Snapshot",
    "TrainState",
    "claims",
    "combine",
    "fit",
    "invert",
    "load_checkpoint",
    "read_snapshots",
    "save_checkpoint",
    "start",
    "train_articulated",
    "train_autodecoder",
    "train_diffusion",
    "train_extractor",
    "train_step",
]
