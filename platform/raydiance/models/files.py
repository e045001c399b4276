"""Networks on disk: a JSON file with the spec, a safetensors file with the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raydiance.errors import ArtifactError
from raydiance.models.articulated import ArticulatedField, ArticulatedSpec
from raydiance.models.autodecoder import Autodecoder, AutodecoderSpec, FieldDecoder
from raydiance.models.unet import UNet, UNetSpec

__all__ = [
    "load_weights",
    "read_articulated",
    "read_autodecoder",
    "read_decoder",
    "read_unet",
    "save_weights",
    "spec_from_plain",
]

S = TypeVar("S")
M = TypeVar("M", bound=nn.Module)


def spec_from_plain(cls: type[S], plain: Mapping[str, Any]) -> S:
    """A flat spec out of what to_plain made of it (lists become tuples again)."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors."""
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


def load_weights(module: M, path: Path, *, prefix: str = "") -> M:
    """The module with the weights of the file (those below `prefix`), in evaluation mode.

    Raises ArtifactError if names or shapes differ.
    """
    weights = {
        name[len(prefix) :]: value for name, value in load_file(path).items() if name.startswith(prefix)
    }
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: these weights are not those of the spec beside them ({error})"
        ) from error
    module.eval()
    return module


def read_articulated(spec_path: Path, weights_path: Path) -> ArticulatedField:
    """Articulated fields. The JSON holds {"model": ArticulatedSpec, "num_parts": of each object, ...}."""
    plain = json.loads(spec_path.read_text())
    model = ArticulatedField(
        spec_from_plain(ArticulatedSpec, plain["model"]), torch.tensor(plain["num_parts"])
    )
    return load_weights(model, weights_path)


def read_autodecoder(spec_path: Path, weights_path: Path) -> Autodecoder:
    """The autodecoder with its codes. The JSON holds {"model": AutodecoderSpec, "num_objects": n, ...}."""
    plain = json.loads(spec_path.read_text())
    model = Autodecoder(spec_from_plain(AutodecoderSpec, plain["model"]), plain["num_objects"])
    return load_weights(model, weights_path)


def read_decoder(spec_path: Path, weights_path: Path) -> FieldDecoder:
    """G2 alone, out of the files of a whole autodecoder."""
    plain = json.loads(spec_path.read_text())
    return load_weights(
        FieldDecoder(spec_from_plain(AutodecoderSpec, plain["model"])), weights_path, prefix="decoder."
    )


def read_unet(spec_path: Path, weights_path: Path) -> UNet:
    """A U-Net. The JSON holds {"model": UNetSpec, ...}."""
    plain = json.loads(spec_path.read_text())
    return load_weights(UNet(spec_from_plain(UNetSpec, plain["model"])), weights_path)
