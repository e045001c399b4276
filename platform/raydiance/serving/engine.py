"""The engine: continuous batching at the level of a network call.

Requests are samples under way, each at its own row of its own plan. A tick picks the most urgent ones, calls
the network once on the batch, advances each by a row and hands those that are through to the finishers
(decode, mesh, encode), which work beside the tick thread. No Ray in here, and time comes in through `clock`.

Legend: a row is one network call of a plan for one sample; a tick advances as many samples as the largest
call takes by one row.
"""

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from raydiance.diffusion.batching import PlanBatch, Query
from raydiance.generation.execution import in_calls
from raydiance.serving.batches import completed, guided_by, join, told_of
from raydiance.serving.fairness import Shares, admitted_next, pushed_out
from raydiance.serving.orders import Order, Progress, Stats, Ticket, Timing
from raydiance.serving.problems import NotReadyError, OverloadError, ServingError, TooLateError

__all__ = ["Engine", "Network"]

R = TypeVar("R")
Network = Callable[..., Tensor]
"""eps = network(x [b, ...], sigma [b], labels [b] or None), with words [b, T] as fourth where any has a text."""

PATIENCE = 2.0  # a request is due after this many times the network time that it needs alone
SMOOTHING = 0.1  # weight of the newest tick in the running mean of the tick's time


