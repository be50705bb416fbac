"""Displacements in px ↔ codes: the project's own forms, and the literature's 8-bit values.

Own forms, all of them exact at zero:

=====  ==============================  =====================  ===============================
form   code                            decoded                largest error of a component
=====  ==============================  =====================  ===============================
u8     round(f·127/B) + 128, 1..255    (code − 128)·B/127     B/254 (0.079 px at B = 20)
i16    round(f·64), ±32767             code/64                1/128 px, or `tolerance_px`
f16    IEEE half precision             itself                 2⁻¹¹ of the value
=====  ==============================  =====================  ===============================

The literature clips to [−B, B] and maps that to 0..255, which has no code for zero: TSN's and
denseflow's tools round (zero → 128), I3D's and mmaction2's truncate (zero → 127). `to_8bit` rounds;
I3D's networks get the truncated levels from `flowpipe.features`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowpipe.errors import FlowError, InvalidArgument

Storage = Literal["u8", "i16", "f16"]

I16_STEP_PX = 1 / 64
I16_LARGEST = 32767
U8_ZERO, U8_REACH = 128, 127
F16_LARGEST_PX = 65504.0


@dataclass(frozen=True)
class Quantiser:
    """The form in which flow is stored.

    Parameters
    ----------
    storage : "u8", "i16" or "f16"
    bound_px : float, optional
        B of u8: components beyond ±B are clipped. The other forms have none.
    tolerance_px : float
        Of i16: the largest error of a component that JPEG-LS may make, rounding to 1/64 px
        included; 0 keeps the codes as they are.

    Raises
    ------
    InvalidArgument
        For a combination that makes no sense.
    """

    storage: Storage
    bound_px: float | None = None
    tolerance_px: float = 0.0

    def __post_init__(self) -> None:
        if self.storage not in get_args(Storage):
            raise InvalidArgument(
                f'storage "{self.storage}" must be one of {", ".join(get_args(Storage))}'
            )
        if self.storage == "u8":
            if self.bound_px is None or not (math.isfinite(self.bound_px) and self.bound_px > 0):
                raise InvalidArgument(
                    f"bound {self.bound_px} px of storage u8 must be > 0; 20 is the usual choice"
                )
        elif self.bound_px is not None:
            raise InvalidArgument(
                f"bound {self.bound_px:g} px does not go with storage {self.storage}, which "
                "clips nothing; leave it out, or use storage u8"
            )
        self._check_tolerance()

    def _check_tolerance(self) -> None:
        if self.tolerance_px == 0:
            return
        if self.storage != "i16":
            raise InvalidArgument(
                f"tolerance {self.tolerance_px:g} px does not go with storage {self.storage}; "
                "it belongs to i16"
            )
        least = I16_STEP_PX / 2
        if not (math.isfinite(self.tolerance_px) and least <= self.tolerance_px <= 1.0):
            raise InvalidArgument(
                f"tolerance {self.tolerance_px} px must be 0 or from {least:g} (half a step of "
                "1/64 px) to 1; 0.04 halves the size"
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the codes: uint8, int16 or float16."""
        return np.dtype({"u8": np.uint8, "i16": np.int16, "f16": np.float16}[self.storage])

    @property
    def rounding(self) -> str:
        """Name of the rule from displacement to code, as it is recorded."""
        return "float16" if self.storage == "f16" else "mid-tread"

    @property
    def near(self) -> int:
        """NEAR of JPEG-LS, the largest difference in codes: (NEAR + ½)/64 ≤ tolerance."""
        # Exact in binary: the step is a power of two, so no rounding can lift the result.
        return max(0, math.floor(self.tolerance_px / I16_STEP_PX - 0.5))

    @property
    def largest_px(self) -> float:
        """Largest displacement that is not clipped."""
        if self.storage == "u8":
            return float(self.bound_px or 0.0)
        return F16_LARGEST_PX if self.storage == "f16" else I16_LARGEST * I16_STEP_PX

    def encode(self, flow_px: ArrayLike) -> NDArray[Any]:
        """Return the codes of displacements of any shape.

        Raises
        ------
        FlowError
            If a displacement is not finite.
        """
        # Clipped first: a huge displacement times the scale would overflow float32.
        flow = np.clip(_finite(flow_px), -self.largest_px, self.largest_px)
        if self.storage == "f16":
            halves: NDArray[Any] = flow.astype(np.float16)
            return halves
        if self.storage == "i16":
            whole: NDArray[Any] = np.rint(flow * np.float32(1 / I16_STEP_PX))
            return whole.astype(np.int16)
        codes: NDArray[Any] = np.rint(flow * np.float32(U8_REACH / self.largest_px))
        codes += U8_ZERO
        return codes.astype(np.uint8)

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Return the displacements (float32 px) of codes of any shape."""
        if codes.dtype != self.dtype:
            raise InvalidArgument(f"codes of type {codes.dtype} must be {self.dtype}")
        if self.storage == "u8":
            table: NDArray[np.float32] = (np.arange(256, dtype=np.float32) - U8_ZERO) * np.float32(
                self.largest_px / U8_REACH
            )
            flow_px: NDArray[np.float32] = table[codes]
            return flow_px
        flow = codes.astype(np.float32)
        if self.storage == "i16":
            flow *= np.float32(I16_STEP_PX)
        return flow

    def clipped(self, flow_px: NDArray[np.float32]) -> int:
        """Count the components beyond the largest displacement."""
        return int(np.count_nonzero(np.abs(flow_px) > self.largest_px))


def to_8bit(flow_px: ArrayLike, bound_px: float) -> NDArray[np.uint8]:
    """Return the 8-bit values that TSN's and denseflow's tools write: 255·(f + B)/(2B), rounded.

    Parameters
    ----------
    flow_px : array of any shape
    bound_px : float
        B; published data sets used 20.

    Raises
    ------
    InvalidArgument
        For a bound that is not above 0.
    FlowError
        If a displacement is not finite.
    """
    if not (math.isfinite(bound_px) and bound_px > 0):
        raise InvalidArgument(f"bound {bound_px} px must be > 0; 20 is the usual choice")
    flow = np.clip(_finite(flow_px).astype(np.float64), -bound_px, bound_px)
    # OpenCV's cvRound sends halves to the even neighbour, as rint does.
    whole: NDArray[np.float64] = np.rint(255 * (flow + bound_px) / (2 * bound_px))
    return whole.astype(np.uint8)


def _finite(flow_px: ArrayLike) -> NDArray[np.float32]:
    flow = np.asarray(flow_px, np.float32)
    if not np.isfinite(flow).all():
        broken = int(np.count_nonzero(~np.isfinite(flow)))
        raise FlowError(
            f"{broken} of {flow.size} displacements are not finite, all must be; check the flow "
            "method's parameters and the frames"
        )
    return flow
