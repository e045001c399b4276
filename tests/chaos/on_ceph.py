"""Faults of the object store, on Ceph: F1, F8, F9, F20, each against a bucket of its own."""

import functools
import os
import secrets
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import boto3
from tests.chaos import work
from tests.chaos.ceph import PROGRAMS, USER, Ceph
from tests.chaos.on_processes import NUM_CHECKPOINTS, follow_up, run, start
from tests.chaos.outside import committed, contents, leftovers, torn
from tests.chaos.trial import ENDINGS, Fault, Trial, singly
from tests.chaos.work import Plan

from raydiance.errors import StoreError
from raydiance.storage import Store

__all__ = ["FAULTS"]

NUM_ARTIFACTS = 4
LARGE = 40 * 2**20  # three parts
BOUND_S = 120.0


@functools.cache
def ceph() -> Ceph:
    """One for all trials; this process finds it, too."""
    found = Ceph()
    ENDINGS.callback(found.__exit__, None, None, None)
    os.environ.update(found.environment())
    return found.__enter__()


def place(folder: Path) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A bucket of its own, and the environment of those who use it."""
    name = f"raydiance-{secrets.token_hex(6)}"
    cache = {"RAYDIANCE_CACHE": str(folder / "cache")}
    os.environ.update(cache)
    environment = ceph().environment() | cache
    return ceph().bucket(name) + "/store", tuple(environment.items())


def killed_writer(phase: str, random: Random, folder: Path) -> Trial:
    """F1: SIGKILL of a training that writes to S3; then the same command again."""
    store, environment = place(folder)
    plan = Plan(store=store, log=str(folder / "log"), environment=environment)
    status = run(replace(plan, kills=((phase.split()[0], random.randrange(NUM_CHECKPOINTS), 0),)))
    trial = Trial("F1", phase, 0)
    trial.held["killed"] = status == -signal.SIGKILL
    trial.held["I1 at once"] = not torn(contents(store))
    return follow_up(trial, plan, run(plan))


def store_killed(phase: str, random: Random, folder: Path) -> Trial:
    """F8: SIGKILL of the gateway or of the disk while an artifact of several parts is uploaded."""
    url, environment = place(folder)
    log = folder / "written"
    process = start(write_artifacts, url, environment, str(log), folder.name)
    while not log.exists() and process.is_alive():
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 2.0))
    part = {"gateway": "radosgw", "disk": "osd"}[phase]
    ceph().kill(part)
    time.sleep(1.0)
    began = time.monotonic()
    ceph().start(part)
    process.join(BOUND_S)
    trial = Trial("F8", phase, 0, recovery_s=time.monotonic() - began)
    if process.exitcode is None:
        process.kill()
    said = log.read_text().splitlines()
    acknowledged = {line.split()[1] for line in said if line.startswith("written")}
    objects = contents(url)
    store = Store.open(url)
    store.collect(store.garbage(0.0))
    trial.held |= {
        "I1": not torn(objects) and acknowledged <= set(committed(objects)),
        "I5": len(acknowledged) == NUM_ARTIFACTS,
        "I8": trial.recovery_s < BOUND_S,
        "I9": not leftovers(contents(url)) and not _uploads(url),
        "I10": process.exitcode == 0,
    }
    failed = [line for line in said if line.startswith("failed")]
    trial.note = f"{len(failed)} attempts failed by name" + ("" if trial.passed else f": {failed}")
    return trial


def write_artifacts(url: str, environment: tuple[tuple[str, str], ...], log: str, seed: str) -> None:
    """Write artifacts until enough are acknowledged; a StoreError is told, and the artifact tried again."""
    os.environ.update(environment)
    store, content = Store.open(url), Random(seed).randbytes(LARGE)
    done = 0
    with Path(log).open("a", buffering=1) as told:
        while done < NUM_ARTIFACTS:
            told.write("begins\n")
            try:
                with store.create("things", "large") as draft:
                    draft.path("large.bin").write_bytes(content)
                    draft.path("small.txt").write_text(str(done))
            except StoreError as error:
                told.write(f"failed {error}\n")
                continue
            done += 1
            told.write(f"written {draft.key}\n")


def no_room(phase: str, random: Random, folder: Path) -> Trial:
    """F9: the user's quota is used up; then there is more of it, and the same command again."""
    url, environment = place(folder)
    plan = Plan(store=url, log=str(folder / "log"), environment=environment)
    assert run(replace(plan, steps=21)) == 0
    before = set(committed(contents(url)))
    quota = ("quota", "set", "--quota-scope=user", f"--uid={USER}")
    ceph().admin(*quota, "--max-size=1")
    ceph().admin("quota", "enable", "--quota-scope=user", f"--uid={USER}")
    try:
        said = folder / "said"
        process = start(train_telling, plan, str(said))
        process.join(BOUND_S)
        objects = contents(url)
    finally:
        ceph().admin("quota", "disable", "--quota-scope=user", f"--uid={USER}")
    trial = Trial("F9", phase, 0)
    told = said.read_text() if said.exists() else ""
    trial.held |= {
        "I1 at once": not torn(objects) and before <= set(committed(objects)),
        "I10 at once": told.startswith(f"store {url}") and "Quota" in told,
    }
    trial.note = told[:300]
    return follow_up(trial, plan, run(plan))


def train_telling(plan: Plan, said: str) -> None:
    try:
        work.train_here(plan)
    except StoreError as error:
        Path(said).write_text(str(error))


def two_writers(phase: str, random: Random, folder: Path) -> Trial:
    """F20: eight processes put the same manifest at the same time; the server lets one of them."""
    url, environment = place(folder)
    results = [folder / f"result-{k}" for k in range(8)]
    at = time.time() + 6.0
    processes = [start(put_manifest, url, environment, str(result), at) for result in results]
    for process in processes:
        process.join(BOUND_S)
    said = [result.read_text() for result in results if result.exists()]
    winners = [each for each in said if each == "won"]
    trial = Trial("F20", phase, 0, note=f"{len(winners)} of {len(said)}")
    trial.held |= {
        "I5": len(winners) == 1,
        "I10": len(said) == 8
        and all(each == "won" or "someone else wrote this key" in each for each in said),
    }
    return trial


def put_manifest(url: str, environment: tuple[tuple[str, str], ...], result: str, at: float) -> None:
    os.environ.update(environment)
    backend = Store.open(url).backend
    time.sleep(max(0.0, at - time.time()))
    try:
        backend._put_manifest("things/one", result.encode())  # type: ignore[attr-defined]
    except StoreError as error:
        Path(result).write_text(str(error))
    else:
        Path(result).write_text("won")


def _uploads(url: str) -> list[object]:
    bucket = url.removeprefix("s3://").partition("/")[0]
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    return list(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


FAULTS = (
    (
        Fault(
            "F1",
            "training on S3 killed (SIGKILL)",
            "",
            ("upload to S3", "manifest to S3"),
            singly(killed_writer),
        ),
        Fault(
            "F8",
            "S3 server killed (SIGKILL) during an upload",
            "The writer tries again, or fails by name; what was acknowledged is there, whole.",
            ("gateway", "disk"),
            singly(store_killed),
            dear=True,
        ),
        Fault(
            "F9",
            "S3 quota used up",
            "One line with place and reason; older checkpoints stay readable; with room it goes on.",
            ("store",),
            singly(no_room),
            dear=True,
        ),
        Fault(
            "F20",
            "eight writers of one key",
            "One wins, by the server's create-only PUT; the others are told.",
            ("create-only PUT",),
            singly(two_writers),
        ),
    )
    if all(shutil.which(name) for name in PROGRAMS)
    else ()
)
