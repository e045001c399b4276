"""Several workers as one: each takes its slice of the global batch, gradients and metrics are averaged.

One worker and n workers see the same samples and the same noise, so their loss curves agree up to rounding.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydiance.errors import ConfigError

__all__ = ["distribute", "mean_over_workers", "num_workers", "share", "unsynchronised", "wait_for_all"]


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


def distribute(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on its device; with several workers, under DistributedDataParallel."""
    module = module.to(device)
    if num_workers() == 1:
        return module
    if device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def unsynchronised(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, gradients stay with their worker and add up."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


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
