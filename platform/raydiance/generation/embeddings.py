"""Guidance by what a field looks like: cosine of the embeddings of its views and of a text or an image.

A pair of embeddings maps images and texts to one space, as CLIP does. Those that are known stand in
EMBEDDINGS: "views" is the network of metrics.features, which sees colours and arrangement, knows no text and
needs no weights. No weights that were trained on texts are part of this project: who has some adds a function
that reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from raydiance.data.fieldsets import FieldCode
from raydiance.errors import ConfigError
from raydiance.fields import Cameras, render_views
from raydiance.metrics import view_features

__all__ = ["EMBEDDINGS", "EmbeddingPair", "embedding_error", "embedding_pair"]


@dataclass(frozen=True)
class EmbeddingPair:
    """image: [B, E] of RGB images [B, 3, H, W] in [0, 1], differentiable. text: [E] of a text, None if it
    knows none.
    """

    image: Callable[[Tensor], Tensor]
    text: Callable[[str], Tensor] | None = None


def _views(weights: Path | None) -> EmbeddingPair:
    if weights is not None:
        raise ConfigError(f"embedding 'views' takes no weights, got {weights}: leave them out")
    network = view_features()
    nothing = network(torch.ones(1, 3, 64, 64))  # what all pictures on white share
    return EmbeddingPair(lambda images: network(images) - nothing)


EMBEDDINGS: dict[str, Callable[[Path | None], EmbeddingPair]] = {"views": _views}


def embedding_pair(name: str, weights: str | None, *, text: bool) -> EmbeddingPair:
    """A pair by name. ConfigError for one that is not known, and for a text where it knows none."""
    if name not in EMBEDDINGS:
        raise ConfigError(
            f"embedding {name!r}: there is {', '.join(sorted(EMBEDDINGS))}; pairs with trained weights, such as "
            "CLIP, are not part of this project: add a function that reads yours to "
            "generation.embeddings.EMBEDDINGS"
        )
    pair = EMBEDDINGS[name](None if weights is None else Path(weights))
    if text and pair.text is None:
        raise ConfigError(
            f"embedding {name!r} knows no text: give an image, or an embedding that was trained on texts"
        )
    return pair


def embedding_error(
    pair: EmbeddingPair,
    target: Tensor,
    code: FieldCode,
    cameras: Cameras,
    *,
    strength: float,
    num_samples: int,
) -> Callable[[Tensor], Tensor]:
    """-strength cos(E(views), target) [B] of data [B, 4, X, Y, Z], the mean over the views."""

    def error(data: Tensor) -> Tensor:
        seen = render_views(code.decode(data), cameras, num_samples=num_samples).colour
        images = seen.flatten(0, 1).permute(0, 3, 1, 2)
        alike = F.cosine_similarity(pair.image(images), target[None].to(images), dim=1)
        return -strength * alike.reshape(len(data), -1).mean(1)

    return error
