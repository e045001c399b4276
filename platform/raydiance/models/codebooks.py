"""Codes of very many objects out of a few small tables, each looked up by a hash of the object's number.

"AutoDecoding Latent 3D Diffusion Models" (Ntavelis et al. 2023, Appendix B.3): a code is n vectors put behind one
another, the i-th of them row m_i(k) = ((a_i k) mod 2^32) >> (32 - r) of table i, a_i = 2^31 + 2 i^2 + 1, of 2^r
rows. Two objects share some rows, hardly ever all. With small tables that needs numbers spread over the whole
word: as it is published, k and k + 2 have most rows in common, since their products begin with the same bits.
So k is multiplied by an odd constant first, which is our own choice.
"""

import torch
from torch import Tensor, nn

__all__ = ["HashedCodes", "hashed_rows"]

WORD_MASK = 2**32 - 1
SPREAD = 0x9E3779B1  # odd, near 2^32 over the golden ratio (Knuth, The Art of Computer Programming 3, 6.4)


def hashed_rows(indices: Tensor, num_tables: int, bits: int) -> Tensor:
    """The rows [..., n] of tables of 2^bits rows for object numbers [...], int64."""
    i = torch.arange(num_tables, device=indices.device)
    factors = 2**31 + 2 * i.square() + 1
    spread = (SPREAD * indices[..., None]) & WORD_MASK
    return ((factors * spread) & WORD_MASK) >> (32 - bits)  # a product that overflows keeps its low 32 bits


class HashedCodes(nn.Module):
    """In place of a table of codes: object numbers [...] -> codes [..., code_dim]."""

    def __init__(self, num_objects: int, code_dim: int, *, num_tables: int, bits: int, std: float) -> None:
        super().__init__()
        self.num_objects, self.bits = num_objects, bits
        self.tables = nn.Parameter(std * torch.randn(num_tables, 2**bits, code_dim // num_tables))

    def forward(self, indices: Tensor) -> Tensor:
        num_tables = len(self.tables)
        rows = hashed_rows(indices, num_tables, self.bits)
        return self.tables[torch.arange(num_tables, device=indices.device), rows].flatten(-2)

    @property
    def weight(self) -> Tensor:
        """The codes of all objects, [N, code_dim], as a plain table has them."""
        codes: Tensor = self(torch.arange(self.num_objects, device=self.tables.device))
        return codes
