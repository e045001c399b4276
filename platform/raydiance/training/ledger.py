"""The claims ledger as rows and as Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from raydiance.training.claim_cells import Figures
from raydiance.training.statements import Arm, Statement, verdict

__all__ = ["entry", "write_ledger"]

Row = Mapping[str, Any]
COLUMNS = ("statement", "source", "published", "here", "verdict", "cells")
SHOWN = ("psnr", "ssim", "fd_views", "kd_views", "deviation", "largest", "training_s", "seconds")


def entry(
    statement: Statement, cells: Mapping[tuple[str, int], Figures], seeds: Sequence[int]
) -> dict[str, str]:
    """A row of the ledger: what is said, by whom, what is published, what was measured, and the verdict."""
    arms = [f"{arm.label}: {_figures(arm, cells, seeds)}" for arm in statement.arms]
    settings = dict.fromkeys(arm.setting for arm in statement.arms)
    return {
        "name": statement.name,
        "statement": statement.text,
        "source": statement.source,
        "published": statement.published,
        "here": "; ".join(arms),
        "verdict": verdict(statement, cells, seeds),
        "cells": ", ".join(settings),
    }


def write_ledger(entries: Sequence[Row], rows: Sequence[Row], missing: Sequence[str]) -> str:
    """The ledger, and the cells behind it, as Markdown."""
    lines = [
        "A figure is a mean over seeds +- their deviation; higher PSNR, lower distances are better. A statement",
        "holds, or does not, if all seeds agree and the mean difference is beyond the differences' deviation.",
        "",
        _line(COLUMNS),
        _line(["---"] * len(COLUMNS)),
        *(_line([str(each[name]) for name in COLUMNS]) for each in entries),
        "",
        "The cells, one training each:",
        "",
        _line(["setting", "seed", *SHOWN, "artifact"]),
        _line(["---"] * (len(SHOWN) + 3)),
        *(
            _line(
                [
                    row["setting"],
                    str(row["seed"]),
                    *(_shown(row, name) for name in SHOWN),
                    f"`{row['artifact']}`",
                ]
            )
            for row in rows
        ),
    ]
    if missing:
        lines += ["", *wrap(f"Missing, {len(missing)}: {', '.join(missing)}.", 118)]
    return "\n".join(lines) + "\n"


def _figures(arm: Arm, cells: Mapping[tuple[str, int], Figures], seeds: Sequence[int]) -> str:
    """The mean over seeds +- their deviation, such as "24.1 +- 0.2"."""
    found = [cells[arm.setting, seed][arm.figure] for seed in seeds if (arm.setting, seed) in cells]
    values = [value for value in found if value is not None]
    if not found:
        return "not measured"
    diverged = f" ({len(found) - len(values)} diverged)" if len(values) < len(found) else ""
    if not values:
        return "diverged"
    spread = f" +- {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}{diverged}"


def _shown(row: Row, name: str) -> str:
    if name not in row:
        return ""
    return "diverged" if row[name] is None else f"{row[name]:.4g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
