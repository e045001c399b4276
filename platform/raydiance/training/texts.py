"""What a denoiser is told in words: the captions of its latents, or what another encoder made of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from raydiance.errors import ConfigError
from raydiance.models import UNetSpec, vocabulary, word_numbers

__all__ = ["Texts", "read_texts"]


class Texts(NamedTuple):
    """Of each latent the numbers of its caption's words [N, T], or embeddings [N, T, D]; the words by number."""

    tokens: Tensor | None = None
    words: tuple[str, ...] = ()


def read_texts(model: UNetSpec, embeddings: str | None, described: Mapping[str, Any]) -> Texts:
    """The texts that a network attends to, of the objects that latents.json describes; none without token_dim.

    Raises ConfigError for tokens that nothing makes, and for embeddings that are not those of these objects.
    """
    if embeddings is not None:
        return Texts(_read_embeddings(Path(embeddings), len(described["object_ids"]), model.token_dim))
    if not model.token_dim:
        return Texts()
    if not model.vocabulary or "captions" not in described:
        lacking = "the latents have no captions" if model.vocabulary else "nothing makes tokens"
        raise ConfigError(
            f"train_diffusion.model.token_dim is {model.token_dim}, but {lacking}: set model.vocabulary (say 512) "
            "for latents with captions, or embeddings to a file of your own; or token_dim to 0"
        )
    captions = described["captions"]
    words = vocabulary(captions, model.vocabulary)
    return Texts(word_numbers(captions, words, model.max_words), words)


def _read_embeddings(path: Path, count: int, dim: int) -> Tensor:
    rule = f'a safetensors file with "embeddings" [{count}, T, {dim}], a row for each object of latents.json'
    try:
        found = load_file(path)["embeddings"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise ConfigError(f"train_diffusion.embeddings {path}: {error!r}; needed is {rule}") from error
    if found.ndim != 3 or (found.shape[0], found.shape[2]) != (count, dim):
        raise ConfigError(f"train_diffusion.embeddings {path}: {list(found.shape)}; needed is {rule}")
    return found
