"""Who is next: clients share the network by rows and the places by number; within a client, the most urgent first.

A client that asks for more than its share waits behind those that ask for less, and takes nothing from what
nobody else wants.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from raydiance.serving.orders import Ticket

__all__ = ["Shares", "admitted_next", "pushed_out"]


class Shares:
    """The rows that each client present has had, counted from those who were there when it came."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def choose(self, tickets: Collection[Ticket[Any]], count: int) -> list[Ticket[Any]]:
        """Up to `count` tickets to advance by a row now: higher priority first, then who has had least."""
        present = {ticket.order.client for ticket in tickets}
        least = min((self._rows[client] for client in present if client in self._rows), default=0)
        self._rows = {client: self._rows.get(client, least) for client in present}
        left, chosen = sorted(tickets, key=lambda ticket: ticket.urgency), list[Ticket[Any]]()
        while left and len(chosen) < count:
            ticket = min(left, key=lambda each: (-each.order.priority, self._rows[each.order.client]))
            self._rows[ticket.order.client] += 1
            left.remove(ticket)
            chosen.append(ticket)
        return chosen


def admitted_next(waiting: Collection[Ticket[Any]], running: Iterable[Ticket[Any]]) -> Ticket[Any]:
    """The waiting ticket that gets the next free place: its client holds the fewest."""
    held = Counter(ticket.order.client for ticket in running)
    return min(waiting, key=lambda each: (-each.order.priority, held[each.order.client], each.urgency))


def pushed_out(
    waiting: Collection[Ticket[Any]], running: Collection[Ticket[Any]], newcomer: Ticket[Any]
) -> Ticket[Any] | None:
    """Where all places are taken: the ticket that makes room for a newcomer, the least urgent that waits of
    the client with most. None if it would have no more than the newcomer's client then, or is of higher
    priority.
    """
    held = Counter(ticket.order.client for ticket in (*waiting, *running))
    limit = held[newcomer.order.client] + 1
    greedy = [each for each in waiting if held[each.order.client] > limit]
    lower = [each for each in greedy if each.order.priority <= newcomer.order.priority]
    return max(lower, key=lambda each: (held[each.order.client], each.urgency), default=None)
