"""A flow method of the person's own: `package.module:callable`.

The callable is a function `(prev_HW, next_HW, *, …) -> uv_HWC`, or makes an object like
`flowpipe.flow.FlowMethod` from keyword parameters. What determines its output is not left to it:
the parameters given, and the digest of its source file, are always among `parameters`.
"""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument
from flowpipe.flow.method import FlowMethod, checked_flow
from flowpipe.registry import check_parameters

SOURCE = "source_sha256"
"""The parameter that holds the digest of a plug-in's source."""

KIND = "flow method"
RULE = "the callable must be a factory of objects like flowpipe.flow.FlowMethod, or a function"


class PlugIn:
    """A method of the person's own; the field it returns is checked at each call.

    Parameters
    ----------
    method : callable
        Of two frames, with the attributes of `FlowMethod`.
    parameters : dict
        All that determines the output, see the module's docstring.
    """

    def __init__(self, method: FlowMethod, parameters: dict[str, Any]) -> None:
        self.method, self.parameters = method, parameters
        self.name, self.version, self.libraries = method.name, method.version, method.libraries

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    def __call__(
        self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Compute the flow; FlowError if what comes back is no finite float32 H×W×2."""
        return checked_flow(self.method(prev_HW, next_HW), prev_HW.shape[:2], self.name)


class PlainFunction:
    """A function of two frames as a method; its other arguments are the parameters."""

    version = 1

    def __init__(self, function: Callable[..., Any], name: str, given: Mapping[str, Any]) -> None:
        self.function, self.name, self.given = function, name, dict(given)
        self.libraries: dict[str, str] = {}
        others = list(inspect.signature(function).parameters.values())[2:]
        defaults = {p.name: p.default for p in others if p.default is not p.empty}
        self.parameters = {**defaults, **given}

    def __call__(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> Any:
        return self.function(prev_HW, next_HW, **self.given)


def make_plugin(target: Callable[..., Any], name: str, parameters: Mapping[str, Any]) -> PlugIn:
    """Make a method of the person's own.

    Raises
    ------
    InvalidArgument
        For a parameter it does not have, an object that is no flow method, and a source that is
        not the one whose digest is among `parameters`.
    """
    given = {key: value for key, value in parameters.items() if key != SOURCE}
    digest = source_digest(target)
    if parameters.get(SOURCE, digest) != digest:
        raise InvalidArgument(
            f'flow "{name}": its source has changed since the flow was computed '
            f"(SHA-256 {digest or 'unknown'}, then {parameters[SOURCE]}); compute the flow anew"
        )
    method: Any
    if _takes_two_frames(target):
        check_parameters(target, name, given, kind=KIND, given=_two_frames(target))
        method = PlainFunction(target, name, given)
    else:
        check_parameters(target, name, given, kind=KIND)
        method = checked_method(target(**given), name)
    everything = {**given, **method.parameters}
    return PlugIn(method, {**everything, SOURCE: digest} if digest else everything)


def source_digest(target: Callable[..., Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of the file that defines it, or ""."""
    file = getattr(sys.modules.get(target.__module__), "__file__", None)
    if not file or not Path(file).is_file():
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _takes_two_frames(target: Callable[..., Any]) -> bool:
    return not isinstance(target, type) and len(_two_frames(target)) == 2


def _two_frames(target: Callable[..., Any]) -> dict[str, None]:
    """Return the names of the first two arguments, where both must be given by position."""
    try:
        first = list(inspect.signature(target).parameters.values())[:2]
    except ValueError:  # some callables written in C have none
        return {}
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: None for p in first if p.kind in by_position and p.default is p.empty}


def checked_method(made: Any, name: str) -> FlowMethod:
    """Refuse what a factory made if it is no FlowMethod.

    Raises
    ------
    InvalidArgument
        Names the attribute that is missing or of the wrong kind.
    """
    for attribute, kind in (
        ("name", str),
        ("version", int),
        ("parameters", dict),
        ("libraries", dict),
    ):
        if not isinstance(getattr(made, attribute, None), kind):
            raise InvalidArgument(
                f'flow "{name}" gave {made!r:.60}, whose .{attribute} is no {kind.__name__}; {RULE}'
            )
    if isinstance(made, type) or not callable(made):
        raise InvalidArgument(
            f'flow "{name}" gave {made!r:.60}, which cannot be called with two frames; {RULE}'
        )
    for attribute in ("parameters", "libraries"):
        try:
            json.dumps(getattr(made, attribute), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                f'flow "{name}": .{attribute} must be plain JSON values ({error}); they are '
                "recorded beside the flow"
            ) from error
    return made  # type: ignore[no-any-return]
