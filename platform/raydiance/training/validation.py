"""What the checkpoints of a training are worth, found out elsewhere while the training goes on.

Nothing is shared with the training: another process reads the checkpoint from the store, and answers with numbers.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from raydiance.storage import ArtifactRef, Store, write_json
from raydiance.tracking import Validation, Worker
from raydiance.training.checkpoint import Seen, read_averaged, unseen
from raydiance.training.loop import LoopSpec

__all__ = ["Question", "Validate", "Validations", "answer", "known_values", "validating"]

P = TypeVar("P")
VALUES = "values.json"
Values: TypeAlias = dict[str, float]
# what weights are worth: of a payload of the training, with its store, on a device
Validate: TypeAlias = Callable[[P, Store, Mapping[str, Tensor], torch.device], Mapping[str, float]]

logger = logging.getLogger("raydiance.training")


@dataclass(frozen=True)
class Question(Generic[P]):
    """A checkpoint, and by what it is judged; it can be pickled if `validate` is a function of a module."""

    validate: Validate[P]
    payload: P
    store: Store
    run_name: str
    step: int
    checkpoint: ArtifactRef
    device: str


def answer(question: Question[Any]) -> Values:
    """The values of a checkpoint as metrics, val/..., and kept, so that a training that goes on knows them."""
    weights = read_averaged(question.store, question.checkpoint)
    found = question.validate(question.payload, question.store, weights, torch.device(question.device))
    values = {f"val/{name}": float(value) for name, value in found.items()}
    meta = {"step": question.step}
    with question.store.create(kind_of(question.run_name), f"{question.step:08d}", meta=meta) as draft:
        write_json(draft.path(VALUES), values)
    return values


def kind_of(run_name: str) -> str:
    """The kind under which the values of a run's checkpoints lie."""
    return f"validations/{run_name}"


def known_values(store: Store, run_name: str) -> dict[int, Values]:
    """What is known of a run's checkpoints, by step."""
    found = map(store.get, store.list(kind_of(run_name)))
    return {int(each.manifest.meta["step"]): each.read_json(VALUES) for each in found}


@contextmanager
def validating(
    validate: Validate[P] | None, payload: P, loop: LoopSpec, worker: Worker, run_name: str
) -> Iterator[Seen]:
    """Validate, while the block runs, the checkpoints that what is given here is told of; then wait for the last.

    Trials of a search, workers beside the first, and those who were given no place for it validate nothing.
    """
    place = worker.validation
    if validate is None or place is None or worker.rank > 0 or worker.until is not None:
        yield unseen
        return

    def ask(step: int, checkpoint: ArtifactRef) -> Question[P]:
        return Question(validate, payload, worker.store, run_name, step, checkpoint, place.device)

    known = set(known_values(worker.store, run_name))
    with Validations(ask, place, known, worker.tracker.log_metrics) as validations:

        def seen(step: int, checkpoint: ArtifactRef) -> None:
            if step == loop.steps or step % (place.every * loop.checkpoint_every) == 0:
                validations.offer(step, checkpoint)

        yield seen


class Validations:
    """One checkpoint is worked on at a time; of those that wait the newest stays, and takes its turn.

    Nobody waits for any of it before the end, and whatever fails is a warning, and a gap in the curve.
    known: steps of checkpoints whose values are there.
    """

    def __init__(
        self,
        ask: Callable[[int, ArtifactRef], Question[Any]],
        place: Validation,
        known: set[int],
        tell: Callable[[Values, int], None],
    ) -> None:
        self._ask, self._tell, self._wait_s, self._known = ask, tell, place.wait_s, known
        self._beside, self._changed = place.beside(), threading.Condition()
        self._running: int | None = None
        self._waiting: tuple[int, ArtifactRef] | None = None
        self._ended = False

    def __enter__(self) -> "Validations":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._changed:
            if kind is None and not self._changed.wait_for(lambda: self._running is None, self._wait_s):
                self._warn(self._running, f"it was not done {self._wait_s:g} s after the training's end")
            self._ended, self._waiting = True, None
        self._beside.stop()

    def offer(self, step: int, checkpoint: ArtifactRef) -> None:
        """Validate it as soon as that is possible, unless a newer one is offered first; returns at once."""
        with self._changed:
            if step not in self._known:
                self._waiting = step, checkpoint
                self._go_on()

    def _go_on(self) -> None:
        if self._running is None and self._waiting is not None and not self._ended:
            (step, checkpoint), self._waiting = self._waiting, None
            self._running = step
            self._known.add(step)
            self._beside(answer, self._ask(step, checkpoint)).add_done_callback(self._hear)

    def _hear(self, future: Future[Values]) -> None:
        error = future.exception()
        with self._changed:
            step, self._running = self._running, None
            assert step is not None, "one is heard of that was begun"
            try:
                if error is None:
                    self._tell(future.result(), step)
                elif not self._ended:
                    self._warn(step, f"{type(error).__name__}: {error}")
            finally:
                self._go_on()
                self._changed.notify_all()

    def _warn(self, step: int | None, reason: str) -> None:
        logger.warning("the checkpoint of step %s has no values: %s", step, reason)
