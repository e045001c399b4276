"""API keys: what is kept of them is a digest, what they may do is a scope, and they can be replaced while the
endpoint runs.

A file of keys is JSON: {"keys": [{"name": ..., "sha256": ..., "scopes": ["read", "sample"], "expires": null}]}.
Keys are 256 random bits, so a plain SHA-256 keeps them; a new one beside the old one is a rotation.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from raydiance.config.platform import ServeSpec
from raydiance.errors import ConfigError
from raydiance.serving.problems import ForbiddenError, UnauthorizedError
from raydiance.spec import from_plain, spec, to_plain
from raydiance.storage import write_json

__all__ = ["KEYS_VARIABLE", "SCOPES", "ApiKey", "KeyRing", "add_key", "key_digest", "keys_for", "read_keys"]

KEYS_VARIABLE = "RAYDIANCE_API_KEYS"

Scope = Literal["read", "sample"]
SCOPES: tuple[Scope, ...] = ("read", "sample")


@spec
class ApiKey:
    """A key by name: its SHA-256 in hex, what it may do, and until when (ISO 8601; None: for ever)."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...] = SCOPES
    expires: str | None = None

    def __post_init__(self) -> None:
        if self.expires is not None and datetime.fromisoformat(self.expires).tzinfo is None:
            raise ValueError(f"key {self.name}: expires {self.expires!r} needs a time zone, for example Z")

    @property
    def is_valid(self) -> bool:
        """Whether it has not expired."""
        return self.expires is None or datetime.now(UTC) < datetime.fromisoformat(self.expires)


@spec
class KeyFile:
    """What a file of keys holds."""

    keys: tuple[ApiKey, ...] = ()


def key_digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file. Raises ConfigError that names what is wrong with it."""
    try:
        return from_plain(KeyFile, json.loads(path.read_text(encoding="utf-8")), path.name).keys
    except OSError as error:
        raise ConfigError(f"serve.keys={path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"serve.keys={path}: {error}") from error


def add_key(path: Path, name: str, scopes: Iterable[Scope] = SCOPES, expires: str | None = None) -> str:
    """A new key of this name in the file; the key itself is returned once and kept nowhere.

    Keys of the same name stay, so that clients can change over; remove the old one from the file then.
    """
    key = secrets.token_urlsafe(32)
    made = ApiKey(name=name, sha256=key_digest(key), scopes=tuple(scopes), expires=expires)
    keys = (*(read_keys(path) if path.exists() else ()), made)
    write_json(path, to_plain(KeyFile(keys=keys)))
    return key


def keys_for(spec: ServeSpec, keys: Sequence[str] | None = None) -> list[ApiKey]:
    """The keys given, or those of RAYDIANCE_API_KEYS (separated by commas), beside the file serve.keys.

    Raises ConfigError where the endpoint listens beyond loopback and there is no key at all.
    """
    keys = keys if keys is not None else [key for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key]
    if not keys and spec.keys is None and not _is_loopback(spec.host):
        raise ConfigError(
            f"serve.host={spec.host} listens beyond this machine, and there is no API key: "
            f"name a file of keys (serve.keys), set {KEYS_VARIABLE}, or use 127.0.0.1"
        )
    return [ApiKey(name=f"given-{i}", sha256=key_digest(key)) for i, key in enumerate(keys)]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class KeyRing:
    """The keys that are let through. A file of keys is read again when it has changed."""

    def __init__(self, keys: Sequence[ApiKey] = (), path: Path | None = None) -> None:
        self._given, self._path = tuple(keys), path
        self._stamp: tuple[int, int] | None = None
        self._read: tuple[ApiKey, ...] = ()
        if path is not None:
            self._read = read_keys(path)

    def __bool__(self) -> bool:
        """Whether keys are asked for."""
        return bool(self._given) or self._path is not None

    def admit(self, authorization: str | None, scope: Scope) -> str:
        """The name of the key in an Authorization header.

        Raises UnauthorizedError without a valid one, ForbiddenError for one of another scope. Comparing takes
        the same time for a wrong key as for a right one.
        """
        if self._path is not None:
            self._refresh(self._path)
        scheme, _, key = (authorization or "").partition(" ")
        given = key_digest(key.strip())
        known = (*self._given, *self._read)
        found = [each for each in known if hmac.compare_digest(given, each.sha256) and each.is_valid]
        if scheme.lower() != "bearer" or not found:
            raise UnauthorizedError("send the header Authorization: Bearer KEY with a key of this endpoint")
        if not any(scope in each.scopes for each in found):
            raise ForbiddenError(f"the key {found[0].name} has not the scope {scope!r}")
        return found[0].name

    def _refresh(self, path: Path) -> None:
        """Read the file if it has changed; one that cannot be read now leaves the keys as they were."""
        with suppress(OSError, ConfigError):
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._read = read_keys(path)
                self._stamp = stamp
