"""Where persons are: detectors that turn frames into boxes, one kind a file.

==============  ==================================================================================
spec            good for
==============  ==================================================================================
``csv:FILE``    boxes from anywhere: annotations, another program, a detector on another machine
``onnx:FILE``   any camera, any pose, groups: a network such as YOLOX or FastestDet
``background``  a static camera; every pose, also where a network has never seen such a picture
``hog``         no camera rule and no file: upright, whole persons in good light, not too small
==============  ==================================================================================
"""

from flowpipe.detection.persons.boxes import PersonDetector
from flowpipe.detection.persons.table import (
    DETECTORS,
    LIMITS,
    divide_spec,
    make_person_detector,
)

__all__ = ["DETECTORS", "LIMITS", "PersonDetector", "divide_spec", "make_person_detector"]
