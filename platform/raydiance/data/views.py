"""Rendered views on disk: shards that are mapped into memory and read at random by (object, view).

A folder of views holds views.json (objects, cameras, splits) and shards views-00000.safetensors with
rgba uint8 [n, V, H, W, 4] (sRGB, straight alpha) and depth float16 [n, V, H, W] (along the ray, 0 for none).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import numpy as safetensors
from torch import Tensor

from raydiance.data.pinholes import ViewArrays
from raydiance.errors import DataError
from raydiance.fields.cameras import Cameras
from raydiance.storage import Artifact

__all__ = ["SHARD_BYTES", "ViewDataset", "ViewedObject", "ViewsIndex", "write_views"]

SHARD_BYTES = 64 << 20  # a shard holds as many whole objects as fit, and one at least
MAX_HEADER_BYTES = 1 << 20
DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8), "F16": np.dtype(np.float16)}

Views = int | slice | Sequence[int] | Tensor | NDArray[np.integer] | None


@dataclass(frozen=True)
class ViewedObject:
    """What is known of one object besides its pictures; split is "train" or "test"."""

    id: str
    category: str
    split: str
    caption: str = ""


@dataclass(frozen=True)
class ViewsIndex:
    """What views.json says: all objects are seen by the same cameras; held_out views are never trained on."""

    objects: tuple[ViewedObject, ...]
    cameras: Cameras
    held_out: tuple[int, ...]


def write_views(place: Callable[[str], Path], index: ViewsIndex, views: Iterable[ViewArrays]) -> None:
    """Writes views.json and the shards; `views` gives one ViewArrays for each object of the index, in order.

    place: from a file's name to the path to write. Only one shard is held in memory.
    """
    num_views, height, width = len(index.cameras), index.cameras.height, index.cameras.width
    per_shard = max(1, SHARD_BYTES // (num_views * height * width * 6))
    names: list[str] = []
    rows: list[ViewArrays] = []

    def flush() -> None:
        names.append(f"views-{len(names):05d}.safetensors")
        arrays: dict[str, NDArray[Any]] = {
            "rgba": np.stack([row.rgba for row in rows]),
            "depth": np.stack([row.depth for row in rows]),
        }
        safetensors.save_file(arrays, place(names[-1]))
        rows.clear()

    for row in views:
        rows.append(row)
        if len(rows) == per_shard:
            flush()
    if rows:
        flush()
    content = {
        "objects": [
            {
                "id": item.id,
                "category": item.category,
                "caption": item.caption,
                "split": item.split,
                "shard": names[number // per_shard],
                "row": number % per_shard,
            }
            for number, item in enumerate(index.objects)
        ],
        "cameras": index.cameras.to_json(),
        "held_out": list(index.held_out),
    }
    place("views.json").write_text(json.dumps(content), encoding="utf-8")


class ViewDataset:
    """Random access to rendered views: cheap to open, safe to use from many threads and to send to processes.

    source: an artifact of kind "views", or a folder that `write_views` filled.
    """

    def __init__(self, source: Artifact | Path | str) -> None:
        self.folder = source.folder() if isinstance(source, Artifact) else Path(source)
        try:
            content = json.loads((self.folder / "views.json").read_text(encoding="utf-8"))
            objects = content["objects"]
            self._cameras = Cameras.from_json(content["cameras"])
            held_out = np.asarray(content["held_out"], np.int64)
            self._rows = [(str(item["shard"]), int(item["row"])) for item in objects]
            self.object_ids: list[str] = [str(item["id"]) for item in objects]
            self.categories: list[str] = [str(item["category"]) for item in objects]
            self.captions: list[str] = [str(item.get("caption") or item["category"]) for item in objects]
            is_test = np.array([item["split"] == "test" for item in objects], bool)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.folder} is no folder of views: {error!r}; run the render stage again"
            ) from error
        self._shards = {name: _map_shard(self.folder, name) for name in dict(self._rows)}
        self.train_objects: NDArray[np.int64] = np.flatnonzero(~is_test)
        self.test_objects: NDArray[np.int64] = np.flatnonzero(is_test)
        self.held_out_views: NDArray[np.int64] = held_out
        self.train_views: NDArray[np.int64] = np.setdiff1d(np.arange(self.num_views), held_out)
        self._check()

    def _check(self) -> None:
        shape = (self.num_views, self._cameras.height, self._cameras.width)
        for name, row in self._rows:
            rgba, depth = self._shards[name]["rgba"], self._shards[name]["depth"]
            if rgba.shape[1:] != (*shape, 4) or depth.shape[1:] != shape or not 0 <= row < len(rgba):
                raise DataError(
                    f"{self.folder / name}: row {row} of {rgba.shape} does not hold views {shape}"
                )

    def __reduce__(self) -> tuple[type["ViewDataset"], tuple[Path]]:
        return ViewDataset, (self.folder,)

    @property
    def num_objects(self) -> int:
        """N, the number of objects."""
        return len(self.object_ids)

    @property
    def num_views(self) -> int:
        """V, the number of views of each object."""
        return len(self._cameras)

    @property
    def size(self) -> int:
        """Pixels along one side of a view."""
        return self._cameras.width

    def cameras(self, object_index: int) -> Cameras:
        """The V cameras that saw the object."""
        self._row(object_index)
        return self._cameras

    def images(self, object_index: int, views: Views = None) -> Tensor:
        """Views of an object, uint8 [v, H, W, 4], sRGB with straight alpha; None: all of them."""
        return self._read("rgba", object_index, views)

    def depth(self, object_index: int, views: Views = None) -> Tensor:
        """Distance along each ray, float16 [v, H, W]; 0 where nothing was hit."""
        return self._read("depth", object_index, views)

    def _row(self, object_index: int) -> tuple[str, int]:
        if not 0 <= object_index < self.num_objects:
            raise IndexError(f"object {object_index} of {self.num_objects}")
        return self._rows[object_index]

    def _read(self, name: str, object_index: int, views: Views) -> Tensor:
        shard, row = self._row(object_index)
        everything = self._shards[shard][name][row]
        if views is None:
            views = slice(None)
        elif isinstance(views, int):
            views = [views]
        elif not isinstance(views, slice):
            views = np.asarray(views, np.int64)
        return torch.from_numpy(np.array(everything[views]))


def _map_shard(folder: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, mapped read-only. DataError if it is not what its header says."""
    path = folder / name
    if Path(name).name != name:
        raise DataError(f"{folder / 'views.json'} names the shard {name!r}: a plain file name is needed")
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 0 < header_bytes <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {header_bytes} bytes")
            header = json.loads(file.read(header_bytes))
        raw = np.memmap(path, np.uint8, mode="r", offset=8 + header_bytes)
        arrays = {}
        for key in ("rgba", "depth"):
            dtype, shape = DTYPES[header[key]["dtype"]], tuple(header[key]["shape"])
            start, stop = header[key]["data_offsets"]
            if not 0 <= start <= stop <= len(raw):
                raise ValueError(f"{key} ends at byte {stop} of {len(raw)}")
            arrays[key] = raw[start:stop].view(dtype).reshape(shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no shard of views: {error!r}; run the render stage again") from error
    return arrays
