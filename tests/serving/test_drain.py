"""An endpoint that is told to end: what is under way is answered, what comes is told when to come again."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
from tests.serving.conftest import SPEC

from raydiance.serving.ending import wait_for_the_end
from raydiance.serving.local import running_here
from raydiance.storage import Artifact, Store


def test_what_is_under_way_is_answered_and_what_comes_is_refused(store: Store, artifact: Artifact) -> None:
    def ask(seed: int, pause_s: float) -> httpx.Response:
        time.sleep(pause_s)
        body = {"seed": seed, "plan": "ddim-250", "format": "latent"}
        return httpx.post(f"{url}/v1/samples", json=body, timeout=60.0, trust_env=False)

    with ThreadPoolExecutor(4) as pool:
        with running_here(replace(SPEC, max_nfe=250), store, artifact.ref) as url:
            under_way = [pool.submit(ask, seed, 0.0) for seed in range(3)]
            while "waiting" not in (said := httpx.get(f"{url}/metrics", trust_env=False).text) or (
                'raydiance_samples{state="running"} 3' not in said
            ):
                assert not any(each.done() for each in under_way), "they were to last longer"
            late = pool.submit(ask, 9, 0.2)
        assert [each.result().status_code for each in under_way] == [200, 200, 200]
    assert late.result().status_code == 503 and int(late.result().headers["retry-after"]) >= 1


def test_sigterm_is_a_way_to_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGTERM,))
    timer.start()
    wait_for_the_end()
    timer.join()
    assert signal.getsignal(signal.SIGTERM) is before
