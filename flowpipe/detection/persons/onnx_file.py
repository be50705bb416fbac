"""Persons found by a network in an ONNX file, such as YOLOX or FastestDet.

In: RGB frames. Out: boxes of one class of the network. OpenCV's dnn runs the file; onnxruntime
where OpenCV cannot and it is installed. What a network wants of a picture and how it says boxes is
its form: one row of `FORMS`, of which each part can be said otherwise.

==============  ===============================================================================
form            what comes out, and of whom
==============  ===============================================================================
``yolox``       N×(5+K), boxes as offsets and logarithms on strides of 8, 16, 32: YOLOX
``fastestdet``  (5+K)×H×W, one box a cell: FastestDet
``yolov5``      N×(5+K) of center, size, objectness, classes, in px of the input: YOLOv5, v7
``yolov8``      (4+K)×N of center, size, classes, in px of the input: YOLOv8, 9, 11
``corners``     N×6 of x1, y1, x2, y2, score, class in px of the input: exports with NMS inside
==============  ===============================================================================
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flowpipe.detection.persons.boxes import Boxes, Found, check_positive, check_share, clean
from flowpipe.errors import InvalidArgument, UnknownName, WeightsError, nearest_name

Output = npt.NDArray[np.float64]
Size = tuple[int, int]
# (output of the network, (height, width) of its input, class) to boxes in px of the input, scores.
Decode = Callable[[Output, Size, int], tuple[Boxes, npt.NDArray[np.float64]]]

PADDING_GREY = 114
YOLOX_STRIDES = (8, 16, 32)


def decode_yolox(
    output_NC: Output, size: Size, person: int
) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Centers are offsets from the cell, sides exponents, both in units of the stride."""
    cells, strides = [], []
    for stride in YOLOX_STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack((x.ravel(), y.ravel()), axis=1))
        strides.append(np.full((cells[-1].shape[0], 1), stride))
    cell_N2, stride_N1 = np.concatenate(cells), np.concatenate(strides)
    if len(output_NC) != len(cell_N2):
        raise WeightsError(
            f"the network gives {len(output_NC)} boxes, and strides of 8, 16 and 32 of an input of "
            f"{size[0]} × {size[1]} px are {len(cell_N2)}; another size or form is needed"
        )
    center = (output_NC[:, :2] + cell_N2) * stride_N1
    sides = np.exp(output_NC[:, 2:4]) * stride_N1
    return _corners(center, sides), output_NC[:, 4] * output_NC[:, 5 + person]


def decode_fastestdet(
    output_CHW: Output, size: Size, person: int
) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Objectness, center from the cell by tanh, sides as shares of the picture by a sigmoid."""
    height, width = output_CHW.shape[1:]
    y, x = np.mgrid[:height, :width]
    share = np.array([size[1], size[0]])
    offset = np.tanh(output_CHW[1:3])
    center = np.stack(((x + offset[0]) / width, (y + offset[1]) / height), axis=-1) * share
    sides = np.moveaxis(1 / (1 + np.exp(-output_CHW[3:5])), 0, -1) * share
    scores = output_CHW[0] * output_CHW[5 + person]
    return _corners(center.reshape(-1, 2), sides.reshape(-1, 2)), scores.ravel()


def decode_yolov5(
    output_NC: Output, size: Size, person: int
) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Centers and sides in px; objectness times class."""
    boxes_N4 = _corners(output_NC[:, :2], output_NC[:, 2:4])
    return boxes_N4, output_NC[:, 4] * output_NC[:, 5 + person]


def decode_yolov8(
    output_CN: Output, size: Size, person: int
) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Centers and sides in px; classes without objectness; channels first."""
    return _corners(output_CN[:2].T, output_CN[2:4].T), output_CN[4 + person]


def decode_corners(
    output_NC: Output, size: Size, person: int
) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Corners in px, a score, the class's number."""
    rows = output_NC[np.rint(output_NC[:, 5]) == person]
    return rows[:, :4], rows[:, 4]


@dataclass(frozen=True, kw_only=True)
class OnnxForm:
    """What a network wants of a picture, and how it says boxes.

    Attributes
    ----------
    decode : callable
    size : (height, width)
        Of its input.
    padded : bool
        Whether the picture keeps its proportions, with grey (114) at the right or below; else it
        is stretched.
    bgr : bool
    divisor : float
        Of the values 0 to 255.
    """

    decode: Decode
    size: Size
    padded: bool = True
    bgr: bool = False
    divisor: float = 255.0


FORMS = {
    "yolox": OnnxForm(decode=decode_yolox, size=(416, 416), bgr=True, divisor=1.0),
    "fastestdet": OnnxForm(decode=decode_fastestdet, size=(352, 352), padded=False, bgr=True),
    "yolov5": OnnxForm(decode=decode_yolov5, size=(640, 640)),
    "yolov8": OnnxForm(decode=decode_yolov8, size=(640, 640)),
    "corners": OnnxForm(decode=decode_corners, size=(640, 640)),
}


