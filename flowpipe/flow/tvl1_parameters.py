"""The parameters of duality-based TV-L1, whoever solves it: numba, PyTorch, Triton or OpenCV.

Minimises ∫ λ|I₁(x + u) − I₀(x)| + |∇u| by alternating a pointwise threshold and Chambolle's
projection, coarse to fine with several warps per level. C. Zach, T. Pock, H. Bischof, "A duality
based approach for realtime TV-L1 optical flow", DAGM 2007,
https://doi.org/10.1007/978-3-540-74936-3_22; symbols as in J. Sánchez et al.,
https://doi.org/10.5201/ipol.2013.26.
"""

from dataclasses import dataclass

from flowpipe.errors import InvalidArgument
from flowpipe.flow.method import checked_number, checked_whole

MEDIAN_SIZES = (1, 3, 5)
ALL_SCALES = 32

CUBIC = -0.75
"""a of the bicubic kernel, OpenCV's."""

FLAT = 2.0**-23
"""|∇I₁|² below which the data term has no direction: OpenCV's limit, FLT_EPSILON."""

NO_MEDIAN = {"median_size": 1}
"""As OpenCV's CUDA solver, whose flow two-stream and TSN data had."""

FAST = {"scale_step": 0.5, "scales": ALL_SCALES}
"""Pyramid step ½, as deep as the frame allows: better on larger motion, and faster."""


@dataclass(frozen=True, kw_only=True)
class TVL1Parameters:
    """What determines the flow; the defaults are those of OpenCV's CPU solver.

    Attributes
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
        ε: an inner loop ends when the mean squared update falls to ε².
    inner_iterations, outer_iterations : int
        Per warp.
    median_size : int
        Side in px of the median filter before each outer iteration: 1 (none), 3 or 5.

    Raises
    ------
    InvalidArgument
        For a value outside its rule.
    """

    time_step: float = 0.25
    attachment: float = 0.15
    tightness: float = 0.3
    scales: int = 5
    scale_step: float = 0.8
    warps: int = 5
    stopping_threshold: float = 0.01
    inner_iterations: int = 30
    outer_iterations: int = 10
    median_size: int = 5

    def __post_init__(self) -> None:
        checked = {
            "time_step": checked_number(
                "time_step", self.time_step, 0, 0.25, usual=0.25, closed=True
            ),
            "scale_step": checked_number("scale_step", self.scale_step, 0, 1, usual=0.8),
        }
        for key, usual in (("attachment", 0.15), ("tightness", 0.3), ("stopping_threshold", 0.01)):
            checked[key] = checked_number(key, getattr(self, key), 0, usual=usual)
        for key, common in (
            ("scales", 5),
            ("warps", 5),
            ("inner_iterations", 30),
            ("outer_iterations", 10),
        ):
            checked[key] = checked_whole(key, getattr(self, key), 1, usual=common)
        if self.median_size not in MEDIAN_SIZES:
            raise InvalidArgument(
                f"median_size {self.median_size} must be 1 (none), 3 or 5; 5 is usual"
            )
        checked["median_size"] = int(self.median_size)
        for key, value in checked.items():
            object.__setattr__(self, key, value)

    @property
    def most_update(self) -> float:
        """λθ, the largest step of the data term along the gradient."""
        return self.attachment * self.tightness

    @property
    def dual_step(self) -> float:
        """τ/θ."""
        return self.time_step / self.tightness
