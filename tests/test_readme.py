"""The README keeps its word: its Python runs, its commands exist, its settings compose, its files exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from raydiance.cli.app import app
from raydiance.config import compose
from raydiance.config.pipeline import fan_out
from raydiance.config.stages import ASIDE, STAGES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_python_snippets_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert snippets
    for snippet in snippets:
        subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, check=True)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("raydiance ")])
def test_commands_exist_and_their_settings_compose(line: str) -> None:
    verb, *arguments = shlex.split(line)[1:]
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    options = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    of_a_job = (
        {"--dry-run", "--fresh", "--params", "--input", "--reuse"} if verb in ("run", "submit") else set()
    )
    assert {word for word in arguments if word.startswith("--")} <= options | of_a_job
    if verb in ("run", "submit"):
        assert any(arguments[0] in stages for stages in (*STAGES.values(), *ASIDE.values()))
    overrides = [word for word in arguments if "=" in word and not word.startswith("--")]
    assert fan_out(overrides) if verb in ("pipeline", "compose", "stages") else compose(overrides)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    subprocess.run(["make", "-n", line.split()[1]], cwd=ROOT, check=True, capture_output=True)


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).exists(), name
    for row in re.findall(r"^\| (`[^|]+) \|", README[README.index("## The tree") :], re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            assert (ROOT / name).exists(), name
