"""The whole of an experiment as one spec: what each stage is given, and where it runs."""

from dataclasses import replace
from typing import Literal, TypeAlias

from raydiance.config.platform import (
    ClusterSpec,
    ServeSpec,
    StoreSpec,
    TrackingSpec,
    TuneSpec,
)
from raydiance.config.search import SearchSpec
from raydiance.data.articulate import ArticulateSpec
from raydiance.data.digits import DigitsSpec
from raydiance.data.encode import EncodeSpec
from raydiance.data.field_latents import FieldEncode
from raydiance.data.ingest import IngestSpec
from raydiance.data.render import RenderSpec
from raydiance.generation.articulated_evaluate import ArticulatedEvaluation
from raydiance.generation.completion import FieldCompletion
from raydiance.generation.evaluate import EvaluateSpec
from raydiance.generation.publish import PublishSpec
from raydiance.generation.radiance import FieldSampling
from raydiance.generation.radiance_evaluate import FieldEvaluation
from raydiance.generation.reconstruction import FieldReconstruction
from raydiance.generation.sampler_table import SamplerTableSpec
from raydiance.models import ArticulatedSpec
from raydiance.spec import spec
from raydiance.training import (
    ArticulatedTraining,
    AutodecoderTraining,
    ClaimsSpec,
    DiffusionTraining,
    ExtractorTraining,
    InversionSpec,
    PixelTraining,
    RadianceTraining,
)
from raydiance.training.fields import CaptureFit, FieldsFit

__all__ = [
    "KINDS",
    "ArticulatedExperiment",
    "CaptureExperiment",
    "ClaimsExperiment",
    "DiffrfExperiment",
    "DigitsExperiment",
    "Experiment",
    "LatentExperiment",
]


@spec
class Common:
    """What every experiment has: its name, how large it is, its seed, and where it runs and is recorded."""

    name: str
    size: str
    seed: int = 0
    cluster: ClusterSpec = ClusterSpec()
    tracking: TrackingSpec = TrackingSpec()
    store: StoreSpec = StoreSpec()


@spec
class LatentExperiment(Common):
    """Meshes -> views -> autodecoder -> normalised latents -> latent diffusion -> plans -> bundle.

    `source` is what `ingest` reads; it stands at the root because it is what one changes first.
    """

    kind: Literal["latent"] = "latent"
    source: str = "procedural:furniture"
    ingest: IngestSpec = IngestSpec()
    render: RenderSpec = RenderSpec()
    train_autodecoder: AutodecoderTraining = AutodecoderTraining()
    encode: EncodeSpec = EncodeSpec()
    invert: InversionSpec = InversionSpec()
    train_extractor: ExtractorTraining = ExtractorTraining()
    train_diffusion: DiffusionTraining = DiffusionTraining()
    search: SearchSpec = SearchSpec()
    tune: TuneSpec = TuneSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    publish: PublishSpec = PublishSpec()
    serve: ServeSpec = ServeSpec()

    def __post_init__(self) -> None:
        _check_source("ingest", self.ingest.source, self.source)
        latents, denoised = self.train_autodecoder.model, self.train_diffusion.model
        if latents.latent_channels != denoised.in_channels:
            raise ValueError(
                f"the autodecoder has {latents.latent_channels} latent channels, but "
                f"train_diffusion.model.in_channels is {denoised.in_channels}: make them equal"
            )
        if denoised.global_width and latents.latent_resolution != denoised.resolution:
            raise ValueError(
                f"the autodecoder has latents of {latents.latent_resolution} along each axis, but "
                f"train_diffusion.model.resolution is {denoised.resolution}: make them equal"
            )


