"""Files that left here, made again to the last byte; and what is said where they cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from tests.serving.conftest import SPEC
from tests.support.asking import post

from raydiance.errors import ConfigError, DataError
from raydiance.serving.reproduce import reproduce
from raydiance.storage import Artifact, Store
from raydiance.tracking.lineage import read_stamp


@pytest.mark.parametrize(
    ("suffix", "fields"),
    [
        ("glb", {"seed": 3, "plan": "heun-3", "category": "class1"}),
        ("glb", {"seed": 3, "resolution": 24}),
        ("ply", {"seed": 4}),
        ("obj", {"seed": 4, "plan": "stochastic"}),
        ("png", {"seeds": [9, 2], "size": 40, "views": 3}),
        ("webp", {"seed": 5, "size": 48, "frames": 8}),
        ("mp4", {"seed": 5, "size": 48, "frames": 8}),
        ("safetensors", {"seed": 1, "plan": "fast"}),
    ],
)
def test_a_file_says_enough_to_be_made_again(
    app: FastAPI, store: Store, tmp_path: Path, suffix: str, fields: dict[str, Any]
) -> None:
    form = suffix.replace("safetensors", "latent")
    path = tmp_path / f"sample.{suffix}"
    path.write_bytes(post(app, {**fields, "format": form}).content)
    verdict = reproduce(path, store, SPEC)
    assert verdict.same, verdict


def test_where_the_bundle_is_gone_the_missing_link_is_named(
    app: FastAPI, artifact: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "sample.glb"
    path.write_bytes(post(app, {"seed": 3, "plan": "fast"}).content)
    verdict = reproduce(path, Store.open(tmp_path / "empty"), SPEC)
    assert not verdict.same and artifact.ref.key in verdict.reasons[0]


def test_a_file_that_was_changed_is_not_the_same(app: FastAPI, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "sample.obj"
    content = post(app, {"seed": 3, "plan": "fast", "format": "obj"}).content
    path.write_bytes(content.replace(b'"seed": 3', b'"seed": 4'))
    verdict = reproduce(path, store, SPEC)
    assert not verdict.same and verdict.reasons


def test_what_was_not_sampled_here_is_refused(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    pointer = tmp_path / "publish.json"
    pointer.write_text(json.dumps({"key": artifact.ref.key, "sha256": artifact.ref.sha256}))
    with pytest.raises(ConfigError, match="not sampled"):
        reproduce(pointer, store, SPEC)
    for name in ("a.mp4", "a.webp", "a.ply", "a.obj"):
        (tmp_path / name).write_bytes(b"\0\0\0\x08ftyp nothing of ours")
        with pytest.raises(DataError, match="no stamp"):
            read_stamp(tmp_path / name)
