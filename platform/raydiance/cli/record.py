"""How things stand and what they cost: the stages of the pipeline, and the record of runs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydiance.config import Experiment

__all__ = ["COST_BY", "collect_garbage", "print_cost", "print_stages"]

COST_BY = ("experiment", "stage", "size", "run")


def print_stages(overrides: Sequence[str]) -> None:
    """A table for each experiment that the overrides make, or that params.yaml names: a row for each stage."""
    from raydiance.config.pipeline import NAMES, fan_out, read_pipeline

    named = NAMES.exists() and not overrides
    experiments = read_pipeline() if named else [each.experiment for each in fan_out(overrides)]
    for experiment in experiments:
        if len(experiments) > 1:
            print(f"{experiment.name}, size {experiment.size}, seed {experiment.seed}")
        _print_stages_of(experiment)


def _print_stages_of(experiment: "Experiment") -> None:
    from raydiance.cli.tables import age, print_table, seconds
    from raydiance.cluster.stages import states
    from raydiance.storage import Store

    found = states(experiment, Store.open(experiment.store.url, experiment.store.quota))
    pages = _pages(experiment.tracking.url, [each.pointer.run_id for each in found if each.pointer])
    rows = []
    for each in found:
        run_id = (each.pointer.run_id if each.pointer else None) or ""
        state = f"{each.state}: {each.why}" if each.why else each.state
        key = each.pointer.key if each.pointer else ""
        rows.append(
            (each.stage, state, age(each.made), seconds(each.seconds), key, pages.get(run_id, run_id))
        )
    print_table(("stage", "state", "made", "took", "artifact", "run"), rows)


def print_cost(by: str, experiment: str | None) -> None:
    """What runs of stages took, added up."""
    from raydiance.cli.tables import print_table, seconds
    from raydiance.config.explain import nearest
    from raydiance.errors import ConfigError
    from raydiance.tracking.history import open_history

    if by not in COST_BY:
        raise ConfigError(f"--by {by}: runs have no such property{nearest(by, COST_BY)}")
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for run in open_history().runs(experiment):
        name = {
            "experiment": run.experiment,
            "stage": f"{run.experiment} {run.tags['stage']}",
            "size": f"{run.experiment} {run.tags.get('size', '')}",
            "run": run.name,
        }[by]
        ended_badly = float(run.status in ("FAILED", "KILLED"))
        figures = (1.0, ended_badly, run.duration_s, run.cpu_seconds, run.gpu_seconds)
        sums[name] = [old + new for old, new in zip(sums[name], figures)]
    rows = [
        (name, f"{count:g}", f"{bad:g}", seconds(wall), f"{cpu:.1f}", f"{gpu:.1f}")
        for name, (count, bad, wall, cpu, gpu) in sorted(sums.items(), key=lambda item: -item[1][3])
    ]
    print_table((by, "runs", "failed", "time", "CPU seconds", "GPU seconds"), rows)


def collect_garbage(older_than_h: float, delete: bool) -> None:
    """Show, and remove where asked to, what belongs to no artifact and has not changed for so long."""
    from raydiance.storage import Store

    store = Store.open()
    found = store.garbage(older_than_h * 3600)
    for each in found:
        print(f"{each.size / 1e6:10.2f} MB  {each.where}")
    if delete:
        store.collect(found)
    done = "removed" if delete else "could be removed with --delete"
    print(f"{store.url}: {len(found)} leftovers, {sum(each.size for each in found) / 1e6:.2f} MB {done}")


def _pages(url: str | None, run_ids: Sequence[str | None]) -> dict[str, str]:
    """Where a server shows these runs; empty for a database, which shows nothing."""
    from raydiance.errors import TrackingError
    from raydiance.tracking.address import reach

    wanted = [run_id for run_id in run_ids if run_id]
    if not wanted or not reach(url).startswith("http"):
        return {}
    from raydiance.tracking.history import open_history

    history = open_history(url)
    pages = {}
    for run_id in wanted:
        try:
            pages[run_id] = history.page(history.run(run_id)) or run_id
        except TrackingError:  # made beside another server
            continue
    return pages
