"""The bundle: one artifact with all that it takes to draw a sample, and nothing else.

decoder.safetensors     G2, latents -> radiance field (the codes and G1 stay behind)
denoiser.safetensors    the averaged weights of the diffusion U-Net
statistics.safetensors  center and scale of the latents
plans/<name>.json       sampling plans
bundle.json             a BundleSpec: the shapes of the networks, the default plan, where all of it came from
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from raydiance.data.latents import RobustStatistics
from raydiance.diffusion import plans as plan_files
from raydiance.diffusion import schedules
from raydiance.diffusion.plans import SamplingPlan
from raydiance.diffusion.preconditioning import EDM
from raydiance.errors import ArtifactError, RequestError
from raydiance.generation.weights import load_weights, read_header, read_tensors, save_weights
from raydiance.models import AutodecoderSpec, FieldDecoder, UNet, UNetSpec, word_numbers
from raydiance.models.text import UNKNOWN_WORD
from raydiance.spec import from_plain, spec, to_plain
from raydiance.storage import Artifact, ArtifactRef, Store, write_json

__all__ = [
    "BUNDLE_FORMAT",
    "MAX_STEPS",
    "STEPPED",
    "Bundle",
    "BundleSpec",
    "LatentModel",
    "load_bundle",
    "write_bundle",
]

M = TypeVar("M", bound=nn.Module)

BUNDLE_FORMAT = 1
STEPPED: Mapping[str, Mapping[str, int]] = {
    "ddim": {},
    "deis": {"order": 3},
    "dpm_solver_pp": {"order": 2},
    "heun": {},
}
"""Solvers that make a plan of any number of steps, with their options: a name says it all."""
MAX_STEPS, SIGMA_MIN = 250, 0.002
MAX_WEIGHTS_BYTES = 8 * 2**30  # a spec that asks for more is a broken spec, not a model of ours


@spec
class BundleSpec:
    """What bundle.json says. `provenance` names the artifact of each stage that it was made from."""

    format_version: int = BUNDLE_FORMAT
    decoder: AutodecoderSpec
    denoiser: UNetSpec
    sigma_data: float
    plans: tuple[str, ...]
    default_plan: str
    categories: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # that texts are made of, for a denoiser with a vocabulary
    provenance: Mapping[str, ArtifactRef]
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.format_version != BUNDLE_FORMAT:
            raise ValueError(f"bundle of format {self.format_version}, this code reads {BUNDLE_FORMAT}")
        if self.default_plan not in self.plans:
            raise ValueError(f"default_plan {self.default_plan!r} must be one of the plans {self.plans}")
        channels = self.decoder.latent_channels
        if (self.denoiser.in_channels, self.denoiser.out_channels) != (channels, channels):
            raise ValueError(
                f"the denoiser maps {self.denoiser.in_channels} channels to {self.denoiser.out_channels}, "
                f"the decoder takes latents of {channels}: they must be the same"
            )
        if self.denoiser.num_classes not in (0, len(self.categories)):
            raise ValueError(
                f"the denoiser knows {self.denoiser.num_classes} classes, "
                f"but {len(self.categories)} categories are named"
            )
        if len(self.words) > max(0, self.denoiser.vocabulary - 2):
            raise ValueError(
                f"{len(self.words)} words are named, but the denoiser's vocabulary is {self.denoiser.vocabulary}, "
                "two of which are taken"
            )


@dataclass(frozen=True, eq=False)
class LatentModel:
    """What it takes to sample, in memory: frozen networks in evaluation mode on one device."""

    spec: BundleSpec
    decoder: FieldDecoder
    denoiser: UNet
    statistics: RobustStatistics
    plans: Mapping[str, SamplingPlan]
    device: torch.device

    @property
    def preconditioning(self) -> EDM:
        """What makes a noise predictor of the denoiser."""
        return EDM(self.spec.sigma_data)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[C, D, H, W] of one latent."""
        return self.spec.decoder.latent_shape

    def plan(self, name: str | None = None) -> SamplingPlan:
        """The plan of this name, the default one for None, or SOLVER-STEPS made on the spot.

        Raises RequestError with the names that there are.
        """
        name = name or self.spec.default_plan
        if name in self.plans:
            return self.plans[name]
        solver, _, steps = name.rpartition("-")
        if solver not in STEPPED or not steps.isascii() or not steps.isdigit():
            raise RequestError(
                f"plan {name!r}: there is {', '.join(sorted(self.plans))}, "
                f"and SOLVER-STEPS with {', '.join(STEPPED)}"
            )
        if not 1 <= int(steps) <= MAX_STEPS:
            raise RequestError(f"plan {name!r}: {solver} takes 1 to {MAX_STEPS} steps")
        return _stepped(solver, int(steps), self.plans[self.spec.default_plan].sigma_max)

    def label(self, category: str | None) -> int | None:
        """The class label of a category. Raises RequestError for one that the denoiser was not taught."""
        if category is None:
            return None
        if not self.spec.denoiser.num_classes:
            raise RequestError(f"category {category!r}: this model is unconditional; leave the category out")
        if category not in self.spec.categories:
            raise RequestError(f"category {category!r}: this model knows {', '.join(self.spec.categories)}")
        return self.spec.categories.index(category)

    def text(self, text: str | None) -> Tensor | None:
        """Numbers [1, T] of a text's words. Raises RequestError if the denoiser was taught none of them."""
        if text is None:
            return None
        if not self.spec.words:
            raise RequestError(f"text {text!r}: this model was not taught captions; leave the text out")
        numbers = word_numbers([text], self.spec.words, self.spec.denoiser.max_words)
        if not bool((numbers > UNKNOWN_WORD).any()):
            raise RequestError(f"text {text!r}: this model knows {', '.join(self.spec.words[:40])}, ...")
        return numbers


