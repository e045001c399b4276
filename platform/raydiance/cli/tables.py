"""Tables on the terminal, and times as people say them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["age", "print_table", "seconds"]


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows below their headings; nothing is cut off where the output is no terminal."""
    table = Table(box=None, pad_edge=False, show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    console = Console(width=400)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def age(moment: datetime | None) -> str:
    """How long ago, in the one unit that fits."""
    return "" if moment is None else f"{seconds((datetime.now(UTC) - moment).total_seconds())} ago"


def seconds(value: float | None) -> str:
    """A length of time: 4.2 s, 12 min, 3.5 h, 8 d."""
    if value is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s"
