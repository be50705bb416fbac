"""What the README says is what CI runs and what Python accepts."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_ci_calls_the_readmes_test_command():
    blocks = re.findall(r"^```\n(.*?)\n```$", (ROOT / "README.md").read_text(), re.S | re.M)
    command = next(block for block in blocks if "pytest" in block)
    assert "\n" not in command
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_python_example_runs():
    blocks = re.findall(r"^```python\n(.*?)\n```$", (ROOT / "README.md").read_text(), re.S | re.M)
    assert len(blocks) == 1
    names = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert names["uv"].shape == (128, 160, 2)
    # The whole frame moved two pixels to the right.
    assert abs(float(names["uv"][32:96, 32:128, 0].mean()) - 2) < 0.2


def test_the_pages_that_it_names_are_there():
    names = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert len(names) > 20
    assert [name for name in names if not (ROOT / name).is_file()] == []
