"""From a file back to the data, and the name of each link that is missing."""

import json
import struct
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from raydiance.errors import DataError
from raydiance.storage import Artifact, Store, write_json
from raydiance.tracking.lineage import missing, read_stamp, to_json, to_text, trace
from raydiance.tracking.lineage_figure import draw_lineage


def make(store: Store, kind: str, *parents: Artifact) -> Artifact:
    with store.create(kind, "chairs", seeds={"seed": 7}, parents=[parent.ref for parent in parents]) as draft:
        draft.path("data.bin").write_bytes(bytes(1000))
    return draft.artifact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def chain(store: Store) -> dict[str, Artifact]:
    """meshes -> views -> autodecoder -> latents -> bundle; the latents were made from views too."""
    made: dict[str, Artifact] = {}
    made["meshes"] = make(store, "meshes")
    made["views"] = make(store, "views", made["meshes"])
    made["autodecoder"] = make(store, "autodecoder", made["views"])
    made["latents"] = make(store, "latents", made["autodecoder"], made["views"])
    made["bundle"] = make(store, "bundle", made["latents"], made["autodecoder"])
    return made


def test_trace_walks_back_to_the_data(store: Store, chain: dict[str, Artifact]) -> None:
    node = trace(store, chain["bundle"].ref)
    assert node.manifest == chain["bundle"].manifest
    for kind in ("latents", "autodecoder", "views", "meshes"):
        node = node.parents[0]
        assert node.ref == chain[kind].ref
    assert node.parents == ()
    assert missing(trace(store, chain["bundle"].ref)) == []


def test_the_text_shows_each_artifact_once_in_full(store: Store, chain: dict[str, Artifact]) -> None:
    text = to_text(trace(store, chain["bundle"].ref))
    lines = [line for line in text.splitlines() if chain["views"].ref.key in line]
    assert len(lines) == 2
    assert "seed 7" in lines[0]
    assert "(see above)" in lines[1]
    assert len(text.splitlines()) == 7


def test_the_json_names_every_artifact_once(store: Store, chain: dict[str, Artifact]) -> None:
    value = json.loads(json.dumps(to_json(trace(store, chain["bundle"].ref))))
    assert value["artifact"] == chain["bundle"].ref.key
    assert set(value["artifacts"]) == {made.ref.key for made in chain.values()}
    latents = value["artifacts"][chain["latents"].ref.key]
    assert latents["parents"] == [chain["autodecoder"].ref.key, chain["views"].ref.key]
    assert latents["seeds"] == {"seed": 7}
    assert latents["bytes"] == 1000


def test_the_figure_has_a_box_for_each_artifact_and_what_is_made_stands_right_of_what_it_is_made_from(
    store: Store, chain: dict[str, Artifact]
) -> None:
    axes = draw_lineage(trace(store, chain["bundle"].ref)).axes[0]
    boxes = {
        text.get_text().splitlines()[0]: text.get_position()[0] for text in axes.texts if text.get_text()
    }
    assert sorted(boxes, key=boxes.__getitem__) == ["meshes", "views", "autodecoder", "latents", "bundle"]
    arrows = [text for text in axes.texts if not text.get_text()]
    assert len(arrows) == 6
    assert all(arrow.xyann[0] < arrow.xy[0] for arrow in arrows)


def test_a_missing_link_is_named_and_the_rest_still_shown(store: Store, chain: dict[str, Artifact]) -> None:
    store.delete(chain["views"].ref)
    node = trace(store, chain["bundle"].ref)
    assert len(missing(node)) == 1
    assert chain["views"].ref.key in missing(node)[0]
    assert f"MISSING {chain['views'].ref.key}" in to_text(node)
    assert chain["autodecoder"].ref.key in to_text(node)
    assert to_json(node)["missing"] == missing(node)


def test_an_artifact_in_the_place_of_another_is_a_missing_link(
    store: Store, chain: dict[str, Artifact]
) -> None:
    manifest = Path(chain["views"].uri) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seeds": {"seed": 8}}))
    assert "not the one that was referred to" in missing(trace(store, chain["bundle"].ref))[0]


def stamp_of(artifact: Artifact) -> dict[str, object]:
    return {"bundle": artifact.ref.key, "sha256": artifact.ref.sha256, "plan": "deis-20", "seed": 7}


def write_glb(path: Path, asset: object) -> None:
    text = json.dumps({"asset": asset}).encode()
    text += b" " * (-len(text) % 4)
    path.write_bytes(struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text), len(text), b"JSON") + text)


def test_the_stamp_is_read_from_every_kind_of_file(tmp_path: Path, chain: dict[str, Artifact]) -> None:
    stamp = stamp_of(chain["bundle"])
    write_glb(tmp_path / "a.glb", {"version": "2.0", "extras": {"raydiance": stamp}})
    info = PngInfo()
    info.add_itxt("raydiance", json.dumps(stamp))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    save_file({}, tmp_path / "a.safetensors", {"raydiance": json.dumps(stamp)})
    write_json(tmp_path / "a.json", {"raydiance": stamp})
    for suffix in ("glb", "png", "safetensors", "json"):
        found = read_stamp(tmp_path / f"a.{suffix}")
        assert found.ref == chain["bundle"].ref
        assert found.facts == {"plan": "deis-20", "seed": 7}
        assert found.store is None


def test_a_pointer_and_a_manifest_name_their_artifact(
    tmp_path: Path, store: Store, chain: dict[str, Artifact]
) -> None:
    ref = chain["views"].ref
    pointer = {"stage": "render", "kind": ref.kind, "key": ref.key, "sha256": ref.sha256, "store": store.url}
    write_json(tmp_path / "render.json", pointer)
    found = read_stamp(tmp_path / "render.json")
    assert (found.ref, found.store, found.facts) == (ref, store.url, {"stage": "render"})
    assert read_stamp(Path(chain["views"].uri) / "manifest.json").ref == ref


def test_the_sample_stands_at_the_root_of_its_lineage(
    tmp_path: Path, store: Store, chain: dict[str, Artifact]
) -> None:
    write_glb(tmp_path / "chair.glb", {"extras": {"raydiance": stamp_of(chain["bundle"])}})
    stamp = read_stamp(tmp_path / "chair.glb")
    text = to_text(trace(store, stamp.ref), stamp, Path("chair.glb"))
    assert text.splitlines()[0].strip() == "chair.glb  plan deis-20  seed 7"
    assert to_json(trace(store, stamp.ref), stamp)["stamp"] == {"plan": "deis-20", "seed": 7}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.glb", b""),
        ("a.glb", b"glTF" + bytes(100)),
        ("a.glb", struct.pack("<4sIII4s", b"glTF", 2, 20, 2**32 - 1, b"JSON")),
        ("a.glb", struct.pack("<4sIII4s", b"glTF", 2, 22, 2, b"JSON") + b"[]"),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.safetensors", struct.pack("<Q", 2**63) + b"{}"),
        ("a.json", b"[1]"),
        ("a.json", b"{"),
        ("a.json", b'{"bundle": 3, "sha256": "x"}'),
        ("a.txt", b"hello"),
        ("missing.glb", None),
    ],
)
def test_a_file_without_a_stamp_is_told(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}: (carries no stamp|no stamp is kept)"):
        read_stamp(tmp_path / name)
