"""Duality-based TV-L1 (DAGM 2007), computed by OpenCV's CPU solver: the slow reference.

The energy and its parameters are those of `flowpipe.flow.tvl1_parameters`. Unlike the papers OpenCV
filters u and v by a 5×5 median before every outer iteration and does not smooth the frames.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import FlowError
from flowpipe.flow.method import OpenCVFlow, checked_number, factory
from flowpipe.flow.pyramid import LEAST_SIDE_PX
from flowpipe.flow.tvl1_parameters import TVL1Parameters


@dataclass(frozen=True, kw_only=True)
class OpenCVTVL1Parameters(TVL1Parameters):
    """Parameters of OpenCV's solver.

    Attributes
    ----------
    illumination : float
        γ, weight of an added brightness field; 0 for none.
    others
        As `TVL1Parameters` has them.
    """

    illumination: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        gamma = self.illumination
        checked = checked_number("illumination", gamma, 0, usual=0.5) if gamma else 0.0
        object.__setattr__(self, "illumination", checked)


class OpenCVTVL1(OpenCVFlow):
    """OpenCV's TV-L1."""

    # OpenCV answers below too, with vectors longer than the frame; its pyramid stops here.
    least_side_px = LEAST_SIDE_PX

    def _compute(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> object:
        if not hasattr(cv2, "optflow"):
            raise FlowError(
                f"{self.name}: this OpenCV has no optflow module; uninstall opencv-python and "
                "install opencv-contrib-python"
            )
        p = self.parameters
        # A new solver each time: a small frame lowers a solver's number of scales for good.
        solver: Any = cv2.optflow.DualTVL1OpticalFlow_create(  # type: ignore[attr-defined]
            tau=p["time_step"],
            lambda_=p["attachment"],
            theta=p["tightness"],
            nscales=p["scales"],
            warps=p["warps"],
            epsilon=p["stopping_threshold"],
            innnerIterations=p["inner_iterations"],  # OpenCV's own spelling
            outerIterations=p["outer_iterations"],
            scaleStep=p["scale_step"],
            gamma=p["illumination"],
            medianFiltering=p["median_size"],
        )
        return solver.calc(prev_HW, next_HW, None)


build = factory(OpenCVTVL1, OpenCVTVL1Parameters, "opencv-tvl1")
