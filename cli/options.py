"""Options that several commands share, and options made from the fields of a record."""

import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from flowpipe.config import field_texts, parse_value

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)


def out_option(
    help: str, *, required: bool = False, default: Path | None = None
) -> Callable[[Command], Command]:
    """Return the option --out, a path."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        required=required,
        default=default,
        show_default=default is not None,
        help=help,
    )


def device_option(help: str, *, default: str = "auto") -> Callable[[Command], Command]:
    """Return the option --device."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default=default,
        show_default=True,
        help=help,
    )


def workers_option(
    help: str = "Processes. [default: one per core]",
) -> Callable[[Command], Command]:
    """Return the option --workers; None where it is not given."""
    return click.option("--workers", type=int, metavar="N", help=help)


def record_options(
    record: type,
    *,
    only: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    defaults: bool = True,
) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for each field of a record.

    The option's type, choices and default are the field's, its help the field's line under
    "Attributes" in the record's docstring. The command gets them as keywords named as the fields.

    Parameters
    ----------
    record : type
        A dataclass.
    only : sequence of str, optional
        These fields, in this order.
    names : mapping of str to str, optional
        Field → option, where that is not the field's name without its unit: `{"bound_px":
        "--limit"}`.
    defaults : bool
        False: an option that is not given is None, not the field's default.
    """
    hints, texts = typing.get_type_hints(record), field_texts(record)
    known = {field.name: field for field in fields(record)}
    made = []
    for name in only or known:
        default = known[name].default if defaults else None
        flag = (names or {}).get(name) or f"--{re.sub('_(px|s|mb)$', '', name).replace('_', '-')}"
        shape = _option_shape(hints[name], flag)
        if default not in (None, MISSING, False, ()):
            shape |= {"default": default, "show_default": True}
        declarations = (shape.pop("declaration", flag), name)
        made.append(click.option(*declarations, help=texts.get(name), **shape))

    def decorate(command: Command) -> Command:
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


def _option_shape(hint: Any, flag: str) -> dict[str, Any]:
    """Return the keywords of `click.option` for a field's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _option_shape(hint, flag)
    if origin is Literal:
        return {"type": click.Choice([str(choice) for choice in arguments])}
    if hint is bool:
        return {"declaration": f"{flag}/--no-{flag[2:]}", "default": None}
    if origin is dict:
        return {"multiple": True, "metavar": "KEY=VALUE", "callback": parse_arguments}
    if origin is tuple and arguments in ((int, int), (int, ...)):
        return {"metavar": "HxW", "callback": parse_size}
    return {"type": click.Path(path_type=Path) if hint is Path else hint}


def parse_size(context: click.Context, option: click.Parameter, text: Any) -> Any:
    """`HxW` → (height, width)."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None:
        raise click.BadParameter(f'"{text}" is not HEIGHTxWIDTH, such as 256x340')
    return int(match[1]), int(match[2])


def parse_arguments(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    """`key=value` … → dict; values are read as numbers, true, false or text."""
    arguments = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f'"{text}" is not key=value')
        arguments[key.replace("-", "_")] = parse_value(value)
    return arguments


def check_outputs(outputs: Iterable[Path | None], sources: Iterable[str | Path] = ()) -> None:
    """Refuse, before any work, files that cannot be written or would replace a source."""
    given = {Path(source).resolve() for source in sources}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in given:
            raise click.UsageError(f"{path} is a source and would be replaced; name another file")
        if path.is_dir():
            raise click.UsageError(f"{path} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise click.UsageError(f"{path}: there is no folder {path.parent}; make it first")
