"""Guidance by what a field looks like: cosine of the embeddings of its views and of a text or an image.

A pair of embeddings maps images and texts to one space. "views" is the network of metrics.features, which sees
colours and arrangement, knows no text and needs no weights. "clip" is CLIP (Radford et al. 2021) with weights that
a user has: a folder as transformers keeps it, with CLIP_FILES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from raydiance.data.fieldsets import FieldCode
from raydiance.errors import ConfigError
from raydiance.fields import Cameras, render_views
from raydiance.metrics import view_features

__all__ = ["EMBEDDINGS", "EmbeddingPair", "embedding_error", "embedding_pair"]


CLIP_FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
CLIP_COLOURS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # mean, deviation


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


def _clip(folder: Path | None) -> EmbeddingPair:
    if folder is None:
        raise ConfigError(
            "embedding 'clip' needs weights: set embedding_weights to the folder that they lie in"
        )
    missing = [name for name in CLIP_FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"embedding_weights={folder}: has no {missing[0]}; give a folder with all of {CLIP_FILES}"
        )
    try:
        from transformers import CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise ConfigError(
            "embedding 'clip' needs the package transformers: pip install raydiance[clip]"
        ) from error
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model, loading = loaded
        words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"embedding_weights={folder}: is no CLIP ({str(error)[:200]})") from error
    if loading["missing_keys"]:
        raise ConfigError(
            f"embedding_weights={folder}: is no CLIP, model.safetensors has no {min(loading['missing_keys'])}"
        )
    model.requires_grad_(False).eval()
    size, longest = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings

    def look(images: Tensor) -> Tensor:
        sized = F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (torch.tensor(each).to(images)[:, None, None] for each in CLIP_COLOURS)
        return _embedded(model.get_image_features((sized.clamp(0, 1) - mean) / std))

    @torch.no_grad()
    def read(text: str) -> Tensor:
        tokens = words(text, truncation=True, max_length=longest, return_tensors="pt")
        return _embedded(model.get_text_features(**tokens))[0]

    return EmbeddingPair(look, read)


def _embedded(found: Any) -> Tensor:
    """The projected embeddings [B, E], whatever the release of transformers wraps them in."""
    embedded: Tensor = getattr(found, "pooler_output", found)
    return embedded


EMBEDDINGS: dict[str, Callable[[Path | None], EmbeddingPair]] = {"clip": _clip, "views": _views}


def embedding_pair(name: str, weights: str | None, *, text: bool) -> EmbeddingPair:
    """A pair by name. ConfigError for one that is not known, and for a text where it knows none."""
    if name not in EMBEDDINGS:
        raise ConfigError(
            f"embedding {name!r}: there is {', '.join(sorted(EMBEDDINGS))}; a function that reads other weights "
            "goes into generation.embeddings.EMBEDDINGS"
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
