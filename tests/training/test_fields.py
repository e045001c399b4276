"""The job `fit`, on views in a store and on captures in a folder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from tests.training.scenes import COLOURS, ball, balls

from raydiance.data.captures import CaptureSpec, open_capture
from raydiance.data.views import ViewDataset
from raydiance.errors import DataError
from raydiance.fields import (
    Capture,
    Frame,
    VoxelField,
    load_field,
    render_views,
    save_field,
    spiral_cameras,
    write_transforms,
)
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, local_run
from raydiance.training.fields import CaptureFit, FieldsFit, fit
from raydiance.training.fitting import FieldFit

SMALL = FieldsFit(field=FieldFit(resolution=16, levels=2, steps=80, rays=512))


def write_capture(folder: Path, *, opaque: bool) -> Path:
    """A ball with stripes, photographed from sixteen sides in a world of its own scale."""
    (folder / "images").mkdir(parents=True)
    cameras = spiral_cameras(16, size=40, radius=2.5, fov_degrees=45.0)
    line = torch.linspace(-1, 1, 48)
    place = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
    density = 100 * (10 * (0.5 - place.norm(dim=-1))).clamp(0, 1)
    striped = torch.cat((density[..., None], 0.5 + 0.45 * torch.sin(7 * place)), dim=-1)
    seen = render_views(VoxelField(striped[None]), cameras, background=0.0, num_samples=96)
    alpha = seen.opacity[0, ..., None]
    straight = torch.cat((seen.colour[0] / alpha.clamp(min=1e-6), alpha), dim=-1)
    over_green = torch.cat(
        (seen.colour[0] + (1 - alpha) * torch.tensor([0.2, 0.6, 0.2]), alpha * 0 + 1), dim=-1
    )
    images = ((over_green if opaque else straight).clamp(0, 1) * 255).round().byte().numpy()
    frames = []
    for i, (image, pose) in enumerate(zip(images, cameras.camera_to_world.double().numpy(), strict=True)):
        path = folder / "images" / f"{i:02d}.png"
        Image.fromarray(image).save(path)
        moved = np.concatenate((pose[:, :3], 3 * pose[:, 3:] + [[1.0], [2.0], [3.0]]), axis=1)
        frames.append(Frame(path, moved, tuple(cameras.focal[i].tolist()), (20.0, 20.0), 40, 40))
    write_transforms(Capture(tuple(frames), np.eye(3, 4)), folder / "transforms.json")
    return folder


def test_a_field_for_each_object(tmp_path: Path) -> None:
    store, tracker = Store.open(tmp_path), MemoryTracker()
    views = balls(store, size=24)
    run = local_run(store, name="fit-test", inputs={"render": views}, tracker=tracker)
    outcome = fit(SMALL, run)
    content = outcome.artifact.read_json("fields.json")
    assert [row["id"] for row in content["objects"]] == ["ball-0", "ball-1", "ball-2"] and not content[
        "failed"
    ]
    assert outcome.metrics["objects"] == 3 and outcome.metrics["psnr_mean"] > 20
    assert outcome.artifact.manifest.parents == (views.ref,)
    data = ViewDataset(views)
    for index, row in enumerate(content["objects"]):
        field = load_field(outcome.artifact.path(row["file"]))
        assert field.grid.shape == (1, 16, 16, 16, 4)
        seen = render_views(field, data.cameras(index), [2]).colour[0, 0, 12, 12]
        np.testing.assert_allclose(seen, COLOURS[index], atol=0.15)


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    views, fitted = balls(store), []

    def map_until(limit: int) -> Any:
        def mapped(function: Callable[[Any], Any], tasks: Sequence[Any], /) -> Iterator[Any]:
            for task in tasks:
                if len(fitted) == limit:
                    raise KeyboardInterrupt
                fitted.append(task.object_index)
                yield function(task)

        return mapped

    with pytest.raises(KeyboardInterrupt):
        fit(SMALL, local_run(store, name="cut", inputs={"render": views}, map=map_until(2)))
    outcome = fit(SMALL, local_run(store, name="cut", inputs={"render": views}, map=map_until(9)))
    assert fitted == [0, 1, 2]  # none twice
    whole = fit(SMALL, local_run(store, name="whole", inputs={"render": views}))
    for name in ("ball-0", "ball-2"):
        one, two = (load_field(o.artifact.path(f"fields/{name}.safetensors")).grid for o in (outcome, whole))
        assert torch.equal(one, two)


def test_a_failed_object_is_told_of_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path)
    views = balls(store)
    read = ViewDataset.images

    def images(self: ViewDataset, index: int, chosen: Any = None) -> torch.Tensor:
        return read(self, index, chosen) * (index != 1)  # as a mesh that no camera sees

    monkeypatch.setattr(ViewDataset, "images", images)
    outcome = fit(SMALL, local_run(store, inputs={"render": views}))
    content = outcome.artifact.read_json("fields.json")
    assert [row["id"] for row in content["objects"]] == ["ball-0", "ball-2"]
    assert content["failed"][0]["id"] == "ball-1" and "nothing to fit" in content["failed"][0]["reason"]
    assert outcome.metrics["failed"] == 1
    monkeypatch.setattr(ViewDataset, "images", lambda self, index, chosen=None: read(self, index, chosen) * 0)
    with pytest.raises(DataError, match="no object could be fitted"):
        fit(SMALL, local_run(store, name="none", inputs={"render": views}))


@pytest.mark.parametrize("opaque", [False, True])
def test_a_capture_becomes_field_mesh_and_film(
    tmp_path: Path, opaque: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = CaptureFit(
        capture=CaptureSpec(
            source=str(write_capture(tmp_path / "scene", opaque=opaque)), held_out_every=6, extent=1.0
        ),
        field=FieldFit(resolution=24, levels=2, steps=300, rays=1500, tight=not opaque),
        components="largest",
        max_faces=800,
        texture_size=64,
        frames=3,
        frame_size=32,
    )
    outcome = fit(spec, local_run(tmp_path / "store"))
    artifact = outcome.artifact
    assert {"capture.json", "field.safetensors", "mesh.glb", "mesh_textured.glb", "turntable.mp4"} <= set(
        artifact.files
    )
    content, report = artifact.read_json("capture.json"), artifact.read_json("report.json")
    assert content["background"] == ("learned" if opaque else "transparent")
    assert content["scale"] == pytest.approx(1 / 3, rel=1e-4)  # and so it is told
    assert "scale 0.333333" in capsys.readouterr().out
    np.testing.assert_allclose(np.array(content["applied_transform"])[:3, 3] * 3, [-1, -2, -3], atol=2)
    assert outcome.metrics["psnr"] > 22 and report["psnr"] == outcome.metrics["psnr"]
    mesh = trimesh.load(artifact.path("mesh.glb")).to_mesh()
    assert report["watertight"] == mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.35)


def test_a_capture_without_a_source_or_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Give source=FOLDER"):
        open_capture(CaptureSpec())
    with pytest.raises(DataError, match="no such file"):
        open_capture(CaptureSpec(source=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="no cameras and images"):
        open_capture(CaptureSpec(source=str(tmp_path)))
    with pytest.raises(ValueError, match="leaves no frame"):
        CaptureSpec(held_out_every=1)


def test_fields_come_back_from_their_files(tmp_path: Path) -> None:
    pose = torch.eye(3, 4)
    field = VoxelField(ball(COLOURS[0], 0.5, resolution=9), (-1.0, -2.0, -1.0), (1.0, 1.0, 0.5), pose)
    save_field(field, tmp_path / "a.safetensors")
    again = load_field(tmp_path / "a.safetensors")
    torch.testing.assert_close(again.grid, field.grid, atol=1e-3, rtol=1e-3)
    assert (again.lower, again.upper) == (field.lower, field.upper)
    assert again.to_world is not None and torch.equal(again.to_world, pose)
    (tmp_path / "b.safetensors").write_bytes(b"no field")
    with pytest.raises(DataError, match="no file of fields"):
        load_field(tmp_path / "b.safetensors")
