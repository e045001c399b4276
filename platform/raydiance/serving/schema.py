"""What goes over the wire: requests, their limits, formats, and problem documents (RFC 9457)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from raydiance.serving.problems import UnprocessableError

__all__ = [
    "FORMATS",
    "MAX_GUIDANCE",
    "MAX_SEED",
    "MAX_TEXT",
    "CanaryInfo",
    "Format",
    "JobInfo",
    "Lineage",
    "Link",
    "ModelInfo",
    "ModelList",
    "Name",
    "PlanInfo",
    "PlanList",
    "Problem",
    "Quality",
    "SampleDrawing",
    "SampleInfo",
    "SampleRequest",
    "SolverInfo",
    "Strict",
    "Token",
    "negotiate",
]

MAX_SEED = 2**63 - 1
MAX_GUIDANCE = 20.0
MAX_TEXT = 300


class Format(StrEnum):
    """What an answer is made of."""

    glb = "glb"
    ply = "ply"
    obj = "obj"
    stl = "stl"
    png = "png"
    webp = "webp"
    mp4 = "mp4"
    views = "views"
    latent = "latent"

    @property
    def media_type(self) -> str:
        return FORMATS[self]


FORMATS: dict[Format, str] = {
    Format.glb: "model/gltf-binary",
    Format.ply: "application/ply",
    Format.obj: "model/obj",
    Format.stl: "model/stl",
    Format.png: "image/png",
    Format.webp: "image/webp",
    Format.mp4: "video/mp4",
    Format.views: "application/zip",
    Format.latent: "application/vnd.safetensors",
}
"""Media type of each format; with several seeds the meshes and turntables come as one application/zip."""

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]


Token = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
Quality = Literal["draft", "standard", "best"]


class Strict(BaseModel):
    """Unknown keys are refused, so that a typing error is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SampleDrawing(Strict):
    """What a sample is drawn as."""

    format: Format | None = Field(default=None, description="overrides the Accept header")
    resolution: Annotated[int, Field(ge=16, le=1024)] | None = Field(
        default=None,
        description="grid points per axis that the mesh is drawn from; the field's own if not given",
    )
    texture: Annotated[int, Field(ge=64, le=4096)] | None = Field(
        default=None, description="texels per side of a texture for a GLB; colours of vertices if not given"
    )
    size: Annotated[int, Field(ge=32, le=1024)] = Field(
        default=128, description="pixels per view of images and turntables"
    )
    views: Annotated[int, Field(ge=1, le=72)] = Field(default=8, description="views on a sheet")
    frames: Annotated[int, Field(ge=8, le=120)] = Field(default=36, description="frames of a turntable")


