"""Specs: what a run is made from, as frozen dataclasses that can be written down, compared and hashed."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar, dataclass_transform

__all__ = ["canonical_json", "digest", "from_plain", "spec", "to_plain"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def spec(cls: type[T]) -> type[T]:
    """A frozen, keyword-only, slotted dataclass that refuses unknown keys when read from a file."""
    cls = dataclass(frozen=True, kw_only=True, slots=True)(cls)
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return cls


def to_plain(value: Any) -> Any:
    """The value as JSON can hold it: specs become dicts, tuples lists, paths strings.

    Raises TypeError for anything else, because what cannot be written down cannot be reproduced.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be written into a spec: {value!r}")


def from_plain(cls: type[T], value: Any, place: str = "spec") -> T:
    """The spec that `to_plain` wrote: for files that Raydiance wrote itself, so strict and without
    conversions.

    Raises ValueError that names the place for an unknown key, a missing one, or a value of another type.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: need an object with the fields of {cls.__name__}, got {value!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ValueError(f"{place}.{unknown[0]}: {cls.__name__} has no such field")
    fields = {name: _read(hints[name], item, f"{place}.{name}") for name, item in value.items()}
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def _read(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, place)
    if origin is typing.Literal and value in arguments:
        return value
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, place)
    if origin is tuple and isinstance(value, list):
        kinds = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(
                _read(kind, item, f"{place}.{i}") for i, (kind, item) in enumerate(zip(kinds, value))
            )
    if origin is Mapping and isinstance(value, Mapping):
        return {name: _read(arguments[1], item, f"{place}.{name}") for name, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)  # JSON writes 1.0 as it likes
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{place}: need {hint}, got {value!r}")


def _read_union(members: tuple[Any, ...], value: Any, place: str) -> Any:
    problems = []
    for member in members:
        try:
            return _read(member, value, place)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; or ".join(problems))


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
