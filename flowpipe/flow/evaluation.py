"""How good flow is: against ground truth in the layouts of the benchmarks, or other flow."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow.files import UNKNOWN_PX, read_flo, read_kitti_png

IMAGE_EXTENSIONS = (".png", ".ppm", ".jpg")


@dataclass(frozen=True)
class TruthPair:
    """Two frames and the file of their true flow."""

    name: str
    first: Path
    second: Path
    truth: Path


@dataclass(frozen=True)
class FlowErrors:
    """Errors of a field over the pixels whose truth is known.

    Attributes
    ----------
    end_point_px : float
        Mean end-point error, the length of the difference vector.
    outliers_1px, outliers_3px, outliers_5px : float
        Shares of pixels whose end-point error is above so much.
    outliers_kitti : float
        KITTI 2015's Fl: share above 3 px and above 5 % of the true length.
    pixels : int
        Pixels with known truth.
    """

    end_point_px: float
    outliers_1px: float
    outliers_3px: float
    outliers_5px: float
    outliers_kitti: float
    pixels: int


@dataclass(frozen=True)
class FlowDifference:
    """How far two fields (or stacks of fields) are apart, as lengths of difference vectors."""

    mean_px: float
    median_px: float
    percentile_99_px: float
    largest_px: float
    share_within_tenth: float
    fields: int


def flow_errors(
    uv_HWC: NDArray[np.float32],
    truth_HWC: NDArray[np.float32],
    known_HW: NDArray[np.bool_] | None = None,
) -> FlowErrors:
    """Compare a field with the truth.

    Parameters
    ----------
    uv_HWC, truth_HWC : H×W×2 float32, px
    known_HW : H×W bool, optional
        Where the truth is known; everywhere when absent. Elsewhere either may hold anything.

    Raises
    ------
    InvalidArgument
        For shapes that do not fit, if nothing is known, or for a known pixel whose flow or truth
        is not finite.

    References
    ----------
    S. Baker et al., "A database and evaluation methodology for optical flow", 2011,
    https://doi.org/10.1007/s11263-010-0390-2; M. Menze, A. Geiger, "Object scene flow for
    autonomous vehicles", 2015, https://doi.org/10.1109/CVPR.2015.7298925 (Fl).
    """
    known_HW = np.ones(truth_HWC.shape[:-1], bool) if known_HW is None else known_HW
    if uv_HWC.shape != truth_HWC.shape or known_HW.shape != truth_HWC.shape[:-1]:
        raise InvalidArgument(
            f"flow {uv_HWC.shape}, truth {truth_HWC.shape} and mask {known_HW.shape} differ in size"
        )
    if not known_HW.any():
        raise InvalidArgument("no pixel of the truth is known; is it the right file?")
    truth = truth_HWC[known_HW].astype(np.float64)
    error = np.hypot(*(uv_HWC[known_HW] - truth).T)
    if not np.isfinite(error).all():
        raise InvalidArgument(
            f"{np.count_nonzero(~np.isfinite(error))} known pixels have flow or truth that is not "
            "finite; mark them as unknown"
        )
    length = np.hypot(*truth.T)
    return FlowErrors(
        end_point_px=float(error.mean()),
        outliers_1px=float((error > 1).mean()),
        outliers_3px=float((error > 3).mean()),
        outliers_5px=float((error > 5).mean()),
        outliers_kitti=float(((error > 3) & (error > 0.05 * length)).mean()),
        pixels=len(error),
    )


def flow_difference(
    one_THWC: NDArray[np.float32], other_THWC: NDArray[np.float32]
) -> FlowDifference:
    """Compare two fields (H×W×2) or stacks of fields (T×H×W×2), px.

    Raises
    ------
    InvalidArgument
        For different shapes.
    """
    if one_THWC.shape != other_THWC.shape:
        raise InvalidArgument(
            f"flow of shape {one_THWC.shape} and of {other_THWC.shape} cannot be compared; both "
            "must be of the same frames at the same size"
        )
    apart = np.linalg.norm(one_THWC.astype(np.float64) - other_THWC, axis=-1)
    return FlowDifference(
        mean_px=float(apart.mean()),
        median_px=float(np.median(apart)),
        percentile_99_px=float(np.percentile(apart, 99)),
        largest_px=float(apart.max()),
        share_within_tenth=float((apart < 0.1).mean()),
        fields=1 if one_THWC.ndim == 3 else len(one_THWC),
    )


def read_truth(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Give the true flow (H×W×2 float32, px) of a .flo or KITTI file, and where it is known.

    Raises
    ------
    FlowError
        If the file cannot be read.
    """
    if path.suffix.lower() == ".png":
        return read_kitti_png(path)
    uv_HWC = read_flo(path)
    known_HW: NDArray[np.bool_] = np.abs(uv_HWC).max(axis=-1) < UNKNOWN_PX
    return uv_HWC, known_HW


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Read an image as grey uint8 H×W, by OpenCV's conversion from colour.

    Raises
    ------
    FlowError
        If it cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FlowError(f"image {path} cannot be read; is it a whole PNG, PPM or JPEG file?")
    # Not IMREAD_GRAYSCALE, whose libpng conversion differs by up to 0.03 px of flow.
    grey: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)  # type: ignore[assignment]
    return grey


