"""Serving a bundle, and making one sample."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydiance.config import Experiment, LatentExperiment, compose
from raydiance.errors import ConfigError, TrackingError
from raydiance.storage import ArtifactRef, Store

if TYPE_CHECKING:
    from raydiance.serving import Format

__all__ = ["add_api_key", "make_again", "make_sample", "resolve_in", "serve_bundle", "served"]


def serve_bundle(overrides: Sequence[str], *, here: bool = False) -> None:
    """Run the endpoint until ^C: on Ray Serve, or in this process."""
    from raydiance.serving import serve

    experiment = served(compose(overrides))
    store = Store.open(experiment.store.url, experiment.store.quota)
    if here:
        from raydiance.serving.local import serve_here

        serve_here(experiment.serve, store, resolve_in(experiment), _record_of(experiment))
        return
    serve(
        experiment.serve,
        store,
        resolve=resolve_in(experiment),
        cluster=experiment.cluster,
        tracking=_record_of(experiment),
    )


def make_sample(out: Path, asked: Mapping[str, Any], url: str | None, overrides: Sequence[str]) -> None:
    """One sample into a file: from the endpoint at `url`, else from the bundle, here. The same bytes.

    asked: fields of a SampleRequest; what is None is left out.
    """
    form, asked = _format_of(out), {name: value for name, value in asked.items() if value is not None}
    content, made_by = _ask(url, asked, form) if url else _make_here(served(compose(overrides)), asked, form)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    print(f"{out}: {len(content):,} bytes, seed {asked['seed']}, bundle {made_by}")


def make_again(path: Path, overrides: Sequence[str]) -> bool:
    """Make the bytes of a file again and say whether they are the same, and if not, why that may be."""
    from raydiance.serving.reproduce import reproduce

    experiment = served(compose(overrides))
    verdict = reproduce(path, Store.open(experiment.store.url, experiment.store.quota), experiment.serve)
    print(f"{path}: {verdict.text}")
    for reason in verdict.reasons:
        print(f"  {reason}")
    return verdict.same


def add_api_key(path: Path, name: str, scopes: Sequence[str], expires: str | None) -> None:
    """Add a key to a file of keys and print it, once."""
    from raydiance.serving.keys import SCOPES, add_key

    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown:
        raise ConfigError(f"--scope {unknown[0]}: there is {', '.join(SCOPES)}")
    print(add_key(path, name, [scope for scope in SCOPES if scope in scopes or not scopes], expires))


def served(experiment: Experiment) -> LatentExperiment:
    """The experiment, if there is something in it to serve. Raises ConfigError if not."""
    if not isinstance(experiment, LatentExperiment):
        raise ConfigError(
            f"experiment {experiment.name} (kind {experiment.kind}) makes no bundle, so nothing can be served; "
            "choose another one: experiment=furniture"
        )
    return experiment


def resolve_in(experiment: Experiment) -> Callable[[str, str], ArtifactRef] | None:
    """How NAME@ALIAS is looked up: in the registry of the experiment's MLflow, if it has one."""
    if experiment.tracking.kind == "none":
        return None

    def resolve(name: str, alias: str) -> ArtifactRef:
        from raydiance.tracking.mlflow_registry import open_registry

        return open_registry(experiment.tracking.url).resolve(name, alias).ref

    return resolve


def _record_of(experiment: Experiment) -> str | None:
    """The whole address of the record of runs; None if there is none to ask."""
    from raydiance.tracking.address import reach

    if experiment.tracking.kind == "none":
        return None
    try:
        return reach(experiment.tracking.url)
    except TrackingError:
        return None  # what is served is served without it


def _format_of(out: Path) -> "Format":
    from raydiance.config.explain import nearest
    from raydiance.serving import Format

    name = out.suffix.removeprefix(".").replace("safetensors", "latent")
    known = [form.value for form in Format]
    if name not in known:
        raise ConfigError(
            f"--out {out}: samples are not made as {name or 'such files'}{nearest(name, known)}"
        )
    return Format(name)


def _ask(url: str, asked: Mapping[str, Any], form: "Format") -> tuple[bytes, str]:
    from raydiance.serving import Client

    with Client(url, key=os.environ.get("RAYDIANCE_API_KEY")) as client:
        answer = client.sample(**asked, format=form.value)
    return answer.content, f"{answer.bundle} at {url}"


def _make_here(experiment: LatentExperiment, asked: Mapping[str, Any], form: "Format") -> tuple[bytes, str]:
    from raydiance.serving import Sampler, SampleRequest, find_bundle

    request = SampleRequest.of(asked)
    store = Store.open(experiment.store.url, experiment.store.quota)
    ref = find_bundle(store, experiment.serve.bundle, resolve_in(experiment))
    sampler = Sampler(store.get(ref), experiment.serve)
    try:
        answer = asyncio.run(sampler.sample(request, form))
    finally:
        sampler.close()
    return answer.content, ref.key
