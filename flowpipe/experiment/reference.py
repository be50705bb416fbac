"""The page of every key of a configuration, made from the records that TOML becomes."""

import types
import typing
from dataclasses import MISSING, fields
from typing import Any, Literal

from flowpipe.config import field_texts
from flowpipe.experiment.settings import (
    DataSettings,
    ExtractSettings,
    FuseSettings,
    PublishedSettings,
    StreamSettings,
)
from flowpipe.training import TestOptions, TrainOptions

TABLES: dict[str, type] = {
    "data": DataSettings,
    "extract": ExtractSettings,
    "streams.NAME": StreamSettings,
    "train": TrainOptions,
    "test": TestOptions,
    "fuse": FuseSettings,
    "published": PublishedSettings,
}

HEAD = """# Configuration

Every key of a TOML configuration, made from the records that the code checks it by. `flowpipe train
FOLDER` writes such a file; `flowpipe configs` lists those that come with flowpipe. Beside these
tables there is `title`. A single key can be changed on the command line, as `train.epochs=5`.
"""


def configuration_page() -> str:
    """Return docs/configuration.md."""
    parts = [HEAD]
    for name, record in TABLES.items():
        first = (record.__doc__ or "").splitlines()[0]
        parts += [f"## [{name}]", first, table_of(record)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table_of(record: type) -> str:
    """Return the Markdown table of a record's fields: key, kind, default, meaning."""
    hints, texts = typing.get_type_hints(record), field_texts(record)
    rows = ["| key | kind | default | meaning |", "|---|---|---|---|"]
    for each in fields(record):
        default = each.default
        if each.default_factory is not MISSING:
            default = each.default_factory()
        shown = "(needed)" if default is MISSING else _value(default)
        kind = _kind(hints[each.name]).replace("|", "\\|")
        rows.append(f"| `{each.name}` | {kind} | {shown} | {texts[each.name]} |")
    return "\n".join(rows)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        inside = ", ".join(_value(item).strip("`") for item in value)
        return f"`[{inside}]`"
    if isinstance(value, dict):
        return "`{}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _kind(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(a) for a in arguments if a is not type(None))
    if origin is Literal:
        return ", ".join(f'"{choice}"' for choice in arguments)
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "table"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(hint, "path")
