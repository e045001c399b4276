"""The tables of samplers as Markdown, as heat maps and as curves.

A row is {"schedule", "method", "eta", "steps", "nfe", "frechet", "spread", "call_ms", "step_ms", ...}.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_heat_maps", "write_tables"]

Row = Mapping[str, Any]


def write_tables(rows: Sequence[Row], missing: Sequence[Row], floor: float, num_samples: int) -> str:
    """All tables as Markdown: a Frechet distance with its spread, network calls, and time per step."""
    lines = [
        f"Frechet distance of the pixels of {num_samples} samples to the data, +- its bootstrap standard error.",
        f"As many images drawn from the data itself: {floor:.3f}.",
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
        lines += ["", f"Missing, {len(missing)}: {', '.join(names)}."]
    return "\n".join(lines) + "\n"


def draw_heat_maps(rows: Sequence[Row]) -> Figure:
    """Frechet distances by eta and steps, and by method and steps; a row of maps for each schedule."""
    schedules = _names(rows, "schedule")
    figure = Figure(figsize=(13.0, 4.6 * len(schedules)), layout="constrained")
    grid = figure.subplots(len(schedules), 2, squeeze=False, width_ratios=(5, 7))
    for panels, schedule in zip(grid, schedules):
        own = [row for row in rows if row["schedule"] == schedule]
        for axes, (title, label, some) in zip(panels, _parts(own)):
            _heat_map(axes, some, label)
            axes.set_title(f"{title}, {schedule}: Frechet distance", fontsize=9, loc="left")
    return figure


def draw_curves(rows: Sequence[Row], floor: float) -> Figure:
    """Frechet distance against network calls, with bootstrap spreads; a panel for each schedule."""
    schedules = _names(rows, "schedule")
    figure = Figure(figsize=(6.2 * len(schedules), 4.6), layout="constrained")
    for axes, schedule in zip(np.atleast_1d(figure.subplots(1, len(schedules), sharey=True)), schedules):
        own = [row for row in rows if row["schedule"] == schedule and not row["eta"] and row["frechet"]]
        for name in _names(own, "method"):
            line = sorted((row for row in own if row["method"] == name), key=lambda row: row["nfe"])
            style = "*" if len(line) == 1 else "o-"
            axes.errorbar(
                [row["nfe"] for row in line],
                [row["frechet"] for row in line],
                [row["spread"] for row in line],
                fmt=style,
                ms=8 if style == "*" else 3,
                lw=1,
                capsize=2,
                label=name,
            )
        axes.axhline(floor, color="grey", lw=1, ls="--", label="the data itself")
        axes.set(xscale="log", yscale="log", xlabel="network calls", title=schedule)
        axes.legend(frameon=False, fontsize=7, ncols=2)
    figure.supylabel("Frechet distance of pixels", fontsize=9)
    return figure


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


def _heat_map(axes: Axes, rows: Sequence[Row], label: Callable[[Row], str]) -> None:
    names = list(dict.fromkeys(map(label, rows)))
    steps = sorted({row["steps"] for row in rows if row["steps"]})
    values = np.full((len(names), len(steps)), np.nan)
    for row in rows:
        for column in [steps.index(row["steps"])] if row["steps"] else range(len(steps)):
            if row["frechet"] is not None:
                values[names.index(label(row)), column] = row["frechet"]
    axes.imshow(np.log10(values), cmap="viridis_r", aspect="auto")
    middle = np.nanmedian(np.log10(values))
    for (i, j), value in np.ndenumerate(values):
        text = "" if np.isnan(value) else f"{value:.2f}" if value < 100 else f"{value:.0f}"
        axes.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=7,
            color="white" if np.log10(value) > middle else "black",
        )
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
