"""One shape for every network call, so that a sample's bits do not depend on what else is in its batch.

Libraries choose a kernel by the batch's size, and kernels differ in the last bits. Called on tiles of one
fixed size, the network does the same arithmetic for an item whoever its neighbours are; `holds_still` checks
that it does. Measured on CPU (one thread, 3D U-Net at 8^3): sizes 1, 2..3 and 4..12 give three different
results, a call of 1 takes as long as a call of 2, and tiles of 2 cost 0 to 15 % of the throughput of a batch
of 8.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydiance.generation.bundle import LatentModel

__all__ = ["fill", "holds_still", "in_tiles", "noise_network", "tile_size"]

CPU_TILE, ACCELERATOR_TILE = 2, 8


def tile_size(device: torch.device | str) -> int:
    """Items per network call on a device."""
    return CPU_TILE if torch.device(device).type == "cpu" else ACCELERATOR_TILE


def noise_network(model: LatentModel) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The model's noise predictor with the class labels as its third argument: eps(x [b, ...], sigma [b],
    labels [b]).
    """

    def predict(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return model.preconditioning.noise_predictor(model.denoiser, labels)(x, sigma)

    return predict


def fill(tensor: Tensor, size: int) -> Tensor:
    """[n, ...] as [size, ...] for n <= size, the last item repeated."""
    missing = size - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor


def in_tiles(network: Callable[..., Tensor], size: int, *inputs: Tensor | None) -> Tensor:
    """network(*inputs) for inputs [n, ...], called on exactly `size` items at a time; a None is passed on as
    it is.
    """
    count = next(len(each) for each in inputs if each is not None)
    outputs = []
    for start in range(0, count, size):
        tiles = [None if each is None else fill(each[start : start + size], size) for each in inputs]
        outputs.append(network(*tiles)[: min(size, count - start)])
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


@torch.no_grad()
def holds_still(network: Callable[..., Tensor], size: int, *inputs: Tensor | None) -> bool:
    """Whether the first of the inputs [size, ...] gives the same bits at every place in the tile."""
    out = network(*inputs)[0]
    for shift in range(1, size):
        turned = [None if each is None else each.roll(shift, 0) for each in inputs]
        if not torch.equal(network(*turned)[shift], out):
            return False
    return True
