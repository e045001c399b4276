"""A moved alias on a real Ray Serve."""

import time
import warnings
from dataclasses import replace

import pytest
from tests.serving.conftest import SPEC
from tests.support.bundles import tiny_bundle

from raydiance.config import ClusterSpec
from raydiance.generation import load_bundle, sample_glb
from raydiance.storage import Artifact, Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its models in a way that pydantic has deprecated
    from raydiance.serving import Client, running

pytestmark = [
    pytest.mark.slow,
    # Serve's own threads and sockets, when the endpoint is taken down
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_a_moved_alias_is_rolled_over_to_with_no_failed_request(store: Store, artifact: Artifact) -> None:
    other = tiny_bundle(store, num_classes=2, seed=1)
    meant = [artifact.ref]
    spec = replace(
        SPEC, bundle="chairs@champion", follow_s=0.2, cpus_per_replica=0.5, request_timeout_s=120.0
    )
    asked = {each.ref.key: sample_glb(load_bundle(each), 3, "fast") for each in (artifact, other)}
    served: list[str] = []
    took: list[float] = []
    with (
        running(
            spec, store, resolve=lambda name, alias: meant[0], cluster=ClusterSpec(address="local"), keys=[]
        ) as endpoint,
        Client(endpoint.url, retries=0, timeout_s=130.0) as client,
    ):
        end = time.monotonic() + 120
        while other.ref.key not in served[-5:-4]:
            assert time.monotonic() < end, served[-1]
            began = time.monotonic()
            sample = client.sample(3, plan="fast")
            took.append(time.monotonic() - began)
            assert sample.content == asked[sample.bundle], "bytes and bundle belong together"
            served.append(sample.bundle)
            if len(served) == 5:
                meant[0] = other.ref
    first = served.index(other.ref.key)
    assert first >= 5 and set(served[:first]) == {artifact.ref.key}
    assert set(served[-5:]) == {other.ref.key}
    assert max(took) < sum(took[5:first]) / 2, "nobody waits for the new replica to load"
