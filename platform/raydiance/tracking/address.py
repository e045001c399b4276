"""Where the record of runs is kept, and whether somebody answers there; without MLflow, so within seconds."""

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from raydiance.errors import TrackingError

__all__ = ["DEFAULT_TRACKING", "reach"]

DEFAULT_TRACKING = "sqlite:///outputs/mlflow.db"
TIMEOUT_S = 5
SERVER_TIMEOUT = httpx.Timeout(6, connect=3)  # the two may add up


def reach(url: str | None) -> str:
    """The full URL of the server or database; None means RAYDIANCE_TRACKING, MLFLOW_TRACKING_URI or SQLite.

    Raises TrackingError within 10 s, in one line with the address, if nobody answers there.
    """
    url = (
        url
        or os.environ.get("RAYDIANCE_TRACKING")
        or os.environ.get("MLFLOW_TRACKING_URI")
        or DEFAULT_TRACKING
    )
    parts = urlsplit(url)
    try:
        if parts.scheme in ("http", "https"):
            _ask(url)
            return url.rstrip("/")
        if parts.scheme == "sqlite":
            return _open_sqlite(url)
        if parts.hostname:
            socket.create_connection((parts.hostname, parts.port or 5432), TIMEOUT_S).close()
            return url
    except (OSError, httpx.HTTPError, httpx.InvalidURL, sqlite3.Error) as error:
        cause = " ".join(str(error).split())
        raise TrackingError(
            f"tracking {url} cannot be reached ({cause}); start it, or set RAYDIANCE_TRACKING"
        ) from error
    raise TrackingError(f"tracking {url!r}: give the http:// URL of an MLflow server, or {DEFAULT_TRACKING}")


def _ask(url: str) -> None:
    """Ask for one experiment; /health would say yes even where the server's database is gone."""
    answer = httpx.get(
        f"{url.rstrip('/')}/api/2.0/mlflow/experiments/get",
        params={"experiment_id": "0"},
        timeout=SERVER_TIMEOUT,
        verify=os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true",
    )
    # 401: there, and MLflow's own client has the password; 404: there, and the default experiment deleted
    is_json = "json" in answer.headers.get("Content-Type", "")
    if answer.status_code != 401 and not (answer.status_code in (200, 404) and is_json):
        cause = " ".join(answer.text.split())[:120]
        raise TrackingError(
            f"tracking {url}: answered {answer.status_code} ({cause}), not like an MLflow server that "
            "is well and allows this host name (--allowed-hosts); check the address"
        )


def _open_sqlite(url: str) -> str:
    path = Path(url.removeprefix("sqlite:///")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=TIMEOUT_S)) as database:
        database.execute("PRAGMA schema_version")
    return f"sqlite:///{path}"
