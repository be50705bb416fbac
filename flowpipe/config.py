"""TOML files → frozen dataclasses that refuse unknown keys with the nearest known name.

A function takes its own record; none takes the whole configuration.
"""

import contextlib
import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flowpipe.errors import ConfigError, EntryCorrupt, nearest_name
from flowpipe.sealed import read_table

Record = TypeVar("Record")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed one is a ConfigError naming it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file at {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable TOML: {error}") from error


def read_json(run: Path, name: str, kind: str) -> dict[str, Any]:
    """Read what a run of `flowpipe KIND` is; where it is missing or malformed, ConfigError."""
    path = run / name
    try:
        table = read_table(path)
    except FileNotFoundError:
        made = f"flowpipe {kind} train makes one"
        raise ConfigError(f"{run} is no {path.stem}; {made}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except EntryCorrupt as error:
        raise ConfigError(
            f"{path} cannot be read: {error}; train again, or copy it anew"
        ) from error
    return table


def apply_overrides(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `key.sub=value` strings in a table, in place; values are read as TOML, else as text.

    Keys that lead to a new place are left for `from_table` to accept or refuse.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f'the change "{override}" is not of the form key=value', parameter="overrides"
            )
        *parents, last = key.strip().split(".")
        place = table
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(
                    f'the change "{override}": "{parent}" holds a value, not a table',
                    parameter="overrides",
                )
        place[last] = parse_value(text)


def parse_value(text: str) -> Any:
    """Read one value as TOML (`5`, `0.5`, `true`, `[1, 2]`, `"x"`), else as plain text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def field_texts(record: type) -> dict[str, str]:
    """Return the text of each field under "Attributes" in the docstring of a record."""
    _, _, section = (record.__doc__ or "").partition("Attributes\n    ----------\n")
    found = re.findall(r"^    (\S[^\n]*?) :[^\n]*\n((?:        [^\n]+\n?)*)", section, re.M)
    texts: dict[str, str] = {}
    for names, text in found:
        texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts


def from_table(record: type[Record], table: Mapping[str, Any], *, where: str) -> Record:
    """Build a dataclass from a TOML table.

    Parameters
    ----------
    record : type
        A dataclass; its field types are checked (int passes for float, list for tuple,
        nested dataclasses are built from nested tables).
    table : mapping
        What `read_toml` gave.
    where : str
        Names the table in messages: `"weizmann.toml [data]"`.

    Raises
    ------
    ConfigError
        For an unknown key (with the nearest known one), a missing key, or a wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ConfigError(
                f'{where}: unknown key "{key}"{nearest_name(key, fields)}; '
                f"known: {', '.join(fields)}"
            )
    hints = typing.get_type_hints(record)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            if table[name] == "" and field.default != "":  # Path("") is the current folder
                raise ConfigError(f"{where}: {name} is empty; leave the key out")
            values[name] = _convert(table[name], hints[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f'{where}: the key "{name}" is missing')
    try:
        return record(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, hint, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        choices = ", ".join(map(str, arguments))
        nearest = nearest_name(str(value), map(str, arguments))
        raise ConfigError(f"{where} = {value!r} is not one of {choices}{nearest}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, not {value!r}")
        return from_table(hint, value, where=where)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r} must be a list")
        element = arguments[0] if arguments else Any
        return (origin or list)(_convert(item, element, where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, not {value!r}")
        return {key: _convert(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    return _convert_plain(value, hint, where)


def _convert_union(value: Any, hint: Any, where: str) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if len(options) == 1:
        return _convert(value, options[0], where)
    for option in options:
        with contextlib.suppress(ConfigError):
            return _convert(value, option, where)
    raise ConfigError(f"{where} = {value!r} is not {_type_name(hint)}")


def _convert_plain(value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(hint, type) and isinstance(value, hint):
        # bool is an int in Python, not in a configuration.
        if hint is int and isinstance(value, bool):
            raise ConfigError(f"{where} = {value!r} is not a whole number")
        return value
    raise ConfigError(f"{where} = {value!r} is not {_type_name(hint)}")


def _type_name(hint: Any) -> str:
    names = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "a text",
        Path: "a path",
    }
    if hint in names:
        return names[hint]
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    return " or ".join(_type_name(option) for option in options) if options else str(hint)