@dataclass(frozen=True, eq=False)
class Bundle(LatentModel):
    """A model that was published: `ref` names it for ever."""

    ref: ArtifactRef
    code_version: str


def write_bundle(
    store: Store,
    name: str,
    model: LatentModel,
    *,
    made_by: object = None,
    seeds: Mapping[str, int] | None = None,
    meta: Mapping[str, object] | None = None,
) -> Artifact:
    """Write the artifact `bundle/<name>-<token>`; `made_by` is the spec of the job, for the manifest."""
    parents = tuple(model.spec.provenance.values())
    with store.create("bundle", name, spec=made_by, seeds=seeds, parents=parents, meta=meta) as draft:
        save_weights(model.decoder, draft.path("decoder.safetensors"))
        save_weights(model.denoiser, draft.path("denoiser.safetensors"))
        model.statistics.save(draft.path("statistics.safetensors"))
        for plan_name in model.spec.plans:
            text = model.plans[plan_name].to_json()
            draft.path(f"plans/{plan_name}.json").write_text(text, encoding="ascii")
        write_json(draft.path("bundle.json"), to_plain(model.spec))
    return draft.artifact


def load_bundle(artifact: Artifact, device: torch.device | str = "cpu") -> Bundle:
    """The bundle of an artifact, each file verified against the manifest before it is read.

    Raises ArtifactError if a file is not what the manifest, the spec or the format say it is.
    """
    key = artifact.ref.key
    if artifact.ref.kind != "bundle":
        raise ArtifactError(f"{key}: an artifact of kind {artifact.ref.kind!r} is no bundle; publish one")
    try:
        spec = from_plain(BundleSpec, artifact.read_json("bundle.json"), "bundle.json")
        plans = {
            name: plan_files.from_json(artifact.path(f"plans/{name}.json").read_text(encoding="ascii"))
            for name in spec.plans
        }
    except ValueError as error:
        raise ArtifactError(f"{key}: {error}") from error
    device = torch.device(device)
    return Bundle(
        spec=spec,
        decoder=_network(lambda: FieldDecoder(spec.decoder), artifact, "decoder.safetensors").to(device),
        denoiser=_network(lambda: UNet(spec.denoiser), artifact, "denoiser.safetensors").to(device),
        statistics=_statistics(artifact, spec).to(device),
        plans=plans,
        device=device,
        ref=artifact.ref,
        code_version=artifact.manifest.code_version,
    )


@lru_cache(maxsize=64)
def _stepped(solver: str, steps: int, sigma_max: float) -> SamplingPlan:
    """A plan of a number of steps, from where the bundle's default plan starts."""
    schedule = schedules.edm(SIGMA_MIN, sigma_max)
    return plan_files.build(solver, schedule, "karras", steps, **STEPPED[solver])


def _network(build: Callable[[], M], artifact: Artifact, name: str) -> M:
    """The network with the weights of the file; its size is known before any memory is taken for it."""
    with torch.device("meta"):
        size = sum(value.nbytes for value in build().state_dict().values())
    if size > MAX_WEIGHTS_BYTES:
        raise ArtifactError(f"{artifact.ref.key}: its spec asks for {size} bytes in {name}")
    with torch.random.fork_rng(devices=[]):  # building draws initial weights, and they are thrown away
        network = build()
    return load_weights(network, artifact.path(name))


def _statistics(artifact: Artifact, spec: BundleSpec) -> RobustStatistics:
    """Center and scale, one number for all channels or one for each."""
    path = artifact.path("statistics.safetensors")
    shape = read_header(path).get("center", {}).get("shape")
    size = 1 if shape == [1] else spec.decoder.latent_channels
    tensors = read_tensors(path, {"center": torch.zeros(size), "scale": torch.ones(size)})
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()) or bool(
        (tensors["scale"] <= 0).any()
    ):
        raise ArtifactError(f"{artifact.ref.key}: statistics.safetensors needs finite centers and scales > 0")
    return RobustStatistics(tensors["center"], tensors["scale"])
