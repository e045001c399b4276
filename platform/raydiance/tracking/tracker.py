"""What a job tells about itself: the Tracker protocol, one that forgets everything, one that remembers it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from raydiance.errors import TrackingError
from raydiance.storage import Artifact, ArtifactRef
from raydiance.tracking.registry import MemoryRegistry, Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MemoryTracker",
    "NullTracker",
    "Status",
    "Tracker",
    "check_film",
    "check_image",
    "flatten",
    "status_of",
]

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """One run's record. As a context manager it ends FINISHED, FAILED on an exception, KILLED on ^C."""

    @property
    def run_id(self) -> str | None:
        """The run's id on the server; None where there is no server."""

    @property
    def parent_id(self) -> str | None:
        """The id of the run above this one, if there is one."""

    def describe(self, text: str) -> None:
        """The run's note, in Markdown: what a reader should know first."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Settings; nested mappings are flattened to "a.b.c". A parameter is written once."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers at a step; buffered, so that a training step never waits for the server."""

    def log_image(self, key: str, image: NDArray[np.uint8], step: int | None = None) -> None:
        """A picture, uint8 [H,W,3] or [H,W,4]; the same key at several steps gives a step slider."""

    def log_film(self, key: str, frames: NDArray[np.uint8], step: int | None = None) -> None:
        """Moving pictures, uint8 [T,H,W,3], kept as films/KEY_STEP.gif, which plays in the record."""

    def log_figure(self, name: str, figure: "Figure") -> None:
        """A matplotlib figure as an image file, for example "loss.png"."""

    def log_text(self, name: str, text: str) -> None:
        """A text file; a name that ends in .html opens as a page."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Rows of plain values as a table, for example "cells.json"; what a row lacks is left empty."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """A file on this machine, kept under `folder`."""

    def log_input(self, artifact: Artifact, context: str) -> None:
        """The artifact as a data set this run was made from, by its digest."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Words to find the run by."""

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "AbstractContextManager[Tracker]":
        """A run nested in this one (a trial of a search)."""

    @property
    def registry(self) -> Registry:
        """The model registry beside this record."""

    def close(self, status: Status = "FINISHED") -> None:
        """Write what is buffered and end the run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NullTracker:
    """Forgets everything: for ranks above 0, and for jobs run by hand."""

    run_id: str | None = None
    parent_id: str | None = None

    def describe(self, text: str) -> None:
        pass

    def log_params(self, params: Mapping[str, object]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        pass

    def log_image(self, key: str, image: NDArray[np.uint8], step: int | None = None) -> None:
        pass

    def log_film(self, key: str, frames: NDArray[np.uint8], step: int | None = None) -> None:
        pass

    def log_figure(self, name: str, figure: "Figure") -> None:
        pass

    def log_text(self, name: str, text: str) -> None:
        pass

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        pass

    def log_file(self, path: Path, folder: str = "") -> None:
        pass

    def log_input(self, artifact: Artifact, context: str) -> None:
        pass

    def set_tags(self, tags: Mapping[str, str]) -> None:
        pass

    @contextmanager
    def child(self, name: str, tags: Mapping[str, str] | None = None) -> Iterator["NullTracker"]:
        yield NullTracker()

    @property
    def registry(self) -> Registry:
        return MemoryRegistry()

    def close(self, status: Status = "FINISHED") -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_of(error))


class MemoryTracker:
    """Remembers everything in plain attributes: for tests, and for reports made without a server."""

    run_id: str | None = None
    parent_id: str | None = None

    def __init__(self, name: str = "run") -> None:
        self.name = name
        self.status: Status = "RUNNING"
        self.description = ""
        self.params: dict[str, object] = {}
        self.metrics: dict[str, list[tuple[int | None, float]]] = {}
        self.images: dict[str, list[tuple[int | None, NDArray[np.uint8]]]] = {}
        self.films: dict[str, list[tuple[int | None, NDArray[np.uint8]]]] = {}
        self.figures: dict[str, Figure] = {}
        self.texts: dict[str, str] = {}
        self.tables: dict[str, list[dict[str, object]]] = {}
        self.files: dict[str, bytes] = {}
        self.inputs: list[tuple[str, ArtifactRef]] = []
        self.tags: dict[str, str] = {}
        self.children: list[MemoryTracker] = []
        self.registry: Registry = MemoryRegistry()

    def describe(self, text: str) -> None:
        self.description = text

    def log_params(self, params: Mapping[str, object]) -> None:
        for name, value in flatten(params).items():
            if self.params.setdefault(name, value) != value:
                raise TrackingError(
                    f"parameter {name}: already {self.params[name]!r}, cannot become {value!r}"
                )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append((step, float(value)))

    def log_image(self, key: str, image: NDArray[np.uint8], step: int | None = None) -> None:
        self.images.setdefault(key, []).append((step, check_image(key, image).copy()))

    def log_film(self, key: str, frames: NDArray[np.uint8], step: int | None = None) -> None:
        self.films.setdefault(key, []).append((step, check_film(key, frames).copy()))

    def log_figure(self, name: str, figure: "Figure") -> None:
        self.figures[name] = figure

    def log_text(self, name: str, text: str) -> None:
        self.texts[name] = text

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        self.tables[name] = [dict(row) for row in rows]

    def log_file(self, path: Path, folder: str = "") -> None:
        self.files[f"{folder}/{path.name}".lstrip("/")] = path.read_bytes()

    def log_input(self, artifact: Artifact, context: str) -> None:
        self.inputs.append((context, artifact.ref))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)

    @contextmanager
    def child(self, name: str, tags: Mapping[str, str] | None = None) -> Iterator["MemoryTracker"]:
        child = MemoryTracker(name)
        child.set_tags(tags or {})
        self.children.append(child)
        with child:
            yield child

    def close(self, status: Status = "FINISHED") -> None:
        self.status = status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_of(error))


def status_of(error: BaseException | None) -> Status:
    """How a run ends: FINISHED without an error, KILLED by an interrupt or exit, FAILED by anything else."""
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, with dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_image(key: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, if it is uint8 [H,W,3] or [H,W,4]. Raises TrackingError otherwise."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise TrackingError(
            f"image {key!r}: needs uint8 [H,W,3] or [H,W,4], got {image.dtype} {list(image.shape)}"
        )
    return image


def check_film(key: str, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames, if they are uint8 [T,H,W,3]. Raises TrackingError otherwise."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames) or frames.shape[3] != 3:
        raise TrackingError(f"film {key!r}: needs uint8 [T,H,W,3], got {frames.dtype} {list(frames.shape)}")
    return frames
