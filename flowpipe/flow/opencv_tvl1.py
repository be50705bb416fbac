"""Duality-based TV-L1 (DAGM 2007), computed by OpenCV's CPU solver.

Minimises ∫ λ|I₁(x + u) − I₀(x)| + |∇u| by alternating a pointwise threshold and Chambolle's
projection, coarse to fine with several warps per level. C. Zach, T. Pock, H. Bischof, "A duality
based approach for realtime TV-L1 optical flow", https://doi.org/10.1007/978-3-540-74936-3_22;
symbols as in J. Sánchez et al., https://doi.org/10.5201/ipol.2013.26. Unlike the papers OpenCV
filters u and v by a 5×5 median before every outer iteration and does not smooth the frames.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow.method import OpenCVFlow, checked_number, checked_whole

MEDIAN_SIZES = (1, 3, 5)


class OpenCVTVL1(OpenCVFlow):
    """OpenCV's TV-L1; made by `build`."""

    name = "opencv-tvl1"
    # OpenCV answers below too, with vectors longer than the frame; its pyramid stops here.
    least_side_px = 16

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


def build(
    *,
    time_step: float = 0.25,
    attachment: float = 0.15,
    tightness: float = 0.3,
    scales: int = 5,
    scale_step: float = 0.8,
    warps: int = 5,
    stopping_threshold: float = 0.01,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    illumination: float = 0.0,
    median_size: int = 5,
) -> OpenCVTVL1:
    """Make the method; the defaults are OpenCV's.

    Parameters
    ----------
    time_step : float
        τ, step of the dual update, in (0, 0.25], where its convergence is proven.
    attachment : float
        λ, weight of the data term for grey values 0..255; smaller is smoother.
    tightness : float
        θ, coupling of the data and smoothness parts; smaller is closer.
    scales, scale_step : int, float
        Levels of the pyramid (fewer where one would fall below 16 px), and their ratio, (0, 1).
    warps : int
        Warps per level.
    stopping_threshold : float
        ε: an inner loop ends when the mean squared update falls below ε².
    inner_iterations, outer_iterations : int
        Per warp.
    illumination : float
        γ, weight of an added brightness field; 0 for none.
    median_size : int
        Side in px of the median filter before each outer iteration: 1 (none), 3 or 5.

    Raises
    ------
    InvalidArgument
        For a value outside its rule.
    """
    checked = checked_parameters(
        time_step=time_step,
        attachment=attachment,
        tightness=tightness,
        scales=scales,
        scale_step=scale_step,
        warps=warps,
        stopping_threshold=stopping_threshold,
        inner_iterations=inner_iterations,
        outer_iterations=outer_iterations,
        median_size=median_size,
    )
    gamma = checked_number("illumination", illumination, 0, usual=0.5) if illumination else 0.0
    return OpenCVTVL1({**checked, "illumination": gamma})


def checked_parameters(
    *,
    time_step: float,
    attachment: float,
    tightness: float,
    scales: int,
    scale_step: float,
    warps: int,
    stopping_threshold: float,
    inner_iterations: int,
    outer_iterations: int,
    median_size: int,
) -> dict[str, Any]:
    """Give the parameters that every form of TV-L1 here has, or raise InvalidArgument."""
    if median_size not in MEDIAN_SIZES:
        raise InvalidArgument(f"median_size {median_size} must be 1 (none), 3 or 5; 5 is usual")
    return {
        "time_step": checked_number("time_step", time_step, 0, 0.25, usual=0.25, closed=True),
        "attachment": checked_number("attachment", attachment, 0, usual=0.15),
        "tightness": checked_number("tightness", tightness, 0, usual=0.3),
        "scales": checked_whole("scales", scales, 1, usual=5),
        "scale_step": checked_number("scale_step", scale_step, 0, 1, usual=0.8),
        "warps": checked_whole("warps", warps, 1, usual=5),
        "stopping_threshold": checked_number(
            "stopping_threshold", stopping_threshold, 0, usual=0.01
        ),
        "inner_iterations": checked_whole("inner_iterations", inner_iterations, 1, usual=30),
        "outer_iterations": checked_whole("outer_iterations", outer_iterations, 1, usual=10),
        "median_size": int(median_size),
    }
