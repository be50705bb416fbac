"""Errors of flowpipe: each a FlowpipeError and the Python error a caller would expect.

A message gives the value, the rule it breaks and the way out:
"bound 0.0 px must be > 0; 20 is the usual choice".
"""

import difflib
import errno
from collections.abc import Iterable, Sequence
from typing import TypeGuard

SHOWN_NAMES = 5


class FlowpipeError(Exception):
    """Parent of every error that flowpipe raises on purpose.

    Parameters
    ----------
    message : str
    parameter : str or tuple of str
        Names of the arguments that are wrong or would help, as the library has them. The message
        names no option of the command line: that adds its own spelling of these.
    """

    def __init__(self, *message: object, parameter: str | tuple[str, ...] = ()) -> None:
        super().__init__(*message)
        self.parameters = (parameter,) if isinstance(parameter, str) else parameter


class InvalidArgument(FlowpipeError, ValueError):
    """An argument outside its rule, or a combination that makes no sense."""


class UnknownName(FlowpipeError, LookupError):
    """A name that stands in no table (flow method, model, config key, video)."""


class ConfigError(FlowpipeError, ValueError):
    """A configuration file with an unknown key or a value of the wrong kind."""


class AnnotationError(FlowpipeError, ValueError):
    """A list, split or label file that cannot be used."""


class VideoNotFound(FlowpipeError, FileNotFoundError):
    """No file at the path of a video."""


class VideoError(FlowpipeError, ValueError):
    """A file from which no video frame can be decoded."""


class FlowError(FlowpipeError, ValueError):
    """A flow method that cannot take these frames or gave a broken field."""


class DeviceError(FlowpipeError, RuntimeError):
    """A GPU, or the process that computes on it, that failed."""


class CacheError(FlowpipeError, OSError):
    """A cache that cannot be written or read."""


class CacheNotFound(FlowpipeError, FileNotFoundError):
    """No cache at this path."""


class EntryNotFound(FlowpipeError, LookupError):
    """No entry, or several, under this name."""


class EntryCorrupt(FlowpipeError, ValueError):
    """An entry whose bytes are not what was written, or not of this format."""


class NewerFormat(CacheError):
    """A file of a later flowpipe: sound, but not for this one to read or to write over."""


class WeightsError(FlowpipeError, ValueError):
    """A state dict or checkpoint that does not fit the network."""


class RankLost(FlowpipeError, RuntimeError):
    """A process of a training run on several that is gone."""


class ScoresMismatch(FlowpipeError, ValueError):
    """Score files that do not speak of the same videos, labels or classes."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Give ' (did you mean "x"?)' for the known name most like `name`, or ''."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' (did you mean "{matches[0]}"?)' if matches else ""


def some(names: Sequence[str]) -> str:
    """Return the first few names, quoted, and how many more there are."""
    shown = ", ".join(f'"{name}"' for name in names[:SHOWN_NAMES])
    more = len(names) - SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


# What a system answers that does not give a file now, however sound it is.
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM}


def is_refusal(error: BaseException) -> TypeGuard[OSError]:
    """Return whether the system refused a file, which says nothing of its content."""
    return isinstance(error, OSError) and error.errno in _REFUSALS
