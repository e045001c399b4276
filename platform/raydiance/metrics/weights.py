"""Weights that the user brings for networks that scores are named after."""

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from raydiance.errors import DataError

__all__ = ["with_weights"]

M = TypeVar("M", bound=nn.Module)


def with_weights(network: M, path: Path, remedy: str, *, only_known: bool = False) -> M:
    """The network with the weights of a safetensors file, ready for use. DataError, with the remedy, for
    others. only_known: the file may hold more than the network has.
    """
    try:
        found = load_file(path)
        if only_known:
            found = {name: found[name] for name in network.state_dict() if name in found}
        network.load_state_dict(found)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{path}: are no weights of {type(network).__name__} ({str(error)[:200]}); {remedy}"
        ) from error
    return network.eval().requires_grad_(False)
