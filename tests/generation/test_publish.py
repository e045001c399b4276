"""The gate: a candidate always, a champion only for figures that are good enough."""

import math
from pathlib import Path

import pytest
import torch
from tests.support.stages import stage_artifacts

from raydiance.errors import ArtifactError, ConfigError, TrackingError
from raydiance.generation import Gate, PublishSpec, check_gate, generate_latents, load_bundle, publish
from raydiance.generation.assemble import assemble
from raydiance.storage import Artifact, Store, write_json
from raydiance.tracking import MemoryTracker, local_run

METRICS = {"psnr_held_out": 24.0, "ssim_held_out": 0.9, "fd_views": 3.0, "fd_ratio": 0.5, "coverage": 0.4}
STRICT = Gate(
    min_psnr_held_out=24.0, min_ssim_held_out=0.9, max_fd_views=3.0, max_fd_ratio=0.5, min_coverage=0.4
)


def evaluated(store: Store, metrics: dict[str, float]) -> dict[str, Artifact]:
    """The inputs of publish, with these figures as the evaluation's."""
    inputs = stage_artifacts(store)
    inputs.pop("render")
    with store.create("evaluation", "tiny") as draft:
        write_json(draft.path("metrics.json"), metrics)
    return inputs | {"evaluate": draft.artifact}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def inputs(store: Store) -> dict[str, Artifact]:
    return evaluated(store, METRICS)


def test_bounds_belong_to_the_good_side() -> None:
    assert all(check.passed for check in check_gate(STRICT, METRICS))
    assert len(check_gate(STRICT, METRICS)) == 5
    assert check_gate(Gate(min_psnr_held_out=None), METRICS) == []


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("psnr_held_out", 23.99),
        ("ssim_held_out", 0.89),
        ("fd_views", 3.01),
        ("fd_ratio", 0.51),
        ("coverage", 0.39),
        ("psnr_held_out", math.nan),
        ("fd_ratio", math.nan),
    ],
)
def test_one_figure_beyond_its_bound_fails_the_gate(metric: str, value: float) -> None:
    checks = check_gate(STRICT, METRICS | {metric: value})
    assert [check.metric for check in checks if not check.passed] == [metric]


def test_a_missing_figure_fails_by_name() -> None:
    (check,) = check_gate(Gate(min_psnr_held_out=20.0), {})
    assert not check.passed
    assert str(check) == "psnr_held_out missing, at least 20: failed"


def test_a_passing_model_is_champion_and_its_predecessor_previous(
    store: Store, inputs: dict[str, Artifact]
) -> None:
    tracker = MemoryTracker()
    run = local_run(store, name="tiny-publish", inputs=inputs, tracker=tracker)
    first = publish(PublishSpec(name="tiny"), run)
    assert first.metrics["gate_passed"] == 1.0
    for alias in ("candidate", "champion"):
        assert tracker.registry.resolve("tiny", alias).ref == first.artifact.ref
    with pytest.raises(TrackingError):
        tracker.registry.resolve("tiny", "previous")
    second = publish(PublishSpec(name="tiny"), run)
    assert tracker.registry.resolve("tiny", "champion").ref == second.artifact.ref
    assert tracker.registry.resolve("tiny", "previous").ref == first.artifact.ref
    assert tracker.tags["gate"] == "passed"
    assert tracker.tags["model_version"] == "2"


def test_a_failing_model_is_a_candidate_only_and_says_why(store: Store, inputs: dict[str, Artifact]) -> None:
    tracker = MemoryTracker()
    run = local_run(store, name="tiny-publish", inputs=inputs, tracker=tracker)
    champion = publish(PublishSpec(name="tiny"), run)
    failed = publish(PublishSpec(name="tiny", gate=Gate(min_psnr_held_out=30.0, max_fd_ratio=1.0)), run)
    assert failed.metrics["gate_passed"] == 0.0
    assert tracker.registry.resolve("tiny", "candidate").ref == failed.artifact.ref
    assert tracker.registry.resolve("tiny", "champion").ref == champion.artifact.ref
    assert "failed the gate" in tracker.description
    assert "psnr_held_out 24, at least 30: failed" in tracker.description
    assert tracker.description.index("failed\n") < tracker.description.index("fd_ratio")
    assert [row["passed"] for row in failed.tables["gate"]] == [False, True]


def test_the_bundle_samples_as_the_stages_do(store: Store, inputs: dict[str, Artifact]) -> None:
    run = local_run(store, name="tiny-publish", inputs=inputs, tracker=MemoryTracker())
    artifact = publish(PublishSpec(name="tiny", plan="fast"), run).artifact
    bundle = load_bundle(artifact)
    before = assemble(inputs, default_plan="fast")
    assert bundle.spec.default_plan == "fast"
    assert torch.equal(generate_latents(bundle, [3, 4]), generate_latents(before, [3, 4]))
    assert bundle.spec.metrics == METRICS
    assert bundle.spec.provenance == {stage: each.ref for stage, each in inputs.items()}
    assert set(artifact.manifest.parents) == {each.ref for each in inputs.values()}


def test_a_model_that_gives_no_finite_samples_is_not_registered(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    inputs = evaluated(store, METRICS)
    plan = inputs["tune"].path("plans/default.json").read_text().replace('"x": 1.0', '"x": 1e300', 1)
    with store.create("plans", "broken") as draft:
        draft.path("plans/default.json").write_text(plan)
    tracker = MemoryTracker()
    run = local_run(store, inputs=inputs | {"tune": draft.artifact}, tracker=tracker)
    with pytest.raises(ArtifactError, match=r"not finite.*publish\.plan"):
        publish(PublishSpec(name="tiny"), run)
    with pytest.raises(TrackingError):
        tracker.registry.resolve("tiny", "candidate")


def test_publishing_without_an_evaluation_names_the_stage(store: Store, inputs: dict[str, Artifact]) -> None:
    without = {stage: artifact for stage, artifact in inputs.items() if stage != "evaluate"}
    with pytest.raises(ConfigError, match="evaluate"):
        publish(PublishSpec(), local_run(store, inputs=without))
