"""What is installed: one top-level name, the files that are read at run time, the command."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from support import run_cli

import flowpipe

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta as b; b.build_{}(sys.argv[1])"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Return a folder with wheel and sdist, built from a copy: a build leaves folders."""
    copy = tmp_path_factory.mktemp("source") / "flowpipe"
    left = shutil.ignore_patterns(".git*", ".venv", "build", "*.egg-info", "__pycache__", "runs")
    shutil.copytree(ROOT, copy, ignore=left)
    for kind in ("wheel", "sdist"):
        command = [sys.executable, "-c", BUILD.format(kind), copy / "dist"]
        subprocess.run(command, cwd=copy, check=True, capture_output=True)
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.Path:
    (file,) = built.glob("*.whl")
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
        *(f"flowpipe/configs/{path.name}" for path in (ROOT / "configs").iterdir()),
        "flowpipe/examples/own_network.py",
        "flowpipe/examples/own_network.toml",
        "flowpipe/docs/scale.md",
    }
    assert wanted <= set(wheel.root.namelist())


def test_the_sdist_has_all_that_its_tests_need(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("flowpipe", "cli", "tests", "benchmarks", "configs", "docs", "examples")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    wanted = {
        *(path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt", ".ci/run"),
        *("pyproject.toml", "setup.py"),
    }
    assert wanted - names == set()


def test_an_unpacked_wheel_lists_prints_and_copies_configurations(wheel, tmp_path):
    wheel.root.extractall(tmp_path / "site")

    def run(*arguments):
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from flowpipe.cli.main import main; main(['configs', *sys.argv[2:]])"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, tmp_path / "site", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    listed = json.loads(run("--json"))
    assert listed["folder"] == str(tmp_path / "site" / "flowpipe" / "configs")
    assert set(listed["configs"]) == {path.stem for path in (ROOT / "configs").glob("*.toml")}
    assert all(listed["configs"].values())
    name = "weizmann_two_stream"
    assert run(name) == (ROOT / "configs" / f"{name}.toml").read_text("utf-8")
    run("--out", "all")
    assert (tmp_path / "all" / "configs" / f"{name}.toml").is_file()
    assert (tmp_path / "all" / "examples" / "own_network.py").is_file()


def test_configurations_that_cannot_be_had(tmp_path):
    assert run_cli("configs", "weizmann_two").status == 2
    assert 'did you mean "weizmann_two_stream"' in run_cli("configs", "weizmann_two").err
    (tmp_path / "file").touch()
    assert "is not empty" in run_cli("configs", "--out", tmp_path).err


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
