"""The promises of a store on a local folder; test_s3.py holds a real S3 server to the same ones."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raydiance.errors import ArtifactError, StoreError
from raydiance.storage import Artifact, ArtifactRef, Store, code_version, file_sha256, write_json
from raydiance.storage.local import LocalBackend


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def make(
    store: Store, kind: str = "views", name: str = "chairs", text: str = "hello", **kw: object
) -> Artifact:
    with store.create(kind, name, **kw) as draft:
        draft.path("a.txt").write_text(text)
        write_json(draft.path("sub/b.json"), {"x": (1, 2)})
    return draft.artifact


def test_an_artifact_comes_back_as_it_was_written(store: Store) -> None:
    parent = make(store, "meshes")
    made = make(store, spec={"size": 64}, seeds={"seed": 7}, parents=[parent.ref], meta={"objects": 3})
    got = store.get(made.ref)
    assert got.manifest == made.manifest
    assert got.files == ("a.txt", "sub/b.json")
    assert got.path("a.txt").read_text() == "hello"
    assert got.read_json("sub/b.json") == {"x": [1, 2]}
    assert got.manifest.spec == {"size": 64}
    assert got.manifest.seeds == {"seed": 7}
    assert got.manifest.meta == {"objects": 3}
    assert got.manifest.parents == (parent.ref,)
    assert got.manifest.code_version == code_version()
    assert got.folder().name == made.ref.key.rpartition("/")[2]


def test_the_key_the_uri_and_the_ref_find_the_same_artifact(store: Store) -> None:
    made = make(store)
    assert made.ref.key.startswith("views/chairs-")
    for where in (made.ref, made.ref.key, made.uri, "file://" + made.uri):
        assert store.get(where).ref == made.ref


def test_the_reference_is_the_digest_of_the_manifest(store: Store) -> None:
    made = make(store)
    assert file_sha256(Path(made.uri) / "manifest.json") == made.ref.sha256


def test_the_same_name_twice_gives_two_artifacts(store: Store) -> None:
    assert make(store).ref.key != make(store).ref.key


def test_meta_may_be_filled_while_the_files_are_written(store: Store) -> None:
    with store.create("views", "chairs") as draft:
        draft.meta["mean"] = 0.5
    assert store.get(draft.artifact.ref).manifest.meta == {"mean": 0.5}


def test_a_draft_has_no_artifact_before_its_end(store: Store) -> None:
    with (
        store.create("views", "chairs") as draft,
        pytest.raises(ArtifactError, match="after the `with` block"),
    ):
        _ = draft.artifact


def test_after_an_exception_nothing_is_left(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.create("views", "chairs") as draft:
        draft.path("a.txt").write_text("half")
        _ = 1 / 0
    assert store.list() == []
    assert [path for path in Path(store.url).rglob("*") if path.is_file()] == []


def test_a_killed_writer_leaves_no_artifact_and_does_not_hinder_the_next(store: Store) -> None:
    script = """
import os, signal, sys
from raydiance.storage import Store
with Store.open(sys.argv[1]).create("views", "chairs") as draft:
    draft.path("a.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, store.url], env=_environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.list() == []
    assert store.latest("views") is None
    made = make(store)
    assert store.list() == [made.ref]
    assert store.garbage() == []
    garbage = store.garbage(older_than_s=0)
    assert [found.size for found in garbage] == [4]
    store.collect(garbage)
    assert store.garbage(older_than_s=0) == []
    store.get(made.ref).verify()


def test_what_a_deletion_that_was_killed_left_is_garbage(store: Store) -> None:
    made, kept = make(store), make(store)
    (Path(made.uri) / "manifest.json").unlink()
    assert [found.where for found in store.garbage(older_than_s=0)] == [made.uri]
    store.collect(store.garbage(older_than_s=0))
    assert not Path(made.uri).exists()
    assert store.list() == [kept.ref]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: b"", None]
)
def test_a_damaged_file_is_refused_with_file_expected_and_found(store: Store, damage: object) -> None:
    made = make(store)
    path = Path(made.uri) / "a.txt"
    if callable(damage):
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(ArtifactError, match=r"a\.txt: expected .*(5 bytes|SHA-256).* found"):
        store.get(made.ref).path("a.txt")
    assert store.get(made.ref).path("sub/b.json").exists()
    with pytest.raises(ArtifactError, match=r"a\.txt"):
        store.get(made.ref).folder()


