"""The tutorial is followed, command by command, and prints what the page shows."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def transcript():
    spec = importlib.util.spec_from_file_location("transcript", DOCS / "site" / "transcript.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key_lines(text: str) -> list[str]:
    """Return lines without numbers, width, and what hangs on how fast a machine trains."""
    apart = ("training is shortened", "note: still")
    lines = [line for line in text.splitlines() if not any(part in line for part in apart)]
    words = (re.sub(r"\d[\d.,]*", "N", line) for line in lines)
    kept = [" ".join(re.sub("─+", "─", line).split()) for line in words]
    kept = [re.sub(r"^(still .*)(weight N|left out: chance)$", r"\1weighed", line) for line in kept]
    return [re.sub(r"\bminutes?\b", "min", line) for line in kept if line]


def accuracies(text: str) -> list[float]:
    return [float(share) for share in re.findall(r"^ \S+ +(\d+\.\d)%", text, re.M)]


def test_what_differs_from_run_to_run_is_not_compared():
    assert key_lines(" still  29.6%   16% to 48%\n ─────") == key_lines("still 5.0% 1% to 7%\n ──")
    assert key_lines("about 2 minutes here") == key_lines("about 1 minute here")
    assert key_lines("still 24% left out: chance") == key_lines(" still 36%  weight 0.02")
    assert key_lines("motion 24% left out: chance") != key_lines("motion 36% weight 0.02")
    assert key_lines("motion 1%") != key_lines("still 1%")


def test_a_command_runs_on_a_terminal_of_80_columns(tmp_path):
    page = (
        "```python no-run\n# a.py\nprint(6 * 7)\n```\n"
        "```console\n$ python a.py; pwd; tput cols\n1\n```"
    )
    assert list(transcript().steps(page, tmp_path)) == [
        ("python a.py; pwd; tput cols", "1", "42\n~/flowpipe-tutorial\n80")
    ]


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    page = (DOCS / "tutorial.md").read_text("utf-8")
    shown_by_command = {}
    for command, shown, printed in transcript().steps(page, tmp_path):
        shown_by_command[command] = shown
        assert key_lines(printed) == key_lines(shown), command
        if " train " in command and "--dry-run" not in command:
            for here, there in zip(accuracies(printed), accuracies(shown), strict=True):
                assert abs(here - there) <= 12, command
    assert len(shown_by_command) >= 15
    assert sum(bool(shown) for shown in shown_by_command.values()) >= 9
