"""Sources: a bucket on a real server, and an address that must be allowed and must answer itself."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from tests.conftest import S3Server, free_port
from tests.support.glb import simple

from raydiance.data.ingest import IngestSpec, ingest
from raydiance.data.meshes import MeshLimits
from raydiance.data.sources import open_source
from raydiance.errors import ConfigError, DataError
from raydiance.tracking import Outcome, local_run


def run_ingest(spec: IngestSpec, store: Path) -> Outcome:
    return ingest(spec, local_run(store))


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    name = tmp_path.name.replace("_", "-")
    files.mkdir(name)
    text = b"mtllib oak.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl oak\nf 1 2 3\n"
    content = {
        "chairs/plain.glb": simple(),
        "tables/plain.glb": simple(),
        "tables/oak.mtl": b"newmtl oak\nKd 0.2 0.4 0.6\n",
        "tables/oak.obj": text,
        "tables/large.glb": bytes(5000),
    }
    for path, data in content.items():
        files.pipe_file(f"{name}/set/{path}", data)
    return f"s3://{name}"


def test_a_bucket_is_read_with_its_sub_folders_as_categories(bucket: str, tmp_path: Path) -> None:
    spec = IngestSpec(source=f"{bucket}/set", limits=MeshLimits(file_bytes=4000))
    outcome = run_ingest(spec, tmp_path / "store")
    objects = outcome.artifact.read_json("objects.json")
    assert [(item["id"], item["category"]) for item in objects] == [
        ("chairs-plain", "chairs"),
        ("tables-oak", "tables"),
        ("tables-plain", "tables"),
    ]
    (skipped,) = outcome.artifact.read_json("report.json")["skipped"]
    assert skipped["file"] == "tables/large.glb" and "limits.file_bytes" in skipped["reason"]


def test_one_object_of_a_bucket_is_a_source(bucket: str, tmp_path: Path) -> None:
    outcome = run_ingest(IngestSpec(source=f"{bucket}/set/chairs/plain.glb"), tmp_path / "store")
    assert [item["id"] for item in outcome.artifact.read_json("objects.json")] == ["plain"]


def test_the_bytes_of_a_bucket_are_limited_together(bucket: str, tmp_path: Path) -> None:
    spec = IngestSpec(source=f"{bucket}/set", download_bytes=len(simple()) + 10)
    outcome = run_ingest(spec, tmp_path / "store")
    assert outcome.metrics["objects"] == 1
    assert all(
        "download_bytes" in item["reason"] for item in outcome.artifact.read_json("report.json")["skipped"]
    )


def test_a_server_that_is_not_there_is_told_of_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    start = time.monotonic()
    with pytest.raises(DataError, match=r"cannot be listed at http://127\.0\.0\.1"):
        open_source(f"{bucket}/set", file_bytes=1, total_bytes=1, allowed_hosts=()).entries()
    assert time.monotonic() - start < 10


class Site(BaseHTTPRequestHandler):
    """/chair.glb is a mesh, /long.glb never says its length, /moved.glb leads elsewhere."""

    def do_GET(self) -> None:
        if self.path == "/moved.glb":
            self.send_response(302)
            self.send_header("Location", "/chair.glb")
            self.end_headers()
            return
        if self.path not in ("/chair.glb", "/long.glb"):
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(simple() if self.path == "/chair.glb" else bytes(1 << 20))

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_address_is_read_if_its_host_is_allowed(site: str, tmp_path: Path) -> None:
    spec = IngestSpec(source=f"{site}/chair.glb", allowed_hosts=("127.0.0.1",))
    objects = run_ingest(spec, tmp_path).artifact.read_json("objects.json")
    assert [item["id"] for item in objects] == ["chair"]
    with pytest.raises(ConfigError, match=r"host 127\.0\.0\.1 is not in ingest\.allowed_hosts"):
        run_ingest(IngestSpec(source=f"{site}/chair.glb", allowed_hosts=("example.org",)), tmp_path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("moved.glb", "another address"), ("missing.glb", "404"), ("long.glb", r"limits\.file_bytes")],
)
def test_an_address_that_leads_elsewhere_or_gives_too_much_is_refused(
    site: str, tmp_path: Path, path: str, reason: str
) -> None:
    limits = MeshLimits(file_bytes=100_000)
    spec = IngestSpec(source=f"{site}/{path}", allowed_hosts=("127.0.0.1",), limits=limits)
    with pytest.raises(DataError, match=reason):
        run_ingest(spec, tmp_path)


@pytest.mark.parametrize("source", ["ftp://example.org/a.glb", "gs://bucket/a", "zip://a.zip", "data://x"])
def test_other_schemes_are_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not read; give"):
        run_ingest(IngestSpec(source=source), tmp_path)