class OnnxDetector:
    """Persons by a network in an ONNX file.

    Parameters
    ----------
    path : path
    form : str, optional
        Row of `FORMS`; absent: the one with whose name the file's name begins.
    size : int or (height, width), optional
        Of the network's input, where it is not that of the form.
    person_class : int
        Number of the class, from 0; 0 is "person" in COCO.
    min_score : float
    max_overlap : float
        Of two boxes of larger IoU the worse is left out.
    padded, bgr, divisor
        As in `OnnxForm`, where the file wants pictures otherwise than the form.

    Raises
    ------
    UnknownName
        If there is no such form, or none can be told from the file's name.
    WeightsError
        If the file is missing or cannot be run, or its output is not of the form.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        form: str | None = None,
        size: int | Sequence[int] | None = None,
        person_class: int = 0,
        min_score: float = 0.3,
        max_overlap: float = 0.5,
        padded: bool | None = None,
        bgr: bool | None = None,
        divisor: float | None = None,
    ) -> None:
        self.path = Path(path)
        check_share("min_score", min_score)
        check_share("max_overlap", max_overlap)
        if not (isinstance(person_class, int) and person_class >= 0):
            raise InvalidArgument(f"person_class {person_class} must be >= 0")
        if size is not None:
            size = _sides(size)
        given = {"size": size, "padded": padded, "bgr": bgr, "divisor": divisor}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        self.form = replace(_form_of(self.path, form), **changes)
        check_positive("divisor", self.form.divisor)
        self.person_class, self.min_score, self.max_overlap = person_class, min_score, max_overlap
        self._run = _runner(self.path)

    def find(self, frames: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> Iterator[Found]:
        """Return the boxes of each frame."""
        for index, frame_HWC in frames:
            height, width = frame_HWC.shape[:2]
            input_1CHW, scale = self._input(frame_HWC)
            boxes_N4, scores_N = self._decode(self._run(input_1CHW))
            yield (
                index,
                *clean(
                    boxes_N4 / np.tile(scale, 2),
                    np.clip(scores_N, 0.0, 1.0),
                    (height, width),
                    min_score=self.min_score,
                    max_overlap=self.max_overlap,
                ),
            )

    def _input(
        self, frame_HWC: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
        """Return the network's input, and its px per px of the frame in x and y."""
        (height, width), (high, wide) = frame_HWC.shape[:2], self.form.size
        if self.form.padded:
            share = min(high / height, wide / width)
            high, wide = max(1, round(height * share)), max(1, round(width * share))
        shrinks = high < height and wide < width
        picture = cv2.resize(
            frame_HWC,
            (wide, high),
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
        canvas = np.full((*self.form.size, 3), PADDING_GREY, np.uint8)
        canvas[:high, :wide] = picture[..., ::-1] if self.form.bgr else picture
        values = canvas.transpose(2, 0, 1)[None].astype(np.float32) / self.form.divisor
        return np.ascontiguousarray(values, np.float32), (wide / width, high / height)

    def _decode(self, output: npt.NDArray[np.float32]) -> tuple[Boxes, npt.NDArray[np.float64]]:
        try:
            return self.form.decode(
                output.reshape(output.shape[1:]).astype(np.float64),
                self.form.size,
                self.person_class,
            )
        except (IndexError, ValueError) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(
                f"{self.path} gives {output.shape}, which is not of this form for class "
                f"{self.person_class}; the forms are {', '.join(FORMS)}",
                parameter="form",
            ) from error


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InvalidArgument(
            f"size {size} must be a number of px > 0, or height and width", parameter="size"
        )
    return sides[0], sides[1]


def _form_of(path: Path, name: str | None) -> OnnxForm:
    if name is None:
        name = next((form for form in FORMS if path.name.lower().startswith(form)), None)
        if name is None:
            raise UnknownName(
                f"which form {path.name} has cannot be told from its name; it must be said: "
                f"{', '.join(FORMS)}",
                parameter="form",
            )
    if name not in FORMS:
        raise UnknownName(
            f'unknown form "{name}"{nearest_name(name, FORMS)}; known: {", ".join(FORMS)}',
            parameter="form",
        )
    return FORMS[name]


def _runner(path: Path) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Return what runs the file: OpenCV, else onnxruntime."""
    if not path.is_file():
        raise WeightsError(f"no network at {path}; an ONNX file is needed")
    try:
        network = cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        return _onnxruntime(path, error)

    def forward(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        network.setInput(values)
        try:
            return np.asarray(network.forward(), np.float32)
        except cv2.error as error:
            raise _wrong_size(path, values, error) from error

    return forward


def _onnxruntime(
    path: Path, refused: cv2.error
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        raise WeightsError(
            f"{path} cannot be run by OpenCV ({refused}); with onnxruntime installed it may"
        ) from refused
    # The errors of onnxruntime have no parent but Exception.
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be run, neither by OpenCV nor by onnxruntime: {error}"
        ) from error
    name = session.get_inputs()[0].name

    def forward(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            return np.asarray(session.run(None, {name: values})[0], np.float32)
        except Exception as error:
            raise _wrong_size(path, values, error) from error

    return forward


def _wrong_size(path: Path, values: npt.NDArray[np.float32], error: Exception) -> WeightsError:
    height, width = values.shape[2:]
    return WeightsError(
        f"{path} cannot be run on an input of {height} × {width} px ({error}); give the size that "
        "it was exported for",
        parameter="size",
    )


def _corners(center_N2: Output, sides_N2: Output) -> Boxes:
    return np.concatenate((center_N2 - sides_N2 / 2, center_N2 + sides_N2 / 2), axis=1)
