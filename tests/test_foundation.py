"""errors, registry and config: what a person is told when a name or a value is wrong."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from flowpipe import errors
from flowpipe.config import apply_overrides, from_table, parse_value, read_toml
from flowpipe.errors import ConfigError, FlowpipeError, UnknownName, nearest_name
from flowpipe.flow import FLOWS
from flowpipe.models import TABLE
from flowpipe.registry import resolve

ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, FlowpipeError) and error is not FlowpipeError
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_ours_and_pythons(error):
    assert [base for base in error.__mro__ if base is FlowpipeError]
    assert issubclass(error, (ValueError, LookupError, OSError, RuntimeError))
    assert str(error("bound 0 px must be > 0")) == "bound 0 px must be > 0"
    assert error.__doc__


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        ("farnebak", ["dis", "farneback"], ' (did you mean "farneback"?)'),
        ("zzz", ["dis", "farneback"], ""),
        ("dis", [], ""),
    ],
)
def test_nearest_name(name, known, told):
    assert nearest_name(name, known) == told


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (table, name)
        for table in (FLOWS, {name: row.target for name, row in TABLE.items()})
        for name in table
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_row_of_the_tables_resolves(table, name):
    assert callable(resolve(table, name, kind="row"))


def test_resolve():
    table = {"join": "os.path:join", "gone": "os.path:nothing", "far": "no_such_module:x"}
    assert resolve(table, "join", kind="tool") is __import__("os").path.join
    assert resolve(table, "os.path:join", kind="tool") is __import__("os").path.join
    with pytest.raises(
        UnknownName, match=r'unknown tool "jion" \(did you mean "join"\?\); known: '
    ):
        resolve(table, "jion", kind="tool")
    with pytest.raises(UnknownName, match=r'tool "gone": os.path has no callable "nothing"'):
        resolve(table, "gone", kind="tool")
    with pytest.raises(UnknownName, match=r'tool "far": No module .* is the module on PYTHONPATH'):
        resolve(table, "far", kind="tool")


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Settings:
    root: Path
    rate: float
    epochs: int = 3
    flip: bool = True
    rule: Literal["mean", "sum"] = "mean"
    fold: int | str | None = None
    lengths: tuple[int, ...] = (1,)
    inner: Inner = field(default_factory=Inner)
    streams: dict[str, Inner] = field(default_factory=dict)
    anything: Any = None

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs {self.epochs} must be >= 1")


GOOD = {"root": "data", "rate": 1}


def read(**table):
    return from_table(Settings, {**GOOD, **table}, where="a.toml")


def test_a_table_becomes_a_record():
    settings = read(
        fold="all",
        lengths=[1, 5],
        inner={"depth": 4},
        streams={"rgb": {"depth": 1}, "flow": {}},
        anything=[1, "x"],
    )
    assert settings == Settings(
        Path("data"),
        1.0,
        fold="all",
        lengths=(1, 5),
        inner=Inner(4),
        streams={"rgb": Inner(1), "flow": Inner(2)},
        anything=[1, "x"],
    )
    assert isinstance(settings.rate, float)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (
            {"epoch": 3},
            r'a.toml: unknown key "epoch" \(did you mean "epochs"\?\); known: root, rate',
        ),
        ({"rate": "fast"}, "a.toml: rate = 'fast' is not a number"),
        ({"rate": True}, "a.toml: rate = True is not a number"),
        ({"epochs": 1.5}, "epochs = 1.5 is not a whole number"),
        ({"epochs": True}, "epochs = True is not a whole number"),
        ({"epochs": 0}, "a.toml: epochs 0 must be >= 1"),
        ({"flip": 1}, "flip = 1 is not true or false"),
        ({"rule": "maen"}, r"rule = 'maen' is not one of mean, sum \(did you mean \"mean\"\?\)"),
        ({"fold": 1.5}, "fold = 1.5 is not a whole number or a text"),
        ({"lengths": 3}, "lengths = 3 must be a list"),
        ({"lengths": [1, "x"]}, "lengths = 'x' is not a whole number"),
        ({"inner": 3}, "inner must be a table, not 3"),
        ({"inner": {"dept": 3}}, r'a.toml: inner: unknown key "dept" \(did you mean "depth"\?\)'),
        ({"streams": {"rgb": {"depth": "x"}}}, "streams.rgb: depth = 'x' is not a whole number"),
        ({"root": 5}, "root = 5 is not a path"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_tables_are_refused(table, match):
    with pytest.raises(ConfigError, match=match):
        read(**table)


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r'a.toml: the key "rate" is missing'):
        from_table(Settings, {"root": "x"}, where="a.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0.5", 0.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"5"', "5"),
        ("medium", "medium"),
        ("a b", "a b"),
        ("", ""),
    ],
)
def test_values_on_the_command_line(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_overrides():
    table = {"data": {"root": "x"}, "seed": 1}
    apply_overrides(table, ["data.root=y", "seed=2", "new.place.key=[1]", "data.text=a=b"])
    assert table == {
        "data": {"root": "y", "text": "a=b"},
        "seed": 2,
        "new": {"place": {"key": [1]}},
    }
    with pytest.raises(ConfigError, match='"seed" is not of the form key=value'):
        apply_overrides(table, ["seed"])
    with pytest.raises(ConfigError, match='"seed" holds a value, not a table'):
        apply_overrides(table, ["seed.x=3"])


def test_files(tmp_path):
    (tmp_path / "good.toml").write_text('a = 1\n[b]\nc = "ü"\n', encoding="utf-8")
    assert read_toml(tmp_path / "good.toml") == {"a": 1, "b": {"c": "ü"}}
    (tmp_path / "bad.toml").write_text("a = \n")
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"\n')
    for name, match in (
        ("none.toml", "no configuration file at .*none.toml"),
        ("bad.toml", r"bad.toml is not readable TOML: .*line 1"),
        ("latin.toml", "latin.toml is not readable TOML"),
        (".", "is not readable TOML"),
    ):
        with pytest.raises(ConfigError, match=match):
            read_toml(tmp_path / name)
