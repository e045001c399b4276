"""Fitted fields as data of diffusion: read from their artifact, put on a common scale, and back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydiance.data.latents import RobustStatistics
from raydiance.errors import DataError
from raydiance.fields import VoxelField, load_field
from raydiance.storage import Artifact

__all__ = ["FieldCode", "FieldSet"]

LARGEST_OPACITY = 0.99  # of a cell; behind it lies nothing that a ray could see


@dataclass(frozen=True)
class FieldCode:
    """Fields in the box lower..upper with cells of one size <-> normalised data [B, 4, X, Y, Z].

    Channel 0 is o = 1 - exp(-density cell), the opacity of a cell, lifted to margin + (1 - margin) o where it
    is not 0: on the way back what is below the margin is empty, so that the haze that a denoiser leaves is
    not seen. The others are RGB. `statistics` bring each channel to mean 0 and deviation 1.
    """

    statistics: RobustStatistics
    margin: float = 0.1

    @classmethod
    def fit(cls, fields: Sequence[VoxelField], margin: float) -> "FieldCode":
        """The code whose data of these fields has mean 0 and deviation 1 in each channel."""
        raw = torch.cat([_raw(field, margin) for field in fields])
        return cls(RobustStatistics.fit(raw, "moments"), margin)

    @classmethod
    def of(cls, latents: Artifact, device: torch.device | str = "cpu") -> "FieldCode":
        """The code of an artifact of kind "latents" that was made of fields. DataError for one that was not."""
        described = latents.read_json("latents.json")
        if "margin" not in described:
            raise DataError(
                f"{latents.ref.key}: these latents are not those of fields; give the encode of diffrf"
            )
        statistics = RobustStatistics.load(latents.path("latents.safetensors"))
        return cls(statistics.to(device), float(described["margin"]))

    def encode(self, field: VoxelField) -> Tensor:
        """[B, 4, X, Y, Z] of fields of degree 0 in the unit box."""
        return self.statistics.normalise(_raw(field, self.margin))

    def decode(self, data: Tensor) -> VoxelField:
        """Fields in the unit box; gradients flow to the data."""
        raw = self.statistics.denormalise(data).permute(0, 2, 3, 4, 1)
        opacity = ((raw[..., :1] - self.margin) / (1 - self.margin)).clamp(0, LARGEST_OPACITY)
        cell = 2 / (data.shape[-1] - 1)
        return VoxelField(torch.cat((-torch.log1p(-opacity) / cell, raw[..., 1:].clamp(0, 1)), dim=-1))


def _raw(field: VoxelField, margin: float) -> Tensor:
    if (
        field.degree
        or len(set(field.resolution)) > 1
        or (field.lower, field.upper) != ((-1.0,) * 3, (1.0,) * 3)
    ):
        raise DataError(
            "fields for diffusion must be cubes of plain colour in the unit box, got resolution "
            f"{field.resolution}, degree {field.degree}, box {field.lower} to {field.upper}: "
            "fit with degree=0 and tight=false"
        )
    density, colour = field.grid[..., :1].clamp(min=0), field.grid[..., 1:]
    opacity = -torch.expm1(-density * field.cell_size[0])
    lifted = torch.where(opacity > 0, margin + (1 - margin) * opacity, opacity)
    return torch.cat((lifted, colour), dim=-1).permute(0, 4, 1, 2, 3)


@dataclass(frozen=True)
class FieldSet:
    """The fields of an artifact of kind "fields", read when they are asked for."""

    artifact: Artifact
    rows: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, artifact: Artifact, split: str | None = None) -> "FieldSet":
        """All objects, or those of a split ("train", "test")."""
        rows = artifact.read_json("fields.json")["objects"]
        return cls(artifact, tuple(row for row in rows if split is None or row["split"] == split))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> VoxelField:
        """One field. IndexError beyond the last."""
        return load_field(self.artifact.path(str(self.rows[index]["file"])))

    def __iter__(self) -> Iterator[VoxelField]:
        return (self[index] for index in range(len(self)))

    @property
    def ids(self) -> list[str]:
        """Ids of the objects."""
        return [str(row["id"]) for row in self.rows]
