"""What looks at images for the scores of sets, and what its scores are called.

Seeded: the network of metrics.features, whose weights are drawn from a seed. Trained: one that was trained here on
views. Scores of both are called fd_views, kd_views and so on, and compare only where the identity is the same.
Scores are called fid, kid, ... only with the Inception weights of the papers, which the user brings as a file.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raydiance.metrics.features import FEATURES_NAME, view_features
from raydiance.metrics.frechet import frechet_distance, kernel_distance
from raydiance.metrics.inception import read_inception
from raydiance.metrics.manifolds import inception_score, precision_recall
from raydiance.metrics.trained import ViewNetworkSpec, read_view_network
from raydiance.storage import file_sha256

__all__ = [
    "ImageExtractor",
    "frechet_name",
    "image_set_scores",
    "inception_extractor",
    "seeded_extractor",
    "trained_extractor",
]

VIEWS = ("fd_views", "kd_views", "precision_views", "recall_views")
PAPERS = ("fid", "kid", "precision", "recall")

CHUNK = 64  # images at a time
KERNEL_SEED = 0  # the subsets of the kernel distance are always the same ones
NEIGHBOURS = 3


@dataclass(frozen=True)
class ImageExtractor:
    """identity: what a change of would make scores incomparable. names: of Frechet and kernel distance,
    precision, recall. look: features [B, F] of images [B, 3, H, W] in [0, 1], and class logits where it knows
    classes.
    """

    identity: str
    names: tuple[str, str, str, str]
    look: Callable[[Tensor], tuple[Tensor, Tensor | None]]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [N, F] and logits of any number of images."""
        features, logits = zip(*(self.look(chunk) for chunk in torch.split(images, CHUNK)), strict=True)
        return torch.cat(features), None if logits[0] is None else torch.cat(logits)


def seeded_extractor() -> ImageExtractor:
    """The network that is the same everywhere and needs nothing."""
    network = view_features()
    return ImageExtractor(FEATURES_NAME, VIEWS, lambda images: (network(images), None))


def trained_extractor(spec: ViewNetworkSpec, weights: Path) -> ImageExtractor:
    """A network of the job train_extractor; its identity holds the checksum of its weights."""
    network = read_view_network(spec, weights)
    identity = f"views-trained-{file_sha256(weights)[:12]}"
    return ImageExtractor(identity, VIEWS, lambda images: (network(images), None))


def inception_extractor(weights: Path) -> ImageExtractor:
    """The Inception network of FID, with weights of the papers in a safetensors file."""
    return ImageExtractor("inception-2015-12-05", PAPERS, read_inception(weights))


def frechet_name(scores: Iterable[str]) -> str:
    """What the Frechet distance is called among the names of an evaluation's scores."""
    return PAPERS[0] if PAPERS[0] in scores else VIEWS[0]


def image_set_scores(looked: ImageExtractor, generated: Tensor, reference: Tensor) -> dict[str, float]:
    """All scores of images [N, 3, H, W] beside references [M, 3, H, W], by the names that the extractor gives
    them.

    Precision and recall are left out for sets of no more than 3 images; the Inception score without classes.
    """
    (ours, logits), (theirs, _) = looked(generated), looked(reference)
    frechet, kernel, precision, recall = looked.names
    subsets = kernel_distance(ours, theirs, generator=torch.Generator().manual_seed(KERNEL_SEED))
    scores = {frechet: frechet_distance(ours, theirs), kernel: subsets.mean}
    if min(len(ours), len(theirs)) > NEIGHBOURS:
        found = precision_recall(ours, theirs, neighbours=NEIGHBOURS)
        scores |= {precision: found.precision, recall: found.recall}
    if logits is not None:
        scores["inception_score"], _ = inception_score(logits)
    return scores
