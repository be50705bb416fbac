"""Does the precision of stored flow matter for recognition? Weizmann, temporal stream, all folds.

The network, its seed and its clips are those of configs/weizmann_two_stream.toml; only the form in
which the flow is kept differs: half precision, i16, u8 within ±20 px, and 8-bit values through JPEG
at quality 95, the field's habit (Simonyan and Zisserman 2014, section 5).

python benchmarks/precision.py [--epochs N] [--forms f16,i16,u8,jpeg]
"""

import tempfile
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np

from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.settings import load_settings
from flowpipe.flow import FlowMethod, create
from flowpipe.flow.quantise import to_8bit

BOUND_PX, QUALITY = 20.0, 95
CONFIG = common.HERE.parent / "configs" / "weizmann_two_stream.toml"
FORMS = {
    "f16": ("storage=f16",),
    "i16": ("storage=i16",),
    "u8": ("storage=u8",),
    "jpeg": ("storage=f16", 'flow="precision:through_jpeg"'),
}


class ThroughJpeg:
    """A flow method whose components have been 8-bit JPEG images in between."""

    name, version = "through-jpeg", 1

    def __init__(self, method: FlowMethod) -> None:
        self.method = method
        self.parameters = {**method.parameters, "quality": QUALITY, "bound_px": BOUND_PX}
        self.libraries = method.libraries

    def __call__(self, prev_HW: Any, next_HW: Any) -> Any:
        uv_HWC = self.method(prev_HW, next_HW)
        planes = []
        for plane in np.moveaxis(to_8bit(uv_HWC, BOUND_PX), -1, 0):
            _, data = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            planes.append(common.from_8bit(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), BOUND_PX))
        return np.stack(planes, axis=-1)


def through_jpeg(*, quality: int = QUALITY, bound_px: float = BOUND_PX, **parameters: Any) -> Any:
    """Make the method; quality and bound are fixed, and recorded as parameters."""
    if (quality, bound_px) != (QUALITY, BOUND_PX):
        raise ValueError("quality and bound are fixed")
    return ThroughJpeg(create("farneback", **parameters))


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--epochs", type=int, help="fewer than the configuration's")
    parser.add_argument("--forms", default=",".join(FORMS))
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = told.work or Path(scratch)
        rows = []
        for form in told.forms.split(","):
            changes = [f"extract.{change}" for change in FORMS[form]]
            changes += [f"data.cache={work / 'cache'}"]
            if told.epochs:
                changes += [f"streams.temporal.epochs={told.epochs}"]
            settings = load_settings(CONFIG, changes).only("temporal")
            result = Experiment(settings, work / form, on_message=print).run("all")
            folds = np.array([fold["temporal"] for fold in result.folds])
            rows.append(
                {
                    "form": form,
                    "accuracy": float(folds.mean()),
                    "deviation over folds": float(folds.std(ddof=1)),
                    "folds": " ".join(f"{value:.1f}" for value in folds),
                }
            )
        common.show("Weizmann, temporal stream, top-1 of nine folds", rows)
        common.deliver({"precision": rows}, told.json)


if __name__ == "__main__":
    main()
