"""What the trials of a process share."""

from collections.abc import Iterator

import pytest
from tests.chaos.trial import ENDINGS


@pytest.fixture(scope="session", autouse=True)
def nothing_stays() -> Iterator[None]:
    """A worker of pytest-xdist ends without the functions of atexit."""
    yield
    ENDINGS.close()
