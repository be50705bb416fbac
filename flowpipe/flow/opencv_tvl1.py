"""Duality-based TV-L1 (DAGM 2007), computed by OpenCV's CPU solver.

Minimises ∫ λ|I₁(x + u) − I₀(x)| + |∇u| by alternating a pointwise threshold and Chambolle's
projection, coarse to fine with several warps per level. C. Zach, T. Pock, H. Bischof, "A duality
based approach for realtime TV-L1 optical flow", https://doi.org/10.1007/978-3-540-74936-3_22;
symbols as in J. Sánchez et al., https://doi.org/10.5201/ipol.2013.26. Unlike the papers OpenCV
filters u and v by a 5×5 median before every outer iteration.
"""

from typing import Any

import cv2

from flowpipe.errors import InvalidArgument
from flowpipe.flow.method import OpenCVFlow


class OpenCVTVL1(OpenCVFlow):
    least_side_px = 1

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        super().__init__(parameters)
        self.name = name
        self._solver: Any = None
        self._shape: tuple[int, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_solver": None}

    def _compute(self, prev_HW: Any, next_HW: Any) -> Any:
        # A small frame lowers a solver's number of scales for good.
        if self._solver is None or self._shape != prev_HW.shape:
            p = self.parameters
            self._solver = cv2.optflow.DualTVL1OpticalFlow_create(  # type: ignore[attr-defined]
                tau=p["time_step"],
                lambda_=p["attachment"],
                theta=p["tightness"],
                nscales=p["scales"],
                warps=p["warps"],
                epsilon=p["stopping_threshold"],
                innnerIterations=p["inner_iterations"],  # OpenCV's own spelling
                outerIterations=p["outer_iterations"],
                scaleStep=p["scale_step"],
                medianFiltering=p["median_size"],
            )
            self._shape = prev_HW.shape
        return self._solver.calc(prev_HW, next_HW, None)


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
    median_size: int = 5,
) -> OpenCVTVL1:
    """Make the method; the defaults are OpenCV's.

    Parameters
    ----------
    time_step : float
        τ, step of the dual update; stable up to 0.25.
    attachment : float
        λ, weight of the data term for grey values 0..255; smaller is smoother.
    tightness : float
        θ, coupling of the data and smoothness parts.
    scales, scale_step : int, float
        Levels of the pyramid (fewer where one would fall below 16 px), and their ratio.
    warps : int
        Warps per level.
    stopping_threshold : float
        ε: an inner loop ends when the mean squared update falls below ε².
    inner_iterations, outer_iterations : int
        Per warp.
    median_size : int
        Side of the median filter before each outer iteration: 1 (none), 3 or 5.
    """
    return _make("opencv-tvl1", locals())


def build_tvl1(
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
    median_size: int = 5,
) -> OpenCVTVL1:
    """Make `tvl1`, which is OpenCV's solver under the name the project's own will have."""
    return _make("tvl1", locals())


def _make(name: str, parameters: dict[str, Any]) -> OpenCVTVL1:
    for key in ("attachment", "tightness", "stopping_threshold"):
        if not parameters[key] > 0:
            raise InvalidArgument(f"{key} {parameters[key]} must be > 0")
    for key in ("scales", "warps", "inner_iterations", "outer_iterations"):
        if parameters[key] < 1:
            raise InvalidArgument(f"{key} {parameters[key]} must be >= 1")
    if not 0 < parameters["time_step"] <= 0.25:
        raise InvalidArgument(
            f"time_step {parameters['time_step']} must be in (0, 0.25]; beyond, it diverges"
        )
    if not 0 < parameters["scale_step"] < 1:
        raise InvalidArgument(f"scale_step {parameters['scale_step']} must be in (0, 1)")
    if parameters["median_size"] not in (1, 3, 5):
        raise InvalidArgument(f"median_size {parameters['median_size']} must be 1, 3 or 5")
    return OpenCVTVL1(name, dict(parameters))