def find_pairs(folder: str | os.PathLike[str], *, render: str = "clean") -> list[TruthPair]:
    """Find the pairs with ground truth below a folder.

    ::

        Middlebury      X/frame10.png X/frame11.png X/flow10.flo
                        or other-data/X/…, other-gt-flow/X/flow10.flo
        Sintel          clean/X/frame_0001.png …, flow/X/frame_0001.flo (also below training/)
        KITTI           image_2/000000_10.png …_11.png (image_0, colored_0), flow_occ/000000_10.png
        Flying Chairs   00001_img1.ppm 00001_img2.ppm 00001_flow.flo

    Parameters
    ----------
    folder : path
    render : str
        Folder of Sintel's frames: "clean" or "final".

    Raises
    ------
    FlowError
        If there is no such folder, or no pair in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FlowError(f"{root} is not a folder; give one with frames and their true flow")
    pairs = [pair for truth in _truth_files(root) for pair in _pair_of(truth, root, render)]
    if not pairs:
        raise FlowError(
            f"{root} holds no true flow beside its frames; Middlebury's, Sintel's, KITTI's and "
            "Flying Chairs' layouts are known"
        )
    return sorted(pairs, key=lambda pair: pair.name)


def _truth_files(root: Path) -> Iterator[Path]:
    yield from sorted(root.rglob("*.flo"))
    # Where KITTI's occluded truth is there, it includes the other's pixels.
    for name in ("flow_occ", "flow_noc"):
        found = sorted(root.rglob(f"{name}/*_10.png"))
        if found:
            yield from found
            return


def _pair_of(truth: Path, root: Path, render: str) -> Iterator[TruthPair]:
    name = truth.stem
    parent = truth.parent
    candidates: list[tuple[str, Path, str, str]] = []
    if truth.suffix == ".png":
        first, second = name, name.removesuffix("_10") + "_11"
        candidates = [
            (name, parent.parent / images, first, second)
            for images in ("image_2", "image_0", "colored_0")
        ]
    elif name.endswith("_flow"):
        stem = name.removesuffix("_flow")
        candidates = [(stem, parent, f"{stem}_img1", f"{stem}_img2")]
    elif name.startswith("frame_"):
        scene = parent.name
        following = f"frame_{int(name.removeprefix('frame_')) + 1:04}"
        candidates = [(f"{scene}/{name}", parent.parents[1] / render / scene, name, following)]
    elif name == "flow10":
        frames = parent.parents[1] / "other-data" / parent.name
        candidates = [(parent.name, place, "frame10", "frame11") for place in (parent, frames)]
    for told, place, first, second in candidates:
        found = [_image(place, first), _image(place, second)]
        if found[0] is not None and found[1] is not None:
            yield TruthPair(told, found[0], found[1], truth)
            return


def _image(folder: Path, stem: str) -> Path | None:
    for extension in IMAGE_EXTENSIONS:
        path = folder / f"{stem}{extension}"
        if path.is_file():
            return path
    return None
