"""One Ray for the tests of this folder."""

from collections.abc import Iterator

import pytest

from raydiance.cluster.session import session
from raydiance.config import ClusterSpec


@pytest.fixture(scope="package")
def ray_here() -> Iterator[None]:
    with session(ClusterSpec(address="local")):
        yield
