"""The global path: a residual perceptron on all numbers of an input at once."""

from torch import Tensor, nn
from torch.nn import functional as F

from raydiance.models.blocks import CrossAttention, zero_init

__all__ = ["GlobalPath"]


class GlobalPath(nn.Module):
    """[B, size_in] -> [B, size_out], starting as zero; with `token_dim` each block attends to tokens.

    A few directions carry most of what tells aligned objects apart, and at high noise levels only they are
    left. This path moves them at a hundredth of the cost of convolutions, which see to the neighbourhood.
    """

    def __init__(
        self,
        size_in: int,
        size_out: int,
        width: int,
        *,
        num_blocks: int,
        embedding_dim: int,
        token_dim: int = 0,
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(size_in, width)
        self.blocks = nn.ModuleList(
            _Perceptron(width, embedding_dim, token_dim, num_heads) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.out = zero_init(nn.Linear(width, size_out))

    def forward(self, numbers: Tensor, embedding: Tensor, tokens: Tensor | None = None) -> Tensor:
        h = self.stem(numbers)
        for block in self.blocks:
            h = block(h, embedding, tokens)
        out: Tensor = self.out(self.norm(h))
        return out


class _Perceptron(nn.Module):
    """LayerNorm with FiLM, two layers and a skip, and attention to tokens: [B, width] -> [B, width]."""

    def __init__(self, width: int, embedding_dim: int, token_dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = zero_init(nn.Linear(embedding_dim, 2 * width))
        self.wide = nn.Linear(width, 2 * width)
        self.out = zero_init(nn.Linear(2 * width, width))
        self.cross = CrossAttention(1, width, token_dim, num_heads=num_heads) if token_dim else None

    def forward(self, h: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        scale, shift = self.film(embedding).chunk(2, dim=1)
        out: Tensor = h + self.out(F.silu(self.wide(self.norm(h) * (1 + scale) + shift)))
        return out if self.cross is None else self.cross(out[..., None], tokens)[..., 0]
