"""Codes out of codebooks tell many objects apart with few numbers."""

import pytest
import torch

from raydiance.models import Autodecoder, AutodecoderSpec, HashedCodes
from raydiance.models.codebooks import hashed_rows


@pytest.mark.parametrize(("num_objects", "bits"), [(1676, 8), (20_000, 10)])
def test_no_two_objects_share_their_rows_and_rows_are_used_evenly(num_objects, bits):
    rows = hashed_rows(torch.arange(num_objects), 64, bits)
    assert rows.min() >= 0 and rows.max() < 2**bits
    assert len(torch.unique(rows, dim=0)) == num_objects
    shared = (rows[:-1] == rows[1:]).float().mean()
    assert shared < 4 / 2**bits + 0.02  # neighbours hardly share more than any two objects
    used = torch.stack([row.bincount(minlength=2**bits) for row in rows.T]).float()
    assert (used > 0).float().mean() > 0.8


def test_hashes_are_those_of_whole_numbers_without_overflow():
    k = torch.tensor([0, 1, 7, 300_000])
    rows = hashed_rows(k, 5, 11)
    for object_number, found in zip(k.tolist(), rows.tolist(), strict=True):
        spread = (0x9E3779B1 * object_number) % 2**32
        assert found == [(((2**31 + 2 * i * i + 1) * spread) % 2**32) >> 21 for i in range(5)]


def test_a_code_is_its_rows_behind_one_another():
    codes = HashedCodes(100, 12, num_tables=4, bits=5, std=1.0)
    rows = hashed_rows(torch.tensor(17), 4, 5)
    expected = torch.cat([codes.tables[i, rows[i]] for i in range(4)])
    assert torch.equal(codes(torch.tensor([3, 17]))[1], expected)
    assert codes.weight.shape == (100, 12) and torch.equal(codes.weight[17], expected)
    assert codes.tables.numel() < codes.weight.numel()


def test_an_autodecoder_has_them_in_place_of_its_table():
    plain = {"code_dim": 8, "latent_channels": 4, "field_resolution": 16, "widths": (8,), "depths": (0,)}
    model = Autodecoder(AutodecoderSpec(codebooks=4, codebook_bits=3, **plain), 50)
    model(torch.tensor([0, 49])).sum().backward()
    assert model.codes.tables.grad is not None and model.codes.tables.shape == (4, 8, 2)
    with pytest.raises(ValueError, match="codebooks must divide code_dim = 8"):
        AutodecoderSpec(codebooks=3, **plain)
