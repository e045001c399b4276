"""From a latent to what goes over the wire: a mesh, a sheet, a turntable, the latent itself; several in a
zip.
"""

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from raydiance.errors import DataError
from raydiance.fields import (
    VoxelField,
    bake_texture,
    contact_sheet,
    export_glb,
    export_mesh,
    extract_mesh,
    orbit_cameras,
    turntable,
    write_png,
    write_video,
)
from raydiance.generation import Bundle, decode, stamp, views
from raydiance.serving.identity import SampleId
from raydiance.serving.messages import Answer
from raydiance.serving.previews import ELEVATION_DEGREES, FOV_DEGREES, RADIUS
from raydiance.serving.problems import NoSurfaceError
from raydiance.serving.schema import Format, SampleRequest

__all__ = ["ZIP", "Piece", "finish", "pack", "told"]

ZIP = "application/zip"
TURNTABLE_SAMPLES, FRAMES_PER_S = 96, 24.0
SHEET_COLUMNS = 4
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same samples give the same bytes on any day


@dataclass(frozen=True)
class Piece:
    """One seed's share of an answer: a whole file, or images uint8 [V, H, W, 3], or a latent [C, D, H, W]."""

    seed: int
    file: bytes = b""
    images: NDArray[np.uint8] | None = None
    latent: Tensor | None = None


def finish(
    bundle: Bundle, request: SampleRequest, form: Format, seed: int, x_0: Tensor, how: Mapping[str, Any]
) -> Piece:
    """The piece of one seed from its sample x_0 [C, D, H, W], as the network knows it (normalised).

    how: what else it says of the way it was made.
    """
    latent = bundle.statistics.denormalise(x_0[None])
    if form is Format.latent:
        return Piece(seed, latent=latent[0].float().cpu().clone())
    decoded = decode(bundle, latent)
    if form in (Format.png, Format.views):
        cameras = orbit_cameras(
            request.views,
            size=request.size,
            radius=RADIUS,
            fov_degrees=FOV_DEGREES,
            elevation_degrees=ELEVATION_DEGREES,
        )
        return Piece(seed, images=views(decoded, cameras)[0])
    said = told(bundle, request, form, [seed], how)
    if form in (Format.webp, Format.mp4):
        return Piece(seed, file=_film(decoded, request, form, said))
    return Piece(seed, file=_mesh(decoded, request, form, said))


def pack(
    bundle: Bundle,
    request: SampleRequest,
    form: Format,
    pieces: Sequence[Piece],
    how: Mapping[str, Any],
) -> Answer:
    """The pieces as one body: a file alone as it is, sheets and latents joined, several files in a zip.

    how: as in finish.
    """
    name = f"{bundle.ref.key.rsplit('/', 1)[-1]}-{pieces[0].seed}"
    said = told(bundle, request, form, request.all_seeds, how)
    headers = _lineage(said, request)
    if form is Format.png:
        return Answer(_sheet(request, pieces, said), form.media_type, f"{name}.png", headers)
    if form is Format.views:
        return Answer(_all_views(bundle, request, pieces, how), ZIP, f"{name}.zip", headers)
    if form is Format.latent:
        latents = torch.stack([piece.latent for piece in pieces if piece.latent is not None])
        content = save({"latents": latents}, metadata={"raydiance": json.dumps(said)})
        return Answer(content, form.media_type, f"{name}.safetensors", headers)
    if len(pieces) == 1:
        return Answer(pieces[0].file, form.media_type, f"{name}.{form}", headers)
    files = {f"{piece.seed}.{form}": piece.file for piece in pieces}
    return Answer(_zip(files), ZIP, f"{name}.zip", headers)


