"""Many plans in one batch, each item at its own row: what a server needs to answer unlike requests with one
network call.

A batch is a value: each operation gives the next batch and leaves the old one as it was.

    batch = PlanBatch.empty((64, 8, 8, 8)).admit("a", plan_a, x_a).admit("b", plan_b, x_b, generator)
    while batch.items:
        query = batch.query()
        batch, finished = batch.advance(query, predict_noise(query.x, query.sigma))     # finished: {key: x_0}
"""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from raydiance.diffusion.arithmetic import point_of
from raydiance.diffusion.plan import Form, Row, SamplingPlan, from_json
from raydiance.diffusion.randomness import draw_noise
from raydiance.errors import ConfigError

__all__ = ["Item", "PlanBatch", "Query"]

FORMAT = "raydiance.plan_batch"
FORMAT_VERSION = 1


class Item(NamedTuple):
    """One sample under way: its plan, the rows done, and its own generator."""

    key: Hashable
    plan: SamplingPlan
    row: int
    generator: Generator | None

    @property
    def next_row(self) -> Row:
        return self.plan.rows[self.row]


class Query(NamedTuple):
    """What the network is to be asked now: x [n, ...] at sigma [n] (float32), item by item."""

    x: Tensor
    sigma: Tensor
    noise: Tensor | None


@dataclass(frozen=True, eq=False)
class PlanBatch:
    """Samples under way, x [n, ...]; the history holds one tensor [n, ...] per remembered call, newest
    first.
    """

    items: tuple[Item, ...]
    x: Tensor
    history: tuple[Tensor, ...] = ()

    @classmethod
    def empty(
        cls, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "PlanBatch":
        """A batch without items; shape is that of one item."""
        return cls((), torch.empty((0, *shape), dtype=dtype, device=device))

    def admit(
        self, key: Hashable, plan: SamplingPlan, x: Tensor, generator: Generator | None = None
    ) -> "PlanBatch":
        """The batch with one more item, x [...] being its noise at plan.sigma_max (plan.start)."""
        if any(item.key == key for item in self.items):
            raise ConfigError(f"plan batch: an item {key!r} is already under way")
        if x.shape != self.x.shape[1:]:
            raise ConfigError(
                f"plan batch: item {key!r} is {list(x.shape)}, the batch holds {list(self.x.shape[1:])}"
            )
        if generator is None and plan.is_stochastic:
            raise ConfigError(
                f"plan batch: item {key!r}: plan {plan.name} draws fresh noise, pass a torch.Generator"
            )
        row = x[None].to(self.x)
        blank = torch.zeros_like(row)
        return PlanBatch(
            (*self.items, Item(key, plan, 0, generator)),
            torch.cat([self.x, row]),
            tuple(torch.cat([past, blank]) for past in self.history),
        )

    def query(self) -> Query:
        """Where to ask the network for every item; draws the fresh noise of stochastic rows."""
        if not self.items:
            raise ConfigError("plan batch: nothing to ask, no item is under way")
        rows = [item.next_row for item in self.items]
        noise = self._noise(rows)
        sigma = torch.tensor([row.sigma for row in rows], dtype=torch.float32).to(
            self.x.device, non_blocking=True
        )
        return Query(_points([row.query for row in rows], self.x, self.history, noise), sigma, noise)

    def advance(self, query: Query, eps: Tensor) -> tuple["PlanBatch", dict[Hashable, Tensor]]:
        """One row further for every item, given the predictions [n, ...]; and the results of those that are
        through.
        """
        rows = [item.next_row for item in self.items]
        memory = max(item.plan.memory for item in self.items)
        history = (_kept(rows, query.x, eps), *self.history[: memory - 1])
        stay = Form()
        x = _points([row.commit or stay for row in rows], self.x, history, query.noise)
        items = tuple(item._replace(row=item.row + 1) for item in self.items)
        finished = {item.key: x[i] for i, item in enumerate(items) if item.row == item.plan.nfe}
        batch = PlanBatch(items, x, history)
        return (batch.keep(lambda item: item.key not in finished) if finished else batch), finished

    def keep(self, wanted: Callable[[Item], bool]) -> "PlanBatch":
        """The batch with only the items wanted."""
        index = [i for i, item in enumerate(self.items) if wanted(item)]
        at = torch.tensor(index, dtype=torch.long, device=self.x.device)
        return PlanBatch(
            tuple(self.items[i] for i in index),
            self.x.index_select(0, at),
            tuple(past.index_select(0, at) for past in self.history) if index else (),
        )

    def save(self) -> tuple[str, dict[str, Tensor]]:
        """The batch as JSON and tensors (for a safetensors file), generators included; keys must be strings."""
        items, tensors = list[dict[str, object]](), {"x": self.x}
        tensors |= {f"history.{j}": past for j, past in enumerate(self.history)}
        for i, item in enumerate(self.items):
            if not isinstance(item.key, str):
                raise ConfigError(f"plan batch: only string keys can be saved, got {item.key!r}")
            device = None if item.generator is None else str(item.generator.device)
            if item.generator is not None:
                tensors[f"generator.{i}"] = item.generator.get_state()
            items.append({"key": item.key, "plan": item.plan.to_json(), "row": item.row, "generator": device})
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, "items": items}), tensors

    @classmethod
    def load(cls, text: str, tensors: Mapping[str, Tensor]) -> "PlanBatch":
        """The batch written by `save`: it goes on as if it had never stopped."""
        plain = json.loads(text)
        if not isinstance(plain, dict) or (plain.get("format"), plain.get("version")) != (
            FORMAT,
            FORMAT_VERSION,
        ):
            raise ConfigError(f"plan batch file: need format {FORMAT!r}, version {FORMAT_VERSION}")
        items = []
        for i, entry in enumerate(plain["items"]):
            generator = None if entry["generator"] is None else Generator(device=entry["generator"])
            if generator is not None:
                generator.set_state(tensors[f"generator.{i}"])
            items.append(Item(entry["key"], from_json(entry["plan"]), entry["row"], generator))
        depth = sum(name.startswith("history.") for name in tensors)
        return cls(tuple(items), tensors["x"], tuple(tensors[f"history.{j}"] for j in range(depth)))

    def _noise(self, rows: Sequence[Row]) -> Tensor | None:
        if not any(row.draws_noise for row in rows):
            return None
        blank = torch.zeros_like(self.x[:1])
        drawn = [
            draw_noise([item.generator], blank) if row.draws_noise and item.generator else blank
            for item, row in zip(self.items, rows)
        ]
        return torch.cat(drawn)


