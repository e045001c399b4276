"""Text as a condition: words of captions, and a small transformer that makes tokens of them.

It is trained with the network that attends to its tokens, from the training captions alone, so it knows the words
that stand there and no others.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.models.blocks import SelfAttention, zero_init

__all__ = [
    "MIN_VOCABULARY",
    "NO_WORD",
    "UNKNOWN_WORD",
    "TextEncoder",
    "to_words",
    "vocabulary",
    "word_numbers",
]

NO_WORD, UNKNOWN_WORD = 0, 1  # what stands behind the end of a text, and for a word that was never trained on
MIN_VOCABULARY = 3


def to_words(text: str) -> list[str]:
    """Its words in lower case; letters and digits only."""
    return re.findall(r"[^\W_]+", text.lower())


def vocabulary(texts: Iterable[str], size: int) -> tuple[str, ...]:
    """The most frequent words of texts, at most size - 2, since two numbers have a meaning of their own."""
    counts = Counter(word for text in texts for word in to_words(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(ranked[: max(0, size - 2)])


def word_numbers(texts: Sequence[str], words: Sequence[str], length: int) -> Tensor:
    """Numbers [B, length] of the words of texts, cut or filled up with NO_WORD; an empty text is all NO_WORD."""
    places = {word: number for number, word in enumerate(words, start=2)}
    numbers = torch.full((len(texts), length), NO_WORD)
    for row, text in zip(numbers, texts, strict=True):
        found = [places.get(word, UNKNOWN_WORD) for word in to_words(text)[:length]]
        row[: len(found)] = torch.tensor(found, dtype=row.dtype)
    return numbers


class TextEncoder(nn.Module):
    """Word numbers [B, T] -> tokens [B, T, D]: embeddings of words and places, then transformer layers.

    NO_WORD has an embedding like any word, as the zero padding of the papers has.
    """

    def __init__(self, size: int, length: int, dim: int, *, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.words = nn.Embedding(size, dim)
        self.places = nn.Parameter(0.02 * torch.randn(length, dim))
        self.layers = nn.ModuleList(_Layer(dim, num_heads) for _ in range(num_layers))

    def forward(self, numbers: Tensor) -> Tensor:
        tokens: Tensor = self.words(numbers) + self.places[: numbers.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class _Layer(nn.Module):
    """Self-attention and a perceptron, each beside a skip: [B, T, D] -> [B, T, D].

    The library's own layer takes another way in evaluation than in training, with other last bits.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(1, dim, num_heads=num_heads)
        self.norm = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, 4 * dim)
        self.out = zero_init(nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        h: Tensor = self.attention(tokens.mT).mT
        out: Tensor = h + self.out(F.silu(self.wide(self.norm(h))))
        return out
