"""Several workers as one: each takes its slice of the global batch, gradients and metrics are averaged.

One worker and n workers see the same samples and the same noise, so their loss curves agree up to rounding.
Weights are copied to every worker (DistributedDataParallel), or lie in parts on all of them (FSDP2): then what
concerns whole tensors, `whole` and all that uses it, is for all workers to call together.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydiance.errors import ConfigError

__all__ = [
    "distribute",
    "is_sharded",
    "like_shards_of",
    "mean_over_workers",
    "num_workers",
    "share",
    "unsynchronised",
    "wait_for_all",
    "whole",
]


def num_workers() -> int:
    """How many workers train together: 1 unless torch.distributed is initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(batch_size: int, rank: int, world_size: int) -> range:
    """The samples of the global batch that this worker takes. Raises ConfigError if they cannot be even."""
    if batch_size % world_size:
        raise ConfigError(
            f"batch_size {batch_size} must be divisible by the number of workers {world_size}, so that each "
            "takes as many samples: change one of them"
        )
    size = batch_size // world_size
    return range(rank * size, (rank + 1) * size)


def distribute(module: nn.Module, device: torch.device, *, shard: nn.Module | None = None) -> nn.Module:
    """The module on its device; with several workers, under DistributedDataParallel, or with the weights of its
    part `shard` in parts on all workers. Items of its lists of modules are put together one at a time.
    """
    module = module.to(device)
    if num_workers() == 1:
        return module
    if shard is not None:
        from torch.distributed.fsdp import fully_shard

        for parameter in shard.parameters():  # whatever kernels like
            parameter.data = parameter.data.contiguous()
        lists = [part for part in shard.modules() if isinstance(part, nn.ModuleList)]
        for item in (item for each in lists for item in each if not isinstance(item, nn.ModuleList)):
            fully_shard(item)
        fully_shard(shard)
        return module
    if device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def is_sharded(module: nn.Module) -> bool:
    """Whether weights of the module lie in parts on several workers."""
    return any(_is_a(part, "torch.distributed.fsdp", "FSDPModule") for part in module.modules())


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in one piece, on every worker."""
    return {name: value.full_tensor() if _in_parts(value) else value for name, value in tensors.items()}


def like_shards_of(target: Tensor, value: Tensor) -> Tensor:
    """The part of a whole tensor that lies here where the target's does; every worker has all of it."""
    if not _in_parts(target):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh = target.device_mesh
    return distribute_tensor(value.to(target.device), mesh, target.placements, src_data_rank=None)


def unsynchronised(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, gradients stay with their worker and add up."""
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return _adding_up(module) if is_sharded(module) else nullcontext()


@contextmanager
def _adding_up(module: nn.Module) -> Iterator[None]:
    sharded = [part for part in module.modules() if _is_a(part, "torch.distributed.fsdp", "FSDPModule")]
    for part in sharded:
        part.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        for part in sharded:
            part.set_requires_gradient_sync(True)


def _in_parts(tensor: Any) -> TypeGuard[Any]:
    return _is_a(tensor, "torch.distributed.tensor", "DTensor")


def _is_a(value: object, module: str, name: str) -> TypeGuard[Any]:
    """isinstance, without the import (a second of processor time): where nobody has done it, nothing is one."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def mean_over_workers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Each scalar's mean over all workers."""
    stacked = torch.stack([value.detach().double() for value in values.values()])
    if num_workers() > 1:
        dist.all_reduce(stacked)
        stacked /= num_workers()
    return dict(zip(values, stacked.tolist(), strict=True))


def wait_for_all() -> None:
    """Return once every worker has come here."""
    if num_workers() > 1:
        dist.barrier()
