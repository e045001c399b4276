"""Figures of an evaluation, drawn on nothing but a palette, so that each exists for light and for dark
pages.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["DARK", "LIGHT", "Palette", "curves", "distances", "latents", "plan_front", "svg"]

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Palette:
    """Colours of a page: what is drawn on it, text and rules, and the two colours of data."""

    paper: str
    ink: str
    faint: str
    first: str
    second: str


LIGHT = Palette(paper="#ffffff", ink="#3a3a38", faint="#d9d8d4", first="#b4552d", second="#3b6ea5")
DARK = Palette(paper="#17181a", ink="#c9c8c4", faint="#3a3b3d", first="#e08a5f", second="#7fb0e6")


def latents(normalised: Floats, palette: Palette = LIGHT) -> Figure:
    """Normalised latents [N, ...]: their values beside a standard normal, and the spectrum of their
    covariance.
    """
    figure, (left, right) = _panels(2, palette)
    flat = normalised.reshape(-1)
    edges = np.linspace(-5.0, 5.0, 101)
    # Values beyond the last edge are counted in the outermost bins: outliers should show, not vanish.
    counts, _ = np.histogram(np.clip(flat, edges[0], edges[-1]), edges)
    share = counts / (counts.sum() * (edges[1] - edges[0]))
    left.stairs(share, edges, color=palette.first, label="latents")
    x = np.linspace(-5.0, 5.0, 201)
    left.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=palette.second, label="standard normal")
    left.set(xlabel="normalised value", ylabel="density", yscale="log", ylim=(1e-5, 1.5), xlim=(-5, 5))
    left.legend(frameon=False, labelcolor=palette.ink, fontsize=8, loc="upper left")
    left.set_title("Values of the latents", color=palette.ink, fontsize=9, loc="left")

    rows = normalised.reshape(len(normalised), -1)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)[: len(rows) - 1] ** 2
    right.plot(np.arange(1, len(values) + 1), values / values.sum(), color=palette.first)
    right.set(xlabel="direction", ylabel="share of the variance", yscale="log")
    right.set_title("Spectrum of the latents", color=palette.ink, fontsize=9, loc="left")
    return figure


def plan_front(points: Sequence[Mapping[str, object]], palette: Palette = LIGHT) -> Figure:
    """Error against network calls of every plan tried; `front` marks those that no other one beats."""
    figure, (axes,) = _panels(1, palette)
    nfe = np.array([float(str(point["nfe"])) for point in points])
    error = np.array([float(str(point["error"])) for point in points])
    front = np.array([bool(point.get("front", False)) for point in points])
    axes.scatter(nfe[~front], error[~front], s=14, color=palette.faint, label="tried")
    order = np.argsort(nfe[front])
    axes.plot(nfe[front][order], error[front][order], "o-", ms=4, lw=1.2, color=palette.first, label="best")
    axes.set(xlabel="network calls per sample", ylabel="error", xscale="log", yscale="log")
    axes.legend(frameon=False, labelcolor=palette.ink, fontsize=8)
    axes.set_title("Quality against steps", color=palette.ink, fontsize=9, loc="left")
    return figure


def distances(rows: Sequence[Mapping[str, object]], palette: Palette = LIGHT) -> Figure:
    """fd_views of each set of objects, as bars."""
    figure, (axes,) = _panels(1, palette)
    names = [str(row["set"]) for row in rows]
    values = [float(str(row["fd_views"])) for row in rows]
    colours = [palette.first if name == "diffusion" else palette.faint for name in names]
    bars = axes.barh(names, values, color=colours, height=0.55)
    axes.bar_label(bars, fmt="%.3g", padding=4, color=palette.ink, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="fd_views, lower is nearer to the real views")
    axes.set_title("Distance to the real objects", color=palette.ink, fontsize=9, loc="left")
    return figure


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]], ylabel: str, palette: Palette = LIGHT
) -> Figure:
    """Series of (step, value) over their steps; a logarithmic scale where all values are positive."""
    figure, (axes,) = _panels(1, palette)
    for (name, points), colour in zip(series.items(), (palette.first, palette.second, palette.ink)):
        axes.plot(*np.array(points).T, color=colour, lw=1.2, label=name)
    positive = all(value > 0 for points in series.values() for _, value in points)
    axes.set(xlabel="step", ylabel=ylabel, yscale="log" if positive else "linear")
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=palette.ink, fontsize=8)
    return figure


def svg(figure: Figure) -> str:
    """The figure as SVG; its text stays text, and the same figure gives the same bytes."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "raydiance"}):
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    return buffer.getvalue()


def _panels(count: int, palette: Palette) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.2 * count, 2.9), dpi=110, layout="constrained", facecolor=palette.paper)
    panels = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axes in panels:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(palette.faint)
        axes.tick_params(colors=palette.ink, labelsize=8, which="both", length=2)
        axes.xaxis.label.set(color=palette.ink, fontsize=8)
        axes.yaxis.label.set(color=palette.ink, fontsize=8)
    return figure, panels
