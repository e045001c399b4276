"""Where bytes live: one store on a folder or on S3, artifacts with manifests, atomic writes.

store = Store.open()                                  # RAYDIANCE_STORE, or outputs/store
with store.create("meshes", "furniture", spec=spec) as draft:
    write_json(draft.path("objects.json"), objects)
artifact = draft.artifact
store.get(artifact.ref).read_json("objects.json")
"""

from raydiance.storage.artifact import Artifact, Draft
from raydiance.storage.garbage import Garbage
from raydiance.storage.manifest import ArtifactRef, FileEntry, Manifest, file_sha256, write_json
from raydiance.storage.pretrained import PretrainedSpec, pretrained_file
from raydiance.storage.store import Store
from raydiance.storage.version import code_version

__all__ = [
    "Artifact",
    "ArtifactRef",
    "Draft",
    "FileEntry",
    "Garbage",
    "Manifest",
    "PretrainedSpec",
    "Store",
    "code_version",
    "file_sha256",
    "pretrained_file",
    "write_json",
]
