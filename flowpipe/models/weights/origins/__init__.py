"""Where public weights come from: one small file per origin, its names and what it computes.

An origin is recognised by the names and shapes in a file. It says which network of the table the
file is of, with which parameters (the computing variant of that code), what its tensors are called
there, and how its input was prepared.
"""

import importlib
from collections.abc import Mapping

from flowpipe.errors import UnknownName, WeightsError, nearest_name
from flowpipe.models.weights.origins.base import (
    Origin,
    Preprocessing,
    Recognised,
    Shapes,
)

__all__ = [
    "ORIGINS",
    "Origin",
    "Preprocessing",
    "Recognised",
    "Shapes",
    "origin_named",
    "recognise",
]

# Name → module; its `ORIGIN` is the record.
ORIGINS: Mapping[str, str] = {
    name: f"flowpipe.models.weights.origins.{name.replace('-', '_')}"
    for name in (
        "torchvision",
        "pyslowfast",
        "caffe2",
        "pytorchvideo",
        "mmaction2",
        "kenshohara",
        "piergiaj",
        "hassony2",
        "tsn",
        "bryanyzhu",
        "davidea",
        "efficientnet-lite",
        "transformers",
        "flowpipe",
    )
}


def origin_named(name: str) -> Origin:
    """Return the record of an origin.

    Raises
    ------
    UnknownName
        If there is none of this name.
    """
    if name not in ORIGINS:
        raise UnknownName(
            f'unknown origin of weights "{name}"{nearest_name(name, ORIGINS)}; known: '
            f"{', '.join(ORIGINS)}"
        )
    origin: Origin = importlib.import_module(ORIGINS[name]).ORIGIN
    return origin


def recognise(shapes: Shapes, *, where: str, origin: str | None = None) -> Recognised:
    """Recognise what a file holds by the names and shapes of its tensors.

    Parameters
    ----------
    shapes
        Names in the file to shapes.
    where
        The file, for messages; its name may tell apart what shapes do not.
    origin
        The person's word, if they gave it.

    Raises
    ------
    UnknownName
        If there is no such origin.
    WeightsError
        If no origin knows these names, or several do and compute differently.
    """
    names = ORIGINS if origin is None else (origin,)
    claims = [
        claim
        for name in names
        if (claim := origin_named(name).recognise(shapes, where=where)) is not None
    ]
    if not claims:
        some = ", ".join(list(shapes)[:4])
        raise WeightsError(
            f"{where}: {'no known origin has' if origin is None else f'{origin} has not'} such "
            f"tensors ({some}, …); known origins: {', '.join(ORIGINS)}"
        )
    # Public files keep their makers' names; our own names come last.
    first = claims[0]
    for other in claims[1:]:
        if (other.model, other.parameters) != (first.model, first.parameters):
            raise WeightsError(
                f"{where}: {first.origin} and {other.origin} have the same names and shapes and "
                f"compute differently ({first.summary} or {other.summary}); say which it is: "
                f'weights_origin = "{first.origin}" or "{other.origin}"'
            )
    return first
