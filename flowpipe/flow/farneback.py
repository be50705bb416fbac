"""Farnebäck's polynomial expansion (SCIA 2003), computed by OpenCV.

Neighbourhoods of both frames are approximated by quadratic polynomials, f(x) ≈ xᵀAx + bᵀx + c,
whose change of b gives the displacement; coarse to fine over a pyramid.
G. Farnebäck, "Two-frame motion estimation based on polynomial expansion",
https://doi.org/10.1007/3-540-45103-X_50. Defaults are those of OpenCV's own example; it answers
for frames of any size and leaves out pyramid levels of less than 32 px.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.flow.method import OpenCVFlow, checked_number, checked_whole, factory


@dataclass(frozen=True, kw_only=True)
class FarnebackParameters:
    """Parameters of the polynomial expansion.

    Attributes
    ----------
    pyramid_scale : float
        Ratio of neighbouring pyramid levels, in (0, 1); OpenCV's `pyr_scale`.
    levels : int
        Of the pyramid, the image itself included.
    window_size : int
        Side in px of the window over which displacements are averaged (w in the paper); larger
        is smoother and more robust. OpenCV's `winsize`.
    iterations : int
        At each level.
    neighbourhood_radius : int
        How far in px the pixels lie to which a polynomial is fitted: OpenCV's `poly_n`, which
        its documentation calls a size.
    neighbourhood_sigma : float
        σ in px of their Gaussian weights (applicability), OpenCV's `poly_sigma`.
    gaussian_window : bool
        Whether the window is a Gaussian rather than a box.

    Raises
    ------
    InvalidArgument
        For a value outside its rule.
    """

    pyramid_scale: float = 0.5
    levels: int = 3
    window_size: int = 15
    iterations: int = 3
    neighbourhood_radius: int = 5
    neighbourhood_sigma: float = 1.2
    gaussian_window: bool = False

    def __post_init__(self) -> None:
        checked = {
            "pyramid_scale": checked_number("pyramid_scale", self.pyramid_scale, 0, 1, usual=0.5),
            "neighbourhood_sigma": checked_number(
                "neighbourhood_sigma", self.neighbourhood_sigma, 0, usual=1.2
            ),
            "gaussian_window": bool(self.gaussian_window),
        }
        for key, least, usual in (
            ("levels", 1, 3),
            ("window_size", 1, 15),
            ("iterations", 1, 3),
            ("neighbourhood_radius", 2, 5),
        ):
            checked[key] = checked_whole(key, getattr(self, key), least, usual=usual)
        for key, value in checked.items():
            object.__setattr__(self, key, value)


class Farneback(OpenCVFlow):
    """Polynomial expansion."""

    def _compute(self, prev_HW: NDArray[np.uint8], next_HW: NDArray[np.uint8]) -> object:
        p = self.parameters
        return cv2.calcOpticalFlowFarneback(
            prev_HW,
            next_HW,
            None,  # type: ignore[call-overload]
            p["pyramid_scale"],
            p["levels"],
            p["window_size"],
            p["iterations"],
            p["neighbourhood_radius"],
            p["neighbourhood_sigma"],
            cv2.OPTFLOW_FARNEBACK_GAUSSIAN if p["gaussian_window"] else 0,
        )


build = factory(Farneback, FarnebackParameters, "farneback")
