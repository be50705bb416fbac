"""Frame mAP and video mAP against the public programs, and forms of boxes and tubes."""

import json
import math

import numpy as np
import pytest

from flowpipe.detection.annotations import (
    read_boxes,
    read_key_frames,
    read_label_map,
    read_tubes,
    write_tubes,
)
from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.metrics.boxes import box_iou, box_precision
from flowpipe.metrics.tubes import Tube, tube_iou, tube_precision


@pytest.fixture
def goldens(shared_data):
    return shared_data / "ava" / "goldens"


def written(folder, name, text):
    (folder / name).write_text(text, "utf-8")
    return folder / name


def test_box_iou():
    one = np.array([[0.0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 1, 1]])
    two = np.array([[1.0, 1, 3, 3], [1, 0, 2, 1], [1, 1, 1, 1]])
    assert box_iou(one, two).tolist() == [pytest.approx(1 / 7), 0.0, 0.0]


def test_plain_boxes_and_persons_without_action(tmp_path):
    truth = "video,time_s,x1,y1,x2,y2,label,person\nv,1,0,0,10,10,run,0\nv,2,0,0,9,9,,0\n"
    found = (
        "video,time_s,x1,y1,x2,y2,label,score\nv,1.0,0,0,10,10,run,.5\nv,2,0,0,9,9,run,.9\n"
        "w,2,0,0,9,9,run,.95\n"
    )
    result = box_precision(
        read_boxes(written(tmp_path, "truth.csv", truth)),
        read_boxes(written(tmp_path, "found.csv", found), scored=True),
    )
    # The person without an action makes its frame exist; the film w is not in the truth.
    assert result.ap == {"run": 0.5}
    assert result.dropped == {"frame without truth": 1}
    # As many detections as instances are looked at: one, and it lies on nobody who runs.
    assert {kind.name: kind.count for kind in result.errors}["background"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v,1,0,0,1,1,3\n", "has 7 values"),
        ("v,one,0,0,1,1,3,.5\n", "no finite number"),
        ("v,nan,0,0,1,1,3,.5\n", "no finite number"),
        ("v,1,0,0,inf,1,3,.5\n", "no finite number"),
        ("video,x1,y1,x2,y2,label,score\n", 'no column "time_s"'),
    ],
)
def test_broken_boxes(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_boxes(written(tmp_path, "boxes.csv", text), scored=True)


def test_inverted_truth_is_refused(tmp_path):
    path = written(tmp_path, "truth.csv", "v,1,5,0,1,1,3,0\n")
    scored = read_boxes(written(tmp_path, "found.csv", "v,1,0,0,1,1,3,.5\n"), scored=True)
    with pytest.raises(InvalidArgument, match="ends before it begins"):
        box_precision(read_boxes(path), scored)


def tube(first, count, *, label="run", score=0.0, shift=0.0):
    boxes = np.tile([10.0 + shift, 10, 20 + shift, 30], (count, 1))
    return Tube("v", label, np.arange(first, first + count), boxes, score)


def test_tube_overlap_is_in_time_and_place():
    truth = tube(0, 10)
    widened = 10 * 20 / (11 * 21)  # detected boxes are one pixel larger, moved by one
    shared = 9 * 19 / (10 * 20 + 11 * 21 - 9 * 19)
    assert tube_iou(tube(0, 10), truth) == pytest.approx(shared)
    assert tube_iou(tube(5, 10), truth) == pytest.approx(5 / 15 * shared)
    assert tube_iou(tube(9, 10), truth) == 0.0  # one common frame is none
    assert shared < widened < 1


def test_tube_classes_and_order():
    truth = [tube(0, 10), tube(20, 10, label="hop")]
    found = [tube(0, 10, score=0.5), tube(0, 9, score=0.4), tube(20, 10, score=0.9)]
    result = tube_precision(truth, found, iou=(0.2,))
    assert result.classes == ("hop", "run")
    assert result.ap_KT[:, 0].tolist() == [0.0, 0.5]
    more = tube_precision(truth, found, ["hop", "run", "swim", "fly"], iou=(0.2,))
    assert more.map_T.tolist() == [0.125]
    kinds = {kind.name: kind.count for kind in result.errors}
    assert kinds == {"label": 1, "place": 0, "double": 0, "background": 0, "missed": 1}


def test_a_person_who_changes_action_has_several_tubes(tmp_path):
    rows = [(0, "run"), (1, "run"), (2, "hop"), (3, "hop"), (4, "run"), (5, "run")]
    text = "video,person,label,frame,x,y,w,h\n"
    text += "".join(f"v,0,{label},{frame},1,2,3,4\n" for frame, label in rows)
    tubes = read_tubes(written(tmp_path, "tubes.csv", text))
    assert [(t.label, t.frames.tolist()) for t in tubes] == [
        ("run", [0, 1]),
        ("run", [4, 5]),
        ("hop", [2, 3]),
    ]
    assert tubes[0].boxes[0].tolist() == [1, 2, 4, 6]


@pytest.mark.data
def test_hand_cases(goldens, tmp_path):
    for case in json.loads((goldens / "small_cases.json").read_text()):
        names = read_label_map(written(tmp_path, "labels.pbtxt", case["labels"]))
        excluded = frozenset()
        expected = case["expected"]["official"]
        if case["excluded"]:
            excluded = read_key_frames(written(tmp_path, "excluded.csv", case["excluded"]))
            expected = case["expected"]["pyslowfast"]  # the official program knows no exclusions
        result = box_precision(
            read_boxes(written(tmp_path, "truth.csv", case["ground_truth"]), names),
            read_boxes(written(tmp_path, "found.csv", case["detections"]), names, scored=True),
            list(names.values()),
            excluded=excluded,
        )
        assert result.mean_ap == pytest.approx(expected["mAP@0.5IOU"], abs=1e-6), case["case"]
        for name, value in result.ap.items():
            assert expected[name] == (None if math.isnan(value) else pytest.approx(value, abs=1e-6))


@pytest.mark.data
@pytest.mark.parametrize("kind", ["all_seconds", "with_exclusions"])
def test_golden_frames(goldens, kind):
    names = read_label_map(goldens / "labels.pbtxt")
    excluded = read_key_frames(goldens / "excluded.csv") if kind == "with_exclusions" else ()
    result = box_precision(
        read_boxes(goldens / "truth.csv", names),
        read_boxes(goldens / "detections.csv", names, scored=True),
        list(names.values()),
        excluded=excluded,
    )
    expected = json.loads((goldens / "expected.json").read_text())[kind]["official"]
    assert result.mean_ap == pytest.approx(expected["mAP@0.5IOU"], abs=1e-6)
    for name, value in result.ap.items():
        assert value == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.data
def test_golden_tubes(goldens):
    expected = json.loads((goldens / "tubes_expected.json").read_text())["iou"]
    result = tube_precision(
        read_tubes(goldens / "tubes_truth.csv"),
        read_tubes(goldens / "tubes_detections.csv", scored=True),
        iou=[float(key) for key in expected],
    )
    assert len(result.classes) == 24
    for column, record in enumerate(expected.values()):
        assert result.map_T[column] == pytest.approx(record["mAP_over_24_classes"], abs=1e-4)
        for row, name in enumerate(result.classes):
            value = record["ap"].get(name, 0.0)
            assert result.ap_KT[row, column] == pytest.approx(value, abs=1e-4)


def test_tubes_written_are_tubes_read(tmp_path):
    boxes = np.array([[1.5, 2, 11, 22], [2.5, 2, 12, 22]])
    tubes = [Tube("v", "run", np.array([3, 4]), boxes, 0.25)]
    tubes.append(Tube("v", "run", np.array([3, 4]), boxes + 50, 0.5))
    write_tubes(tmp_path / "tubes.csv", tubes)
    for one, again in zip(tubes, read_tubes(tmp_path / "tubes.csv", scored=True), strict=True):
        assert (again.video, again.label, again.score) == (one.video, one.label, one.score)
        assert again.frames.tolist() == one.frames.tolist()
        np.testing.assert_allclose(again.boxes, one.boxes)
