"""View shards: what was written is read at random, from anywhere, and broken shards are refused."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from raydiance.data.pinholes import ViewArrays
from raydiance.data.views import ViewDataset, ViewedObject, ViewsIndex, write_views
from raydiance.errors import DataError
from raydiance.fields.cameras import spiral_cameras

NUM_OBJECTS, NUM_VIEWS, SIZE = 7, 6, 8


@pytest.fixture
def views() -> list[ViewArrays]:
    rng = np.random.default_rng(0)
    return [
        ViewArrays(
            rgba=rng.integers(0, 256, (NUM_VIEWS, SIZE, SIZE, 4)).astype(np.uint8),
            depth=rng.uniform(0, 3, (NUM_VIEWS, SIZE, SIZE)).astype(np.float16),
        )
        for _ in range(NUM_OBJECTS)
    ]


@pytest.fixture
def folder(tmp_path: Path, views: list[ViewArrays], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("raydiance.data.views.SHARD_BYTES", 3 * NUM_VIEWS * SIZE * SIZE * 6)
    objects = tuple(
        ViewedObject(f"chair-{i}", "chair" if i % 2 else "sofa", "test" if i in (2, 5) else "train")
        for i in range(NUM_OBJECTS)
    )
    cameras = spiral_cameras(NUM_VIEWS, size=SIZE, radius=2.8, fov_degrees=42)
    write_views(tmp_path.joinpath, ViewsIndex(objects, cameras, (2, 5)), iter(views))
    return tmp_path


def test_everything_written_is_read(folder: Path, views: list[ViewArrays]) -> None:
    data = ViewDataset(folder)
    assert (data.num_objects, data.num_views, data.size) == (NUM_OBJECTS, NUM_VIEWS, SIZE)
    assert data.object_ids[3] == "chair-3" and data.categories[3] == "chair"
    assert data.train_objects.tolist() == [0, 1, 3, 4, 6] and data.test_objects.tolist() == [2, 5]
    assert data.train_views.tolist() == [0, 1, 3, 4] and data.held_out_views.tolist() == [2, 5]
    assert len(list(folder.glob("*.safetensors"))) == 3
    for number, expected in enumerate(views):
        assert torch.equal(data.images(number), torch.from_numpy(expected.rgba))
        assert torch.equal(data.depth(number), torch.from_numpy(expected.depth))


@pytest.mark.parametrize("which", [3, [1, 4], slice(2, 5), np.array([5, 0]), torch.tensor([5, 0])])
def test_views_are_chosen_by_any_index(folder: Path, views: list[ViewArrays], which: object) -> None:
    index = [which] if isinstance(which, int) else which
    image = ViewDataset(folder).images(4, which)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image.numpy(), views[4].rgba[index])


def test_cameras_come_back_bit_for_bit(folder: Path) -> None:
    cameras = spiral_cameras(NUM_VIEWS, size=SIZE, radius=2.8, fov_degrees=42)
    assert torch.equal(ViewDataset(folder).cameras(0).camera_to_world, cameras.camera_to_world)


def test_it_travels_to_processes_and_serves_threads(folder: Path, views: list[ViewArrays]) -> None:
    blob = pickle.dumps(ViewDataset(folder))
    assert len(blob) < 500
    data = pickle.loads(blob)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda k: data.images(k % NUM_OBJECTS), range(200)))
    for k, image in enumerate(images):
        np.testing.assert_array_equal(image.numpy(), views[k % NUM_OBJECTS].rgba)


def test_what_is_handed_out_is_a_copy(folder: Path) -> None:
    data = ViewDataset(folder)
    image = data.images(0)
    image.zero_()
    assert data.images(0).any()


def test_there_is_no_object_beyond_the_last(folder: Path) -> None:
    with pytest.raises(IndexError):
        ViewDataset(folder).images(NUM_OBJECTS)


def test_a_folder_without_views_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of views"):
        ViewDataset(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "header", "shape", "offsets", "missing", "outside"])
def test_a_broken_shard_is_refused_by_name(folder: Path, damage: str) -> None:
    shard = folder / "views-00001.safetensors"
    data = shard.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])

    def with_header(value: object) -> bytes:
        text = json.dumps(value).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    if damage == "truncated":
        shard.write_bytes(data[:-100])
    elif damage == "header":
        shard.write_bytes(b"\xff" * 8 + data[8:])
    elif damage == "shape":
        header["rgba"]["shape"][1] += 1
        shard.write_bytes(with_header(header))
    elif damage == "offsets":
        header["rgba"]["data_offsets"] = [0, 1 << 40]
        shard.write_bytes(with_header(header))
    elif damage == "missing":
        shard.unlink()
    else:
        index = json.loads((folder / "views.json").read_text())
        index["objects"][0]["shard"] = "../views-00001.safetensors"
        (folder / "views.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"views-00001"):
        ViewDataset(folder)
