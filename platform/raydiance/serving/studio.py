"""What requests bring along, and the work on it: shapes become latents, pictures become samples.

One thread beside the ticks does it, one request after the other; more than a few waiting are refused.
"""

import io
import json
import struct
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from raydiance.data.ingest import into_unit_ball
from raydiance.data.meshes import MeshLimits
from raydiance.data.raycast import render_mesh
from raydiance.data.render import camera_arrays
from raydiance.data.sandbox import MeshReader
from raydiance.errors import DataError
from raydiance.fields import orbit_cameras, spiral_cameras
from raydiance.fields.cameras import Cameras, look_at
from raydiance.generation import LatentModel
from raydiance.generation.edits import Pictures, box_mask, fit_latent, reconstruct
from raydiance.serving.orders import Known, Progress
from raydiance.serving.previews import FOV_DEGREES, RADIUS
from raydiance.serving.problems import OverloadError, ServingError, UnprocessableError
from raydiance.serving.uploads import CompletionRequest, MeshUpload, ReconstructionRequest, Viewpoint

__all__ = ["Studio", "Work", "read_picture"]

R = TypeVar("R")

WAITING = 4
FILL, VIEWS, SIZE = 0.95, 24, 48
PICTURE_SIDE, MAX_PICTURE_SIDE, MIN_PICTURE_SIDE = 96, 4096, 16
LIMITS = {
    "faces": 400_000,
    "texture_pixels": 8 << 20,
    "scene_nodes": 2000,
    "memory_bytes": 1 << 30,
    "cpu_s": 10,
    "wall_s": 15.0,
}


class _GivenUpError(Exception):
    """Nobody waits for it any more."""


@dataclass(eq=False)
class Work(Generic[R]):
    """Something under way in the studio."""

    future: "Future[R]"
    given_up: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Give it up at its next step."""
        self.given_up.set()
        self.future.cancel()


class Studio:
    """Works on what is brought to one model."""

    def __init__(self, model: LatentModel, max_upload_bytes: int) -> None:
        self._model = model
        self._limits = MeshLimits(file_bytes=max_upload_bytes, **LIMITS)  # type: ignore[arg-type]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="studio")
        self._waiting = 0
        self._lock = threading.Lock()

    def known(self, request: CompletionRequest) -> Work[Known]:
        """What is kept of the shape that the request brings, as the network knows it."""

        def work(given_up: threading.Event) -> Known:
            def step(done: int, steps: int) -> None:
                _unless(given_up)

            box, spec = request.keep, self._model.spec.decoder
            mask = box_mask(self._model.latent_shape, spec.field_resolution, box.lower, box.upper)
            if not bool(mask.any()):
                raise UnprocessableError(
                    f"keep {box.lower} to {box.upper}: no cell of the latent has its centre in it"
                )
            if request.mesh is not None:
                return Known(fit_latent(self._model, self._views(request.mesh), step=step), mask)
            assert request.latent is not None, "a completion has a mesh or a latent"
            return Known(_latent(self._model, request.latent), mask)

        return self._submit(work)

    def rebuild(
        self,
        request: ReconstructionRequest,
        seed: int,
        finish: Callable[[Tensor], R],
        watch: Callable[[Progress], None] | None,
    ) -> Work[R]:
        """The sample of a seed that looks like the picture that the request brings, finished."""

        def work(given_up: threading.Event) -> R:
            def step(done: int, steps: int, x_0: Tensor) -> None:
                _unless(given_up)
                if watch is not None:
                    watch(Progress(done, steps, x_0))

            model = self._model
            picture = read_picture(request.image)
            given = Pictures(picture[None], _camera(request.view, len(picture)))
            x_0 = reconstruct(
                model,
                given,
                calls=model.plan(request.plan_name).nfe,
                seed=seed,
                label=model.label(request.category),
                words=model.text(request.text),
                step=step,
            )
            with torch.inference_mode():
                return finish(x_0)

        return self._submit(work)

    def close(self) -> None:
        """Finish what is under way and take on nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[threading.Event], R]) -> Work[R]:
        with self._lock:
            if self._waiting >= WAITING:
                raise OverloadError(f"{WAITING} uploads are waiting to be worked on; try again later", 10.0)
            self._waiting += 1
        given_up = threading.Event()

        def run() -> R:
            _unless(given_up)
            return work(given_up)

        def over(future: "Future[Any]") -> None:
            with self._lock:
                self._waiting -= 1

        future = self._pool.submit(run)
        future.add_done_callback(over)
        return Work(future, given_up)

    def _views(self, upload: MeshUpload) -> Pictures:
        """The mesh from all sides. Raises UnprocessableError for one that cannot be read."""
        cameras = spiral_cameras(VIEWS, size=SIZE, radius=RADIUS, fov_degrees=FOV_DEGREES)
        try:
            with tempfile.TemporaryDirectory() as folder, MeshReader(self._limits) as reader:
                path = Path(folder) / f"upload.{upload.format}"
                path.write_bytes(upload.data)
                mesh, _, _ = into_unit_ball(reader.read(path), FILL)
        except DataError as error:
            raise UnprocessableError(f"mesh: {error}") from error
        seen = render_mesh(mesh, camera_arrays(cameras)).rgba
        return Pictures(_over_white(torch.from_numpy(seen)), cameras)


