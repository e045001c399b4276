"""Which version of a model is champion, and so served: promotion through the gate, and the way back.

Three aliases: candidate (the newest), champion (the one that is served), previous (the champion before it).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from raydiance.errors import ArtifactError, TrackingError, UnknownModelError
from raydiance.generation import Check, Gate, check_gate, load_bundle
from raydiance.storage import Artifact, ArtifactRef, Store
from raydiance.tracking import ModelVersion, Registry

__all__ = ["Promotion", "compare", "promote", "rollback"]

# What a new champion may not lose: the figure, whether more of it is better, and by how much it may be worse.
KEPT = (("psnr_held_out", True, 0.02), ("fd_views", False, 0.05), ("coverage", True, 0.1))
READABLE = (".json", ".safetensors")


@dataclass(frozen=True)
class Promotion:
    """Who took whose place, and on what grounds."""

    version: ModelVersion
    replaced: ModelVersion | None
    checks: tuple[Check, ...]


def promote(registry: Registry, name: str, which: str, gate: Gate) -> Promotion:
    """Make a version (its number or an alias) champion, if its files are whole and of kinds that hold no code,
    its figures pass the gate, and it is not worse than the champion where both were evaluated alike.

    Raises ArtifactError, with every check that failed, and changes nothing.
    """
    version, champion = registry.resolve(name, which), _champion(registry, name)
    if champion and champion.version == version.version:
        return Promotion(version, None, ())
    artifact = _opened(version)
    figures = _scan(artifact)
    checks = [*check_gate(gate, figures), *(compare(artifact, _opened(champion)) if champion else [])]
    if failed := [str(check) for check in checks if not check.passed]:
        raise ArtifactError(
            f"{name} version {version.version} is not promoted: {'; '.join(failed)}. "
            + (f"Version {champion.version} stays champion" if champion else "There is no champion")
        )
    if champion:
        registry.set_alias(name, "previous", champion.version)
    registry.set_alias(name, "champion", version.version)
    registry.annotate(name, version.version, {"raydiance.promoted": _now()})
    return Promotion(version, champion, tuple(checks))


def rollback(registry: Registry, name: str) -> Promotion:
    """Make the previous champion champion again; the one that falls is previous, so a second call undoes the
    first. Raises TrackingError if there is none, ArtifactError if its files are not whole.
    """
    champion, previous = registry.resolve(name, "champion"), registry.resolve(name, "previous")
    if champion.version == previous.version:
        raise TrackingError(
            f"model {name!r}: version {champion.version} is champion and previous; promote another"
        )
    _scan(_opened(previous))
    registry.set_alias(name, "champion", previous.version)
    registry.set_alias(name, "previous", champion.version)
    registry.annotate(name, champion.version, {"raydiance.rolled_back": _now()})
    return Promotion(previous, champion, ())


def compare(challenger: Artifact, champion: Artifact) -> list[Check]:
    """Whether the challenger keeps what the champion reached; nothing where they were not evaluated alike: by
    the same settings, seed and views.
    """
    evaluations = [_evaluation(bundle) for bundle in (challenger, champion)]
    if None in evaluations or _setting(evaluations[0]) != _setting(evaluations[1]):
        return []
    new, old = (load_bundle(bundle).spec.metrics for bundle in (challenger, champion))
    checks = []
    for metric, more_is_better, tolerance in KEPT:
        if metric in new and metric in old:
            slack = abs(old[metric]) * tolerance
            bound = old[metric] - slack if more_is_better else old[metric] + slack
            passed = new[metric] >= bound if more_is_better else new[metric] <= bound
            rule = "as the champion, at least" if more_is_better else "as the champion, at most"
            checks.append(Check(metric, new[metric], rule, bound, passed))
    return checks


def _champion(registry: Registry, name: str) -> ModelVersion | None:
    with suppress(UnknownModelError):  # a server that cannot be asked may have one
        return registry.resolve(name, "champion")
    return None


def _opened(version: ModelVersion) -> Artifact:
    return Store.open(version.store).get(version.ref)


def _scan(artifact: Artifact) -> Mapping[str, float]:
    """The figures of a bundle all of whose files are what they should be."""
    if other := [name for name in artifact.files if not name.endswith(READABLE)]:
        raise ArtifactError(
            f"{artifact.ref.key}: {other[0]} is of no kind that a bundle holds; publish it anew"
        )
    artifact.verify()
    return load_bundle(artifact).spec.metrics


def _evaluation(bundle: Artifact) -> Artifact | None:
    with suppress(ArtifactError):
        for parent in bundle.manifest.parents:
            if parent.kind == "evaluation":
                return Store.open(bundle.store.url).get(parent)
    return None


def _setting(evaluation: Artifact | None) -> tuple[object, object, list[ArtifactRef]]:
    """What makes two evaluations comparable."""
    assert evaluation is not None
    manifest = evaluation.manifest
    return manifest.spec, manifest.seeds, [parent for parent in manifest.parents if parent.kind == "views"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
