"""The endpoint where Ray Serve is told of it by a file: `import_path: raydiance.serving.deployment:application`.

The file's `args` are settings of serve. (bundle, replicas, ...); the store, the registry and the API keys are
those of the environment.
"""

from collections.abc import Mapping
from typing import Any

from ray.serve import Application

from raydiance.config.platform import ServeSpec
from raydiance.errors import ConfigError
from raydiance.serving.bundles import catalogue_of, find_bundle
from raydiance.serving.keys import keys_for
from raydiance.serving.server import bind
from raydiance.spec import from_plain
from raydiance.storage import ArtifactRef, Store

__all__ = ["application"]


def application(args: dict[str, Any]) -> Application:
    """The application that Serve runs. Raises ConfigError for a setting that there is not, and where there is
    no API key: a cluster's endpoint listens beyond its machine.
    """
    spec = _read(args)
    store = Store.open()
    ref = find_bundle(store, spec.bundle, _resolve)
    return bind(spec, store, ref, keys_for(spec, None), catalogue_of(spec, store, ref, _resolve))


def _read(args: Mapping[str, Any]) -> ServeSpec:
    try:
        return from_plain(ServeSpec, {"host": "0.0.0.0", **args}, "args")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _resolve(name: str, alias: str) -> ArtifactRef:
    from raydiance.tracking.mlflow_registry import open_registry

    return open_registry().resolve(name, alias).ref
