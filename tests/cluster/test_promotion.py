"""Who is champion: through the gate, no worse than before, and back again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.bundles import tiny_model

from raydiance.cluster.promotion import compare, promote, rollback
from raydiance.errors import ArtifactError, TrackingError, UnknownModelError
from raydiance.generation import Gate, write_bundle
from raydiance.storage import Artifact, Store
from raydiance.tracking import MemoryRegistry
from raydiance.tracking.registry import ModelVersion

GATE = Gate(min_psnr_held_out=20.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def bundle(store: Store, metrics: Mapping[str, float], views: str = "a") -> Artifact:
    """A bundle with these figures, from an evaluation on these views."""
    found = store.latest(f"views/{views}")
    if found is None:
        with store.create("views", views) as draft:
            pass
        found = draft.artifact
    with store.create(
        "evaluation", "x", spec={"samples": 8}, seeds={"seed": 0}, parents=[found.ref]
    ) as draft:
        pass
    model = tiny_model()
    spec = replace(model.spec, metrics=dict(metrics), provenance={"evaluate": draft.artifact.ref})
    return write_bundle(store, "tiny", replace(model, spec=spec))


def aliases(registry: MemoryRegistry) -> dict[str, str]:
    return {alias: version for (_, alias), version in registry.aliases.items()}


def test_who_cannot_ask_for_the_champion_promotes_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MemoryRegistry()
    registry.register_bundle("tiny", bundle(store, {"psnr_held_out": 22.0}))
    resolve = registry.resolve

    def away(name: str, alias: str) -> ModelVersion:
        if alias == "champion":
            raise TrackingError("tracking http://127.0.0.1:1: the server is away")
        return resolve(name, alias)

    monkeypatch.setattr(registry, "resolve", away)
    with pytest.raises(TrackingError, match="is away"):
        promote(registry, "tiny", "1", GATE)
    assert not aliases(registry)


def test_a_version_takes_the_champions_place_and_gives_it_back(store: Store) -> None:
    registry = MemoryRegistry()
    for psnr in (22.0, 23.0):
        registry.register_bundle("tiny", bundle(store, {"psnr_held_out": psnr}))
    first = promote(registry, "tiny", "1", GATE)
    assert (first.replaced, aliases(registry)) == (None, {"champion": "1"})
    with pytest.raises(UnknownModelError, match="'tiny': no version or alias 'previous'"):
        rollback(registry, "tiny")
    second = promote(registry, "tiny", "2", GATE)
    assert [check.metric for check in second.checks] == ["psnr_held_out", "psnr_held_out"]
    assert aliases(registry) == {"champion": "2", "previous": "1"}
    assert "raydiance.promoted" in registry.resolve("tiny", "2").tags
    assert promote(registry, "tiny", "2", GATE).checks == (), "a champion is left as it is"
    assert aliases(registry) == {"champion": "2", "previous": "1"}
    rollback(registry, "tiny")
    assert aliases(registry) == {"champion": "1", "previous": "2"}
    rollback(registry, "tiny")
    assert aliases(registry) == {"champion": "2", "previous": "1"}


def test_figures_below_the_gate_or_the_champion_change_nothing(store: Store) -> None:
    registry = MemoryRegistry()
    for psnr in (24.0, 19.0, 22.0):
        registry.register_bundle("tiny", bundle(store, {"psnr_held_out": psnr}))
    registry.register_bundle("tiny", bundle(store, {"psnr_held_out": 22.0}, views="other"))
    promote(registry, "tiny", "1", GATE)
    with pytest.raises(
        ArtifactError, match=r"version 2 is not promoted: psnr_held_out 19, at least 20: failed"
    ):
        promote(registry, "tiny", "2", GATE)
    with pytest.raises(
        ArtifactError, match=r"as the champion, at least 23.52: failed. Version 1 stays champion"
    ):
        promote(registry, "tiny", "3", GATE)
    assert aliases(registry) == {"champion": "1"}
    promote(registry, "tiny", "4", GATE)  # measured on other views: only the gate can judge
    assert aliases(registry) == {"champion": "4", "previous": "1"}


def test_tolerance_belongs_to_the_good_side(store: Store) -> None:
    champion = bundle(store, {"psnr_held_out": 25.0, "fd_views": 2.0})
    passed = {
        (psnr, distance): [check.passed for check in compare(bundle(store, new), champion)]
        for psnr, distance in ((24.5, 2.1), (24.49, 2.11), (30.0, 1.0))
        for new in [{"psnr_held_out": psnr, "fd_views": distance}]
    }
    assert list(passed.values()) == [[True, True], [False, False], [True, True]]


def test_a_bundle_that_is_not_whole_or_holds_other_files_is_not_served(store: Store) -> None:
    registry = MemoryRegistry()
    good, broken = (bundle(store, {"psnr_held_out": 24.0}) for _ in range(2))
    registry.register_bundle("tiny", good)
    registry.register_bundle("tiny", broken)
    promote(registry, "tiny", "1", GATE)
    weights = Path(store.url) / broken.ref.key / "denoiser.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"denoiser.safetensors"):
        promote(registry, "tiny", "2", GATE)
    with store.create("bundle", "tiny") as draft:
        draft.path("weights.pkl").write_bytes(b"x")
    registry.register_bundle("tiny", draft.artifact)
    with pytest.raises(ArtifactError, match=r"weights.pkl is of no kind that a bundle holds"):
        promote(registry, "tiny", "3", GATE)
    assert aliases(registry) == {"champion": "1"}
