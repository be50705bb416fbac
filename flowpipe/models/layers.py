"""Layers that three or more networks share."""

from torch import nn

from flowpipe.errors import InvalidArgument


def dropout_layer(dropout: float) -> nn.Dropout:
    """Dropout by the probability that a value is **dropped** (not kept).

    Raises
    ------
    InvalidArgument
        If `dropout` is not in [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise InvalidArgument(
            f"dropout {dropout!r} must be in [0, 1): it is the share of values that are dropped; "
            "0 turns dropout off"
        )
    return nn.Dropout(dropout)
