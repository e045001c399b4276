"""Requests that bring something along: a shape to complete, a picture to reconstruct."""

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import Base64Bytes, Field, model_validator

from raydiance.serving.schema import SampleRequest, Strict

__all__ = ["Box", "CompletionRequest", "MeshUpload", "ReconstructionRequest", "Viewpoint"]

Place = Annotated[float, Field(ge=-1.0, le=1.0)]
Point = tuple[Place, Place, Place]


class MeshUpload(Strict):
    """A mesh file, moved and scaled into the ball of radius 0.95 about the origin."""

    format: Literal["glb", "obj", "ply", "stl"]
    data: Annotated[Base64Bytes, Field(min_length=1, description="the file, in base64")]


class Box(Strict):
    """A box of the world, which is [-1, 1]^3 with +Z up."""

    lower: Point = (-1.0, -1.0, -1.0)
    upper: Point = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if any(high <= low for low, high in zip(self.lower, self.upper)):
            raise ValueError(f"lower {self.lower} must be below upper {self.upper} on each axis")
        return self


class CompletionRequest(SampleRequest):
    """A shape of which the part within `keep` is kept. Give it as a mesh, or as a latent (format latent)."""

    mesh: MeshUpload | None = None
    latent: Annotated[Base64Bytes, Field(min_length=1)] | None = Field(
        default=None, description="the safetensors file of a sample of the same bundle, in base64"
    )
    keep: Box

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.mesh is None) == (self.latent is None):
            raise ValueError("give the shape either as mesh or as latent")
        return self

    @property
    def brought(self) -> dict[str, Any]:
        given = self.latent if self.mesh is None else self.mesh.data
        return {"upload": _digest(given or b""), "keep": self.keep.model_dump(mode="json")}


class Viewpoint(Strict):
    """From where a picture was taken: a camera on a sphere that looks at the origin; azimuth 0 is +X."""

    azimuth_degrees: Annotated[float, Field(ge=-360, le=360)] = 0.0
    elevation_degrees: Annotated[float, Field(ge=-85, le=85)] = 20.0
    radius: Annotated[float, Field(ge=1.2, le=20)] = 2.9
    fov_degrees: Annotated[float, Field(ge=5, le=120)] = 42.0


class ReconstructionRequest(SampleRequest):
    """A picture of one object and where it was taken from. What is transparent counts as white."""

    image: Annotated[Base64Bytes, Field(min_length=1, description="a square PNG, JPEG or WebP, in base64")]
    view: Viewpoint = Viewpoint()

    @model_validator(mode="after")
    def _led_by_the_picture(self) -> Self:
        if self.guidance != 1.0:
            raise ValueError("guidance has no effect on a reconstruction: its picture leads it")
        return self

    @property
    def brought(self) -> dict[str, Any]:
        return {"upload": _digest(self.image), "view": self.view.model_dump(mode="json")}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
