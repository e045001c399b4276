"""Weights from files that may be anything: the header first, and only what the network itself expects."""

import json
import struct
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raydiance.errors import ArtifactError

__all__ = ["check_header", "load_weights", "read_header", "read_tensors", "save_weights"]

M = TypeVar("M", bound=nn.Module)

MAX_HEADER_BYTES = 10 * 2**20  # the format allows 100 MB, which is a minute of parsing for a network of ours
MAX_TENSORS = 20_000
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
}


def save_weights(module: nn.Module, path: Path) -> None:
    """The module's state as a safetensors file, on the CPU."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(state, path)


def load_weights(module: M, path: Path) -> M:
    """Put the file's tensors into the module, in evaluation mode and without gradients.

    Names, shapes and dtypes must be the module's own, no more and no fewer. Raises ArtifactError otherwise.
    """
    module.load_state_dict(read_tensors(path, module.state_dict()))
    return module.eval().requires_grad_(False)


def read_tensors(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file which must be as `expected` (values and device do not matter)."""
    check_header(read_header(path), expected, str(path.name))
    return load_file(path)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> {dtype, shape, data_offsets}. Raises ArtifactError."""
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ArtifactError(f"{path.name}: {len(start)} bytes are no safetensors file; make it again")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER_BYTES:
            raise ArtifactError(f"{path.name}: a header of {length} bytes, allowed are {MAX_HEADER_BYTES}")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ArtifactError(f"{path.name}: its safetensors header is not JSON ({error})") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ArtifactError(f"{path.name}: its safetensors header does not list up to {MAX_TENSORS} tensors")
    header.pop("__metadata__", None)
    return header


def check_header(header: dict[str, Any], expected: dict[str, Tensor], place: str) -> None:
    """Raises ArtifactError unless the header lists exactly the expected names, dtypes and shapes."""
    missing, unknown = sorted(expected.keys() - header.keys()), sorted(header.keys() - expected.keys())
    if missing or unknown:
        raise ArtifactError(
            f"{place}: lacks {missing[:3]} and has {unknown[:3]} that the network does not know; "
            "the weights belong to another spec"
        )
    for name, tensor in expected.items():
        entry = header[name]
        found = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else entry
        wanted = (DTYPES.get(tensor.dtype), list(tensor.shape))
        if found != wanted:
            raise ArtifactError(f"{place}: {name} is {found}, the spec asks for {wanted}")
