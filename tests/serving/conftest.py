"""A tiny bundle in a store, and a replica of it without Ray."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from tests.support.bundles import tiny_bundle, tiny_provenance

from raydiance.config import ServeSpec
from raydiance.serving import Sampler
from raydiance.serving.app import build_app
from raydiance.serving.local import Local
from raydiance.storage import Artifact, Store

SPEC = ServeSpec(port=0, slots=4, queue=12, max_count=4, max_resolution=48, request_timeout_s=30.0)


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="package")
def artifact(store: Store) -> Artifact:
    return tiny_bundle(store, num_classes=2, provenance=tiny_provenance(store))


@pytest.fixture(scope="package")
def sampler(artifact: Artifact, store: Store) -> Iterator[Sampler]:
    replica = Sampler(artifact, SPEC)
    replica.warm_up()
    yield replica
    replica.close()


@pytest.fixture(scope="package")
def app(sampler: Sampler, store: Store) -> FastAPI:
    return build_app(Local(sampler, SPEC, store), SPEC)