class Engine:
    """Runs orders of one latent shape on one network; thread-safe. Use as a context manager, or call `tick`
    yourself.

    sizes: the network is called with these numbers of samples only (filled up). slots: samples in progress at
    most; queue: how many more may wait. network_s: first guess of one call's time. no_label: the class of those
    that have none.
    """

    def __init__(
        self,
        network: Network,
        shape: tuple[int, ...],
        *,
        sizes: tuple[int, ...] = (2, 3),
        slots: int = 16,
        queue: int = 32,
        finishers: int = 1,
        device: torch.device | str = "cpu",
        network_s: float = 0.05,
        no_label: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not sizes or list(sizes) != sorted(set(sizes)) or not 1 <= sizes[0] <= sizes[-1] <= slots:
            raise ValueError(f"need ascending sizes between 1 and slots = {slots}, got {sizes}")
        self.stats, self._no_label = Stats(), no_label
        self.tick_s, self.finish_s = network_s, 0.0
        self._fastest_s = network_s
        self._network, self._sizes, self._slots, self._queue, self._clock = (
            network,
            sizes,
            slots,
            queue,
            clock,
        )
        self._empty = PlanBatch.empty(shape, device=device)
        self._active = self._empty
        self._parked: dict[int, PlanBatch] = {}
        self._tickets: dict[int, Ticket[Any]] = {}  # in progress: active or parked
        self._waiting: list[Ticket[Any]] = []
        self._shares, self._asked = Shares(), (0, 0)
        self._finishing = 0
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._pool = ThreadPoolExecutor(finishers, thread_name_prefix="finish")
        self._thread: threading.Thread | None = None

    # ---- from any thread
    # ----------------------------------------------------------------------------------------

    def submit(self, order: Order[R]) -> Ticket[R]:
        """Take an order on. Raises OverloadError if the queue is full or the deadline cannot be met,
        NotReadyError when closed.
        """
        with self._changed:
            now = self._clock()
            if self._closed:
                raise NotReadyError("the endpoint is shutting down; ask another one, or later", 5.0)
            load = len(self._waiting) + len(self._tickets) + self._finishing
            ticket = self._ticket(order, now)
            self._refuse_if_late(ticket, now)
            if load >= self._slots + self._queue:
                self._make_room(ticket, load)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    @property
    def backlog_s(self) -> float:
        """Network seconds that the samples waiting and under way still need."""
        with self._changed:
            return self._rows_before(None) * self.tick_s / self._sizes[-1]

    @property
    def load(self) -> dict[str, int]:
        """How many samples wait, run, and are being finished."""
        with self._changed:
            return {
                "waiting": len(self._waiting),
                "running": len(self._tickets),
                "finishing": self._finishing,
            }

    def occupancy(self) -> float:
        """How full the calls were since this was asked last: rows over what the largest call takes; 0 if there
        was none.
        """
        rows, ticks = self.stats.rows, self.stats.ticks
        (before_rows, before_ticks), self._asked = self._asked, (rows, ticks)
        return (rows - before_rows) / max(1, (ticks - before_ticks) * self._sizes[-1])

    @property
    def is_alive(self) -> bool:
        """Whether the tick thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def __enter__(self) -> "Engine":
        self._thread = threading.Thread(target=self._run, name="ticks", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def drain(self, timeout_s: float) -> bool:
        """Take on nothing more and wait for what is under way; whether all of it was done in time."""
        end = time.monotonic() + timeout_s
        with self._changed:
            self._closed = True
            while self._waiting or self._tickets or self._finishing:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.1))
        return True

    def close(self) -> None:
        """Stop at once: what is not finished fails with NotReadyError."""
        with self._changed:
            self._closed = True
            leftover = [*self._waiting, *self._tickets.values()]
            self._waiting.clear()
            for ticket in leftover:
                self._fail(
                    ticket, NotReadyError("the endpoint was shut down before the sample was done", 5.0)
                )
            self._tickets.clear()
            self._parked.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._pool.shutdown(wait=True)

    # ---- the tick thread
    # ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def tick(self) -> bool:
        """One network call for the most urgent samples; False if there is nothing to do."""
        began = self._clock()
        with self._changed:
            self._drop(began)
            self._admit(began)
            chosen = self._shares.choose(self._tickets.values(), self._sizes[-1])
            if not chosen:
                return False
            self._activate(chosen)
            batch = self._active
        by_number = {ticket.number: ticket for ticket in chosen}
        try:
            query = batch.query()
            tickets = [by_number[item.key] for item in batch.items]  # type: ignore[index]
            eps, network_s = self._call(query, tickets)
            eps = completed(query, eps, [ticket.order.known for ticket in tickets])
            advanced, finished = batch.advance(query, eps)
        except Exception as error:  # noqa: BLE001  the requests of this batch fail, the engine goes on
            self._abandon(batch, error)
            return True
        self._watch(batch, chosen, query, eps)
        with self._changed:
            here = all(item.key in self._tickets for item in advanced.items)
            self._active = advanced if here else advanced.keep(lambda item: item.key in self._tickets)
            self._retire(finished)
            self._count(len(batch.items), network_s, self._clock() - began)
        return True

    def _run(self) -> None:
        while True:
            worked = self.tick()
            with self._changed:
                if self._closed and not self._waiting and not self._tickets:
                    return
                if not worked and not self._waiting:
                    self._changed.wait(0.5)

    def _ticket(self, order: Order[R], now: float) -> Ticket[R]:
        due = now + PATIENCE * order.plan.nfe * self.tick_s
        deadline = None if order.deadline_s is None else now + order.deadline_s
        return Ticket(order, next(self._numbers), now, min(due, deadline or due), deadline)

    def _make_room(self, ticket: Ticket[Any], load: int) -> None:
        """Refuse the newcomer, or in its place one of a client that holds more places than its own."""
        self.stats.refused += 1
        full = OverloadError(
            f"{load} samples are waiting or under way, and no more are taken on; try again later",
            self.tick_s * ticket.order.plan.nfe,
        )
        greedy = pushed_out(self._waiting, self._tickets.values(), ticket)
        if greedy is None:
            raise full
        self._waiting.remove(greedy)
        self._fail(greedy, full)

    def _refuse_if_late(self, ticket: Ticket[Any], now: float) -> None:
        if ticket.deadline is None:
            return
        ahead = self._rows_before(ticket.urgency) / self._sizes[-1]
        # With nothing under way the mean is old news, and refusing by it would keep it so: only what cannot be
        # done at the best is refused then.
        tick_s = self.tick_s if self._tickets or self._waiting else self._fastest_s
        expected = (ahead + ticket.order.plan.nfe) * tick_s
        if now + expected > ticket.deadline:
            self.stats.refused += 1
            raise OverloadError(
                f"the sample would take about {expected:.2f} s, which is beyond its deadline; "
                "allow more, or ask for a plan of fewer steps",
                ahead * self.tick_s,
            )

    def _rows_before(self, urgency: tuple[int, float, int] | None) -> int:
        """Rows still to run of the samples that are more urgent; of all of them for None."""
        rows = sum(t.order.plan.nfe for t in self._waiting if urgency is None or t.urgency < urgency)
        done = {
            item.key: item.row for batch in (self._active, *self._parked.values()) for item in batch.items
        }
        return rows + sum(
            ticket.order.plan.nfe - done.get(number, 0)
            for number, ticket in self._tickets.items()
            if urgency is None or ticket.urgency < urgency
        )

    def _drop(self, now: float) -> None:
        """Forget what was cancelled, and fail what has missed its deadline."""
        for ticket in [*self._waiting, *self._tickets.values()]:
            if ticket.deadline is not None and now > ticket.deadline:
                self._fail(
                    ticket, TooLateError("the sample missed its deadline; allow more time, or fewer steps")
                )
        self.stats.cancelled += sum(ticket.future.cancelled() for ticket in self._waiting)
        self._waiting = [ticket for ticket in self._waiting if not ticket.future.done()]
        gone = [number for number, ticket in self._tickets.items() if ticket.future.done()]
        for number in gone:
            self.stats.cancelled += self._tickets.pop(number).future.cancelled()
            self._parked.pop(number, None)
        if gone:
            self._active = self._active.keep(lambda item: item.key in self._tickets)

    def _admit(self, now: float) -> None:
        while self._waiting and len(self._tickets) < self._slots:
            ticket = admitted_next(self._waiting, self._tickets.values())
            self._waiting.remove(ticket)
            order, ticket.started = ticket.order, now
            x = order.plan.start(order.noise.to(self._empty.x))
            self._parked[ticket.number] = self._empty.admit(ticket.number, order.plan, x, order.generator)
            self._tickets[ticket.number] = ticket

    def _activate(self, chosen: list[Ticket[Any]]) -> None:
        """Make the chosen ones the active batch, in which the others are parked."""
        numbers = {ticket.number for ticket in chosen}
        if {item.key for item in self._active.items} == numbers:
            return
        for number in [item.key for item in self._active.items]:
            self._parked[number] = self._active.keep(lambda item, wanted=number: item.key == wanted)  # type: ignore[index, misc]
        self._active = join([self._parked.pop(ticket.number) for ticket in chosen])

    def _call(self, query: Query, tickets: list[Ticket[Any]]) -> tuple[Tensor, float]:
        """The noise of each item, by as few network calls as its sizes allow; guided items take two places."""
        guided = [i for i, ticket in enumerate(tickets) if ticket.order.guidance != 1.0]
        told = told_of([ticket.order for ticket in tickets], len(guided), self._no_label, query.x.device)
        x, sigma = query.x, query.sigma
        if guided:
            asked = torch.tensor([*range(len(tickets)), *guided], device=x.device)
            x, sigma = x[asked], sigma[asked]
        began = self._clock()
        eps = in_calls(self._network, self._sizes, x, sigma, *told)
        if guided:
            eps = guided_by(eps, guided, [ticket.order.guidance for ticket in tickets])
        if eps.is_cuda:
            torch.cuda.synchronize(eps.device)
        return eps, self._clock() - began

    def _watch(self, batch: PlanBatch, chosen: list[Ticket[Any]], query: Query, eps: Tensor) -> None:
        watched = {ticket.number: ticket for ticket in chosen if ticket.order.watch is not None}
        for i, item in enumerate(batch.items):
            ticket = watched.get(item.key)  # type: ignore[call-overload]
            if ticket is None or ticket.order.watch is None:
                continue
            try:
                ticket.order.watch(
                    Progress(item.row + 1, item.plan.nfe, query.x[i] - query.sigma[i] * eps[i])
                )
            except Exception:  # noqa: BLE001  nobody hears it any more; the others go on
                ticket.cancel()

    def _retire(self, finished: Mapping[Any, Tensor]) -> None:
        for number, x_0 in finished.items():
            ticket = self._tickets.pop(number, None)
            if ticket is not None and ticket.future.set_running_or_notify_cancel():
                ticket.sampled = self._clock()
                self._finishing += 1
                self._pool.submit(self._finish, ticket, x_0)

    def _abandon(self, batch: PlanBatch, error: Exception) -> None:
        with self._changed:
            for item in batch.items:
                ticket = self._tickets.pop(item.key, None)  # type: ignore[call-overload]
                if ticket is not None:
                    self._fail(ticket, error)
            self._active = self._empty

    def _fail(self, ticket: Ticket[Any], error: Exception) -> None:
        if not ticket.future.done() and ticket.future.set_running_or_notify_cancel():
            self.stats.failed += 1
            ticket.future.set_exception(error)

    def _count(self, rows: int, network_s: float, tick_s: float) -> None:
        self.stats.ticks += 1
        self.stats.rows += rows
        self.stats.network_s += network_s
        self.stats.tick_s += tick_s
        self.tick_s += SMOOTHING * (tick_s - self.tick_s)
        self._fastest_s = min(self._fastest_s, tick_s)

    # ---- the finishers
    # ------------------------------------------------------------------------------------------

    def _finish(self, ticket: Ticket[Any], x_0: Tensor) -> None:
        value, failure = None, None
        try:
            if not bool(torch.isfinite(x_0).all()):
                raise ServingError(
                    "the sample is not finite: the network or the plan is broken for this seed"
                )
            with torch.inference_mode():
                value = ticket.order.finish(x_0)
        except Exception as error:  # noqa: BLE001  it belongs to the one who asked
            failure = error
        end = self._clock()
        timing = Timing(
            ticket.started - ticket.submitted, ticket.sampled - ticket.started, end - ticket.sampled
        )
        with self._changed:  # its place is free before the one who asked hears of it, and may ask again
            self._finishing -= 1
            self.stats.finished += failure is None
            self.stats.failed += failure is not None
            self.finish_s += (
                SMOOTHING * (timing.finish_s - self.finish_s) if self.finish_s else timing.finish_s
            )
            self._changed.notify_all()
        if failure is None:
            ticket.future.set_result((value, timing))
        else:
            ticket.future.set_exception(failure)
