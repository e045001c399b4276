"""promote, rollback and trace as a person calls them, on MLflow's embedded database."""

from pathlib import Path

import pytest
from tests.support.bundles import tiny_bundle

from raydiance.cli.registry import promote_model, roll_back_model
from raydiance.cli.trace import print_trace
from raydiance.errors import ArtifactError, TrackingError
from raydiance.storage import Store
from raydiance.tracking.mlflow import open_tracker
from raydiance.tracking.mlflow_registry import open_registry

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def test_a_model_is_promoted_rolled_back_and_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYDIANCE_STORE", "store")
    store = Store.open()
    bundles = [tiny_bundle(store, seed=seed) for seed in range(2)]
    with open_tracker(None, "furniture", "a run", tags={"stage": "publish"}) as tracker:
        versions = [tracker.registry.register_bundle("tiny", bundle) for bundle in bundles]
        tracker.set_tags({"artifact": bundles[0].ref.key, "artifact_sha256": bundles[0].ref.sha256})
    run_id = tracker.run_id

    for version in versions:
        promote_model("tiny", version, [])
    told = capsys.readouterr().out
    assert f"tiny: version 2 is champion (version 1 is previous): {bundles[1].ref.key}" in told
    assert "psnr_held_out 23.5, at least 20: passed" in told
    with pytest.raises(ArtifactError, match=r"psnr_held_out 23\.5, at least 24: failed"):
        promote_model("tiny", "1", ["publish.gate.min_psnr_held_out=24"])
    promote_model("tiny", "champion", [])
    assert capsys.readouterr().out == "tiny: version 2 is champion already\n"
    roll_back_model("tiny")
    assert open_registry().resolve("tiny", "champion").ref == bundles[0].ref
    assert "raydiance.rolled_back" in open_registry().resolve("tiny", "2").tags
    capsys.readouterr()

    for what, said in (
        ("tiny@previous", "version 2"),
        ("models:/tiny@champion", "version 1"),
        (run_id, "FINISHED"),
    ):
        print_trace(what, as_json=False)
        shown = capsys.readouterr().out
        assert shown.startswith(what)
        assert said in shown
        assert bundles[said == "version 2"].ref.key in shown
    with pytest.raises(TrackingError, match="nobody"):
        print_trace("nobody@champion", as_json=False)