def test_latest_falls_back_to_the_newest_that_is_intact(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    good, flipped, bare = (make(store, "checkpoints/run", f"{step:08d}") for step in (1, 2, 3))
    path = Path(flipped.uri) / "a.txt"
    path.write_bytes(b"hellp")
    (Path(bare.uri) / "manifest.json").write_text("{")
    with caplog.at_level(logging.WARNING, "raydiance.storage"):
        latest = store.latest("checkpoints/run")
    assert latest is not None
    assert latest.ref == good.ref
    assert flipped.ref.key in caplog.text
    assert bare.ref.key in caplog.text


def test_list_takes_a_kind_a_folder_or_a_name_and_the_newest_is_last(store: Store) -> None:
    first, second = make(store, "checkpoints/run-1", "8"), make(store, "checkpoints/run-1", "9")
    other = make(store, "checkpoints/run-10", "8")
    view = make(store)
    assert store.list() == [first.ref, second.ref, other.ref, view.ref]
    assert store.list("checkpoints") == [first.ref, second.ref, other.ref]
    assert store.list("checkpoints/run-1") == [first.ref, second.ref]
    assert store.list("checkpoints/run-1/") == [first.ref, second.ref]
    assert store.list("checkpoints/run-1/9") == [second.ref]
    assert store.list("views/chairs") == [view.ref]
    assert store.list("views/chair") == []
    assert store.list("nothing/here") == []


def test_a_deleted_artifact_is_gone(store: Store) -> None:
    made = make(store)
    store.delete(made.ref)
    assert store.list() == []
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.get(made.ref)
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.delete(made.ref)


def test_a_reference_refuses_another_manifest_in_its_place(store: Store) -> None:
    made = make(store)
    manifest = Path(made.uri) / "manifest.json"
    plain = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(plain | {"seeds": {"seed": 8}}))
    assert store.get(made.ref.key).manifest.seeds == {"seed": 8}
    with pytest.raises(ArtifactError, match=f"expected the manifest with SHA-256 {made.ref.sha256}, found"):
        store.get(made.ref)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "manifest of format 2"),
        ({"surprise": 1}, "surprise"),
        ({"files": [{"name": "../../etc/passwd", "size": 1, "sha256": "0"}]}, "inside the artifact"),
        ({"files": [{"name": "/etc/passwd", "size": 1, "sha256": "0"}]}, "inside the artifact"),
        ({"files": 3}, "cannot be read"),
        ({"key": "views/other-1"}, "is that of 'views/other-1'"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(
    store: Store, change: dict[str, object], message: str
) -> None:
    made = make(store)
    manifest = Path(made.uri) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        store.get(made.ref.key)


@pytest.mark.parametrize(
    "key", ["../x", "/etc", "views/../../x", "views//x", "views/.staging", "", "views/a b"]
)
def test_a_key_that_leaves_the_store_is_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError):
        store.get(key)
    with pytest.raises(StoreError, match="key"), store.create(key, "x"):
        pass


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "manifest.json", "sub/manifest.json", "", ".", "a//b"]
)
def test_a_file_that_leaves_the_artifact_is_refused(store: Store, name: str) -> None:
    with store.create("views", "chairs") as draft, pytest.raises(StoreError, match="file name"):
        draft.path(name)


def test_a_link_is_refused(store: Store) -> None:
    with pytest.raises(ArtifactError, match="no links"), store.create("views", "chairs") as draft:
        draft.path("a").symlink_to("/etc/passwd")


def test_an_unknown_file_is_answered_with_those_there_are(store: Store) -> None:
    with pytest.raises(ArtifactError, match=r"no file 'c\.txt'; it has a\.txt, sub/b\.json"):
        make(store).path("c.txt")


