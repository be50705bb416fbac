"""Farnebäck's polynomial expansion (SCIA 2003), computed by OpenCV.

Neighbourhoods of both frames are approximated by quadratic polynomials, whose change of
coefficients gives the displacement; coarse to fine over a pyramid.
G. Farnebäck, "Two-frame motion estimation based on polynomial expansion",
https://doi.org/10.1007/3-540-45103-X_50. Defaults are those of OpenCV's documentation.
"""

from typing import Any

import cv2

from flowpipe.errors import InvalidArgument
from flowpipe.flow.method import OpenCVFlow


class Farneback(OpenCVFlow):
    name = "farneback"
    least_side_px = 1

    def _compute(self, prev_HW: Any, next_HW: Any) -> Any:
        p = self.parameters
        flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if p["gaussian_window"] else 0
        return cv2.calcOpticalFlowFarneback(
            prev_HW,
            next_HW,
            None,  # type: ignore[call-overload]
            p["pyramid_scale"],
            p["levels"],
            p["window_size"],
            p["iterations"],
            p["neighbourhood"],
            p["neighbourhood_sigma"],
            flags,
        )


def build(
    *,
    pyramid_scale: float = 0.5,
    levels: int = 3,
    window_size: int = 15,
    iterations: int = 3,
    neighbourhood: int = 5,
    neighbourhood_sigma: float = 1.2,
    gaussian_window: bool = False,
) -> Farneback:
    """Make the method.

    Parameters
    ----------
    pyramid_scale : float
        Ratio of neighbouring pyramid levels, in (0, 1).
    levels : int
        Of the pyramid, the image itself included.
    window_size : int
        Side of the averaging window in px; larger is smoother and more robust.
    iterations : int
        At each level.
    neighbourhood, neighbourhood_sigma : int, float
        Side in px of the patch that a polynomial approximates (`poly_n`, 5 or 7), and the
        standard deviation of its Gaussian weights (`poly_sigma`, 1.1 for 5, 1.5 for 7).
    gaussian_window : bool
        Whether the window is a Gaussian rather than a box.
    """
    if not 0 < pyramid_scale < 1:
        raise InvalidArgument(f"pyramid_scale {pyramid_scale} must be in (0, 1); 0.5 is usual")
    for key, value in (
        ("levels", levels),
        ("window_size", window_size),
        ("iterations", iterations),
    ):
        if value < 1:
            raise InvalidArgument(f"{key} {value} must be >= 1")
    if neighbourhood < 3 or neighbourhood_sigma <= 0:
        raise InvalidArgument(
            f"neighbourhood {neighbourhood} px must be >= 3 and its sigma {neighbourhood_sigma} "
            "> 0; 5 and 1.2 are usual"
        )
    return Farneback(
        {
            "pyramid_scale": float(pyramid_scale),
            "levels": int(levels),
            "window_size": int(window_size),
            "iterations": int(iterations),
            "neighbourhood": int(neighbourhood),
            "neighbourhood_sigma": float(neighbourhood_sigma),
            "gaussian_window": bool(gaussian_window),
        }
    )
