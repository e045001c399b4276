"""The job on a real Ray: plans on a front, resumable from the store."""

import gc
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.denoisers import gaussian_inputs

from raydiance.config import TuneSpec
from raydiance.diffusion import plans
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, local_run
from raydiance.tuning import tune

SPEC = TuneSpec(
    num_trials=5, num_samples=8, batch_size=4, nfe=(4, 8), teacher_nfe=24, learn=(4,), learn_samples=4
)


class Interrupting(MemoryTracker):
    """Breaks off at the third trial."""

    def child(self, name, tags=None):  # type: ignore[no-untyped-def]
        if len(self.children) == 2:
            raise KeyboardInterrupt
        return super().child(name, tags)


@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on_from_the_store(ray_here: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    inputs = gaussian_inputs(store)
    whole = tune(SPEC, local_run(store, name="whole", inputs=inputs, tracker=MemoryTracker()))

    with suppress(KeyboardInterrupt):
        tune(SPEC, local_run(store, name="cut", inputs=inputs, tracker=Interrupting()))
    gc.collect()  # what Tune leaves behind holds its workers, as the end of the process would not
    kept = [ref for ref in store.list("checkpoints/cut") if "trial-" in ref.key]
    assert len(kept) == 3, "a trial is kept before it is told of"
    tracker = MemoryTracker()
    second = tune(SPEC, local_run(store, name="cut", inputs=inputs, tracker=tracker))

    assert len(tracker.children) == SPEC.num_trials + 1 - len(kept), "and one that learns"
    timeless = [
        [{key: value for key, value in each.items() if key != "call_ms"} for each in outcome.tables["trials"]]
        for outcome in (whole, second)
    ]
    assert timeless[0] == timeless[1]
    for name in ("draft", "standard", "best", "learned-4"):
        texts = [outcome.artifact.path(f"plans/{name}.json").read_text() for outcome in (whole, second)]
        assert texts[0] == texts[1]
        assert plans.from_json(texts[0]).nfe <= 8
    assert whole.metrics["best_error"] <= whole.metrics["draft_error"]
    told = whole.artifact.read_json("front.json")
    free = [row["error"] for row in told["trials"] if row["nfe"] == 4 and row["solver"] != "learned"]
    assert whole.metrics["learned-4_error"] < min(error for error in free if error is not None) / 3
    assert (
        len(told["trials"]) == SPEC.num_trials + 1
        and whole.artifact.path("front.png").stat().st_size > 10_000
    )
    parents = {ref.key for ref in whole.artifact.manifest.parents}
    assert parents == {inputs["train_diffusion"].ref.key, inputs["encode"].ref.key}
