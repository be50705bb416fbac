"""Tables of names, resolved late: listing the names imports nothing.

A table maps a name to `"package.module:callable"`; a plug-in is given in the same spelling.
"""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flowpipe.errors import InvalidArgument, UnknownName, nearest_name

# So many names of a table are listed where one is unknown.
LISTED = 16
# Names of code of one's own that files may name: those of the person's own configuration, and
# those given to `trust`.
_TRUSTED: set[str] = set()
# Where modules of one's own may lie too; looked at only for a `package.module:callable`, so that
# nothing beside the data is imported in place of a module that is not installed.
OWN_FOLDERS: list[str] = []
# The only spelling that `resolve` imports, so that `own_code` finds all that would be run.
_OWN_CODE = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


def trust(*names: str) -> None:
    """Let caches and runs name these `package.module:callable`, which are then run."""
    _TRUSTED.update(names)


def own_code(value: Any) -> set[str]:
    """Return the names of the form `package.module:callable` anywhere in a table."""
    if isinstance(value, str):
        return {value.partition("+")[0]} if _OWN_CODE.match(value) else set()
    if isinstance(value, Mapping):
        return own_code(list(value.values()))
    return set().union(*map(own_code, value)) if isinstance(value, list | tuple) else set()


def refuse_foreign_code(value: Any, where: str) -> None:
    """Refuse a table of a file that names code which is not trusted: it would be run.

    Raises
    ------
    InvalidArgument
    """
    if foreign := sorted(own_code(value) - _TRUSTED):
        raise InvalidArgument(
            f"{where} names code that is no part of flowpipe, {', '.join(foreign)}, and it would "
            "be run here; if it is yours, say so by flowpipe.registry.trust",
            parameter="trust",
        )


def resolve(table: Mapping[str, str], name: str, *, kind: str) -> Callable[..., Any]:
    """Import the callable behind a name of `table`, or behind `package.module:callable`.

    Raises
    ------
    UnknownName
        If the name is in neither form or does not import; the message gives the nearest name.
    """
    target = table.get(name, name)
    module_name, colon, attribute = target.partition(":")
    if not colon:
        raise UnknownName(
            f'unknown {kind} "{name}"{nearest_name(name, table)}; {_some_of(table, name, kind)}; '
            "or give your own as package.module:callable"
        )
    if name not in table:
        if not _OWN_CODE.fullmatch(name):
            raise UnknownName(
                f"{kind} {name!r} must be package.module:callable, of letters, digits and _"
            )
        sys.path += [folder for folder in OWN_FOLDERS if folder not in sys.path]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownName(
            f'{kind} "{name}": {error}; is the module on PYTHONPATH or installed?'
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UnknownName(f'{kind} "{name}": {module_name} has no callable "{attribute}"')
    return found  # type: ignore[no-any-return]


def _some_of(table: Mapping[str, str], name: str, kind: str) -> str:
    """Return the names of a table; of a long one those that are most like `name`."""
    if len(table) <= LISTED:
        return f"known: {', '.join(sorted(table))}"
    like = difflib.get_close_matches(name, table, LISTED // 2, cutoff=0.3) or sorted(table)[:5]
    listed = " (flowpipe models lists them)" if kind == "model" else ""
    return f"{len(table)} are known{listed}, such as {', '.join(like)}"


def create(
    table: Mapping[str, str],
    name: str,
    parameters: Mapping[str, Any],
    *,
    kind: str,
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Make the object of a name: its factory, called with keyword parameters that it has.

    Parameters
    ----------
    table, name, kind
        As in `resolve`.
    parameters : mapping
        Checked against the factory's own; the nearest name is proposed for an unknown one.
    given : mapping, optional
        Arguments of the caller's own, which are no parameters to a person.

    Raises
    ------
    UnknownName
        As `resolve`.
    InvalidArgument
        For a parameter that the factory does not have, or one that is missing.
    """
    factory = resolve(table, name, kind=kind)
    check_parameters(factory, name, parameters, kind=kind, given=given)
    return factory(**(given or {}), **parameters)


def check_parameters(
    factory: Callable[..., Any],
    name: str,
    parameters: Mapping[str, Any],
    *,
    kind: str,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Raise InvalidArgument unless a factory can be called with these keyword parameters."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables written in C have none
        return
    known = {key: value for key, value in signature.parameters.items() if key not in (given or {})}
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    unknown = [key for key in parameters if key not in known]
    if unknown and not open_ended:
        raise InvalidArgument(
            f'{kind} "{name}" has no parameter "{unknown[0]}"{nearest_name(unknown[0], known)}; '
            f"it has: {', '.join(known) or 'none'}"
        )
    try:
        signature.bind(**(given or {}), **parameters)
    except TypeError as error:
        raise InvalidArgument(
            f'{kind} "{name}": {error}; it must be made from keyword parameters alone'
        ) from error
