"""What is installed: one top-level name, the files that are read at run time, the command."""

import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import flowpipe

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.Path:
    """Return the wheel, built from a copy: a build leaves folders."""
    copy = tmp_path_factory.mktemp("source") / "flowpipe"
    left = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "runs", "*.cache")
    shutil.copytree(ROOT, copy, ignore=left)
    out = copy / "dist"
    subprocess.run([sys.executable, "-c", BUILD, out], cwd=copy, check=True, capture_output=True)
    (file,) = out.glob("*.whl")
    return zipfile.Path(file)


def test_the_only_top_level_name_is_flowpipe(wheel):
    tops = {name.split("/")[0] for name in wheel.root.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"flowpipe"}


def test_every_module_and_what_it_reads_is_inside(wheel):
    wanted = {
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / "flowpipe").rglob("*.py")),
        *(f"flowpipe/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "cli").rglob("*.py")),
        "flowpipe/py.typed",
        "flowpipe/cache/FORMAT.md",
        "flowpipe/report/templates/report.html",
        "flowpipe/report/templates/style.css",
    }
    assert wanted <= set(wheel.root.namelist())


def test_versions_agree():
    assert version("flowpipe") == flowpipe.__version__
    assert f'version="{flowpipe.__version__}"' in (ROOT / "setup.py").read_text("utf-8")
    assert f"## {flowpipe.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_command_is_installed():
    (script,) = entry_points(group="console_scripts", name="flowpipe")
    assert script.value == "flowpipe.cli.main:main"
    assert callable(script.load())


def normal(name: str) -> str:
    return re.split(r"[<>=!~;\[ ]", name)[0].lower().replace("_", "-")


def test_every_dependency_is_pinned_and_has_its_reason(wheel):
    lines = (ROOT / "constraints.txt").read_text("utf-8").split()
    pinned = {normal(line) for line in lines}
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in lines)
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Dependencies")[1]
    # Of the wheel, not of what is installed: that may be older than setup.py.
    (metadata,) = (wheel / name for name in wheel.root.namelist() if name.endswith("/METADATA"))
    for requirement in message_from_string(metadata.read_text("utf-8")).get_all("Requires-Dist"):
        name = normal(requirement)
        assert name in pinned, name
        if "extra ==" not in requirement:
            assert re.search(rf"\b{name}\b", table), name
