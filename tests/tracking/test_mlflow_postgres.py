"""MLflow's server on PostgreSQL, as a cluster runs it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raydiance.storage import Store
from raydiance.tracking.mlflow import open_tracker

pytestmark = [pytest.mark.needs("postgres"), pytest.mark.slow]


def test_a_run_and_a_bundle_are_kept(
    postgres_server: str, tmp_path: Path, mlflow_on: Callable[..., AbstractContextManager[str]]
) -> None:
    with Store.open(tmp_path / "store").create("bundle", "chairs") as draft:
        pass
    with mlflow_on(postgres_server, tmp_path) as url:
        with open_tracker(url, "furniture", "publish") as tracker:
            for step in range(3):
                tracker.log_metrics({"loss": 1.0 / (step + 1)}, step)
            version = tracker.registry.register_bundle("furniture", draft.artifact)
            tracker.registry.set_alias("furniture", "champion", version)
        assert tracker.registry.resolve("furniture", "champion").ref == draft.artifact.ref
        assert len(MlflowClient(url).get_metric_history(tracker.run_id, "loss")) == 3
        assert MlflowClient(url).get_run(tracker.run_id).info.status == "FINISHED"
