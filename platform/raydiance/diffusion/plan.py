"""A sampler as a table: one row per network call.

Legend: x is the base point, e a noise prediction, z fresh noise of unit variance, h_0, h_1 .. what the
sampler remembers of its past calls, newest first. Row k reads

    q   = a x + sum_j b_j h_j + c z     the query point
    e   = predict_noise(q, sigma)
    h   = (u q + v e, h_0, h_1 ..)      what is kept: (u, v) = (0, 1) keeps e, (1, -sigma) the prediction of
    x_0 x   = A x + sum_j B_j h_j + C z     if the row commits; z is that of the query, h_0 is of this call

Coefficients are Python floats (float64), so a plan compares, prints and becomes JSON without loss.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from torch import Tensor

from raydiance.errors import ConfigError

__all__ = ["Form", "Row", "SamplingPlan", "from_json"]

FORMAT = "raydiance.sampling_plan"
FORMAT_VERSION = 1
MOST_SHARE = 8.0  # beyond the end of a way by more than this, rounding errors grow


def _shares(x: float, history: tuple[float, ...]) -> tuple[float, ...]:
    """See Form; none if it is no mean, x alone, or one that would be lost in rounding on the way."""
    if not history or x == 1 or abs(x + sum(history) - 1) > 1e-12:
        return ()
    totals = list(accumulate((*history, x)))[1:]
    weights = (*history[1:], x)
    if any(abs(weight) > MOST_SHARE * abs(total) for weight, total in zip(weights, totals)):
        return ()
    return tuple(weight / total for weight, total in zip(weights, totals))


@dataclass(frozen=True, slots=True)
class Form:
    """The point x * x + sum_j history[j] * h_j + noise * z.

    shares: if the weights of x and h sum to one, the way to their mean: how far to go from h_0 to h_1, from there
    to h_2 .. and last to x. That is an operation less than a sum has.
    """

    x: float = 1.0
    history: tuple[float, ...] = ()
    noise: float = 0.0
    shares: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", _shares(self.x, self.history))


@dataclass(frozen=True, slots=True)
class Row:
    """One network call: where it is asked, what is remembered, and, if it commits, the base point that
    follows.
    """

    sigma: float
    query: Form = Form()
    keep: tuple[float, float] = (0.0, 1.0)
    commit: Form | None = None

    @property
    def draws_noise(self) -> bool:
        return self.query.noise != 0 or (self.commit is not None and self.commit.noise != 0)


@dataclass(frozen=True)
class SamplingPlan:
    """A sampler for one number of network calls.

    sigma_max: noise level of the x it starts from; sigma_min: noise level of what it returns (0 is clean
    data). order: how the error falls with the number of steps, n^-order, once the steps are small. memory: how
    many past calls it remembers at most.
    Raises ConfigError if a row reads what has not been predicted yet, or the last row does not commit.
    """

    name: str
    order: int
    sigma_max: float
    rows: tuple[Row, ...]
    sigma_min: float = 0.0
    memory: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        forms = [form for row in self.rows for form in (row.query, row.commit) if form is not None]
        object.__setattr__(self, "memory", max([1, *(len(form.history) for form in forms)]))
        if not self.name or self.order < 1:
            raise ConfigError(f"plan {self.name!r}: need a name and order >= 1, got order {self.order}")
        if not (0 <= self.sigma_min < self.sigma_max < math.inf):
            raise ConfigError(
                f"plan {self.name}: need 0 <= sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}"
            )
        if not self.rows or self.rows[-1].commit is None:
            raise ConfigError(f"plan {self.name}: need at least one row, and the last row must commit")
        for k, row in enumerate(self.rows):
            _check_row(f"plan {self.name}, row {k}", k, row)

    @property
    def nfe(self) -> int:
        """Network calls (number of function evaluations)."""
        return len(self.rows)

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws fresh noise on its way."""
        return any(row.draws_noise for row in self.rows)

    def start(self, noise: Tensor) -> Tensor:
        """The x that the plan starts from, made of unit-variance noise of any shape."""
        return noise * self.sigma_max

    def to_json(self) -> str:
        """One line per row; from_json gives an equal plan back."""
        head = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "name": self.name,
            "order": self.order,
            "sigma_max": self.sigma_max,
            "sigma_min": self.sigma_min,
        }
        rows = ",\n  ".join(json.dumps(_row_to_plain(row), allow_nan=False) for row in self.rows)
        return json.dumps(head, allow_nan=False)[:-1] + f', "rows": [\n  {rows}\n]}}\n'

    def __str__(self) -> str:
        kind = "stochastic" if self.is_stochastic else "deterministic"
        span = f"sigma {self.sigma_max:.6g} -> {self.sigma_min:.6g}"
        title = f"{self.name}: {self.nfe} calls, order {self.order}, {span}, {kind}"
        cells = [("row", "sigma", "query", "remember", "commit")]
        for k, row in enumerate(self.rows):
            commit = "" if row.commit is None else _form_text(row.commit)
            cells.append((str(k), f"{row.sigma:.6g}", _form_text(row.query), _keep_text(row), commit))
        widths = [max(len(line[i]) for line in cells) for i in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
        return "\n".join([title, *lines])


def from_json(text: str) -> SamplingPlan:
    """The plan written by `to_json`. Raises ConfigError on anything unknown, missing or of the wrong type."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"plan file: not JSON: {error}") from error
    fields = {"format", "version", "name", "order", "sigma_max", "sigma_min", "rows"}
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ConfigError(f"plan file: need an object with format {FORMAT!r}")
    if plain.get("version") != FORMAT_VERSION:
        raise ConfigError(
            f"plan file: version {plain.get('version')!r} is unknown; this release reads {FORMAT_VERSION}"
        )
    _check_keys("plan file", plain, fields)
    if not isinstance(plain["name"], str) or not isinstance(plain["rows"], list):
        raise ConfigError("plan file: name must be a string and rows a list")
    return SamplingPlan(
        name=plain["name"],
        order=_integer("plan file: order", plain["order"]),
        sigma_max=_number("plan file: sigma_max", plain["sigma_max"]),
        sigma_min=_number("plan file: sigma_min", plain["sigma_min"]),
        rows=tuple(_row_from_plain(f"plan file: rows[{k}]", row) for k, row in enumerate(plain["rows"])),
    )


def _check_row(place: str, k: int, row: Row) -> None:
    if not (0 < row.sigma < math.inf):
        raise ConfigError(f"{place}: need sigma > 0, got {row.sigma}")
    forms = [("query", row.query, k)] + ([("commit", row.commit, k + 1)] if row.commit else [])
    for label, form, available in forms:
        if len(form.history) > available:
            raise ConfigError(
                f"{place}: {label} reads {len(form.history)} past calls, but only {available} were made"
            )
        if not all(map(math.isfinite, (form.x, *form.history, form.noise, *row.keep))):
            raise ConfigError(f"{place}: {label} has a coefficient that is not finite")


def _form_to_plain(form: Form) -> dict[str, object]:
    return {"x": form.x, "history": list(form.history), "noise": form.noise}


def _row_to_plain(row: Row) -> dict[str, object]:
    commit = None if row.commit is None else _form_to_plain(row.commit)
    return {"sigma": row.sigma, "query": _form_to_plain(row.query), "keep": list(row.keep), "commit": commit}


def _form_from_plain(place: str, plain: Any) -> Form:
    _check_keys(place, plain, {"x", "history", "noise"})
    if not isinstance(plain["history"], list):
        raise ConfigError(f"{place}.history: need a list of numbers, got {plain['history']!r}")
    history = tuple(_number(f"{place}.history[{j}]", value) for j, value in enumerate(plain["history"]))
    return Form(_number(f"{place}.x", plain["x"]), history, _number(f"{place}.noise", plain["noise"]))


def _row_from_plain(place: str, plain: Any) -> Row:
    _check_keys(place, plain, {"sigma", "query", "keep", "commit"})
    keep = plain["keep"]
    if not isinstance(keep, list) or len(keep) != 2:
        raise ConfigError(f"{place}.keep: need two numbers, got {keep!r}")
    return Row(
        sigma=_number(f"{place}.sigma", plain["sigma"]),
        query=_form_from_plain(f"{place}.query", plain["query"]),
        keep=(_number(f"{place}.keep[0]", keep[0]), _number(f"{place}.keep[1]", keep[1])),
        commit=None if plain["commit"] is None else _form_from_plain(f"{place}.commit", plain["commit"]),
    )


def _check_keys(place: str, plain: Any, expected: set[str]) -> None:
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{place}: need an object with keys {sorted(expected)}, got {plain!r}")
    if set(plain) != expected:
        unknown, missing = sorted(set(plain) - expected), sorted(expected - set(plain))
        raise ConfigError(f"{place}: unknown keys {unknown}, missing keys {missing}")


def _number(place: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{place}: need a finite number, got {value!r}")
    return float(value)


def _integer(place: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{place}: need a whole number, got {value!r}")
    return value


def _form_text(form: Form) -> str:
    terms = [(form.x, "x"), *((value, f"h{j}") for j, value in enumerate(form.history)), (form.noise, "z")]
    return _sum_text([(value, name) for value, name in terms if value != 0])


def _keep_text(row: Row) -> str:
    if row.keep == (0.0, 1.0):
        return "e"
    return "x_0" if row.keep == (1.0, -row.sigma) else _sum_text([(row.keep[0], "q"), (row.keep[1], "e")])


def _sum_text(terms: list[tuple[float, str]]) -> str:
    text = " ".join(
        f"{'-' if value < 0 else '+'} {'' if abs(value) == 1 else f'{abs(value):.5g} '}{name}"
        for value, name in terms
    )
    return text.removeprefix("+ ") or "0"
