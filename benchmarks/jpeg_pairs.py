"""The field's habit: one process, video → DIS → two JPEG files for each flow (TSN's layout)."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95]


def write_pairs(video: Path, folder: Path, *, rgb: bool = False) -> int:
    """Write flow_x_%05d.jpg, flow_y_%05d.jpg (and img_%05d.jpg); give the number of flows."""
    folder.mkdir(parents=True)
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    capture = cv2.VideoCapture(str(video))
    previous = None
    number = 0
    while True:
        more, frame = capture.read()
        if not more:
            return number - 1
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        if previous is not None:
            write_pair(solver.calc(previous, grey, None), folder, number)
        previous = grey
        number += 1
        if rgb:
            cv2.imwrite(str(folder / f"img_{number:05d}.jpg"), frame, QUALITY)


def write_pair(uv_HWC: np.ndarray, folder: Path, number: int) -> None:
    """Write one flow, ±20 px on 0..255."""
    codes = np.rint((np.clip(uv_HWC, -20, 20) + 20) * (255 / 40)).astype(np.uint8)
    cv2.imwrite(str(folder / f"flow_x_{number:05d}.jpg"), codes[..., 0], QUALITY)
    cv2.imwrite(str(folder / f"flow_y_{number:05d}.jpg"), codes[..., 1], QUALITY)


def main() -> None:
    told = json.loads(sys.argv[1])
    cv2.setNumThreads(1)
    out = Path(told["out"])
    flows = sum(
        write_pairs(Path(video), out / f"{number:04d}", rgb=told["rgb"])
        for number, video in enumerate(told["sources"])
    )
    size = sum(file.stat().st_size for file in out.rglob("*.jpg"))
    print(json.dumps({"flows": flows, "bytes": size}))


if __name__ == "__main__":
    main()
