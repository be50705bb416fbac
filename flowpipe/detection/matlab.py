"""Tubes from the MATLAB files of UCF101-24 and JHMDB.

UCF101-24's corrected annotations, `finalAnnots.mat`: a struct of name, num_imgs and tubes, each
with class (from 1), sf, ef (frames from 1, both included) and boxes x, y, w, h. JHMDB: a folder
CLASS/CLIP/puppet_mask.mat; the box of a frame is that of its mask.
"""

from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.errors import AnnotationError
from flowpipe.metrics.tubes import UCF101_24, Tube


def read_matlab_tubes(path: Path) -> list[Tube]:
    """Read the true tubes of UCF101-24 (a .mat file) or of JHMDB (a folder of puppet masks).

    Raises
    ------
    AnnotationError
        If scipy is missing, or the files are of another form.
    """
    if path.is_dir():
        masks = sorted(path.rglob("puppet_mask.mat"))
        if not masks:
            raise AnnotationError(f"{path} holds no puppet_mask.mat, as JHMDB's folders do")
        return [_of_mask(mask) for mask in masks]
    content = _load(path)
    if "annot" not in content:
        raise AnnotationError(f"{path} has no struct annot, as UCF101-24's finalAnnots.mat does")
    return [
        _of_struct(path, str(video.name), tube)
        for video in np.atleast_1d(content["annot"])
        for tube in np.atleast_1d(video.tubes)
    ]


def _load(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise AnnotationError(
            f"{path} is a MATLAB file; scipy reads them: pip install scipy"
        ) from error
    try:
        content: dict[str, Any] = loadmat(str(path), squeeze_me=True, struct_as_record=False)
    # scipy raises whatever it meets in a damaged file.
    except Exception as error:
        raise AnnotationError(f"{path} cannot be read as a MATLAB file: {error}") from error
    return content


def _of_struct(path: Path, name: str, tube: Any) -> Tube:
    number = int(getattr(tube, "class"))
    if not 1 <= number <= len(UCF101_24):
        raise AnnotationError(f"{path}: class {number} of {name} must be in 1…{len(UCF101_24)}")
    first, last = int(tube.sf), int(tube.ef)
    # Unsigned: a sum of two would overflow.
    boxes = np.asarray(tube.boxes, np.float64).reshape(-1, 4)
    if len(boxes) != last - first + 1:
        raise AnnotationError(
            f"{path}: a tube of {name} has {len(boxes)} boxes for frames {first} to {last}"
        )
    boxes[:, 2:] += boxes[:, :2]
    return Tube(name, UCF101_24[number - 1], np.arange(first - 1, last), boxes)


def _of_mask(path: Path) -> Tube:
    content = _load(path)
    if "part_mask" not in content:
        raise AnnotationError(f"{path} has no part_mask, as JHMDB's puppet_mask.mat does")
    mask_HWT = np.atleast_3d(content["part_mask"]) > 0
    boxes, frames = [], []
    for frame in range(mask_HWT.shape[2]):
        rows, columns = np.nonzero(mask_HWT[..., frame])
        if rows.size:
            frames.append(frame)
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    if not frames:
        raise AnnotationError(f"{path} shows no person")
    label, clip = path.parts[-3], path.parts[-2]
    return Tube(f"{label}/{clip}", label, np.array(frames), np.array(boxes, np.float64))
