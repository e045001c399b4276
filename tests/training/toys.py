"""A small objective with everything a real one has: data by item, noise by sample, a model with a buffer."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, NullTracker, QuietProgress, Validation, Worker
from raydiance.training import Batch, LoopSpec, Objective
from raydiance.training.randomness import seeded

NUM_ITEMS = 10


class Network(nn.Sequential):
    """torch compiles no forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)  # type: ignore[no-any-return]


class Toy(Objective):
    """Noisy regression of sin; `poison` makes the loss infinite at one step."""

    def __init__(self, poison: int | None = None) -> None:
        super().__init__()
        self.poison = poison
        with seeded(3):
            self.model = Network(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        self.model.register_buffer("offset", torch.zeros(1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = torch.tensor([[item / NUM_ITEMS] for item in batch.items(NUM_ITEMS)])
        noise = torch.cat([torch.randn(1, 1, generator=g) for g in batch.generators()])
        loss = (self.model(x) - (6 * x).sin() - 0.1 * noise).square().mean()
        return {"loss": loss / 0 if batch.step == self.poison else loss}

    def preview(self, weights):
        return {"toy": (torch.zeros(2, 2, 3).byte() + int(sum(w.numel() for w in weights.values()))).numpy()}


class AtOnce:
    """Each checkpoint is validated before the next one is written, so that none is passed over."""

    def __call__(self, function, payload):
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(function, payload)

    def stop(self):
        pass


VALIDATION = Validation(every=1, device="cpu", wait_s=30.0, beside=AtOnce)


def worker(
    store: Store,
    rank: int = 0,
    world_size: int = 1,
    reports: list | None = None,
    tracker: MemoryTracker | None = None,
    validation: Validation | None = None,
) -> Worker:
    return Worker(
        rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        store=store,
        tracker=tracker or MemoryTracker() if rank == 0 else NullTracker(),
        progress=QuietProgress(),
        report=lambda metrics, ref: reports.append((metrics, ref)) if reports is not None else None,
        validation=validation,
    )


def loop(**changes: object) -> LoopSpec:
    plain = {
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "ema_decay": 0.9,
        "checkpoint_every": 7,
        "log_every": 1,
        "preview_every": 10,
    }
    return LoopSpec(**(plain | changes))


def losses(tracker: MemoryTracker) -> list[float]:
    return [value for _, value in tracker.metrics["train/loss"]]
