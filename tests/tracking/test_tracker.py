"""The trackers that need no server."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raydiance.errors import TrackingError
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, NullTracker, Tracker, flatten


def tell(tracker: Tracker, store: Store, file: Path) -> None:
    """Use every method once."""
    with store.create("views", "chairs") as draft:
        pass
    tracker.describe("A **run**.")
    tracker.log_params({"model": {"width": 8}})
    tracker.log_metrics({"loss": 2.0}, step=0)
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.log_image("sheet", np.zeros((4, 4, 3), np.uint8), step=1)
    tracker.log_film("turntable", np.zeros((2, 4, 4, 3), np.uint8), step=1)
    tracker.log_text("report.html", "<p>hello")
    tracker.log_table("cells.json", [{"a": 1}, {"b": "x"}])
    tracker.log_file(file, "files")
    tracker.log_input(draft.artifact, "train")
    tracker.set_tags({"stage": "render"})
    with tracker.child("trial-1", {"solver": "deis"}) as child:
        child.log_metrics({"distance": 3.0})


def test_null_and_memory_take_the_same_calls(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    (tmp_path / "x.txt").write_text("x")
    tell(NullTracker(), store, tmp_path / "x.txt")
    with MemoryTracker() as memory:
        tell(memory, store, tmp_path / "x.txt")
    assert memory.status == "FINISHED"
    assert memory.description == "A **run**."
    assert memory.params == {"model.width": 8}
    assert memory.metrics == {"loss": [(0, 2.0), (1, 1.0)]}
    assert [step for step, _ in memory.images["sheet"]] == [1]
    assert memory.texts == {"report.html": "<p>hello"}
    assert memory.tables == {"cells.json": [{"a": 1}, {"b": "x"}]}
    assert memory.files == {"files/x.txt": b"x"}
    assert [context for context, _ in memory.inputs] == ["train"]
    assert memory.tags == {"stage": "render"}
    assert memory.children[0].metrics == {"distance": [(None, 3.0)]}
    assert memory.children[0].status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_ends_as_its_block_does(error: type[BaseException], status: str) -> None:
    with pytest.raises(error), MemoryTracker() as parent, parent.child("trial"):
        raise error
    assert parent.status == status
    assert parent.children[0].status == status


def test_a_parameter_is_written_once() -> None:
    tracker = MemoryTracker()
    tracker.log_params({"a": 1})
    tracker.log_params({"a": 1, "b": 2})
    with pytest.raises(TrackingError, match="parameter a: already 1, cannot become 2"):
        tracker.log_params({"a": 2})


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8)]
)
def test_an_image_is_bytes_with_three_or_four_channels(image: np.ndarray) -> None:
    with pytest.raises(TrackingError, match="needs uint8"):
        MemoryTracker().log_image("sheet", image)


@pytest.mark.parametrize("frames", [np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)])
def test_a_film_is_frames_of_bytes(frames: np.ndarray) -> None:
    with pytest.raises(TrackingError, match="needs uint8"):
        MemoryTracker().log_film("turntable", frames)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


def test_the_package_loads_neither_mlflow_nor_torch() -> None:
    script = "import sys, raydiance.tracking; print(*{'mlflow', 'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
