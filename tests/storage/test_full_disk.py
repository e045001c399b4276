"""A disk without room, for real: a small tmpfs in a mount namespace that ends with the test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydiance.config import project_folder

WRITE = """
import sys
from pathlib import Path
from raydiance.errors import StoreError
from raydiance.storage import Store

store = Store.open(Path(sys.argv[1]) / "store")

def put(name, size):
    with store.create("things", name) as draft:
        draft.path("data.bin").write_bytes(b"x" * size)
    return draft.artifact

good = put("good", 400_000)
for attempt in range(3):
    try:
        put("large", 900_000)
        sys.exit("the disk is larger than it should be")
    except StoreError as error:
        print(error)
store.get(good.ref).verify()
assert [ref.key for ref in store.list()] == [good.ref.key]
assert list(Path(store.url, ".staging").iterdir()) == [], "a failed writer takes its files along"
put("small", 200_000)
store.delete(good.ref)
put("large", 700_000)
print("all is well")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mount namespaces")
def test_a_full_disk_is_said_by_name_and_takes_nothing_along(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}/disk && exec {sys.executable} - {tmp_path}/disk"
    become = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    done = subprocess.run(
        [*become, "sh", "-c", mount],
        input=WRITE,
        env=os.environ | {"PYTHONPATH": str(project_folder() / "platform")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    assert last == "all is well"
    assert len(errors) == 3
    for line in errors:
        assert line.startswith(f"store {tmp_path}/disk/store: no room for things/large-")
        assert line.endswith("set RAYDIANCE_STORE to another place")