def _mesh(decoded: VoxelField, request: SampleRequest, form: Format, said: Mapping[str, Any]) -> bytes:
    try:
        mesh = extract_mesh(decoded, resolution=request.resolution)
    except DataError as error:
        raise NoSurfaceError(f"{error}; try another seed") from error
    if request.texture is not None:
        mesh = bake_texture(decoded, mesh, size=request.texture)
    if form is Format.glb:
        return export_glb(mesh, extras={"raydiance": said})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mesh.{form}"
        export_mesh(mesh, path)
        return _commented(path.read_bytes(), form, json.dumps(said))


def _commented(content: bytes, form: Format, said: str) -> bytes:
    """The mesh with its stamp where its format has comments; STL has none."""
    if form is Format.ply:
        head, end, rest = content.partition(b"element vertex")
        return b"%scomment raydiance %s\n%s%s" % (head, said.encode(), end, rest)
    return b"# raydiance %s\n%s" % (said.encode(), content) if form is Format.obj else content


def _film(decoded: VoxelField, request: SampleRequest, form: Format, said: Mapping[str, Any]) -> bytes:
    frames = turntable(
        decoded,
        num_frames=request.frames,
        size=request.size,
        radius=RADIUS,
        fov_degrees=FOV_DEGREES,
        elevation_degrees=ELEVATION_DEGREES,
        num_samples=TURNTABLE_SAMPLES,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"turntable.{form}"
        write_video(path, frames, fps=FRAMES_PER_S, comment=json.dumps(said))
        return path.read_bytes()


def _sheet(request: SampleRequest, pieces: Sequence[Piece], said: Mapping[str, Any]) -> bytes:
    """A row of views per seed; the views of a single seed in rows of four."""
    images = [image for piece in pieces if piece.images is not None for image in piece.images]
    columns = request.views if len(pieces) > 1 else min(request.views, SHEET_COLUMNS)
    return _png(contact_sheet(images, columns), said)


def _all_views(
    bundle: Bundle, request: SampleRequest, pieces: Sequence[Piece], how: Mapping[str, Any]
) -> bytes:
    """A zip of PNGs, SEED-VIEW.png, each with its stamp."""
    files = {}
    for piece in pieces:
        said = told(bundle, request, Format.views, [piece.seed], how)
        for view, image in enumerate(() if piece.images is None else piece.images):
            files[f"{piece.seed}-{view:02d}.png"] = _png(image, {**said, "view": view})
    return _zip(files)


def _png(image: NDArray[np.uint8], said: Mapping[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        write_png(path, image, {"raydiance": json.dumps(said)})
        return path.read_bytes()


def _zip(files: Mapping[str, bytes]) -> bytes:
    """Files by name, each stamped with the same time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), content)
    return buffer.getvalue()


def told(
    bundle: Bundle, request: SampleRequest, form: Format, seeds: Sequence[int], how: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file of these seeds says about itself: enough to make the same bytes again."""
    stamped = stamp(
        bundle,
        seeds[0],
        request.plan_name,
        category=request.category,
        text=request.text,
        guidance=request.guidance,
    )
    said = {**stamped["raydiance"], **how}
    drawn = {
        Format.png: ("size", "views"),
        Format.views: ("size", "views"),
        Format.webp: ("size", "frames"),
        Format.mp4: ("size", "frames"),
        Format.latent: (),
    }
    chosen = tuple(name for name in ("resolution", "texture") if getattr(request, name) is not None)
    said |= {name: getattr(request, name) for name in drawn.get(form, chosen)}
    said |= request.brought
    return said if len(seeds) == 1 else {**said, "seeds": list(seeds)}


def _lineage(said: Mapping[str, Any], request: SampleRequest) -> dict[str, str]:
    names = [str(SampleId.of({**said, "seed": seed})) for seed in request.all_seeds]
    named = {} if request.brought else {"Raydiance-Sample": ",".join(names)}  # an upload is in no name
    return named | {
        "Raydiance-Bundle": said["bundle"],
        "Raydiance-Bundle-SHA256": said["sha256"],
        "Raydiance-Plan": said["plan"],
        "Raydiance-Seed": ",".join(str(seed) for seed in request.all_seeds),
        "Raydiance-Code": said["code_version"],
    }
