"""What every test shares: servers that are absent are named, and counted where they must not be absent."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BINARIES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "postgres": ("/usr/lib/postgresql/15/bin/postgres", "/usr/lib/postgresql/16/bin/postgres", "postgres"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name, tests whose server is absent; fail them where RAYDIANCE_REQUIRE_SERVERS says it must be there."""
    required = os.environ.get("RAYDIANCE_REQUIRE_SERVERS") == "1"
    for item in items:
        for marker in item.iter_markers("needs"):
            name = marker.args[0]
            if not required and not any(shutil.which(binary) for binary in BINARIES[name]):
                item.add_marker(pytest.mark.skip(reason=f"needs {name}, which is not installed"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT
