"""The statements of the sources on latent 3D diffusion, as arms of an experiment and a rule for the verdict.

The published figures are of "AutoDecoding Latent 3D Diffusion Models" (Ntavelis et al. 2023; PSNR on chairs).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from raydiance.models import AutodecoderSpec
from raydiance.training.autodecoder import AutodecoderTraining
from raydiance.training.claim_cells import Figures, Setting, VoxelSetting

__all__ = ["BASE", "STATEMENTS", "Arm", "Statement", "Verdict", "settings_of", "statements_of", "verdict"]

Verdict = Literal["holds", "does not hold", "not at this scale", "open"]

BASE, VOXELS = "base", "voxels"
SOURCE = "Ntavelis et al. 2023"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a figure of the cells of a setting."""

    label: str
    setting: str
    figure: str


@dataclass(frozen=True)
class Statement:
    """`better` is said to be better than each of `than`; `also` is shown beside them. higher: what is better."""

    name: str
    text: str
    published: str
    higher: bool
    better: Arm
    than: tuple[Arm, ...]
    also: tuple[Arm, ...] = ()
    source: str = SOURCE

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.better, *self.than, *self.also)


STATEMENTS = (
    "direct",
    "direct_kernel",
    "foreground",
    "multi_view",
    "attention",
    "depth",
    "codes",
    "volume",
    "steps",
    "normalisation",
    "outliers",
    "voxels",
)
"""The names of all statements, in the order in which they are measured."""


