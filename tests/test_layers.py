"""The order of imports that CONTRIBUTING gives, and what `--help` may cost."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")

# Nothing that extraction needs may take the seconds that torch takes.
WITHOUT_TORCH = ("video", "datasets", "flow", "cache", "extraction", "fusion", "report", "cli")


def order() -> dict[str, int]:
    """Layer of each top-level module, as CONTRIBUTING has it; larger imports smaller."""
    text = re.search(r"a test checks it:\n`(.*?)`", CONTRIBUTING, re.DOTALL)
    assert text is not None
    groups = [group.split() for group in text[1].split("<")]
    return {name: layer for layer, group in enumerate(groups) for name in group}


def files() -> list[Path]:
    return sorted([*(ROOT / "flowpipe").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])


def part_of(path: Path) -> str:
    """Give "cache" for flowpipe/cache/key.py, "" for flowpipe/__init__.py."""
    inside = path.relative_to(ROOT).with_suffix("").parts
    if inside[0] == "cli":
        return "cli"
    return "" if inside[1].startswith("__") else inside[1]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Give the modules that a file imports, also late ones, and the column (0 at its top)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.col_offset) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.col_offset


def imported_parts(path: Path) -> set[str]:
    names = [name.split(".") for name, _ in imports(path)]
    return {name[1] for name in names if name[0] == "flowpipe" and len(name) > 1}


def test_the_order_names_every_part():
    parts = {part_of(path) for path in files()} - {""}
    assert parts <= set(order())


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_import_leftwards_only(path):
    own, layers = part_of(path), order()
    if own == "":
        return  # the package's front gives the names of all parts, late
    wrong = {part for part in imported_parts(path) if layers[part] > layers[own]}
    assert wrong == set()
    assert own == "cli" or "cli" not in imported_parts(path)


def test_models_import_the_foundation_and_torch_only():
    foundation = {name for name, layer in order().items() if layer == 0} | {"models"}
    for path in (ROOT / "flowpipe" / "models").rglob("*.py"):
        assert imported_parts(path) <= foundation, path


LEARNED_FLOW = ("gmflow", "learned", "raft", "weights")


def test_torch_is_imported_where_it_is_needed_only():
    for path in files():
        if part_of(path) not in WITHOUT_TORCH and order().get(part_of(path), 1) != 0:
            continue
        if path.stem.endswith(("_torch", "_triton")):
            continue  # flow on a GPU
        if path.parent.name == "flow" and path.stem in LEARNED_FLOW:
            continue
        at_the_top = {name for name, column in imports(path) if column == 0}
        assert not any(name.split(".")[0] == "torch" for name in at_the_top), path


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        ("import flowpipe", ("torch", "cv2", "numpy", "h5py", "av")),
        ("import flowpipe.extraction", ("torch", "jinja2", "sklearn", "numba")),
        ("flowpipe.extract, flowpipe.open_cache, flowpipe.fuse", ("torch", "jinja2")),
        ("flowpipe.flow.create('dis')", ("torch", "jinja2", "numba")),
        ("import flowpipe.cli.main; flowpipe.cli.main.main(['extract', '--help'])",
         ("torch", "cv2", "numpy", "h5py", "av", "jinja2")),
        ("import flowpipe.cli.main; flowpipe.cli.main.main(['--help'])", ("torch", "cv2", "numpy")),
        ("import flowpipe.cli.main; flowpipe.cli.main.main(['cache', 'ls', '--help'])", ("torch",)),
    ],
)  # fmt: skip
def test_what_is_not_loaded(program, forbidden):
    lines = [
        "import sys, flowpipe",
        "try:",
        f"    {program}",
        "except SystemExit as end: assert not end.code",
        f"found = [name for name in {forbidden!r} if name in sys.modules]",
        "sys.stderr.write(' '.join(found))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