@spec
class DigitsExperiment(Common):
    """Digits -> denoisers of their pixels, on two schedules -> plans, and the tables of samplers."""

    kind: Literal["digits"] = "digits"
    digits: DigitsSpec = DigitsSpec()
    train_diffusion: PixelTraining = PixelTraining()
    train_cosine: PixelTraining = PixelTraining(schedule="cosine")
    search: SearchSpec = SearchSpec()
    tune: TuneSpec = TuneSpec()
    sampler_table: SamplerTableSpec = SamplerTableSpec()

    def __post_init__(self) -> None:
        for stage, training in (
            ("train_diffusion", self.train_diffusion),
            ("train_cosine", self.train_cosine),
        ):
            if training.model.dims != self.digits.dims:
                raise ValueError(
                    f"digits.dims is {self.digits.dims}, but {stage}.model.dims is {training.model.dims}: "
                    "make them equal"
                )


@spec
class DiffrfExperiment(Common):
    """Meshes -> views -> a radiance field of each object -> diffusion of fields -> samples."""

    kind: Literal["diffrf"] = "diffrf"
    source: str = "procedural:furniture"
    ingest: IngestSpec = IngestSpec()
    render: RenderSpec = RenderSpec()
    train_extractor: ExtractorTraining = ExtractorTraining()
    fit: FieldsFit = FieldsFit()
    encode: FieldEncode = FieldEncode()
    train_diffusion: RadianceTraining = RadianceTraining()
    search: SearchSpec = SearchSpec()
    sample: FieldSampling = FieldSampling()
    evaluate: FieldEvaluation = FieldEvaluation()
    complete: FieldCompletion = FieldCompletion()
    reconstruct: FieldReconstruction = FieldReconstruction()

    def __post_init__(self) -> None:
        _check_source("ingest", self.ingest.source, self.source)
        if self.fit.field.resolution != self.train_diffusion.model.resolution:
            raise ValueError(
                f"fit.field.resolution is {self.fit.field.resolution}, but train_diffusion.model.resolution is "
                f"{self.train_diffusion.model.resolution}: make them equal"
            )


@spec
class CaptureExperiment(Common):
    """A posed capture -> its radiance field, meshes and film."""

    kind: Literal["capture"] = "capture"
    source: str = ""
    fit: CaptureFit = CaptureFit()

    def __post_init__(self) -> None:
        _check_source("fit.capture", self.fit.capture.source, self.source)


@spec
class ArticulatedExperiment(Common):
    """Articulated objects in random poses -> fields with and without skinning -> what it brings."""

    kind: Literal["articulated"] = "articulated"
    articulate: ArticulateSpec = ArticulateSpec()
    train_articulated: ArticulatedTraining = ArticulatedTraining()
    train_static: ArticulatedTraining = ArticulatedTraining(model=ArticulatedSpec(skinning=False))
    evaluate: ArticulatedEvaluation = ArticulatedEvaluation()

    def __post_init__(self) -> None:
        moving, still = self.train_articulated, self.train_static
        if not moving.model.skinning or replace(moving, model=replace(moving.model, skinning=False)) != still:
            raise ValueError(
                "train_static must be train_articulated but for model.skinning, which is false, or nothing can "
                "be told from the two: set the same values in both"
            )


@spec
class ClaimsExperiment(Common):
    """Meshes -> views -> the statements of the sources, each with its trainings."""

    kind: Literal["claims"] = "claims"
    source: str = "procedural:furniture"
    ingest: IngestSpec = IngestSpec()
    render: RenderSpec = RenderSpec()
    claims: ClaimsSpec

    def __post_init__(self) -> None:
        _check_source("ingest", self.ingest.source, self.source)


def _check_source(follower: str, followed: str, source: str) -> None:
    if followed != source:
        raise ValueError(
            f"{follower}.source is {followed!r}, but source is {source!r}: set source, which {follower} follows"
        )


Experiment: TypeAlias = (
    LatentExperiment
    | DigitsExperiment
    | DiffrfExperiment
    | CaptureExperiment
    | ArticulatedExperiment
    | ClaimsExperiment
)

KINDS: dict[str, type[Experiment]] = {
    "latent": LatentExperiment,
    "digits": DigitsExperiment,
    "diffrf": DiffrfExperiment,
    "capture": CaptureExperiment,
    "articulated": ArticulatedExperiment,
    "claims": ClaimsExperiment,
}
