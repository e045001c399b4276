"""The tables of samplers as Markdown, as heat maps and as curves.

A row is {"schedule", "method", "eta", "steps", "nfe", "frechet", "spread", "call_ms", "step_ms", ...}.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

__all__ = ["draw_curves", "draw_heat_maps", "write_tables"]

Row = Mapping[str, Any]
COLOURS = "viridis_r"
MOST = 100.0  # times the best distance; what is beyond has fallen apart, and would hide the rest


def write_tables(rows: Sequence[Row], missing: Sequence[Row], floor: float, num_samples: int) -> str:
    """All tables as Markdown: a Frechet distance with its spread, network calls, and time per step."""
    lines = [
        f"Frechet distance of the pixels of {num_samples} samples to the data, +- its bootstrap standard error.",
        "Network calls in brackets where they are not S; ms/step is the median time per step and sample on one",
        f"core. As many images drawn from the data itself: {floor:.3f}.",
    ]
    for schedule in _names(rows, "schedule"):
        own = [row for row in rows if row["schedule"] == schedule]
        for title, label, some in _parts(own):
            steps = sorted({row["steps"] for row in some if row["steps"]})
            lines += ["", f"### {title}, {schedule}", "", _line(["", *map(str, steps), "ms/step"])]
            lines.append(_line(["---"] * (len(steps) + 2)))
            for name in dict.fromkeys(map(label, some)):
                cells = {row["steps"]: row for row in some if label(row) == name}
                time = np.median([row["step_ms"] for row in cells.values()])
                texts = [_cell(cells.get(count) or cells.get(0)) for count in steps]
                lines.append(_line([name, *texts, f"{time:.3f}"]))
    if missing:
        names = [
            f"{row['schedule']} {_eta(row) if row['eta'] else row['method']} {row['steps']}"
            for row in missing
        ]
        lines += ["", *wrap(f"Missing, {len(missing)}: {', '.join(names)}.", 118)]
    return "\n".join(lines) + "\n"


def draw_heat_maps(rows: Sequence[Row]) -> Figure:
    """Frechet distances by eta and steps, and by method and steps; a row of maps for each schedule, one scale."""
    schedules = _names(rows, "schedule")
    low, high, beyond = _range(rows)
    scale = LogNorm(low, high, clip=True)
    figure = Figure(figsize=(14.0, 4.8 * len(schedules)), layout="constrained")
    grid = figure.subplots(len(schedules), 2, squeeze=False, width_ratios=(5, 8))
    for panels, schedule in zip(grid, schedules):
        own = [row for row in rows if row["schedule"] == schedule]
        for axes, (title, label, some) in zip(panels, _parts(own)):
            _heat_map(axes, some, label, scale)
            axes.set_title(f"{title}, {schedule}", fontsize=10, loc="left")
    extend = "max" if beyond else "neither"
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), ax=grid, shrink=0.5, pad=0.01, extend=extend)
    bar.set_label("Frechet distance of pixels")
    return figure


def draw_curves(rows: Sequence[Row], floor: float) -> Figure:
    """Frechet distance against network calls, with bootstrap spreads; a panel for each schedule.

    A method has its colour in all panels; learned plans are stars, the adaptive reference a diamond, and what has
    fallen apart a triangle at the edge.
    """
    schedules = _names(rows, "schedule")
    shown = [row for row in rows if not row["eta"] and row["frechet"]]
    names = _names(shown, "method")
    _, high, beyond = _range(shown)
    lines = [name for name in names if len({row["nfe"] for row in shown if row["method"] == name}) > 1]
    figure = Figure(figsize=(6.4 * len(schedules), 5.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(schedules), sharex=True, sharey=True))
    handles: dict[str, Any] = {}
    for axes, schedule in zip(panels, schedules):
        for name in names:
            line = [row for row in shown if row["schedule"] == schedule and row["method"] == name]
            line.sort(key=lambda row: row["nfe"])
            index = lines.index(name) if name in lines else -1
            style = "o-" if index >= 0 else "*" if name.startswith("tune") else "D"
            if line:
                handles[name] = axes.errorbar(
                    [row["nfe"] for row in line],
                    [min(row["frechet"], high) for row in line],
                    [row["spread"] if row["frechet"] < high else 0.0 for row in line],
                    fmt=style,
                    color=colormaps["tab20"]((2 * index + index // 10) % 20) if index >= 0 else "black",
                    ms={"o-": 3.5, "*": 10, "D": 5}[style],
                    lw=1.2,
                    capsize=2,
                    zorder=2 if index >= 0 else 3,
                )
                off = [row["nfe"] for row in line if row["frechet"] > high]
                colour = handles[name][0].get_color()
                axes.plot(off, [high] * len(off), "^", color=colour, ms=7, zorder=4)
        data = axes.axhline(floor, color="grey", lw=1, ls="--")
        axes.set(xscale="log", yscale="log", xlabel="network calls", title=schedule)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        if beyond:
            axes.set_ylim(top=1.3 * high)
        axes.grid(which="both", color="0.92", lw=0.6)
        axes.set_axisbelow(True)
    figure.legend(
        [*handles.values(), data],
        [*handles, "as many of the data"],
        loc="outside lower center",
        ncols=7,
        frameon=False,
        fontsize=8,
    )
    figure.supylabel("Frechet distance of pixels", fontsize=10)
    return figure


def _range(rows: Sequence[Row]) -> tuple[float, float, bool]:
    """The least distance, the largest one to be shown, and whether there are others beyond."""
    values = [row["frechet"] for row in rows if row["frechet"]]
    low, high = min(values), max(values)
    return low, min(high, MOST * low), high > MOST * low


def _parts(rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str], list[Row]]]:
    """The two tables of a schedule: title, how a row is named, and the cells."""
    etas = sorted({row["eta"] for row in rows if row["eta"]})
    noisy = [row for row in rows if row["eta"] or row["method"] == "sigma-hat"]
    steps = {row["steps"] for row in noisy}
    by_eta = [row for row in rows if row["eta"] == 0 and row["steps"] in steps] + noisy
    by_eta.sort(key=lambda row: math.inf if row["eta"] is None else row["eta"])
    by_method = [row for row in rows if not row["eta"] and row["method"] != "sigma-hat"]
    by_method.sort(key=lambda row: row["method"].startswith("tune"))
    parts: list[tuple[str, Callable[[Row], str], list[Row]]] = []
    if etas:
        parts.append(("eta x S", _eta, by_eta))
    parts.append(("method x S", lambda row: str(row["method"]), by_method))
    return parts


def _heat_map(axes: Axes, rows: Sequence[Row], label: Callable[[Row], str], scale: LogNorm) -> None:
    names = list(dict.fromkeys(map(label, rows)))
    steps = sorted({row["steps"] for row in rows if row["steps"]})
    values = np.full((len(names), len(steps)), np.nan)
    for row in rows:
        for column in [steps.index(row["steps"])] if row["steps"] else range(len(steps)):
            if row["frechet"] is not None:
                values[names.index(label(row)), column] = row["frechet"]
    axes.imshow(values, norm=scale, cmap=COLOURS, aspect="auto")
    axes.set_facecolor("0.95")
    for (i, j), value in np.ndenumerate(values):
        dark = not np.isnan(value) and scale(value) > 0.5
        text = "" if np.isnan(value) else f"{value:.3f}" if value < 1 else f"{value:.3g}"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(steps)), [str(count) for count in steps])
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("steps")


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["frechet"] is None:
        return "diverged"
    calls = "" if row["nfe"] == row["steps"] else f" ({row['nfe']:.0f})"
    return f"{row['frechet']:.3g} +- {row['spread']:.1g}{calls}"


def _eta(row: Row) -> str:
    return str(row["method"]) if row["eta"] is None else f"eta {row['eta']:g}"


def _names(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
