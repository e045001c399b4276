"""Voxel fields as safetensors files."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raydiance.errors import DataError
from raydiance.fields.voxels import Point, VoxelField

__all__ = ["load_field", "save_field"]


def save_field(field: VoxelField, path: str | Path) -> None:
    """Write the grids, float16 (so densities up to 65504), with box and pose as metadata."""
    field.check_finite()
    grid = field.grid.detach().cpu().clamp(max=torch.finfo(torch.float16).max).half()
    box = {"lower": field.lower, "upper": field.upper}
    tensors = {"grid": grid.contiguous()}
    if field.to_world is not None:
        tensors["to_world"] = field.to_world.detach().cpu().contiguous()
    save_file(tensors, path, metadata={"box": json.dumps(box)})


def load_field(path: str | Path) -> VoxelField:
    """The field that save_field wrote, float32. Raises DataError if the file holds none."""
    try:
        with safe_open(path, framework="pt") as file:
            box = json.loads(file.metadata()["box"])
            names = set(file.keys())
            grid = file.get_tensor("grid").float()
            to_world = file.get_tensor("to_world") if "to_world" in names else None
        field = VoxelField(grid, _point(box["lower"]), _point(box["upper"]), to_world)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is no file of fields: {error!r}") from error
    field.check_finite()
    return field


def _point(values: list[float]) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z