def settings_of(base: Setting, voxels: VoxelSetting) -> dict[str, Setting | VoxelSetting]:
    """The base, what differs from it by one thing, and what has no latents. Ablations have no denoiser."""
    training, model = base.autodecoder, base.autodecoder.model
    free = _losses(replace(training, latent_noise=0.0), latents=0.0)
    globally = replace(base.encode, per_channel=False)
    moments = replace(base.encode, statistics="moments")
    return {
        BASE: base,
        "no opacity": Setting(autodecoder=_losses(training, opacity=0.0)),
        "one view": Setting(autodecoder=_one_view(training)),
        "no attention": Setting(autodecoder=_model(training, attention_resolutions=())),
        "no blocks": Setting(autodecoder=_model(training, depths=(0,) * len(model.depths))),
        "short codes": Setting(autodecoder=_model(training, code_dim=max(1, model.code_dim // 16))),
        "long codes": Setting(autodecoder=_model(training, code_dim=4 * model.code_dim)),
        **{f"{size}^3": _at(base, size) for size in _other_volumes(model)},
        "moments": replace(base, encode=moments),
        "global": replace(base, encode=globally),
        "global moments": replace(base, encode=replace(moments, per_channel=False)),
        "free": replace(base, autodecoder=free),
        "free moments": replace(base, autodecoder=free, encode=moments),
        VOXELS: voxels,
    }


def statements_of(base: Setting, steps: Sequence[int]) -> list[Statement]:
    """All statements; steps: the numbers of network calls to compare, ascending."""
    model = base.autodecoder.model
    few, many = steps[0], steps[-1]
    volume = f"{model.latent_resolution}^3"
    others = tuple(Arm(f"{size}^3", f"{size}^3", "fd_views") for size in _other_volumes(model))
    return [
        Statement(
            "direct",
            "latent diffusion beats direct latent sampling, by fd_views",
            "in FID",
            False,
            Arm("diffusion", BASE, "fd_views"),
            (Arm("direct", BASE, "fd_views_direct"),),
            (Arm("reconstructions", BASE, "fd_views_reconstruction"),),
        ),
        Statement(
            "direct_kernel",
            "latent diffusion beats direct latent sampling, by kd_views",
            "in KID",
            False,
            Arm("diffusion", BASE, "kd_views"),
            (Arm("direct", BASE, "kd_views_direct"),),
            (Arm("reconstructions", BASE, "kd_views_reconstruction"),),
        ),
        _ablation(
            "foreground",
            "foreground supervision helps (L1 of the opacity)",
            "weight 10; left out on Objaverse",
            Arm("with", BASE, "psnr"),
            Arm("without", "no opacity", "psnr"),
        ),
        _ablation(
            "multi_view",
            "several views of an object per step help, at as many rays",
            "27.72 beside 27.18 dB",
            Arm(f"{base.autodecoder.views_per_object} views", BASE, "psnr"),
            Arm("1 view", "one view", "psnr"),
        ),
        _ablation(
            "attention",
            "self-attention helps",
            "27.72 beside 27.34 dB",
            Arm("with", BASE, "psnr"),
            Arm("without", "no attention", "psnr"),
        ),
        _ablation(
            "depth",
            "depth helps (residual blocks)",
            "27.72 beside 27.24 dB",
            Arm(f"{sum(model.depths)} blocks", BASE, "psnr"),
            Arm("none", "no blocks", "psnr"),
        ),
        _ablation(
            "codes",
            "longer codes help",
            "1024 numbers 27.72, 64 numbers 25.99 dB",
            Arm(f"{model.code_dim} numbers", BASE, "psnr"),
            Arm(f"{max(1, model.code_dim // 16)}", "short codes", "psnr"),
            Arm(f"{4 * model.code_dim}", "long codes", "psnr"),
        ),
        Statement(
            "volume",
            f"latents of {volume} are the ones to diffuse",
            "8^3 is best of 4^3, 8^3, 16^3",
            False,
            Arm(volume, BASE, "fd_views"),
            others,
            tuple(
                Arm(f"PSNR {label}", setting, "psnr")
                for label, setting in ((volume, BASE), *((each.label, each.setting) for each in others))
            ),
        ),
        Statement(
            "steps",
            f"more sampling steps help ({many} calls beside {few})",
            "32 to 256 steps are taken",
            False,
            Arm(f"{many}", BASE, f"fd_views_{many}"),
            (Arm(f"{few}", BASE, f"fd_views_{few}"),),
            tuple(Arm(f"{calls}", BASE, f"fd_views_{calls}") for calls in steps[1:-1]),
        ),
        _normalisation(
            "normalisation",
            "robust normalisation beats mean and deviation",
            ("base", "moments"),
            Arm("robust, all channels as one", "global", "fd_views"),
            Arm("mean and deviation, all as one", "global moments", "fd_views"),
        ),
        _normalisation(
            "outliers",
            "robust normalisation beats the other, of latents that nothing keeps small",
            ("free", "free moments"),
        ),
        Statement(
            "voxels",
            "diffusion of latents beats diffusion of voxel fields at equal compute, by fd_views",
            "of images, at downsampling by 4 to 16",
            False,
            Arm("latents", BASE, "fd_views"),
            (Arm("voxel fields", VOXELS, "fd_views"),),
            tuple(
                Arm(f"{label}, {side}", setting, figure)
                for label, figure in (("reconstructions", "fd_views_reconstruction"), ("CPU-s", "training_s"))
                for side, setting in (("latents", BASE), ("voxel fields", VOXELS))
            ),
            source="Rombach et al. 2022",
        ),
    ]


def verdict(statement: Statement, cells: Mapping[tuple[str, int], Figures], seeds: Sequence[int]) -> Verdict:
    """What the cells, by setting and seed, say of the statement.

    It holds if at every seed, and by more than the deviation of the differences over seeds, `better` is better
    than each of `than`; it does not if it is worse than one of them in the same way; else nothing shows at this
    scale. It is open with fewer than two seeds. What was not finite is worse than all that was.
    """
    signs = []
    for arm in statement.than:
        found = [_difference(statement, arm, cells, seed) for seed in seeds]
        known = [each for each in found if each is not None]
        if len(known) < 2:
            return "open"
        signs.append(_sign(known))
    return "holds" if min(signs) > 0 else "does not hold" if min(signs) < 0 else "not at this scale"


def _difference(
    statement: Statement, arm: Arm, cells: Mapping[tuple[str, int], Figures], seed: int
) -> float | None:
    """By how much `better` is better than the arm at a seed; None if one of them is missing."""
    pair = []
    for side in (statement.better, arm):
        cell = cells.get((side.setting, seed))
        if cell is None:
            return None
        value = cell[side.figure]
        worst = -math.inf if statement.higher else math.inf
        pair.append(worst if value is None else value)
    ours, theirs = pair
    if ours == theirs:
        return 0.0
    return ours - theirs if statement.higher else theirs - ours


def _sign(differences: Sequence[float]) -> int:
    """1 or -1 if all differences have that sign, and their mean is beyond their deviation; else 0."""
    finite = [each for each in differences if math.isfinite(each)]
    spread = statistics.stdev(finite) if len(finite) > 1 else 0.0
    for sign in (1, -1):
        turned = [sign * each for each in differences]
        if min(turned) > 0 and statistics.fmean(turned) > spread:
            return sign
    return 0


def _ablation(name: str, text: str, published: str, better: Arm, worse: Arm, *also: Arm) -> Statement:
    return Statement(name, text, published, True, better, (worse,), also)


def _normalisation(name: str, text: str, settings: tuple[str, str], *also: Arm) -> Statement:
    robust, moments = settings
    return Statement(
        name,
        text,
        "without it diffusion does not converge; numbers up to 1e7",
        False,
        Arm("robust", robust, "fd_views"),
        (Arm("mean and deviation", moments, "fd_views"),),
        (
            *also,
            Arm("largest number, robust", robust, "largest"),
            Arm("by deviation", moments, "largest"),
        ),
    )


def _other_volumes(model: AutodecoderSpec) -> list[int]:
    """Half and twice the latent's resolution, where the network has such levels below the field."""
    size = model.latent_resolution
    return [
        other
        for other in (size // 2, 2 * size)
        if other in model.resolutions and other < model.field_resolution
    ]


def _at(base: Setting, size: int) -> Setting:
    """Latents of another resolution from the same network; channels halve as it doubles, as its widths do."""
    model = base.autodecoder.model
    channels = max(1, model.latent_channels * model.latent_resolution // size)
    return replace(
        base, autodecoder=_model(base.autodecoder, latent_resolution=size, latent_channels=channels)
    )


def _one_view(training: AutodecoderTraining) -> AutodecoderTraining:
    """One view of each object, with about as many rays as the several had."""
    stride = max(1, round(training.pixel_stride / math.sqrt(training.views_per_object)))
    return replace(training, views_per_object=1, pixel_stride=stride)


def _losses(training: AutodecoderTraining, **weights: Any) -> AutodecoderTraining:
    return replace(training, losses=replace(training.losses, **weights))


def _model(training: AutodecoderTraining, **shape: Any) -> AutodecoderTraining:
    return replace(training, model=replace(training.model, **shape))
