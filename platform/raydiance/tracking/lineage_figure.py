"""Lineage as a figure: the data on the left, what was made from them to the right, each artifact once."""

import re
from typing import TYPE_CHECKING

from raydiance.tracking.lineage import Node, walk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_lineage"]

COLUMN, ROW = 2.3, 1.0  # inches
WIDTH, HEIGHT = 1.8, 0.7  # of a box
DIGEST = re.compile("-[0-9a-f]{12}$")  # of the settings, in a run's name


def draw_lineage(node: Node, title: str = "") -> "Figure":
    """Boxes with kind, key, date and digest, and an arrow from each artifact to what was made from it."""
    from matplotlib.figure import Figure

    nodes = {found.ref: found for found in walk(node)}
    columns: dict[int, list[Node]] = {}
    for found in nodes.values():
        columns.setdefault(_depth(found), []).append(found)
    most = max(map(len, columns.values()))
    place = {
        found.ref: (COLUMN * depth, ROW * (row + (most - len(column)) / 2))
        for depth, column in columns.items()
        for row, found in enumerate(sorted(column, key=lambda each: each.ref.key))
    }
    reach = 0.2 * len(columns)  # how far arrows rise that pass over others
    size = COLUMN * len(columns), ROW * most + reach
    figure = Figure(figsize=(size[0], size[1] + 0.4), layout="constrained")
    axes = figure.subplots()
    for ref, found in nodes.items():
        colour = "mistyrose" if found.manifest is None else "aliceblue"
        box = {"boxstyle": "round,pad=0.5", "fc": colour, "ec": "steelblue"}
        axes.text(*place[ref], _label(found), ha="center", va="center", size=7, bbox=box, zorder=2)
        for parent in found.parents:
            _arrow(axes, place[parent.ref], place[ref])
    axes.set(xlim=(-COLUMN / 2, size[0] - COLUMN / 2), ylim=(-ROW / 2, size[1] - ROW / 2))
    axes.set_title(title, size=9)
    axes.axis("off")
    return figure


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    """From box to box; over those that stand between."""
    columns = round((end[0] - start[0]) / COLUMN)
    line = {"arrowstyle": "-|>", "color": "grey"}
    if columns == 1:
        ends = (start[0] + WIDTH / 2, start[1]), (end[0] - WIDTH / 2, end[1])
    else:
        ends = (start[0], start[1] + HEIGHT / 2), (end[0], end[1] + HEIGHT / 2)
        line["connectionstyle"] = f"arc3,rad={-0.4 / COLUMN}"
    axes.annotate("", ends[1], ends[0], arrowprops=line, zorder=1)


def _depth(node: Node) -> int:
    """How many steps lie between it and the data, at most."""
    return max((_depth(parent) + 1 for parent in node.parents), default=0)


def _label(node: Node) -> str:
    kind, _, name = node.ref.key.rpartition("/")
    stem, _, token = name.rpartition("-")
    said = node.manifest.created[:16].replace("T", " ") if node.manifest else "missing"
    return f"{kind}\n{DIGEST.sub('', stem)[:26]}\n{token}  {node.ref.sha256[:8]}\n{said}"
