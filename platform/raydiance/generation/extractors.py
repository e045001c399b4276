"""Which network looks at views for the scores of an evaluation."""

from typing import Literal, TypeAlias

from raydiance.errors import DataError
from raydiance.metrics import (
    ImageExtractor,
    ViewNetworkSpec,
    inception_extractor,
    seeded_extractor,
    trained_extractor,
)
from raydiance.spec import from_plain, spec
from raydiance.storage import PretrainedSpec, Store, pretrained_file

__all__ = ["ExtractorSpec", "Inception", "SeededViews", "TrainedViews", "open_extractor"]


@spec
class SeededViews:
    """Our network whose weights are drawn from a seed: it needs nothing, and is the same everywhere."""

    kind: Literal["seeded"] = "seeded"


@spec
class TrainedViews:
    """A network that `raydiance run train_extractor` made: artifact is its key."""

    kind: Literal["trained"] = "trained"
    artifact: str


@spec
class Inception:
    """The network of FID, with the papers' weights, which the user has as safetensors."""

    kind: Literal["inception"] = "inception"
    weights: PretrainedSpec


ExtractorSpec: TypeAlias = SeededViews | TrainedViews | Inception


def open_extractor(spec: ExtractorSpec, store: Store) -> ImageExtractor:
    """The extractor that is meant. ArtifactError or DataError, by name, if it is not to be had."""
    if isinstance(spec, SeededViews):
        return seeded_extractor()
    if isinstance(spec, Inception):
        return inception_extractor(pretrained_file(spec.weights))
    artifact = store.get(spec.artifact)
    if artifact.ref.kind != "extractor":
        raise DataError(
            f"extractor.artifact={spec.artifact}: is of kind {artifact.ref.kind!r}; give one of train_extractor"
        )
    network = from_plain(ViewNetworkSpec, artifact.read_json("spec.json")["model"], "spec.json")
    return trained_extractor(network, artifact.path("weights.safetensors"))
