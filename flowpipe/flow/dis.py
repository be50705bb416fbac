"""Dense inverse search (ECCV 2016), computed by OpenCV.

Patches are aligned by inverse compositional search, averaged to a dense field and refined
variationally, coarse to fine. T. Kroeger, R. Timofte, D. Dai, L. Van Gool, "Fast optical flow
using dense inverse search", https://doi.org/10.1007/978-3-319-46493-0_29. The presets are OpenCV's.
"""

from typing import Any

import cv2

from flowpipe.errors import InvalidArgument, nearest_name
from flowpipe.flow.method import OpenCVFlow

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DIS(OpenCVFlow):
    name = "dis"
    least_side_px = 16

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(parameters)
        self._solver: Any = None
        self._shape: tuple[int, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_solver": None}

    def _compute(self, prev_HW: Any, next_HW: Any) -> Any:
        # A solver keeps buffers and its coarsest scale from the frames it saw before.
        if self._solver is None or self._shape != prev_HW.shape:
            self._solver = cv2.DISOpticalFlow.create(PRESETS[self.parameters["preset"]])
            self._shape = prev_HW.shape
        return self._solver.calc(prev_HW, next_HW, None)


def build(*, preset: str = "medium") -> DIS:
    """Make the method.

    Parameters
    ----------
    preset : "ultrafast", "fast" or "medium"
        Operating point: finest scale, patch stride and refinement.
    """
    if preset not in PRESETS:
        raise InvalidArgument(
            f'preset "{preset}" must be one of {", ".join(PRESETS)}{nearest_name(preset, PRESETS)}'
        )
    return DIS({"preset": preset})
