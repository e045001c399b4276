"""Progress on terminals and off them."""

import io
import pickle
import sys

import pytest

from raydiance.tracking import LineProgress, Progress, QuietProgress, RichProgress, open_progress


def test_lines_come_at_the_interval_and_at_the_end() -> None:
    now = [0.0]
    stream = io.StringIO()
    with LineProgress(stream, interval_s=5.0, clock=lambda: now[0]).task("autodecoder", total=10) as task:
        for step in range(10):
            now[0] += 2.0
            task.update(loss=1.0 / (step + 1))
    assert stream.getvalue().splitlines() == [
        "autodecoder 3/10  loss 0.3333  2 s/step  ETA 0:14",
        "autodecoder 6/10  loss 0.1667  2 s/step  ETA 0:08",
        "autodecoder 9/10  loss 0.1111  2 s/step  ETA 0:02",
        "autodecoder 10/10  loss 0.1  2 s/step  done in 0:20",
    ]


@pytest.mark.parametrize("progress", [QuietProgress(), RichProgress()])
def test_the_others_take_the_same_calls(progress: Progress) -> None:
    with progress.task("autodecoder", total=2) as task:
        task.update(loss=0.5)
        task.update(n=1)


def test_off_a_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_progress(), LineProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(open_progress(), RichProgress)


def test_progress_can_be_sent_to_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    with pickle.loads(pickle.dumps(LineProgress())).task("render", total=1) as task:
        task.update()
    assert capsys.readouterr().err.startswith("render 1/1")
