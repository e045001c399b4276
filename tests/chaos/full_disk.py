"""A training on a disk that gets full, and then has room again: run inside a mount namespace, on a tmpfs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from tests.chaos import work
from tests.chaos.outside import committed, contents, leftovers, torn
from tests.chaos.work import Plan

from raydiance.errors import StoreError
from raydiance.storage import Store


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    filler = Path(plan.store).parent / "filler"
    work.train_here(replace(plan, steps=21))
    room = 4096
    with filler.open("wb", buffering=0) as file:  # all but one page
        try:
            while True:
                file.write(b"x" * room)
        except OSError:
            pass
    before = set(committed(contents(plan.store)))
    said = ""
    try:
        work.train_here(plan)
    except StoreError as error:
        said = str(error)
    objects = contents(plan.store)
    held = {
        "I1": not torn(objects) and set(committed(objects)) == before,
        "I9": not leftovers(objects),
        "I10": "no room for" in said and "RAYDIANCE_STORE" in said,
    }
    filler.unlink()
    work.train_here(plan)
    Store.open(plan.store).backend.check()
    held["I1 after"] = not torn(contents(plan.store))
    print(json.dumps(held))


if __name__ == "__main__":
    main()
