"""The ingest stage: furniture and folders become centred meshes, and what is bad is skipped by name."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from tests.support.glb import Builder, simple

from raydiance.data.ingest import IngestSpec, choose_test_ids, ingest
from raydiance.data.meshes import MeshLimits, load_mesh
from raydiance.errors import ConfigError, DataError
from raydiance.tracking import MemoryTracker, Outcome, local_run

FURNITURE = Path(__file__).resolve().parents[3] / "shared" / "data" / "furniture"


def run_ingest(spec: IngestSpec, store: Path, seed: int = 0) -> Outcome:
    return ingest(spec, local_run(store, seed=seed))


def ball_glb(radius: float, at: tuple[float, float, float] = (0, 0, 0)) -> bytes:
    ball = trimesh.creation.icosphere(radius=radius)
    ball.apply_translation(at)
    data = ball.export(file_type="glb")
    assert isinstance(data, bytes)
    return data


def test_furniture_is_balanced_centred_and_split(tmp_path: Path) -> None:
    spec = IngestSpec(num_objects=16, categories=("chair", "sofa"), test_fraction=0.25, fill=0.9)
    outcome = run_ingest(spec, tmp_path, seed=3)
    objects = outcome.artifact.read_json("objects.json")
    assert [item["category"] for item in objects] == ["chair", "sofa"] * 8
    assert sum(item["split"] == "test" for item in objects) == 4
    assert outcome.metrics["objects"] == 16 and outcome.metrics["skipped"] == 0
    assert outcome.artifact.manifest.kind == "meshes"
    for item in objects:
        mesh = load_mesh(outcome.artifact.path(f"meshes/{item['id']}.safetensors"))
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.9, abs=1e-4)
        assert len(mesh.faces) == item["faces"] and len(mesh.vertices) == item["vertices"]


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = IngestSpec(num_objects=5)
    first, again, other = (run_ingest(spec, tmp_path, seed).artifact for seed in (1, 1, 2))
    hashes = [[entry.sha256 for entry in artifact.manifest.files] for artifact in (first, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_recorded_transform_is_the_one_applied(tmp_path: Path) -> None:
    (tmp_path / "in" / "balls").mkdir(parents=True)
    (tmp_path / "in" / "balls" / "one.glb").write_bytes(ball_glb(3.0, (10, 20, 30)))
    outcome = run_ingest(IngestSpec(source=str(tmp_path / "in"), test_fraction=0), tmp_path / "store")
    (item,) = outcome.artifact.read_json("objects.json")
    assert (item["id"], item["category"], item["split"]) == ("balls-one", "balls", "train")
    np.testing.assert_allclose(item["center"], (10, -30, 20), atol=0.02)  # turned to Z-up first
    assert item["scale"] == pytest.approx(0.95 / 3, rel=0.01)
    mesh = load_mesh(outcome.artifact.path("meshes/balls-one.safetensors"))
    back = mesh.vertices / item["scale"] + np.array(item["center"])
    assert np.linalg.norm(back - (10, -30, 20), axis=1) == pytest.approx(3, rel=0.01)


def bad_corpus(folder: Path) -> dict[str, str]:
    """Good and bad files; the bad ones with a word of the reason that must be told."""
    (folder / "chairs").mkdir(parents=True)
    (folder / "sofas").mkdir()
    (folder / "chairs" / "good.glb").write_bytes(ball_glb(1))
    (folder / "sofas" / "good.glb").write_bytes(ball_glb(2))
    (folder / "sofas" / "good.ply").write_bytes(trimesh.creation.box().export(file_type="ply"))
    (folder / "readme.txt").write_text("passed over")
    external = Builder()
    external.primitive()
    external.document["buffers"] = [{"uri": "../../../etc/passwd", "byteLength": 10}]
    bad = {
        "chairs/empty.glb": (b"", "is empty"),
        "chairs/truncated.glb": (ball_glb(1)[:-500], "truncated"),
        "chairs/external.glb": (external.pack(), "outside itself"),
        "chairs/traversal.obj": (
            b"mtllib ../../x.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n",
            "refers to",
        ),
        "chairs/huge.glb": (ball_glb(1) + bytes(3 << 20), "limits.file_bytes"),
        "chairs/many.stl": (trimesh.creation.icosphere(5).export(file_type="stl"), "limits.faces"),
        "sofas/flat.obj": (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "area"),
        "sofas/bomb.zip": (b"PK\x03\x04" + bytes(100), "is not read"),
        "sofas/scene.gltf": (b"{}", "is not read"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    (folder.parent / "outside.glb").write_bytes(ball_glb(1))
    (folder / "sofas" / "link.glb").symlink_to(folder.parent / "outside.glb")
    return {name: reason for name, (_, reason) in bad.items()} | {"sofas/link.glb": "outside the source"}


def test_bad_files_are_skipped_by_name_with_their_reasons_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = bad_corpus(tmp_path / "in")
    spec = IngestSpec(source=str(tmp_path / "in"), limits=MeshLimits(file_bytes=2 << 20, faces=10_000))
    outcome = run_ingest(spec, tmp_path / "store")
    report = outcome.artifact.read_json("report.json")
    told = {item["file"]: item["reason"] for item in report["skipped"]}
    assert told.keys() == bad.keys()
    for name, reason in bad.items():
        assert reason in told[name], name
    ids = [item["id"] for item in outcome.artifact.read_json("objects.json")]
    assert ids == ["chairs-good", "sofas-good", "sofas-good-2"]
    assert report["categories"] == {"chairs": 1, "sofas": 2} and report["read"] == 3
    assert outcome.metrics["skipped"] == len(bad)
    assert {row["file"] for row in outcome.tables["skipped"]} == bad.keys()


def test_nothing_readable_is_an_error_that_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.glb").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"none of 1 files.*a\.glb: no GLB file"):
        run_ingest(IngestSpec(source=str(tmp_path / "in")), tmp_path / "store")
    assert not list((tmp_path / "store").glob("meshes/*"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="none of 0 files"):
        run_ingest(IngestSpec(source=str(tmp_path / "bare")), tmp_path / "store")
    with pytest.raises(DataError, match="no such file or folder"):
        run_ingest(IngestSpec(source=str(tmp_path / "missing")), tmp_path / "store")


def test_one_file_is_a_source_too_and_so_is_its_url(tmp_path: Path) -> None:
    (tmp_path / "my chair.glb").write_bytes(simple())
    for source in (str(tmp_path / "my chair.glb"), (tmp_path / "my chair.glb").as_uri()):
        objects = run_ingest(IngestSpec(source=source), tmp_path / "store").artifact.read_json("objects.json")
        assert [(item["id"], item["category"]) for item in objects] == [("my_chair", "object")]


def test_categories_and_number_choose_among_the_files(tmp_path: Path) -> None:
    for category in ("beds", "chairs"):
        (tmp_path / "in" / category).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "in" / category / f"{number}.glb").write_bytes(simple())
    spec = IngestSpec(source=str(tmp_path / "in"), categories=("chairs",), num_objects=3)
    objects = run_ingest(spec, tmp_path / "store").artifact.read_json("objects.json")
    assert [item["id"] for item in objects] == ["chairs-0", "chairs-2", "chairs-5"]
    with pytest.raises(ConfigError, match=r"no 'sofas', only beds, chairs"):
        run_ingest(IngestSpec(source=str(tmp_path / "in"), categories=("sofas",)), tmp_path / "store")


def test_the_split_is_fixed_by_seed_and_ids() -> None:
    ids = [f"chair-{number}" for number in range(50)]
    chosen = choose_test_ids(ids, 0.2, 0)
    assert len(chosen) == 10 and chosen == choose_test_ids(ids[::-1], 0.2, 0)
    assert chosen != choose_test_ids(ids, 0.2, 1)
    assert choose_test_ids(ids, 0, 0) == frozenset()
    assert len(choose_test_ids(ids[:2], 0.001, 0)) == 1
    assert choose_test_ids(ids[:1], 0.5, 0) == frozenset()


def test_impossible_specs_are_refused() -> None:
    with pytest.raises(ValueError, match="'cars' is unknown"):
        IngestSpec(source="procedural:cars")
    with pytest.raises(ValueError, match="no kind throne"):
        IngestSpec(categories=("throne",))


def test_the_tracker_hears_of_settings_and_numbers(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    ingest(IngestSpec(num_objects=2), local_run(tmp_path, tracker=tracker))
    assert tracker.params["fill"] == 0.95
    assert tracker.metrics["objects"]


@pytest.mark.skipif(not FURNITURE.is_dir(), reason="needs shared/data/furniture beside the checkout")
def test_real_furniture_is_read_whole(tmp_path: Path) -> None:
    outcome = run_ingest(IngestSpec(source=str(FURNITURE), num_objects=40), tmp_path)
    assert outcome.metrics["objects"] == 40 and outcome.metrics["skipped"] == 0
    assert set(outcome.artifact.read_json("report.json")["categories"]) == {
        "chairs",
        "other",
        "sofas",
        "tables",
    }
