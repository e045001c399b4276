"""A tiny bundle in a store, and a replica of it without Ray."""

from collections.abc import Iterator

import pytest
import torch
from fastapi import FastAPI
from tests.support.bundles import tiny_bundle, tiny_provenance

from raydiance.config import ServeSpec
from raydiance.serving import Sampler
from raydiance.serving.app import build_app
from raydiance.serving.local import Local
from raydiance.storage import Artifact, Store

SPEC = ServeSpec(port=0, slots=4, queue=12, max_count=4, max_resolution=48, request_timeout_s=30.0)


@pytest.fixture(scope="package", autouse=True)
def as_many_threads_as_a_replica() -> Iterator[None]:
    """In the last digit, the numbers of a sample depend on how many threads add them up."""
    before = torch.get_num_threads()
    torch.set_num_threads(SPEC.threads)
    yield
    torch.set_num_threads(before)


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