class SampleRequest(SampleDrawing):
    """One sample per seed. The same seed, plan and bundle give the same bytes.

    Give `seed` (and `count` for seed, seed + 1, ...) or a list of `seeds`; a `plan` by name or a `quality`.
    """

    seed: Seed | None = Field(
        default=None, description="the first seed; 0 if neither seed nor seeds is given"
    )
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=64)] | None = None
    count: Annotated[int, Field(ge=1, le=64)] = 1
    plan: Name | None = Field(default=None, description="a name out of GET /v1/plans, or SOLVER-STEPS")
    steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="with one of the solvers of GET /v1/plans as plan"
    )
    quality: Quality | None = None
    latency_budget_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = Field(
        default=None, description="the best plan that is expected to be done in this time, as busy as it is"
    )
    model: Name | None = Field(
        default=None, description="a name out of GET /v1/models; the one that is served to all if not given"
    )
    category: Name | None = Field(
        default=None, description="what to make, where the bundle was taught categories"
    )
    text: Text | None = Field(default=None, description="what to make, where the bundle was taught captions")
    guidance: Annotated[float, Field(ge=1, le=MAX_GUIDANCE)] = Field(
        default=1.0,
        description="how much more of the category and the text, away from what has neither (classifier-free)",
    )
    priority: Annotated[int, Field(ge=-1, le=1)] = Field(
        default=0, description="1 before 0 before -1 (background)"
    )
    deadline_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = Field(
        default=None, description="refused at once if it cannot be met"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.seeds is not None and (self.seed is not None or self.count != 1):
            raise ValueError("give either seeds, or seed and count; not both")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ: one seed is one sample")
        ways = {
            "plan": self.plan,
            "quality": self.quality,
            "latency_budget_ms": self.latency_budget_ms,
        }
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"give either {' or '.join(given)}: each of them chooses the plan")
        if self.guidance != 1.0 and self.category is None and self.text is None:
            raise ValueError("guidance needs a category or a text to lead to")
        if self.steps is not None and self.plan is None:
            raise ValueError("steps needs a solver as plan; GET /v1/plans names them")
        return self

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The request of these fields. Raises UnprocessableError, in a line."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            said = [
                f"{'.'.join(map(str, each['loc'])) or 'request'}: {each['msg']}" for each in error.errors()
            ]
            raise UnprocessableError("; ".join(said)) from error

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Every seed that is asked for, in the order of the answer."""
        if self.seeds is not None:
            return tuple(self.seeds)
        first = self.seed or 0
        return tuple(range(first, first + self.count))

    @property
    def plan_name(self) -> str | None:
        """The plan asked for by its name, with the steps where they are given; None: not by name."""
        return self.plan if self.steps is None else f"{self.plan}-{self.steps}"

    @property
    def brought(self) -> dict[str, Any]:
        """What the request brings along, as a file tells of it; a plain sample needs nothing."""
        return {}

    def pixels(self, form: Format) -> int:
        """How many pixels the answer takes to draw."""
        drawn = {
            Format.png: self.views,
            Format.views: self.views,
            Format.webp: self.frames,
            Format.mp4: self.frames,
        }
        per_seed = drawn.get(form, 0)
        return len(self.all_seeds) * per_seed * self.size**2


class ModelInfo(Strict):
    """A bundle that is being served."""

    name: str
    bundle: str
    bundle_sha256: str
    created: str
    code_version: str
    latent_shape: list[int]
    plans: list[str]
    default_plan: str
    categories: list[str]
    words: list[str] = Field(description="those that a text may be made of, the most frequent first")


class CanaryInfo(Strict):
    """The bundle on trial: `share` of the requests that name none; `returned` says why it gets none any more."""

    name: str
    share: float
    asked: int
    failed: int
    returned: str | None


class ModelList(Strict):
    """The first is served to all who name none."""

    models: list[ModelInfo]
    canary: CanaryInfo | None = None


class PlanInfo(Strict):
    """A sampling plan: `nfe` network calls per sample."""

    name: str
    solver: str
    nfe: int
    order: int
    stochastic: bool
    default: bool
    estimate_ms: float | None = Field(
        default=None, description="network time alone on this replica, unloaded"
    )


class SolverInfo(Strict):
    """A solver that takes any number of steps: ask for plan SOLVER with steps N, or for plan SOLVER-N."""

    name: str
    max_steps: int
    calls_per_step: int


class PlanList(Strict):
    """`call_ms` is the time of one network call on this replica."""

    plans: list[PlanInfo]
    solvers: list[SolverInfo]
    call_ms: float


class SampleInfo(Strict):
    """One sample: the same id is the same sample for ever, whatever it is drawn as."""

    id: str
    seed: int
    plan: str
    category: str | None
    text: str | None
    guidance: float
    bundle: str
    url: str
    lineage: str


class JobInfo(Strict):
    """A request that is worked on while its client does something else."""

    id: str
    state: Literal["queued", "running", "done", "failed"]
    step: int
    steps: int
    url: str
    events: str
    result: str
    samples: list[SampleInfo] = []
    problem: dict[str, Any] | None = None


class Link(Strict):
    """One artifact of the chain, with the keys of those that it was made from."""

    key: str
    kind: str
    sha256: str
    parents: list[str]
    created: str | None = None
    code_version: str | None = None
    seeds: dict[str, int] = {}
    files: int = 0
    bytes: int = 0
    run: str | None = None
    run_page: str | None = None
    missing: str | None = None


class Lineage(Strict):
    """From a sample, newest first, down to the data set: each artifact once."""

    sample: SampleInfo
    code_version: str
    chain: list[Link]
    missing: list[str]


class Problem(BaseModel):
    """An error, as RFC 9457 has it (application/problem+json)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[dict[str, Any]] | None = None


def negotiate(accept: str | None) -> Format | None:
    """The format that an Accept header asks for most (RFC 9110, 12.5.1); glb for none, None if nothing
    matches.
    """
    if not accept or not accept.strip():
        return Format.glb
    wishes = [_media_range(part) for part in accept.split(",") if part.strip()]
    scores = {form: _score(media, wishes) for form, media in FORMATS.items()}
    best = max(scores.values())
    return next(form for form, score in scores.items() if score == best) if best[0] > 0 else None


def _media_range(part: str) -> tuple[str, float]:
    """("image/png", 0.8) from "image/png;q=0.8"; a quality that is no number counts as 0."""
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media, float(parameter[2:])
            except ValueError:
                return media, 0.0
    return media, 1.0


def _score(media: str, wishes: list[tuple[str, float]]) -> tuple[float, int]:
    """(quality, precision) of the most precise range that matches a media type; (0, 0) if none does."""
    for precision, pattern in ((2, media), (1, f"{media.split('/')[0]}/*"), (0, "*/*")):
        for wish, quality in wishes:
            if wish == pattern:
                return quality, precision
    return 0.0, 0
