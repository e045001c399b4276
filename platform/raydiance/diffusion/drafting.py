"""How constructors write plans: the algorithm as the paper has it, in symbols that stand for points.

X is the current base point, Z the fresh noise of the row, and `Draft.call` gives the symbol of what that call
is remembered by. Symbols add and scale; `Draft` notes the coefficients.
"""

from dataclasses import dataclass, field

from raydiance.diffusion.grids import Grid
from raydiance.diffusion.plan import Form, Row, SamplingPlan

__all__ = ["Draft", "Symbol", "X", "Z", "finish"]


@dataclass(frozen=True)
class Symbol:
    """A linear form in the base point, the calls made so far (by number) and fresh noise."""

    x: float = 0.0
    noise: float = 0.0
    calls: dict[int, float] = field(default_factory=dict)

    def __add__(self, other: "Symbol") -> "Symbol":
        calls = dict(self.calls)
        for call, value in other.calls.items():
            calls[call] = calls.get(call, 0.0) + value
        return Symbol(self.x + other.x, self.noise + other.noise, calls)

    def __mul__(self, factor: float) -> "Symbol":
        return Symbol(
            self.x * factor, self.noise * factor, {call: value * factor for call, value in self.calls.items()}
        )

    __rmul__ = __mul__

    def __sub__(self, other: "Symbol") -> "Symbol":
        return self + -1.0 * other

    def __truediv__(self, divisor: float) -> "Symbol":
        return self * (1 / divisor)


X = Symbol(x=1.0)
Z = Symbol(noise=1.0)


class Draft:
    """A plan in the writing: calls and commits in their order."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def call(self, sigma: float, query: Symbol = X, *, keep: tuple[float, float] = (0.0, 1.0)) -> Symbol:
        """Ask the network at `query` and noise level sigma; the symbol of what the history keeps of it."""
        self._rows.append(Row(sigma=float(sigma), query=self._form(query), keep=keep))
        return Symbol(calls={len(self._rows) - 1: 1.0})

    def call_x_0(self, sigma: float, query: Symbol = X) -> Symbol:
        """Like `call`, but the history keeps the prediction of clean data, x_0 = q - sigma e."""
        return self.call(sigma, query, keep=(1.0, -float(sigma)))

    def commit(self, base: Symbol) -> None:
        """Make `base` the base point, after the latest call."""
        row = self._rows[-1]
        assert row.commit is None, "a row commits once"
        self._rows[-1] = Row(row.sigma, row.query, row.keep, self._form(base))

    def plan(self, name: str, *, order: int, sigma_max: float, sigma_min: float = 0.0) -> SamplingPlan:
        """The finished table."""
        return SamplingPlan(name, order, float(sigma_max), tuple(self._rows), float(sigma_min))

    def _form(self, symbol: Symbol) -> Form:
        newest = len(self._rows) - 1
        used = {newest - call: value for call, value in symbol.calls.items() if value != 0}
        history = tuple(used.get(age, 0.0) for age in range(max(used, default=-1) + 1))
        return Form(symbol.x, history, symbol.noise)


def finish(draft: Draft, solver: str, grid: Grid, order: int) -> SamplingPlan:
    """The plan of a sampler that walks down a grid, named "solver/grid-steps"."""
    name = f"{solver}/{grid.name}-{grid.num_steps}"
    return draft.plan(name, order=order, sigma_max=grid.sigmas[0], sigma_min=grid.sigmas[-1])