def read_picture(data: bytes) -> Tensor:
    """Colours over white [H, W, 3] of a square picture, made smaller. Raises UnprocessableError."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
            width, height = picture.size
            if width != height or not MIN_PICTURE_SIDE <= width <= MAX_PICTURE_SIDE:
                raise UnprocessableError(
                    f"image: {width} x {height} pixels; it must be a square of {MIN_PICTURE_SIDE} to "
                    f"{MAX_PICTURE_SIDE}"
                )
            side = min(width, PICTURE_SIDE)
            small = picture.convert("RGBA").resize((side, side), Image.Resampling.BOX)
    except ServingError:
        raise
    except Exception as error:
        raise UnprocessableError(f"image: it cannot be read ({type(error).__name__}: {error})") from error
    return _over_white(torch.from_numpy(np.array(small)))


def _over_white(rgba: Tensor) -> Tensor:
    rgba = rgba.float() / 255
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def _camera(view: Viewpoint, size: int) -> Cameras:
    """One camera for a picture of size x size."""
    one = orbit_cameras(
        1,
        size=size,
        radius=view.radius,
        fov_degrees=view.fov_degrees,
        elevation_degrees=view.elevation_degrees,
    )
    turn = np.radians(view.azimuth_degrees)
    x, _, z = one.camera_to_world[0, :, 3].tolist()
    pose = look_at(torch.tensor([[x * np.cos(turn), x * np.sin(turn), z]], dtype=torch.float64)).float()
    return Cameras(pose, one.focal, one.center, one.width, one.height)


def _latent(model: LatentModel, data: bytes) -> Tensor:
    """The first latent of a safetensors file, normalised. Raises UnprocessableError."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        made_by = json.loads(header["__metadata__"]["raydiance"])["sha256"]
        latent = load(data)["latents"][0].float()
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise UnprocessableError(f"latent: it is no file of format latent ({error})") from error
    ref = getattr(model, "ref", None)
    if ref is not None and made_by != ref.sha256:
        raise UnprocessableError(
            f"latent: it is of the bundle {str(made_by)[:12]}, this one is {ref.sha256[:12]}"
        )
    if latent.shape != model.latent_shape or not bool(torch.isfinite(latent).all()):
        raise UnprocessableError(
            f"latent: it needs finite numbers {list(model.latent_shape)}, got {list(latent.shape)}"
        )
    return model.statistics.normalise(latent[None])[0]


def _unless(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise _GivenUpError
