"""The pages of the documentation name what there is: commands, options, Python, pictures."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
from support import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LARGEST_PICTURE, LARGEST_SUM = 60_000, 600_000


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (info, text) of the fenced blocks of a page."""
    return re.findall(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text("utf-8"), re.M)


def commands_in(page: Path) -> list[str]:
    """Return each command line of flowpipe on a page, in blocks and in sentences."""
    text = page.read_text("utf-8")
    lines = []
    for info, block in blocks(page):
        if info.strip() in ("", "console"):
            joined = block.replace("\\\n", " ")
            lines += re.findall(r"^(?:\$ )?(?:.* -m )?(flowpipe .*)$", joined, re.M)
    outside = re.sub(r"^```(?:.*\n)*?```$", "", text, flags=re.M)
    lines += [" ".join(inline.split()) for inline in re.findall(r"`(flowpipe [^`]+)`", outside)]
    return [
        line for line in lines if not line.startswith(("flowpipe COMMAND", "flowpipe flow VIDEO"))
    ]


def fault(line: str) -> str | None:
    """Return what is wrong with a command line: a name that flowpipe does not have."""
    words = shlex.split(re.sub(r"\s#.*", "", line))[1:]
    context = click.Context(app())
    command: click.Command = app()
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        try:
            _, below, words = command.resolve_command(context, words)
        except click.UsageError as error:
            # `weights` and such are groups that also stand alone.
            return None if command.invoke_without_command else error.message
        assert below is not None
        command = below
        if command.name == "look" and words and words[0] == "look":
            words = words[1:]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    known |= {"--help", "-h", "--trust", "--traceback", "--version"}
    for word in words:
        option = word.split("=")[0]
        if option.startswith("--") and option not in known:
            return f"{command.name} has no {option}"
    return None


def test_a_wrong_line_is_found():
    assert fault("flowpipe train videos --set train.epochs=5 --out runs/a") is None
    assert fault("flowpipe flow one.mp4 --scale 5  # a remark --nonsense") is None
    assert 'did you mean "train"' in fault("flowpipe trian videos")
    assert fault("flowpipe cache ls my.cache --epochs 5") == "ls has no --epochs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_and_option_of_a_page_exists(page):
    assert [(line, fault(line)) for line in commands_in(page) if fault(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_of_a_page_compiles_and_what_can_run_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for info, block in blocks(page):
        if info.split()[:1] == ["python"]:
            code = compile(block, page.name, "exec")
            assert code.co_code, "a block without a statement"
            if info == "python" and page.name != "README.md":  # that of the README has its test
                exec(code, {"__name__": page.stem})


def test_the_pages_tell_of_all_commands():
    told = {line.split()[1] for page in PAGES for line in commands_in(page) if " " in line}
    missing = set(app().list_commands(click.Context(app()))) - told
    assert missing == set()


def page_of_commands():
    spec = importlib.util.spec_from_file_location("commands", DOCS / "site" / "commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_option_has_its_text():
    contexts = list(page_of_commands().contexts())
    assert len(contexts) > 30
    bare = [
        f"{context.command_path} {each.opts[0]}"
        for context in contexts
        for each in context.command.params
        if isinstance(each, click.Option) and not each.help
    ]
    assert bare == []


def test_the_page_of_commands_has_each_of_them():
    page = page_of_commands().commands_page()
    headings = set(re.findall(r"^#+ (.*)$", page, re.M))
    assert {"flowpipe", "flowpipe train", "flowpipe cache verify", "flowpipe see why"} <= headings
    assert max(len(line) for line in page.splitlines()) <= 100


def test_pictures_are_small_and_shown():
    pictures = sorted((DOCS / "pictures").glob("*"))
    assert max(path.stat().st_size for path in pictures) < LARGEST_PICTURE
    assert sum(path.stat().st_size for path in pictures) < LARGEST_SUM
    shown = " ".join(page.read_text("utf-8") for page in PAGES)
    assert [path.name for path in pictures if path.name not in shown] == []
