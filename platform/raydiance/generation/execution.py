"""Few shapes for every network call, so that a sample's bits do not depend on what else is in its batch.

Libraries choose a kernel by the batch's size, and kernels differ in the last bits. Called with one of a few
sizes that are known to agree, the network does the same arithmetic for an item whoever its neighbours are;
`agreeing_sizes` checks that they do. Measured on CPU (one thread, 3D U-Nets at 8^3): 1, 2..3 and 4..12 are
three classes of equal bits (convolutions agree from 2 on, linear layers from 4 on), a call of 1 takes as long
as one of 2, and calls of 3 have 95 to 100 % of the throughput of a batch of 8.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from raydiance.generation.bundle import LatentModel
from raydiance.models import Condition
from raydiance.models.text import NO_WORD

__all__ = [
    "NoiseNetwork",
    "agreeing_sizes",
    "call_sizes",
    "fill",
    "in_calls",
    "noise_network",
    "one_thread",
]

CPU_SIZES, ACCELERATOR_SIZES = (2, 3), (8,)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch works with one thread of this process inside, and with as many as before behind it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def call_sizes(device: torch.device | str) -> tuple[int, ...]:
    """The numbers of items that a network is called with on a device, ascending."""
    return CPU_SIZES if torch.device(device).type == "cpu" else ACCELERATOR_SIZES


class NoiseNetwork(Protocol):
    """eps(x [b, ...], sigma [b], class labels [b], tokens [b, T] or [b, T, D])."""

    def __call__(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None, tokens: Tensor | None = None, /
    ) -> Tensor: ...


def noise_network(model: LatentModel) -> NoiseNetwork:
    """The model's noise predictor with what it is told as further arguments.

    A model that knows words is told of no word where there is no text, so that it attends to as many tokens and
    its bits are those of an item without a text among others that have one.
    """
    spec = model.spec.denoiser

    def predict(x: Tensor, sigma: Tensor, labels: Tensor | None, tokens: Tensor | None = None, /) -> Tensor:
        if tokens is None and spec.vocabulary:
            tokens = torch.full((len(x), spec.max_words), NO_WORD, device=x.device)
        told = Condition(labels, tokens=tokens)
        return model.preconditioning.noise_predictor(model.denoiser, told)(x, sigma)

    return predict


def fill(tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """[n, ...] with the last item repeated up to the next of the sizes; n is at most the largest."""
    missing = next(size for size in sizes if size >= len(tensor)) - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor


def in_calls(network: Callable[..., Tensor], sizes: tuple[int, ...], *inputs: Tensor | None) -> Tensor:
    """network(*inputs) for inputs [n, ...], in calls of the given sizes only; a None is passed on as it
    is.
    """
    count, most = next(len(each) for each in inputs if each is not None), sizes[-1]
    outputs = []
    for start in range(0, count, most):
        tiles = [None if each is None else fill(each[start : start + most], sizes) for each in inputs]
        outputs.append(network(*tiles)[: min(most, count - start)])
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


@torch.no_grad()
def agreeing_sizes(
    network: Callable[..., Tensor], sizes: tuple[int, ...], *inputs: Tensor | None
) -> tuple[int, ...]:
    """Those of the sizes at which an item gets the same bits at every place as at the first place of the
    first.

    inputs: [n, ...] with n the largest size. (1,) if the place matters at the first size already.
    """
    expected: Tensor | None = None
    found = []
    for size in sizes:
        for place in range(size):
            turned = [None if each is None else each[:size].roll(place, 0) for each in inputs]
            out = network(*turned)[place]
            expected = out if expected is None else expected
            if not torch.equal(out, expected):
                break
        else:
            found.append(size)
    return tuple(found) if found and found[0] == sizes[0] else (1,)
