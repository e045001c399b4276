"""Signals that a training is told of, and those that act as they always did."""

import signal
import threading
from collections.abc import Iterator

import pytest

from raydiance.tracking import Interrupted, by_signal


class Acted(Exception):  # noqa: N818
    """What a signal does where nobody asks."""


@pytest.fixture(autouse=True)
def acting() -> Iterator[None]:
    def act(number: int, frame: object) -> None:
        raise Acted(number)

    before = {name: signal.signal(name, act) for name in (signal.SIGTERM, signal.SIGINT)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_asks_is_told_and_the_exit_status_is_the_signals(number: int) -> None:
    with pytest.raises(Interrupted, match="go on from step 7") as caught, by_signal() as told:
        assert told() == 0
        signal.raise_signal(number)
        assert told() == number
        raise Interrupted("run", 7)
    assert caught.value.code == 128 + number
    with pytest.raises(Acted):
        signal.raise_signal(number)


def test_a_second_signal_acts_at_once() -> None:
    with pytest.raises(Acted), by_signal() as told:
        signal.raise_signal(signal.SIGTERM)
        assert told()
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_nobody_acted_on_acts_in_the_end() -> None:
    went_on = False
    with pytest.raises(Acted):
        with by_signal():
            signal.raise_signal(signal.SIGTERM)
            went_on = True
        raise AssertionError("the signal was lost")
    assert went_on


def test_what_goes_wrong_is_told_as_itself() -> None:
    with pytest.raises(ValueError, match="loss"), by_signal():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("loss")


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with by_signal() as told:
        signal.raise_signal(signal.SIGINT)
        assert told() == 0
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_no_signal_is_heard() -> None:
    found: list[int] = []

    def ask() -> None:
        with by_signal() as told:
            found.append(told())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [0]
