"""What a worker needs: the project's dependencies, less those of the client; the lock gives the versions."""

import sys
import tomllib
from pathlib import Path

CLIENT = ("dvc",)  # the pipeline is walked by the machine that submits
SERVERS = ("mlflow[auth]", "psycopg[binary]")  # the same image runs MLflow


def requirements(project: Path) -> list[str]:
    """Lines for pip, to be installed with requirements.lock as constraints."""
    plain = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    lines: list[str] = plain["project"]["dependencies"]
    return [*(line for line in lines if not line.startswith(CLIENT)), *SERVERS]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(__file__).parents[1])) + "\n")
