"""Dense inverse search (ECCV 2016), computed by OpenCV.

Patches are aligned by inverse compositional search, averaged to a dense field and refined
variationally, coarse to fine. T. Kroeger, R. Timofte, D. Dai, L. Van Gool, "Fast optical flow
using dense inverse search", https://doi.org/10.1007/978-3-319-46493-0_29. The presets are OpenCV's.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.flow.method import OpenCVFlow, factory

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True, kw_only=True)
class DISParameters:
    """Parameters of dense inverse search.

    Attributes
    ----------
    preset : "ultrafast", "fast" or "medium"
        Operating point: finest scale, patch stride and refinement.

    Raises
    ------
    InvalidArgument
        For another preset.
    """

    preset: str = "medium"

    def __post_init__(self) -> None:
        if not isinstance(self.preset, str) or self.preset not in PRESETS:
            raise InvalidArgument(
                f'preset "{self.preset}" must be one of {", ".join(PRESETS)}'
                f"{nearest_name(str(self.preset), PRESETS)}"
            )


class DIS(OpenCVFlow):
    """Dense inverse search."""

    # On narrower frames OpenCV 5.0 fails an assertion, gives NaN or crashes.
    least_side_px = 32

    def _compute(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> object:
        # A solver keeps patch size and scales from the frames it saw; a new one costs nothing.
        solver = cv2.DISOpticalFlow.create(PRESETS[self.parameters["preset"]])
        return solver.calc(prev_HW, next_HW, None)  # type: ignore[call-overload]


build = factory(DIS, DISParameters, "dis")
