"""The bytes of a file that left here, made again from what the file says about itself."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raydiance.config.platform import ServeSpec
from raydiance.errors import ArtifactError, ConfigError, DataError
from raydiance.serving.sampler import Sampler
from raydiance.serving.schema import Format, SampleRequest
from raydiance.storage import Store, code_version
from raydiance.tracking.lineage import missing, read_stamp, trace

__all__ = ["Verdict", "reproduce"]

ASKED = (
    "seed",
    "seeds",
    "plan",
    "category",
    "text",
    "guidance",
    "resolution",
    "texture",
    "size",
    "views",
    "frames",
)


@dataclass(frozen=True)
class Verdict:
    """Whether the same bytes came out; where they did not, what may be why."""

    same: bool
    text: str
    reasons: tuple[str, ...] = ()


def reproduce(path: Path, store: Store, spec: ServeSpec) -> Verdict:
    """Make the file at the path again with its bundle out of the store.

    Raises DataError for a file without a stamp, ConfigError for one that is no sample.
    """
    stamp = read_stamp(path)
    if stamp.ref.kind != "bundle" or "seed" not in stamp.facts:
        raise ConfigError(f"{path}: it was not sampled; raydiance trace {path} tells what it is")
    if "upload" in stamp.facts:
        upload = f"it was made from an upload, which is not kept (SHA-256 {stamp.facts['upload']})"
        return Verdict(False, "it cannot be made again", (f"{upload}; send that again with the same seed",))
    request, form = _request(stamp.facts), _format(path)
    gone = missing(trace(store, stamp.ref))
    try:
        artifact = store.get(stamp.ref)
    except ArtifactError as error:
        return Verdict(False, "it cannot be made again", (f"its bundle is missing: {error}",))
    sampler = Sampler(artifact, replace(spec, compile="compiled" in stamp.facts))
    try:
        made = asyncio.run(sampler.sample(request, form)).content
    finally:
        sampler.close()
    if made == path.read_bytes():
        return Verdict(True, f"the same {len(made):,} bytes", tuple(f"missing: {link}" for link in gone))
    return Verdict(False, f"other bytes ({len(made):,} here)", _reasons(stamp.facts, sampler, gone))


def _reasons(facts: Any, sampler: Sampler, gone: list[str]) -> tuple[str, ...]:
    found = [f"missing: {link}" for link in gone]
    if facts.get("code_version") != code_version():
        found.append(f"it was made by code {facts.get('code_version')}, this is {code_version()}")
    if facts.get("compiled", torch.__version__) != torch.__version__:
        found.append(f"torch {facts['compiled']} compiled its network, this is {torch.__version__}")
    found.append(
        f"bytes are the same on one kind of processor only; this is {sampler.bundle.device}, "
        "and the file does not say what it was made on"
    )
    return tuple(found)


def _request(facts: Any) -> SampleRequest:
    asked = {name: facts[name] for name in ASKED if facts.get(name) is not None}
    if "seeds" in asked:
        del asked["seed"]
    try:
        return SampleRequest.model_validate(asked)
    except ValueError as error:
        raise DataError(f"the stamp asks for what cannot be made: {error}") from error


def _format(path: Path) -> Format:
    name = path.suffix.lower().removeprefix(".").replace("safetensors", "latent")
    try:
        return Format(name)
    except ValueError:
        raise ConfigError(f"{path}: samples are not made as .{name} files") from None