def test_store_and_artifact_can_be_sent_to_another_process(store: Store) -> None:
    made = pickle.loads(pickle.dumps(make(store)))
    assert made.path("a.txt").read_text() == "hello"


def test_a_store_can_be_moved(store: Store, tmp_path: Path) -> None:
    made = make(store)
    Path(store.url).rename(tmp_path / "moved")
    assert Store.open(tmp_path / "moved").get(made.ref).path("a.txt").read_text() == "hello"


def test_open_takes_the_argument_then_the_environment_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYDIANCE_STORE", raising=False)
    assert Store.open().url == str(tmp_path / "outputs/store")
    monkeypatch.setenv("RAYDIANCE_STORE", str(tmp_path / "there"))
    assert Store.open().url == str(tmp_path / "there")
    assert Store.open("here").url == str(tmp_path / "here")
    assert Store.open((tmp_path / "here").as_uri()).url == str(tmp_path / "here")


def test_a_place_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made here"):
        Store.open(tmp_path / "file" / "store")
    with pytest.raises(StoreError, match="give a folder, or s3://bucket/prefix"):
        Store.open("ftp://example.org/store")
    with pytest.raises(StoreError, match="not in the store"):
        Store.open(tmp_path).get("s3://elsewhere/views/x-1")


def test_write_json_is_sorted_and_atomic(tmp_path: Path) -> None:
    write_json(tmp_path / "new/x.json", {"b": 1, "a": ArtifactRef(kind="k", key="k/x-1", sha256="0")})
    assert list(json.loads((tmp_path / "new/x.json").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "new/x.json", float("nan"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.json"]


def test_the_code_version_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDIANCE_CODE_VERSION", "1.2.3+gabc")
    code_version.cache_clear()
    assert code_version() == "1.2.3+gabc"
    code_version.cache_clear()


def test_the_package_loads_no_s3_library() -> None:
    script = (
        "import sys, raydiance.storage; print(*{'s3fs', 'boto3', 'botocore', 'fsspec'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_quota_refuses_before_anything_is_written(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", quota=20_000)
    refuses_beyond_its_quota(store)
    assert list(Path(store.url, ".staging").iterdir()) == []
    assert store.used() == sum(path.stat().st_size for path in Path(store.url).rglob("*.*") if path.is_file())


def test_what_others_wrote_and_deleted_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = Store.open(tmp_path / "store", quota=20_000), Store.open(tmp_path / "store")
    listed, measure = [], LocalBackend.used
    monkeypatch.setattr(LocalBackend, "used", lambda self: listed.append(1) or measure(self))
    for _ in range(3):
        make(ours, text="x" * 1000)
    assert len(listed) == 1, "a store is not listed at each write"
    large = make(others, text="x" * 15_000)
    make(ours, text="x" * 1000)  # not seen yet
    monkeypatch.setattr("raydiance.storage.quota.REREAD_S", 0.0)
    with pytest.raises(StoreError, match="quota"):
        make(ours, text="x" * 1000)
    monkeypatch.undo()
    others.delete(large.ref)
    make(ours, text="x" * 10_000)  # before it refuses, it looks


def refuses_beyond_its_quota(store: Store) -> None:
    """Of a quota of 20,000 bytes."""
    first = make(store, text="x" * 12_000)
    before = store.used()
    asked = r"chairs-\w+ asks for 12,\d{3} bytes, and 12,\d{3} of the quota of 20,000 are used"
    with pytest.raises(
        StoreError, match=f"^store {store.url}: views/{asked}; .*`raydiance gc`.*store.quota$"
    ):
        make(store, text="x" * 12_000)
    assert store.used() == before and [ref.key for ref in store.list()] == [first.ref.key]
    make(store, text="small")
    store.delete(first.ref)
    make(store, text="x" * 12_000)
    assert pickle.loads(pickle.dumps(store)).quota == 20_000, "workers know it, too"
