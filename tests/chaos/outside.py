"""What must hold, checked from outside: with the files and logs alone, and none of the package's own code."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3

__all__ = ["History", "committed", "contents", "history", "leftovers", "torn"]

MANIFEST = "manifest.json"


def contents(store: str, under: str = "") -> dict[str, bytes]:
    """Every object of a store by its name, whole."""
    if not store.startswith("s3://"):
        return _files(Path(store), under)
    parts = urlsplit(store)
    prefix = parts.path.strip("/") + "/"
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix + under)
    names = [each["Key"] for page in pages for each in page.get("Contents", [])]
    return {
        name.removeprefix(prefix): client.get_object(Bucket=parts.netloc, Key=name)["Body"].read()
        for name in names
    }


def _files(root: Path, under: str) -> dict[str, bytes]:
    """As they stood at one moment: where some come or go meanwhile, it is looked again."""

    def names() -> list[str]:
        found = os.walk(root / under)  # passes over what is gone
        return sorted(str(Path(place, file)) for place, _, files in found for file in files)

    while True:
        before = names()
        with suppress(FileNotFoundError):
            found = {Path(name).relative_to(root).as_posix(): Path(name).read_bytes() for name in before}
            if names() == before:
                return found


def committed(objects: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The artifacts that a manifest vouches for: by key, in the order of their making."""
    found = {
        name.rpartition("/")[0]: json.loads(data)
        for name, data in objects.items()
        if name.endswith("/" + MANIFEST) and not name.startswith(".staging/")
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1]["created"]))


def torn(objects: Mapping[str, bytes]) -> list[str]:
    """I1: what a manifest vouches for and is not so."""
    wrong = []
    for key, manifest in committed(objects).items():
        for entry in manifest["files"]:
            data = objects.get(f"{key}/{entry['name']}")
            if data is None or hashlib.sha256(data).hexdigest() != entry["sha256"]:
                wrong.append(f"{key}/{entry['name']}")
    return wrong


def leftovers(objects: Mapping[str, bytes]) -> list[str]:
    """I9: what no manifest vouches for."""
    keys = tuple(f"{key}/" for key in committed(objects))
    return [name for name in objects if not name.startswith(keys) and not name.endswith(".probe")]


@dataclass
class History:
    """What the steps of a training saw, over all its attempts."""

    items: dict[int, dict[int, int]] = field(default_factory=dict)  # by step and place in the whole batch
    exact: dict[int, list[Mapping[str, str]]] = field(default_factory=dict)  # once for each attempt
    started: list[float] = field(default_factory=list)  # when, for each attempt that came to a step
    begun: list[int] = field(default_factory=list)  # the first step of each attempt
    ended: list[int] = field(default_factory=list)  # the last step of each attempt
    times: list[tuple[float, float]] = field(default_factory=list)  # of their first and last steps
    calls_s: list[float] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)  # of all workers of all attempts
    run_id: str | None = None
    final: str | None = None

    @property
    def lost_steps(self) -> int:
        """I2: the most steps that one attempt had done and the next did again."""
        pairs = zip(self.ended, self.begun[1:])
        return max((max(0, last + 1 - first) for last, first in pairs), default=0)

    @property
    def recovery_s(self) -> float:
        """From the last step of one attempt to the first of the next, at most."""
        pairs = zip(self.times, self.times[1:])
        return max((after[0] - before[1] for before, after in pairs), default=0.0)

    def after(self, moment: float) -> tuple[int, float]:
        """I2, I8: how many steps were done again after what happened then, and how long it took until the next."""
        before = sum(began <= moment for began in self.started)
        if before == len(self.started):  # it never went on
            return self.ended[-1] + 1, math.inf
        done = self.ended[before - 1] + 1 if before else 0
        return max(0, done - self.begun[before]), self.times[before][0] - moment

    def repeated_exactly(self) -> bool:
        """I3: a step that was done twice gave the same to the last bit."""
        return all(each == attempts[0] for attempts in self.exact.values() for each in attempts)

    def each_item_once(self, num_items: int) -> bool:
        """I4: over the steps that count, no item comes again before all have come."""
        seen = [item for _, places in sorted(self.items.items()) for _, item in sorted(places.items())]
        epochs = [seen[start : start + num_items] for start in range(0, len(seen), num_items)]
        whole = [epoch for epoch in epochs if len(epoch) == num_items]
        return bool(whole) and all(sorted(epoch) == list(range(num_items)) for epoch in whole)


def history(log: str) -> History:
    """Read what the workers of all attempts told."""
    found = History()
    for rank, path in enumerate(sorted(Path(log).parent.glob(Path(log).name + ".*"))):
        fresh, began = True, 0.0
        for line in path.read_text().split("\n")[:-1]:  # what is behind the last is being written
            told = json.loads(line)
            if "pid" in told:
                fresh, began = True, told["began"]
                found.pids.append(told["pid"])
            if "items" in told:
                step, places = told["step"], enumerate(told["items"], told["first"])
                found.items.setdefault(step, {}).update(places)
                if rank == 0:
                    if fresh:
                        found.started.append(began)
                    _attempt(found, step, told["time"], fresh)
                    fresh = False
            if "logged" in told:
                found.exact.setdefault(told["logged"], []).append(told["exact"])
                found.calls_s.append(told["call_s"])
            found.run_id = told.get("run_id", found.run_id)
            found.final = told.get("final", found.final)
    return found


def _attempt(found: History, step: int, time: float, fresh: bool) -> None:
    if fresh:
        found.begun.append(step)
        found.ended.append(step)
        found.times.append((time, time))
    else:
        found.ended[-1] = step
        found.times[-1] = (found.times[-1][0], time)
