"""A tiny bundle in a store, and a replica of it without Ray."""

from collections.abc import Iterator

import pytest
from tests.support.bundles import tiny_bundle

from raydiance.config import ServeSpec
from raydiance.serving import Sampler
from raydiance.storage import Artifact, Store

SPEC = ServeSpec(port=0, slots=4, queue=12, max_count=4, max_resolution=48, request_timeout_s=30.0)


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="package")
def artifact(store: Store) -> Artifact:
    return tiny_bundle(store, num_classes=2)


@pytest.fixture(scope="package")
def sampler(artifact: Artifact) -> Iterator[Sampler]:
    replica = Sampler(artifact, SPEC)
    replica.warm_up()
    yield replica
    replica.close()
