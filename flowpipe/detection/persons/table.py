"""The table of kinds, and how a spec such as `onnx:yolox_nano.onnx` becomes a detector."""

from typing import Any

from flowpipe.detection.persons.boxes import PersonDetector
from flowpipe.errors import InvalidArgument, UnknownName, nearest_name
from flowpipe.registry import create

DETECTORS = {
    "csv": "flowpipe.detection.persons.csv_file:CsvBoxes",
    "onnx": "flowpipe.detection.persons.onnx_file:OnnxDetector",
    "background": "flowpipe.detection.persons.background:BackgroundDetector",
    "hog": "flowpipe.detection.persons.hog:HogDetector",
}
NEEDS_A_FILE = ("csv", "onnx")
# What readers of results should know of boxes of a kind.
LIMITS = {
    "background": "Persons were found as what differs from a still background: two who touch each "
    "other all the time share a box, and who stands quite still for 20 s is not seen. A network "
    "(onnx:FILE) sees both.",
    "hog": "Persons were found by HOG: only upright, whole and not too small ones are seen. A "
    "network (onnx:FILE) sees more.",
}


def divide_spec(spec: str) -> tuple[str, str]:
    """Return the kind of a spec, and its file or "".

    Raises
    ------
    UnknownName
        If there is no such kind.
    InvalidArgument
        If a file is missing, or given to a kind that has none.
    """
    kind, _, file = spec.partition(":")
    if kind not in DETECTORS:
        raise UnknownName(
            f'unknown person boxes "{spec}"{nearest_name(kind, DETECTORS)}; known: csv:FILE, '
            "onnx:FILE, background, hog"
        )
    if (kind in NEEDS_A_FILE) != bool(file):
        form = f"{kind}:FILE" if kind in NEEDS_A_FILE else kind
        raise InvalidArgument(f'person boxes "{spec}" must be of the form {form}')
    return kind, file


def make_person_detector(spec: str, **options: Any) -> PersonDetector:
    """Make a detector of persons.

    Parameters
    ----------
    spec : str
        `csv:FILE`, `onnx:FILE`, `background` or `hog`.
    **options
        Those of the kind; see `CsvBoxes`, `OnnxDetector`, `BackgroundDetector`, `HogDetector`.

    Raises
    ------
    UnknownName
        If there is no such kind.
    InvalidArgument
        For an option that the kind does not have or a value outside its rule, or where a file
        is missing in the spec.
    """
    kind, file = divide_spec(spec)
    given = {"path": file} if file else {}
    detector: PersonDetector = create(DETECTORS, kind, options, kind="person boxes", given=given)
    return detector
