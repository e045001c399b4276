"""The ledger: verdicts by their rule, settings that differ by one thing, nothing measured twice."""

import dataclasses
import json

import pytest
from tests.training.scenes import balls

from raydiance.config import compose
from raydiance.spec import to_plain
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, flatten, local_run
from raydiance.training import ClaimsSpec, claims
from raydiance.training.statements import STATEMENTS, Arm, Statement, settings_of, statements_of, verdict


def spec(size: str = "micro", **changes: object) -> ClaimsSpec:
    found = compose(["experiment=claims", f"size={size}"]).claims
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ((3.0, 3.1, 2.9), (2.0, 2.2, 2.1), "holds"),
        ((2.0, 2.2, 2.1), (3.0, 3.1, 2.9), "does not hold"),
        ((3.0, 1.9, 2.9), (2.0, 2.2, 2.1), "not at this scale"),  # seeds disagree
        ((2.01, 2.2, 5.0), (2.0, 2.19, 2.0), "not at this scale"),  # all agree, but by one seed's doing
        ((2.0, 2.0), (2.0, 2.0), "not at this scale"),
        ((3.0,), (2.0,), "open"),
        ((3.0, 3.0), (None, 2.0), "holds"),  # what is not finite is worse than all that is
        ((None, None), (None, 2.0), "not at this scale"),
        ((None, None), (1.0, 2.0), "does not hold"),
    ],
)
@pytest.mark.parametrize("higher", [True, False])
def test_a_verdict_needs_all_seeds_and_more_than_their_spread(ours, theirs, found, higher) -> None:
    turn = 1 if higher else -1
    cells = {
        (name, seed): {"psnr": None if value is None else turn * value}
        for name, values in (("a", ours), ("b", theirs))
        for seed, value in enumerate(values)
    }
    statement = Statement("x", "", "", higher, Arm("", "a", "psnr"), (Arm("", "b", "psnr"),))
    assert verdict(statement, cells, range(len(ours))) == found
    assert verdict(statement, {}, range(3)) == "open"


def test_against_several_the_worst_decides() -> None:
    cells = {
        (name, seed): {"fd": value} for name, value in (("a", 1.0), ("b", 2.0), ("c", 0.5)) for seed in (0, 1)
    }
    a, b, c = (Arm(name, name, "fd") for name in "abc")
    assert verdict(Statement("x", "", "", False, a, (b,)), cells, (0, 1)) == "holds"
    assert verdict(Statement("x", "", "", False, a, (b, c)), cells, (0, 1)) == "does not hold"


@pytest.mark.parametrize("size", ["micro", "tiny", "small"])
def test_each_setting_differs_from_the_base_in_what_its_name_says(size: str) -> None:
    base, voxels = spec(size).base, spec(size).voxels
    settings = settings_of(base, voxels)
    assert settings.pop("voxels") == voxels
    plain = flatten(to_plain(base))
    changed = {
        name: {
            key.rpartition(".")[2]
            for key, value in flatten(to_plain(setting)).items()
            if not key.startswith("denoiser") and plain.get(key) != value
        }
        for name, setting in settings.items()
    }
    assert changed == {
        "base": set(),
        "no opacity": {"opacity"},
        "one view": {"views_per_object", "pixel_stride"},
        "no attention": {"attention_resolutions"},
        "no blocks": {"depths"},
        "short codes": {"code_dim"},
        "long codes": {"code_dim"},
        "4^3": {"latent_resolution", "latent_channels"},
        "16^3": {"latent_resolution", "latent_channels"},
        "moments": {"statistics"},
        "global": {"per_channel"},
        "global moments": {"statistics", "per_channel"},
        "free": {"latents", "latent_noise"},
        "free moments": {"latents", "latent_noise", "statistics"},
    }
    said = statements_of(base, (4, 8))
    assert tuple(each.name for each in said) == STATEMENTS
    assert {arm.setting for each in said for arm in each.arms} == {*settings, "voxels"}


def test_settings_that_a_statement_could_not_leave_out_are_refused() -> None:
    found = spec()
    plain = dataclasses.replace(found.train_autodecoder, views_per_object=1)
    with pytest.raises(ValueError, match="views_per_object > 1"):
        spec(train_autodecoder=plain)
    with pytest.raises(ValueError, match="'dept' is unknown"):
        spec(statements=("dept",))
    with pytest.raises(ValueError, match="ascend"):
        spec(steps=(8, 4))


def test_the_ledger_goes_on_where_its_budget_ended_and_shares_what_it_can(tmp_path) -> None:
    store = Store.open(tmp_path)
    views = balls(store)

    def ledger(**changes: object) -> tuple[dict[str, object], MemoryTracker]:
        tracker = MemoryTracker()
        run = local_run(store, name="ledger", inputs={"render": views}, tracker=tracker)
        outcome = claims(spec(**changes), run)
        assert outcome.artifact.path("claims.md").read_text() == tracker.texts["claims.md"]
        return outcome.artifact.read_json("claims.json"), tracker

    some = ("direct", "multi_view", "steps", "outliers", "voxels")
    first, tracker = ledger(statements=some, budget_s=1e-3)
    assert [f"{row['setting']} {row['seed']}" for row in first["cells"]] == ["base 0"]
    others = ["one view", "free", "free moments", "voxels"]
    lacking = [f"{name} 0" for name in others] + [f"{name} 1" for name in ("base", *others)]
    assert first["missing"] == lacking and "Missing, 9: one view 0, " in tracker.texts["claims.md"]
    assert {each["verdict"] for each in first["statements"]} == {"open"}
    assert {"psnr", "fd_views_2", "fd_views_direct"} <= set(first["cells"][0])
    assert not store.list("checkpoints")

    whole, tracker = ledger(statements=some)
    assert whole["missing"] == [] and whole["cells"][0] == first["cells"][0]
    assert [child.tags["setting"] for child in tracker.children[:4]] == others
    assert len(whole["cells"]) == 10 and len(tracker.children) == 9
    assert len(store.list("denoiser")) == 8 and len(store.list("autodecoder")) == 6  # free: one for both
    assert len(store.list("fields")) == 2 and all(row["training_s"] > 0 for row in whole["cells"])
    direct, several, *_, voxels = whole["statements"]
    assert voxels["verdict"] != "open" and "CPU-s, voxel fields: " in voxels["here"]
    assert direct["verdict"] != "open" and "reconstructions: " in direct["here"]
    assert several["cells"] == "base, one view"
    assert [row["name"] for row in tracker.tables["claims.json"]] == list(some)

    again, tracker = ledger(statements=some, budget_s=0.0)
    assert again == whole and tracker.children == []
    assert json.dumps(again, allow_nan=False)
