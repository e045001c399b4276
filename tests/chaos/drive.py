"""A driver that is killed, or whose workers or nodes are: `python -m tests.chaos.drive PLAN SETTINGS`.

PLAN is a Plan, or {"search": STORE} for a search of sampling plans; SETTINGS are those of ClusterSpec.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.chaos.work import Plan, train

from raydiance.config import ClusterSpec
from raydiance.errors import RaydianceError
from raydiance.storage import Store
from raydiance.tracking import NullTracker, QuietProgress, local_run

SEARCH = {
    "num_trials": 7,
    "num_samples": 8,
    "batch_size": 4,
    "nfe": (4, 8),
    "teacher_nfe": 24,
    "learn": (4,),
    "learn_samples": 4,
}


def launch(plan: Plan, spec: ClusterSpec) -> None:
    """Train under Ray Train as jobs do."""
    from raydiance.cluster.train import Launcher

    store = Store.open(plan.store)
    launcher = Launcher(spec, plan.run, store, NullTracker(), QuietProgress(), NullTracker)
    launcher(train, plan)


def search(url: str, spec: ClusterSpec) -> None:
    """Search plans for a Gaussian; what was found goes to `found.json` beside the store."""
    from tests.support.denoisers import gaussian_inputs

    from raydiance.config import TuneSpec
    from raydiance.tuning import tune

    if spec.address:
        os.environ["RAYDIANCE_ADDRESS"] = spec.address
    store = Store.open(url)
    inputs = _inputs(store) or gaussian_inputs(store)
    outcome = tune(TuneSpec(**SEARCH), local_run(store, name="search", inputs=inputs))
    found: dict[str, Any] = {"trials": outcome.tables["trials"]}
    for name in ("draft", "standard", "best"):
        found[name] = outcome.artifact.path(f"plans/{name}.json").read_text()
    Path(url).with_name("found.json").write_text(json.dumps(found))


def _inputs(store: Store) -> dict[str, Any]:
    """What an earlier attempt searched on."""
    kinds = {"train_diffusion": "denoiser", "encode": "latents"}
    found = {stage: store.latest(kind) for stage, kind in kinds.items()}
    return found if all(found.values()) else {}


def main() -> int:
    what, settings = (json.loads(argument) for argument in sys.argv[1:3])
    spec = ClusterSpec(**settings)
    try:
        if "search" in what:
            search(what["search"], spec)
        else:
            launch(Plan(**what), spec)
    except RaydianceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