def _points(forms: Sequence[Form], x: Tensor, history: tuple[Tensor, ...], noise: Tensor | None) -> Tensor:
    """Each item's a x + sum_j b_j h_j + c z, by the operations of `sampling.sample`: the same bits as alone."""
    if all(form == forms[0] for form in forms):
        return point_of(forms[0], x, history, noise)
    items = [slice(i, i + 1) for i in range(len(forms))]
    return torch.cat(
        [
            point_of(form, x[i], tuple(h[i] for h in history), None if noise is None else noise[i])
            for form, i in zip(forms, items)
        ]
    )


def _kept(rows: Sequence[Row], q: Tensor, e: Tensor) -> Tensor:
    """Each item's u q + v e."""
    if all(row.keep == (0.0, 1.0) for row in rows):
        return e.to(q.dtype)
    u, v = _columns([[row.keep[i] for row in rows] for i in range(2)], q)
    return torch.addcmul(u * q, v, e.to(q.dtype))


def _columns(table: list[list[float]], like: Tensor) -> Tensor:
    """Coefficients [k, n] as [k, n, 1, ...] on the device of `like`: one transfer, no waiting."""
    shape = (len(table), len(table[0]), *(1 for _ in like.shape[1:]))
    return torch.tensor(table, dtype=like.dtype).view(shape).to(like.device, non_blocking=True)
