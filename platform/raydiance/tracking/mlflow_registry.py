"""MLflow's model registry as a Registry."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from raydiance.errors import TrackingError, UnknownModelError
from raydiance.storage import Artifact, ArtifactRef, write_json
from raydiance.tracking.mlflow_client import (
    MlflowClient,
    MlflowException,
    connect,
    entities,
    errors,
    experiment_id_of,
)
from raydiance.tracking.registry import ModelVersion

__all__ = ["MlflowRegistry", "open_registry"]

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # a model or version; an alias


def open_registry(url: str | None = None) -> "MlflowRegistry":
    """The model registry of the server or database at `url` (as in `open_tracker`)."""
    return MlflowRegistry(*connect(url))


class MlflowRegistry:
    """MLflow's model registry; a version holds a reference to the bundle in the store, never its weights."""

    def __init__(self, client: MlflowClient, url: str, run_id: str | None = None) -> None:
        self.url = url
        self._client = client
        self._run_id = run_id

    def register_bundle(
        self, name: str, artifact: Artifact, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> str:
        """See `Registry.register_bundle`."""
        tags = {
            "raydiance.store": artifact.store.url,
            "raydiance.kind": artifact.ref.kind,
            "raydiance.key": artifact.ref.key,
            "raydiance.sha256": artifact.ref.sha256,
            **(tags or {}),
        }
        with errors(self.url, f"register {name!r}"):
            model = self._logged_model(name, artifact, description, tags)
            try:
                self._client.create_registered_model(name, description=description)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = self._client.create_model_version(
                name,
                # not "models:/<id>", which MLflow looks up in its process-wide database, not in this
                str(model.artifact_location),
                run_id=self._run_id,
                tags=tags | {"raydiance.logged_model": str(model.model_id)},
                description=description,
                model_id=model.model_id if self.url.startswith("http") else None,
            )
        return str(version.version)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """See `Registry.set_alias`."""
        with errors(self.url, f"give the alias {alias!r} to version {version} of {name!r}"):
            self._client.set_registered_model_alias(name, alias, version)

    def annotate(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """See `Registry.annotate`."""
        with errors(self.url, f"annotate version {version} of {name!r}"):
            for tag, value in tags.items():
                self._client.set_model_version_tag(name, version, tag, value)

    def resolve(self, name: str, alias: str) -> ModelVersion:
        """See `Registry.resolve`."""
        with errors(self.url, f"find the version {alias!r} of {name!r}"):
            try:
                if alias.isdecimal():
                    found = self._client.get_model_version(name, alias)
                else:
                    found = self._client.get_model_version_by_alias(name, alias)
            except MlflowException as error:
                if error.error_code not in ABSENT:
                    raise
                raise UnknownModelError(
                    f"model {name!r} at {self.url}: no version or alias {alias!r}; publish or promote one first"
                ) from error
        try:
            kind, key, sha256, store = (
                found.tags[f"raydiance.{tag}"] for tag in ("kind", "key", "sha256", "store")
            )
        except KeyError as error:
            raise TrackingError(
                f"model {name!r} version {found.version}: it has no tag {error}; Raydiance did not publish it"
            ) from error
        return ModelVersion(
            name, str(found.version), ArtifactRef(kind=kind, key=key, sha256=sha256), store, dict(found.tags)
        )

    def _logged_model(
        self, name: str, artifact: Artifact, description: str, tags: Mapping[str, str]
    ) -> entities.LoggedModel:
        if self._run_id:
            experiment_id = self._client.get_run(self._run_id).info.experiment_id
        else:
            experiment_id = experiment_id_of(self._client, self.url, "bundles")
        model = self._client.create_logged_model(
            experiment_id, name, source_run_id=self._run_id, tags=dict(tags), model_type="raydiance.bundle"
        )
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder, "bundle.json"), {"store": artifact.store.url, "ref": artifact.ref})
            Path(folder, "README.md").write_text(description or f"Bundle {artifact.uri}", encoding="utf-8")
            self._client.log_model_artifacts(model.model_id, folder)
        self._client.finalize_logged_model(model.model_id, entities.LoggedModelStatus.READY)
        return model
