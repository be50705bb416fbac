"""The table of localisation methods, and what each of them is.

A method is a module built by `Method(num_features, num_classes, lengths, options)`, with

* `Options`, its record of parameters;
* `standardise`, a `layers.Standardise` for the features;
* `loss(features_TD, segments_M2, labels_M)` of one window, in steps;
* `localise(networks, features)`, static: segments in steps, scores and labels of one video, of
  one network or of several that are fused late;
* `reach()` and `alignment()`, in steps, by which long videos are cut into windows.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from flowpipe.config import from_table
from flowpipe.localisation.layers import Standardise
from flowpipe.registry import resolve

METHODS = {
    "pyramid": "flowpipe.localisation.pyramid:Pyramid",
    "two-stage": "flowpipe.localisation.two_stage:TwoStage",
    "snippets": "flowpipe.localisation.snippets:Snippets",
}

Segmented = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


class Method(Protocol):
    """A localisation network; see the module."""

    Options: Any
    standardise: Standardise

    def loss(self, features_TD: Tensor, segments_M2: Tensor, labels_M: Tensor) -> Tensor: ...

    @staticmethod
    def localise(networks: Sequence[Any], features: Sequence[Tensor]) -> Segmented: ...

    def reach(self) -> int: ...

    def alignment(self) -> int: ...


def options_of(name: str, parameters: dict[str, Any]) -> Any:
    """Return the record of a method's parameters.

    Raises
    ------
    UnknownName
        If there is no such method.
    ConfigError
        For an unknown parameter, or one that breaks its rule.
    """
    method = resolve(METHODS, name, kind="localisation method")
    return from_table(method.Options, parameters, where=f"parameters of {name}")  # type: ignore[attr-defined]


def build(
    name: str, num_features: int, num_classes: int, lengths: npt.ArrayLike, options: Any
) -> Any:
    """Build the network of a row of the table, or of package.module:Class."""
    method = resolve(METHODS, name, kind="localisation method")
    return method(num_features, num_classes, lengths, options)
