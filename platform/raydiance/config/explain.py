"""From pydantic's list of errors to one line for each: path, value, rule, nearest valid name."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

__all__ = ["explain", "nearest", "paths"]

Path = tuple[str | int, ...]
_SHOWN = 90


def nearest(name: str, candidates: Sequence[str]) -> str:
    """A half sentence with the closest of the candidates; all of them if none is close and they are few."""
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    if 0 < len(candidates) <= 16:
        return f"; there is {', '.join(candidates)}"
    return ""


def explain(error: ValidationError, root: type, value: object) -> str:
    """All that is wrong, a line each: `render.size = 'big': must be a valid integer`."""
    lines = [_line(item, root) for item in error.errors() if _concerns(item["loc"], root, value)]
    return "\n".join(dict.fromkeys(lines))


def _line(item: Any, root: type) -> str:
    annotation, path = root, ""
    for part in item["loc"][:-1]:
        annotation, path = _step(annotation, path, part)
    here = _step(annotation, path, item["loc"][-1])[1] if item["loc"] else ""
    if item["type"] == "unexpected_keyword_argument":
        return f"{_assigned(here, item['input'])}: no such setting{_suggest(here, annotation, path, root)}"
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{here}: is not set and has no default; give {here}=..."
    rule = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    hint = ""
    kinds = _kinds(item["loc"], root)
    if kinds:
        rule = f"must be one of {', '.join(repr(kind) for kind in kinds)}"
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        options = [str(each) for each in kinds or _literals(_step(annotation, path, item["loc"][-1])[0])]
        hint = nearest(item["input"], options) if difflib.get_close_matches(item["input"], options) else ""
    if item["type"] == "value_error" and dataclasses.is_dataclass(_plain(_annotation(item["loc"], root))):
        return f"{here}: {rule}" if here else rule
    return f"{_assigned(here, item['input'])}: {rule}{hint}"


def _assigned(path: str, value: object) -> str:
    text = repr(value)
    return f"{path} = {text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}"


def _suggest(here: str, annotation: Any, path: str, root: type) -> str:
    """The closest name beside the wrong one, or the same name elsewhere in the tree."""
    wrong = here.rpartition(".")[2]
    beside = [f"{path}.{name}" if path else name for name in _fields(annotation)]
    if close := difflib.get_close_matches(here, beside, n=1, cutoff=0.75):
        return f"; did you mean {close[0]}?"
    elsewhere = [known for known in paths(root) if known.rpartition(".")[2] == wrong]
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere[:3])}?"
    return nearest(wrong, [name.rpartition(".")[2] for name in beside])


def _concerns(location: Path, root: Any, value: Any) -> bool:
    """Whether an error is about the chosen member of each union on `kind` along its way."""
    annotation = root
    for part in location:
        members = _members(annotation)
        if len(members) > 1 and isinstance(part, str) and part in (m.__name__ for m in members):
            kind = value.get("kind") if isinstance(value, dict) else None
            chosen = [m.__name__ for m in members if kind in _literals(_fields(m).get("kind"))]
            if part not in chosen if chosen else kind is not None and location[-1] != "kind":
                return False
        elif isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        annotation = _step(annotation, "", part)[0]
    return True


def _kinds(location: Path, root: Any) -> list[object]:
    """What `kind` may be, where an error is about that of a union."""
    if len(location) < 2 or location[-1] != "kind":
        return []
    members = _members(_annotation(location[:-2], root))
    return [kind for m in members for kind in _literals(_fields(m).get("kind"))] if len(members) > 1 else []


def paths(annotation: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted path that can be set."""
    for name, hint in _fields(annotation).items():
        yield f"{prefix}{name}"
        yield from paths(hint, f"{prefix}{name}.")


def _annotation(location: Path, root: Any) -> Any:
    annotation = root
    for part in location:
        annotation = _step(annotation, "", part)[0]
    return annotation


def _step(annotation: Any, path: str, part: str | int) -> tuple[Any, str]:
    """One part of a location further: the annotation there and the path as one would write it."""
    members = _members(annotation)
    if typing.get_origin(_plain(annotation)) is Mapping:
        return typing.get_args(_plain(annotation))[1], f"{path}.{part}"
    if isinstance(part, int):
        arguments = [a for a in typing.get_args(_plain(annotation)) if a is not Ellipsis]
        return (
            arguments[min(part, len(arguments) - 1)] if arguments else None
        ), f"{path}.{part}" if path else str(part)
    for member in members:
        if len(members) > 1 and member.__name__ == part:
            return member, path
    return _fields(annotation).get(part), f"{path}.{part}" if path else part


def _plain(annotation: Any) -> Any:
    """Without Annotated and without an optional None."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(members) == 1:
            return _plain(members[0])
    return annotation


def _members(annotation: Any) -> list[type]:
    """The specs an annotation allows."""
    annotation = _plain(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [m for a in typing.get_args(annotation) for m in _members(a)]
    return [annotation] if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else []


def _fields(annotation: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for member in _members(annotation):
        found |= typing.get_type_hints(member, include_extras=True)
    return {name: hint for name, hint in found.items() if not name.startswith("_")}


def _literals(annotation: Any) -> tuple[Any, ...]:
    annotation = _plain(annotation)
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()
