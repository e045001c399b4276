"""Weights that were trained elsewhere: the user has the file, in a folder or on S3, and knows its checksum."""

import re
from pathlib import Path

from raydiance.errors import ArtifactError
from raydiance.spec import spec
from raydiance.storage.manifest import file_sha256

__all__ = ["PretrainedSpec", "pretrained_file"]


@spec
class PretrainedSpec:
    """A file: a path or an s3:// address, and what its bytes must hash to."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(
                f"sha256 must be 64 hex digits, as `sha256sum FILE` prints them, got {self.sha256!r}"
            )


def pretrained_file(given: PretrainedSpec) -> Path:
    """The file on this machine, verified; one on S3 is kept in the cache, by its checksum.

    Raises ArtifactError if it is not there, or not the one that is meant.
    """
    if given.file.startswith("s3://"):
        from raydiance.storage.s3 import S3Backend

        folder, _, name = given.file.rpartition("/")
        return S3Backend(folder).pretrained(name, given.sha256)
    path = Path(given.file).expanduser()
    if not path.is_file():
        raise ArtifactError(
            f"weights {path}: no such file; give the path or s3:// address of one with SHA-256 {given.sha256}, "
            "or leave the setting out"
        )
    if (found := file_sha256(path)) != given.sha256:
        raise ArtifactError(
            f"weights {path}: expected SHA-256 {given.sha256}, found {found}; correct one of the two"
        )
    return path
