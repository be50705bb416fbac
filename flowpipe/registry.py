"""Tables of names, resolved late: listing the names imports nothing.

A table maps a name to `"package.module:callable"`; a plug-in is given in the same spelling.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from flowpipe.errors import UnknownName, nearest_name


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
            f'unknown {kind} "{name}"{nearest_name(name, table)}; known: '
            f"{', '.join(sorted(table))}; or give your own as package.module:callable"
        )
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
