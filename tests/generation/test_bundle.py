"""A bundle is read as it was written, or not at all."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.bundles import tiny_bundle, tiny_model

from raydiance.errors import ArtifactError, RequestError
from raydiance.generation import load_bundle, write_bundle
from raydiance.spec import to_plain
from raydiance.storage import Artifact, Store, write_json


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def rewritten(store: Store, artifact: Artifact, name: str, write) -> Artifact:  # type: ignore[no-untyped-def]
    """A copy of a bundle with one file written anew, under a manifest of its own that is right."""
    with store.create("bundle", "copy") as draft:
        for file in artifact.files:
            if file == name:
                write(artifact.path(file), draft.path(file))
            else:
                draft.path(file).write_bytes(artifact.path(file).read_bytes())
    return draft.artifact


def test_a_bundle_comes_back_whole(store: Store) -> None:
    model = tiny_model()
    artifact = write_bundle(store, "tiny", model, seeds={"weights": 0})
    bundle = load_bundle(artifact)
    assert bundle.spec == model.spec
    assert bundle.plans == model.plans
    assert bundle.ref == artifact.ref
    assert bundle.code_version == artifact.manifest.code_version
    for ours, theirs in ((bundle.decoder, model.decoder), (bundle.denoiser, model.denoiser)):
        assert not ours.training
        assert not any(parameter.requires_grad for parameter in ours.parameters())
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value)
    assert torch.equal(bundle.statistics.scale, model.statistics.scale)


def test_loading_imports_no_compiler(store: Store) -> None:
    """Torch brings SymPy and TorchDynamo, 2 s, for some operations on its device "meta". Imports torch."""
    key = tiny_bundle(store).ref.key
    code = (
        "import sys; from raydiance.generation import load_bundle; from raydiance.storage import Store; "
        f"load_bundle(Store.open({store.url!r}).get({key!r})); "
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_loading_leaves_the_global_generator_alone(store: Store) -> None:
    artifact = tiny_bundle(store)
    before = torch.random.get_rng_state()
    load_bundle(artifact)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_a_bundle_does_not_have_is_named_with_what_it_has(store: Store) -> None:
    bundle = load_bundle(tiny_bundle(store))
    with pytest.raises(RequestError, match="default, fast, stochastic"):
        bundle.plan("best")
    with pytest.raises(RequestError, match="unconditional"):
        bundle.label("chair")
    conditional = load_bundle(tiny_bundle(store, num_classes=2))
    assert conditional.label("class1") == 1
    with pytest.raises(RequestError, match="class0, class1"):
        conditional.label("chair")


def test_a_flipped_bit_is_refused(store: Store) -> None:
    artifact = tiny_bundle(store)
    path = Path(store.url) / artifact.ref.key / "denoiser.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="denoiser"):
        load_bundle(store.get(artifact.ref))


def test_an_artifact_of_another_kind_is_no_bundle(store: Store) -> None:
    with store.create("views", "x") as draft:
        write_json(draft.path("a.json"), 1)
    with pytest.raises(ArtifactError, match="no bundle"):
        load_bundle(draft.artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {**tensors, "extra": torch.zeros(1)}, "extra"),
        (lambda tensors: dict(list(tensors.items())[1:]), "lacks"),
        (lambda tensors: {name: value.double() for name, value in tensors.items()}, "F64"),
        (lambda tensors: {name: value.flatten() for name, value in tensors.items()}, "asks for"),
    ],
    ids=["unknown tensor", "missing tensor", "other dtype", "other shape"],
)
def test_weights_of_another_network_are_refused(store: Store, change, message: str) -> None:  # type: ignore[no-untyped-def]
    artifact = rewritten(
        store,
        tiny_bundle(store),
        "decoder.safetensors",
        lambda source, target: save_file(change(load_file(source)), target),
    )
    with pytest.raises(ArtifactError, match=message):
        load_bundle(artifact)


def test_a_huge_header_is_refused_before_it_is_read(store: Store) -> None:
    artifact = rewritten(
        store,
        tiny_bundle(store),
        "decoder.safetensors",
        lambda source, target: target.write_bytes(struct.pack("<Q", 2**40) + b"{}"),
    )
    with pytest.raises(ArtifactError, match="header of 1099511627776 bytes"):
        load_bundle(artifact)


@pytest.mark.parametrize(
    "content", [b"", b"\x05\x00\x00\x00\x00\x00\x00\x00{]]]]", b"\x02" + bytes(7) + b"[]"]
)
def test_a_file_that_is_no_safetensors_file_is_refused(store: Store, content: bytes) -> None:
    artifact = rewritten(
        store, tiny_bundle(store), "decoder.safetensors", lambda source, target: target.write_bytes(content)
    )
    with pytest.raises(ArtifactError, match=r"decoder\.safetensors"):
        load_bundle(artifact)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_statistics_that_cannot_scale_are_refused(store: Store, scale: float) -> None:
    artifact = rewritten(
        store,
        tiny_bundle(store),
        "statistics.safetensors",
        lambda source, target: save_file(
            {"center": torch.zeros(4), "scale": torch.full((4,), scale)}, target
        ),
    )
    with pytest.raises(ArtifactError, match="scales > 0"):
        load_bundle(artifact)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format_version",), 99, "format 99"),
        (("default_plan",), "nowhere", "nowhere"),
        (("unknown",), 1, "no such field"),
        (("decoder", "widths"), "wide", "widths"),
        (("decoder", "latent_channels"), 8, "channels"),
        (("decoder", "widths"), [2**20, 2**20, 2**20], "bytes"),
    ],
)
def test_a_bundle_file_that_makes_no_sense_is_refused(
    store: Store, path: tuple[str, ...], value: object, message: str
) -> None:
    def write(source: Path, target: Path) -> None:
        plain = json.loads(source.read_text())
        place = plain
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        target.write_text(json.dumps(plain))

    artifact = rewritten(store, tiny_bundle(store), "bundle.json", write)
    with pytest.raises(ArtifactError, match=message):
        load_bundle(artifact)


def test_a_bundle_says_what_it_was_made_from(store: Store) -> None:
    with store.create("views", "x") as draft:
        write_json(draft.path("a.json"), 1)
    model = tiny_model()
    provenance = {"render": draft.artifact.ref}
    spec = type(model.spec)(**{**fields_of(model.spec), "provenance": provenance})
    made = type(model)(**{**model.__dict__, "spec": spec})
    artifact = write_bundle(store, "tiny", made)
    assert artifact.manifest.parents == (draft.artifact.ref,)
    assert load_bundle(artifact).spec.provenance == provenance
    assert to_plain(load_bundle(artifact).spec) == artifact.read_json("bundle.json")


def fields_of(spec: object) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}  # type: ignore[attr-defined]
