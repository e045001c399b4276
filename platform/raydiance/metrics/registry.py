"""What looks at images for the scores of sets, by name, and what its scores are called.

"views" is the network of metrics.features, whose weights are drawn from a seed; its scores are fd_views, kd_views
and so on and compare only with each other. Scores are called fid, kid, ... only with the Inception weights of
the papers, which the user brings as a file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raydiance.errors import DataError
from raydiance.metrics.features import FEATURES_NAME, view_features
from raydiance.metrics.frechet import frechet_distance, kernel_distance
from raydiance.metrics.inception import read_inception
from raydiance.metrics.manifolds import inception_score, precision_recall

__all__ = ["EXTRACTORS", "ImageExtractor", "extractor", "image_set_scores"]

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


def _views(weights: Path | None) -> ImageExtractor:
    if weights is not None:
        raise DataError(f"weights {weights}: the extractor 'views' takes none; leave them out")
    network = view_features()
    names = ("fd_views", "kd_views", "precision_views", "recall_views")
    return ImageExtractor(FEATURES_NAME, names, lambda images: (network(images), None))


def _inception(weights: Path | None) -> ImageExtractor:
    if weights is None:
        raise DataError(
            "the extractor 'inception' needs the weights of the papers, which are not part of this project: give "
            "the path of a safetensors file, or take 'views'"
        )
    return ImageExtractor(
        "inception-2015-12-05", ("fid", "kid", "precision", "recall"), read_inception(weights)
    )


EXTRACTORS: dict[str, Callable[[Path | None], ImageExtractor]] = {"views": _views, "inception": _inception}


def extractor(name: str, weights: str | Path | None = None) -> ImageExtractor:
    """An extractor by name. DataError, by name, for one that there is not or whose weights are missing."""
    if name not in EXTRACTORS:
        raise DataError(f"extractor {name!r}: there is {', '.join(sorted(EXTRACTORS))}")
    return EXTRACTORS[name](None if weights is None else Path(weights))


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
