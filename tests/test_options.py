"""Options made from records, and errors that name a parameter and no option."""

import ast
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

import flowpipe
from flowpipe.cli.main import app, main
from flowpipe.cli.options import field_texts, record_options
from flowpipe.errors import CacheError, InvalidArgument

LIBRARY = Path(flowpipe.__file__).parent


@dataclass(frozen=True)
class Recipe:
    """How something is made.

    Attributes
    ----------
    clips, crops : int
        How many.
    storage : str
        The form,
        of two.
    size : (int, int), optional
        Height and width.
    limit_px : float
        No more than this.
    flip : bool
        Whether it is mirrored.
    parameters : dict
        Of the method.
    """

    clips: int = 4
    crops: int | None = None
    storage: Literal["u8", "i16"] = "u8"
    size: tuple[int, int] | None = None
    limit_px: float = 2.5
    flip: bool = True
    parameters: dict[str, Any] = field(default_factory=dict)


def made(*arguments: str, **how: Any) -> dict[str, Any]:
    taken: dict[str, Any] = {}

    @click.command()
    @record_options(Recipe, **how)
    def command(**options: Any) -> None:
        taken.update(options)

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return taken


def test_options_are_the_fields_of_the_record() -> None:
    given = made(
        "--clips", "0", "--storage", "i16", "--size", "32x48", "--limit", "0", "--no-flip",
        "--parameters", "epsilon=0.5", "--parameters", "name=x",
    )  # fmt: skip
    assert given == {
        "clips": 0,
        "crops": None,
        "storage": "i16",
        "size": (32, 48),
        "limit_px": 0.0,
        "flip": False,
        "parameters": {"epsilon": 0.5, "name": "x"},
    }
    assert Recipe(**given).clips == 0


def test_defaults_are_the_records_or_none() -> None:
    assert Recipe(**{k: v for k, v in made().items() if v is not None}) == Recipe()
    assert set(made(defaults=False, only=["clips", "limit_px"]).values()) == {None}
    assert made("--most", "3", only=["limit_px"], names={"limit_px": "--most"}) == {"limit_px": 3.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "u16"], "u16"),
        (["--size", "32"], "HEIGHTxWIDTH"),
        (["--parameters", "x"], "key=value"),
    ],
)
def test_values_outside_the_fields_type_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(click.BadParameter, match=message):
        made(*arguments)


def test_help_is_the_fields_line() -> None:
    assert field_texts(Recipe) == {
        "clips": "How many.",
        "crops": "How many.",
        "storage": "The form, of two.",
        "size": "Height and width.",
        "limit_px": "No more than this.",
        "flip": "Whether it is mirrored.",
        "parameters": "Of the method.",
    }


def test_an_error_keeps_the_names_of_its_parameters() -> None:
    for error in (InvalidArgument("x", parameter="out"), CacheError("x", parameter=("out", "fps"))):
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == "x"
        assert again.parameters == error.parameters
    assert InvalidArgument("x").parameters == ()


def test_the_command_line_names_the_option_of_a_parameter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "c.toml"), "--set", "nothing"])
    assert ended.value.code == 2
    assert '"nothing" is not of the form key=value (--set)' in capsys.readouterr().err


# Files that still name options; none may be added.
STILL = {
    "cache/verify.py",
    "experiment/features.py", "extraction/__init__.py",
    "extraction/batched.py", "extraction/isolated.py", "extraction/ranges.py",
    "extraction/watch.py", "features/computing.py", "features/extractor.py", "features/files.py",
    "features/presets.py", "flow/method.py", "models/heads/__init__.py", "models/summary.py",
}  # fmt: skip


def test_no_message_of_the_library_names_an_option() -> None:
    naming = {
        path.relative_to(LIBRARY).as_posix()
        for path in LIBRARY.rglob("*.py")
        for text in strings_of(path)
        if re.search(r"""(^|[\s("'`])--[a-z]""", text)
    }
    assert naming <= STILL


# What may follow the word flowpipe in a sentence and is no command.
WORDS = {"and", "model", "reads", "scores"}


def test_every_command_that_a_message_names_exists() -> None:
    context = click.Context(app)
    named = {
        tuple(match.groups())
        for path in LIBRARY.rglob("*.py")
        for text in strings_of(path)
        for match in re.finditer(r"\bflowpipe ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", text)
        if match[1] not in WORDS
    }
    assert {"train", "extract", "cache"} <= {first for first, _ in named}
    for first, second in named:
        command = app.get_command(context, first)
        assert command is not None, first
        if isinstance(command, click.Group) and second is not None:
            assert command.get_command(context, second) is not None, (first, second)


def strings_of(path: Path) -> Iterator[str]:
    """Yield the strings of a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and id(node) not in docstrings and node.value
        if isinstance(text, str):
            yield text
