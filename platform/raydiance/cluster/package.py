"""The code and settings of a submitted job as one immutable zip, named by its content.

A live folder would be read twice by Ray, and any file that changes in between makes the job fail.
"""

import hashlib
import subprocess
import zipfile
from pathlib import Path

from raydiance.errors import ClusterError

__all__ = ["PARAMS", "package"]

ROOMS = ("platform", "jobs", "configs")
PARAMS = "params.yaml"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def package(project: Path, params: str, folder: Path) -> Path:
    """Write `raydiance-<sha256>.zip` into the folder, with the resolved settings as params.yaml.

    It holds what Git tracks or would track under platform/, jobs/ and configs/. The same content gives the
    same bytes and the same name. Raises ClusterError if there is no code to pack.
    """
    contents = {file: (project / file).read_bytes() for file in _files(project)}
    if not contents:
        raise ClusterError(
            f"{project}: nothing under {', '.join(ROOMS)} to send; run this from the project's folder"
        )
    contents[PARAMS] = params.encode()
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    path = folder / f"raydiance-{digest.hexdigest()[:16]}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return path


def _files(project: Path) -> list[str]:
    """Paths from the project's folder; all files but caches where there is no Git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *ROOMS],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [name for name in listed.stdout.split("\0") if name]
    else:
        found = [
            path.relative_to(project).as_posix()
            for room in ROOMS
            for path in (project / room).rglob("*")
            if "__pycache__" not in path.parts
        ]
    return sorted({name for name in found if (project / name).is_file()})
