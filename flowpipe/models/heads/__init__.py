"""Heads: networks that map cached features over time to class logits; the table lists them.

A head takes B×T×D (`input_layout` "TD"), or maps B×T×C×H×W ("TCHW"), and gives logits B×K; one
that scores every step gives B×T×K for the output "frames". `build_head` makes one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowpipe.errors import InvalidArgument
from flowpipe.registry import create

if TYPE_CHECKING:
    from torch import nn

HEADS: Mapping[str, str] = {
    "linear": "flowpipe.models.heads.pooled:linear",
    "mlp": "flowpipe.models.heads.pooled:mlp",
    "svm": "flowpipe.models.heads.pooled:StandardisedLinear",
    "lstm": "flowpipe.models.heads.recurrent:Lstm",
    "gru": "flowpipe.models.heads.recurrent:Gru",
    "convgru": "flowpipe.models.heads.convgru:ConvGruHead",
}


def build_head(
    name: str, feature_shape: tuple[int, ...], *, num_classes: int, **parameters: Any
) -> "nn.Module":
    """Make a head with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    name
        A name of `HEADS`, or your own as `package.module:callable`; the callable takes
        `num_classes`, `num_features` and its own parameters by keyword.
    feature_shape
        Of one snippet's features: (D,), or (D, H', W') of maps.
    num_classes
        K.
    **parameters
        Keyword parameters of that head, such as `hidden`.

    Raises
    ------
    UnknownName
        If no head has this name.
    InvalidArgument
        If it has no such parameter, or does not take features of this shape.
    """
    given = {"num_classes": num_classes, "num_features": feature_shape[0]}
    head = create(HEADS, name, parameters, kind="head", given=given)
    layout = getattr(head, "input_layout", None)
    if layout not in ("TD", "TCHW"):
        raise InvalidArgument(f'head "{name}": input_layout {layout!r} must be "TD" or "TCHW"')
    if (layout == "TCHW") != (len(feature_shape) == 3):
        way_out = (
            "compute them as maps (spatial)"
            if layout == "TCHW"
            else "take the head convgru, or features that are not maps"
        )
        raise InvalidArgument(
            f'head "{name}" does not take features of shape {feature_shape}; {way_out}'
        )
    return head  # type: ignore[no-any-return]
