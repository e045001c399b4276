"""What somebody without a key gets from a stack that other machines can reach."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.support.scan import HEALTH

from raydiance.config import project_folder

HOST = "10.77.0.1"
INSIDE = f'ip link set lo up && ip address add {HOST}/32 dev lo && exec "$@"'


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.needs("ip")
def test_strangers_get_nothing_but_health_from_a_stack_that_others_can_reach() -> None:
    """A scan of all 65535 ports, in a network namespace where the stack is alone with us: a minute."""
    become = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    folder = Path(tempfile.mkdtemp(prefix="raydiance-scan-"))
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY", "AWS", "MLFLOW"))
    }
    roots = os.pathsep.join([str(project_folder() / "platform"), str(project_folder())])
    here = {
        "PYTHONPATH": roots,
        "OMP_NUM_THREADS": "1",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "correct-horse-battery",
    }
    scan = [sys.executable, "-m", "tests.support.scan", str(folder), HOST]
    try:
        done = subprocess.run(
            [*become, "sh", "-c", INSIDE, "sh", *scan],
            env=known | here,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout)
    ports = {name: answers for name, answers in said["ports"].items() if not answers.keys() <= HEALTH}
    assert ports == {}, "a port answers a stranger"
    assert len(said["ports"]) >= 8, "Ray, MLflow and the S3 server listen"
    answered = {request for answers in said["ports"].values() for request in answers}
    assert {"GET /health", "GET /api/gcs_healthz"} <= answered, "the scan sees what is open"
    assert said["with the password"] == "scanned"
