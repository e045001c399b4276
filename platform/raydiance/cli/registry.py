"""Models of the registry: promoted, rolled back, and runs done again."""

import sys
from collections.abc import Sequence

__all__ = ["promote_model", "reproduce_run", "roll_back_model"]


def promote_model(name: str, which: str, overrides: Sequence[str]) -> None:
    """Through the gate of the experiment that the overrides make."""
    from raydiance.cli.endpoint import served
    from raydiance.cluster.promotion import promote
    from raydiance.config import compose
    from raydiance.tracking.mlflow_registry import open_registry

    experiment = served(compose(overrides))
    done = promote(open_registry(experiment.tracking.url), name, which, experiment.publish.gate)
    for check in done.checks:
        print(f"  {check}")
    if not done.checks and done.replaced is None:
        print(f"{name}: version {done.version.version} is champion already")
        return
    before = f" (version {done.replaced.version} is previous)" if done.replaced else ""
    print(f"{name}: version {done.version.version} is champion{before}: {done.version.ref.key}")


def roll_back_model(name: str) -> None:
    """To the champion before."""
    from raydiance.cluster.promotion import rollback
    from raydiance.tracking.mlflow_registry import open_registry

    done = rollback(open_registry(), name)
    assert done.replaced is not None
    print(f"{name}: version {done.version.version} is champion again: {done.version.ref.key}")
    print(f"{name}: version {done.replaced.version} is previous")


def reproduce_run(run_id: str, tolerance: float) -> None:
    """Do a run again and compare; ends the process with status 1 if something else came out."""
    from raydiance.cluster.record import PARAMS_FILE
    from raydiance.cluster.reproduce import reproduce
    from raydiance.config import project_folder
    from raydiance.tracking.history import open_history

    history = open_history()
    run = history.run(run_id)
    params = history.read_text(run_id, PARAMS_FILE)
    result = reproduce(
        run.tags["stage"],
        run.experiment,
        params,
        run.tags,
        run.metrics,
        project=project_folder(),
        tolerance=tolerance,
    )
    print(f"{run.name}: {result.verdict}")
    for name in result.files:
        print(f"  {name}: other bytes")
    for name, (old, new) in result.figures.items():
        print(f"  {name}: {old:.6g} then, {new:.6g} now")
    if result.verdict == "within tolerance":
        print(f"  figures differ by at most {result.largest:.1e}")
    sys.exit(1 if result.verdict == "different" else 0)
