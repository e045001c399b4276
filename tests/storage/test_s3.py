"""The promises of a store on a real S3 server."""

import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.storage.test_store import refuses_beyond_its_quota

from raydiance.errors import ArtifactError, StoreError
from raydiance.storage import Artifact, PretrainedSpec, Store, pretrained_file, write_json
from raydiance.storage.s3 import PROBE_S

BUCKET = "raydiance"


@pytest.fixture
def environment(s3_server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's variables and a cache of one's own; gives the folder behind the bucket."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAYDIANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("raydiance.storage.s3.PROBE_S", 60.0)  # a busy machine is no failure of these tests
    s3_server.bucket(BUCKET)
    return s3_server.folder / BUCKET


@pytest.fixture
def store(environment: Path, tmp_path: Path) -> Store:
    return Store.open(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def served(environment: Path, store: Store) -> Path:
    """Where the server keeps the store's objects."""
    return environment / store.url.rpartition("/")[2]


def make(store: Store, kind: str = "views", name: str = "chairs", text: str = "hello") -> Artifact:
    with store.create(kind, name) as draft:
        draft.path("a.txt").write_text(text)
        write_json(draft.path("sub/b.json"), {"x": 1})
    return draft.artifact


def put(url: str, data: bytes) -> None:
    """Write an object behind the store's back."""
    Store(url.rpartition("/")[0]).backend.files.pipe_file(url, data)


def forget(tmp_path: Path) -> None:
    """Empty the cache."""
    (tmp_path / "cache").rename(tmp_path / f"cache-{time.monotonic_ns()}")


def test_an_artifact_comes_back_as_it_was_written(store: Store, served: Path, tmp_path: Path) -> None:
    made = make(store)
    assert sorted(path.name for path in (served / made.ref.key).rglob("*.*")) == [
        "a.txt",
        "b.json",
        "manifest.json",
    ]
    forget(tmp_path)
    got = Store.open(store.url).get(made.ref)
    assert got.manifest == made.manifest
    assert got.path("a.txt").read_text() == "hello"
    assert got.read_json("sub/b.json") == {"x": 1}
    assert (got.folder() / "sub/b.json").exists()
    assert store.get(got.uri).ref == made.ref
    assert got.uri == f"{store.url}/{made.ref.key}"


def test_the_writer_need_not_read_its_files_again(store: Store, served: Path) -> None:
    made = make(store)
    (served / made.ref.key / "a.txt").unlink()
    assert store.get(made.ref).path("a.txt").read_text() == "hello"


def test_a_large_file_goes_in_parts_both_ways(store: Store, tmp_path: Path) -> None:
    data = os.urandom(40 * 2**20)
    with store.create("views", "large") as draft:
        draft.path("large.bin").write_bytes(data)
        draft.path("empty.bin").write_bytes(b"")
    forget(tmp_path)
    got = store.get(draft.artifact.ref)
    assert hashlib.sha256(got.path("large.bin").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert got.path("empty.bin").read_bytes() == b""


def test_weights_of_the_user_come_by_their_checksum_and_are_kept(environment: Path) -> None:
    data, url = b"weights" * 1000, f"s3://{BUCKET}/networks/vgg19.safetensors"
    put(url, data)
    given = PretrainedSpec(file=url, sha256=hashlib.sha256(data).hexdigest())
    kept = pretrained_file(given)
    assert kept.read_bytes() == data and pretrained_file(given) == kept
    with pytest.raises(ArtifactError, match=r"vgg19\.safetensors: expected SHA-256 0000"):
        pretrained_file(PretrainedSpec(file=url, sha256="0" * 64))
    with pytest.raises(StoreError, match="none"):
        pretrained_file(PretrainedSpec(file=f"s3://{BUCKET}/none", sha256=given.sha256))


def test_list_latest_and_delete(store: Store, served: Path) -> None:
    assert store.list() == []
    assert store.latest("checkpoints/run-1") is None
    first, second = make(store, "checkpoints/run-1", "8"), make(store, "checkpoints/run-1", "9")
    other = make(store, "checkpoints/run-10", "8")
    assert store.list("checkpoints/run-1") == [first.ref, second.ref]
    assert store.list("checkpoints/run-1/8") == [first.ref]
    assert store.list() == [first.ref, second.ref, other.ref]
    assert store.latest("checkpoints/run-1").ref == second.ref
    store.delete(second.ref)
    assert store.latest("checkpoints/run-1").ref == first.ref
    assert not [path for path in (served / second.ref.key).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"j" + data[1:], lambda data: b"", None]
)
def test_a_damaged_object_is_refused_with_file_expected_and_found(
    store: Store, tmp_path: Path, damage: object
) -> None:
    made = make(store)
    if callable(damage):
        put(f"{made.uri}/a.txt", damage(b"hello"))
    else:
        store.backend.files.rm_file(f"{made.uri}/a.txt")
    forget(tmp_path)
    with pytest.raises(ArtifactError, match=r"s3://.*a\.txt: expected .*(5 bytes|SHA-256).* found"):
        store.get(made.ref).path("a.txt")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert store.get(made.ref).path("sub/b.json").exists()


def test_a_damaged_copy_in_the_cache_is_fetched_again(store: Store) -> None:
    made = make(store)
    path = store.get(made.ref).path("a.txt")
    path.write_bytes(b"jello")
    assert store.get(made.ref).path("a.txt").read_text() == "hello"


def test_latest_falls_back_to_the_newest_that_is_intact(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, flipped, bare = (make(store, "checkpoints/run", str(step)) for step in range(3))
    put(f"{flipped.uri}/a.txt", b"jello")
    put(f"{bare.uri}/manifest.json", b"{")
    forget(tmp_path)
    with caplog.at_level(logging.WARNING, "raydiance.storage"):
        assert store.latest("checkpoints/run").ref == good.ref
    assert flipped.ref.key in caplog.text
    assert bare.ref.key in caplog.text


KILLED = """
import os, signal, sys
from raydiance.storage import Store
from raydiance.storage.s3 import S3Backend

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

store = Store.open(sys.argv[1])
if sys.argv[2] == "between data and manifest":
    S3Backend._put_manifest = die
elif sys.argv[2] == "between two files":
    upload = S3Backend._upload
    S3Backend._upload = lambda self, *a: die() if a[2].name == "9.txt" else upload(self, *a)
with store.create("views", "chairs") as draft:
    for number in range(10):
        draft.path(f"{number}.txt").write_text("half")
if sys.argv[2] == "after the manifest":
    die()
"""


@pytest.mark.parametrize("moment", ["between two files", "between data and manifest", "after the manifest"])
def test_a_killed_writer_leaves_a_whole_artifact_or_none(
    store: Store, served: Path, tmp_path: Path, moment: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, store.url, moment],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert len(store.list()) == (moment == "after the manifest")
    if moment == "between data and manifest":
        assert len(list(served.rglob("*.txt"))) == 10
    made = make(store)
    forget(tmp_path)
    assert store.latest("views").ref == made.ref
    for ref in store.list():
        store.get(ref).verify()
    if moment != "after the manifest":
        assert store.garbage() == []
        assert {Path(found.where).suffix for found in store.garbage(older_than_s=0)} == {".txt"}
    store.collect(store.garbage(older_than_s=0))
    assert store.garbage(older_than_s=0) == []
    assert made.ref in store.list()


def test_an_upload_that_was_cut_off_is_garbage(store: Store) -> None:
    backend = store.backend
    where = {"Bucket": BUCKET, "Key": f"{backend.prefix}/views/large-1/large.bin"}
    upload = backend.files.call_s3("create_multipart_upload", **where)
    backend.files.call_s3("upload_part", **where, UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 100)
    garbage = store.garbage(older_than_s=0)
    assert [found.upload_id for found in garbage] == [upload["UploadId"]]
    store.collect(garbage)
    assert store.garbage(older_than_s=0) == []


def test_after_an_exception_nothing_is_left(store: Store, served: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.create("views", "chairs") as draft:
        draft.path("a.txt").write_text("half")
        _ = 1 / 0
    left = [
        path.name for folder in (served, tmp_path / "cache") for path in folder.rglob("*") if path.is_file()
    ]
    assert left == [".probe"]


def refused(url: str) -> str:
    """The message with which the store is refused: one line."""
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_server_that_is_not_there_is_named(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    message = refused("s3://raydiance/x")
    assert "s3://raydiance/x" in message
    assert "http://127.0.0.1:9" in message
    assert "AWS_ENDPOINT_URL" in message


def test_a_server_that_does_not_answer_is_named_within_ten_seconds(
    environment: Path, monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    monkeypatch.setattr("raydiance.storage.s3.PROBE_S", PROBE_S)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent_port}")
    began = time.monotonic()
    assert f"http://127.0.0.1:{silent_port}" in refused("s3://raydiance/x")
    assert time.monotonic() - began < 10


def test_a_host_without_a_name_is_named(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://nowhere.invalid:9000")
    assert "http://nowhere.invalid:9000" in refused("s3://raydiance/x")


def test_an_endpoint_that_is_no_address_is_named(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    assert "127.0.0.1:9000" in refused("s3://raydiance/x")


def test_a_wrong_bucket_is_named(environment: Path) -> None:
    assert "has no bucket 'elsewhere'" in refused("s3://elsewhere/x")


def test_wrong_keys_are_told(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "refuses these keys for bucket 'raydiance'" in refused("s3://raydiance/x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    assert "refuses these keys for bucket 'raydiance'" in refused("s3://raydiance/x")


def test_no_keys_are_told(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refused("s3://raydiance/x")


def test_a_url_without_a_bucket_is_refused(environment: Path) -> None:
    assert "give s3://bucket/prefix" in refused("s3:///x")
    assert "'no bucket' cannot be a bucket's name" in refused("s3://no bucket/x")


def test_a_cache_that_cannot_be_written_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYDIANCE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="set RAYDIANCE_CACHE"), store.create("views", "chairs"):
        pass


def test_a_store_that_may_only_be_read_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_on: Callable[..., AbstractContextManager[object]]
) -> None:
    (tmp_path / "served" / BUCKET).mkdir(parents=True)
    with s3_on(tmp_path / "served", "--read-only") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("raydiance.storage.s3.WRITE_PROBE_S", 3.0)  # rclone never answers such a request
        store = Store.open(f"s3://{BUCKET}/x")
        assert store.list() == []
        with pytest.raises(StoreError, match="could not be written"), store.create("views", "chairs"):
            pytest.fail("the work began")


def test_whether_the_server_keeps_create_only_puts_is_proved(store: Store) -> None:
    assert store.backend.prove() is False  # rclone ignores If-None-Match


def test_a_missing_artifact_is_told(store: Store) -> None:
    with pytest.raises(ArtifactError, match="no such artifact in the store s3://"):
        store.get("views/chairs-1")


def test_a_quota_refuses_before_anything_is_sent(store: Store, served: Path) -> None:
    refuses_beyond_its_quota(Store.open(store.url, quota=20_000))
    sizes = [path.stat().st_size for path in served.rglob("*") if path.is_file()]
    assert Store.open(store.url).used() == sum(sizes)
