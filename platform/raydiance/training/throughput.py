"""How fast a training goes: samples and counted operations per second, and their share of the device's peak.

Counted are convolutions, matrix products and attention, forward and backward, as torch.utils.flop_counter has
them; not the renderer, nor what works element by element. Beside them stands the share of a step that waits for
its data.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raydiance.training.batches import Batch
from raydiance.training.distributed import is_sharded, unsynchronised
from raydiance.training.precision import Precision

__all__ = ["PEAKS", "Stopwatch", "Throughput", "peak_flops"]

PEAKS: dict[str, dict[torch.dtype, float]] = {
    "H200": {torch.bfloat16: 989e12, torch.float32: 67e12},
    "H100 80GB HBM3": {torch.bfloat16: 989e12, torch.float32: 67e12},
    "A100": {torch.bfloat16: 312e12, torch.float32: 19.5e12},
}
"""Dense operations per second by a part of the device's name, after data sheets; float32 is not TF32."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """What the device can do at most, where that is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peaks.get(dtype) for part, peaks in PEAKS.items() if part in name), None)


class Stopwatch:
    """Adds up the seconds spent inside it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is timed runs inside."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


class Throughput:
    """Times steps and, once, counts the operations of one.

    batch_size: of all workers together. loading: runs while a step waits for its data. Clocks are read a few times
    per step, and a step waits for its loss anyway, so nothing waits for the device that did not wait before.
    """

    def __init__(
        self,
        batch_size: int,
        num_workers: int,
        device: torch.device,
        precision: Precision,
        loading: Stopwatch | None = None,
    ) -> None:
        self.batch_size, self.num_workers = batch_size, num_workers
        self.precision, self.loading = precision, loading or Stopwatch()
        self.peak = peak_flops(device, precision.dtype)
        self.flops: int | None = None  # of one step of this worker
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def count(self, module: nn.Module, batch: Batch, parts: int = 1) -> None:
        """Count a forward and a backward pass over a batch that is one of so many parts, and forget its results.

        It is one more than the training takes, because gradients that were taken while counting were not those
        without it to the last bit.
        """
        kept = {name: value.clone() for name, value in module.named_buffers()}
        counter = FlopCounterMode(display=False)
        # what sharded weights add up without an exchange cannot be forgotten
        apart = nullcontext() if is_sharded(module) else unsynchronised(module)
        with torch.random.fork_rng(devices=[]), apart, counter, self.precision.applied():
            module(batch)["loss"].backward()
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, value in module.named_buffers():
                value.copy_(kept[name])
        self.flops = parts * counter.get_total_flops()

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step runs inside."""
        began, waited = time.perf_counter(), self.loading.seconds
        yield
        self._seconds += time.perf_counter() - began
        self._waited += self.loading.seconds - waited
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The rates since this was last asked, of all workers; nothing before a step was timed."""
        if not self._steps or self.flops is None:
            return {}
        per_s, wait = self._steps / self._seconds, self._waited / self._seconds
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        flops = per_s * self.flops
        rates = {
            "speed/samples_per_s": per_s * self.batch_size,
            "speed/gflops_per_s": flops * self.num_workers / 1e9,
        }
        rates |= {"speed/data_wait": wait} if self.loading.seconds else {}
        return rates | ({"speed/mfu": flops / self.peak} if self.peak else {})
