"""What the engine is asked for and what it tells: orders, tickets, progress, counts."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Generator, Tensor

from raydiance.diffusion.plans import SamplingPlan

__all__ = ["Known", "Order", "Progress", "Stats", "Ticket", "Timing"]

R = TypeVar("R")


@dataclass(frozen=True)
class Progress:
    """How far a sample is; x_0 [...] is the network's present idea of the result."""

    row: int
    nfe: int
    x_0: Tensor


@dataclass(frozen=True)
class Known:
    """What a sample must agree with: `latent` [C, D, H, W] wherever `mask` (broadcast to it) is 1."""

    latent: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Order(Generic[R]):
    """One sample to make: unit-variance noise [...] through the plan, then `finish(x_0 [...])` beside the
    tick thread.

    generator: where a stochastic plan draws its noise. label: a class, or None; words: numbers [T] of a text's, or
    None; guidance: how far away from neither (1: not at all). priority: higher goes first.
    deadline_s: seconds from now; refused at once if it cannot be met, dropped as soon as it is missed.
    watch: called from the tick thread after each row; it must return at once. client: whose share it is of.
    known: what is kept, for a completion.
    """

    plan: SamplingPlan
    noise: Tensor
    finish: Callable[[Tensor], R]
    generator: Generator | None = None
    label: int | None = None
    words: Tensor | None = None
    guidance: float = 1.0
    priority: int = 0
    deadline_s: float | None = None
    watch: Callable[[Progress], None] | None = None
    client: str = ""
    known: Known | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds that a sample waited, ran on the network among others, and was being finished."""

    queue_s: float
    sample_s: float
    finish_s: float


@dataclass(eq=False)
class Ticket(Generic[R]):
    """A sample that was taken on: its future result, and the way to give it up."""

    order: Order[R]
    number: int
    submitted: float
    due: float
    deadline: float | None
    future: "Future[tuple[R, Timing]]" = field(default_factory=Future)
    started: float = 0.0
    sampled: float = 0.0

    def cancel(self) -> None:
        """Give it up: its place is free at the next tick."""
        self.future.cancel()

    @property
    def urgency(self) -> tuple[int, float, int]:
        """Sorts the most urgent first."""
        return (-self.order.priority, self.due, self.number)


@dataclass
class Stats:
    """Counts since the start; seconds are of the tick thread."""

    ticks: int = 0
    rows: int = 0
    finished: int = 0
    cancelled: int = 0
    refused: int = 0
    failed: int = 0
    network_s: float = 0.0
    tick_s: float = 0.0

    @property
    def overhead(self) -> float:
        """The share of a tick that is not the network's."""
        return 1.0 - self.network_s / self.tick_s if self.tick_s else 0.0
