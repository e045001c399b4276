"""Figures of an evaluation, drawn on nothing but a palette, so that each exists for light and for dark
pages.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from raydiance.metrics import frechet_name

__all__ = ["curves", "distances", "latents", "plan_front", "svg_pair"]

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Palette:
    """Colours of a page: what is drawn on it, text and rules, and the two colours of data."""

    paper: str
    ink: str
    faint: str
    first: str
    second: str


# No colour is a part of another one's name: one is turned into the other by replacing text.
LIGHT = Palette(paper="#ffffff", ink="#3a3a38", faint="#d9d8d4", first="#b4552d", second="#3b6ea5")
DARK = Palette(paper="#17181a", ink="#c9c8c4", faint="#3a3b3d", first="#e08a5f", second="#7fb0e6")


def latents(normalised: Floats) -> Figure:
    """Normalised latents [N, ...]: their values beside a standard normal, and the spectrum of their
    covariance.
    """
    figure, (left, right) = _panels(2)
    flat = normalised.reshape(-1)
    edges = np.linspace(-5.0, 5.0, 101)
    # Values beyond the last edge are counted in the outermost bins: outliers should show, not vanish.
    counts, _ = np.histogram(np.clip(flat, edges[0], edges[-1]), edges)
    share = counts / (counts.sum() * (edges[1] - edges[0]))
    left.stairs(share, edges, color=LIGHT.first, label="latents")
    x = np.linspace(-5.0, 5.0, 201)
    left.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=LIGHT.second, label="standard normal")
    left.set(xlabel="normalised value", ylabel="density", ylim=(1e-5, 1.5), xlim=(-5, 5))
    _logarithmic(left)
    left.legend(frameon=False, labelcolor=LIGHT.ink, fontsize=8, loc="upper left")
    left.set_title("Values of the latents", color=LIGHT.ink, fontsize=9, loc="left")

    rows = normalised.reshape(len(normalised), -1)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)[: len(rows) - 1] ** 2
    right.plot(np.arange(1, len(values) + 1), values / values.sum(), color=LIGHT.first)
    right.set(xlabel="direction", ylabel="share of the variance")
    _logarithmic(right)
    right.set_title("Spectrum of the latents", color=LIGHT.ink, fontsize=9, loc="left")
    return figure


def plan_front(points: Sequence[Mapping[str, object]]) -> Figure:
    """Error against network calls of every plan tried; `front` marks those that no other one beats."""
    figure, (axes,) = _panels(1)
    nfe = np.array([float(str(point["nfe"])) for point in points])
    error = np.array([float(str(point["error"])) for point in points])
    front = np.array([bool(point.get("front", False)) for point in points])
    axes.scatter(nfe[~front], error[~front], s=14, color=LIGHT.faint, label="tried")
    order = np.argsort(nfe[front])
    axes.plot(nfe[front][order], error[front][order], "o-", ms=4, lw=1.2, color=LIGHT.first, label="best")
    axes.set(xlabel="network calls per sample", ylabel="error")
    _logarithmic(axes)
    axes.legend(frameon=False, labelcolor=LIGHT.ink, fontsize=8)
    axes.set_title("Quality against steps", color=LIGHT.ink, fontsize=9, loc="left")
    return figure


def distances(rows: Sequence[Mapping[str, object]]) -> Figure:
    """The Frechet distance of each set of objects, as bars."""
    figure, (axes,) = _panels(1)
    names, frechet = [str(row["set"]) for row in rows], frechet_name(rows[0])
    values = [float(str(row[frechet])) for row in rows]
    colours = [LIGHT.first if name == "diffusion" else LIGHT.faint for name in names]
    bars = axes.barh(names, values, color=colours, height=0.55)
    axes.bar_label(bars, fmt="%.3g", padding=4, color=LIGHT.ink, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=f"{frechet}, lower is nearer to the real views")
    axes.set_title("Distance to the real objects", color=LIGHT.ink, fontsize=9, loc="left")
    return figure


def curves(series: Mapping[str, Sequence[tuple[float, float]]], ylabel: str) -> Figure:
    """Series of (step, value) over their steps; a logarithmic scale where all values are positive."""
    figure, (axes,) = _panels(1)
    for (name, points), colour in zip(series.items(), (LIGHT.first, LIGHT.second, LIGHT.ink)):
        axes.plot(*np.array(points).T, color=colour, lw=1.2, label=name)
    positive = all(value > 0 for points in series.values() for _, value in points)
    axes.set(xlabel="step", ylabel=ylabel)
    if positive:
        _logarithmic(axes)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=LIGHT.ink, fontsize=8)
    return figure


def svg_pair(figure: Figure) -> tuple[str, str]:
    """The figure as SVG for a light and for a dark page; text stays text, equal figures give equal bytes."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "raydiance"}):
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    light = dark = buffer.getvalue()
    for field in fields(Palette):
        dark = dark.replace(getattr(LIGHT, field.name), getattr(DARK, field.name))
    return light, dark


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.2 * count, 2.9), dpi=110, layout="constrained", facecolor=LIGHT.paper)
    panels = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axes in panels:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LIGHT.faint)
        axes.tick_params(colors=LIGHT.ink, labelsize=8, which="both", length=2)
        axes.xaxis.label.set(color=LIGHT.ink, fontsize=8)
        axes.yaxis.label.set(color=LIGHT.ink, fontsize=8)
    return figure, panels


def _logarithmic(axes: Axes) -> None:
    """Logarithmic upwards, in plain numbers: typesetting 10^-3 takes matplotlib a tenth of a second each."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
