"""Boxes of persons: from files, from what moves, from OpenCV's detector."""

import numpy as np
import pytest

from flowpipe.detection.persons import DETECTORS, make_person_detector
from flowpipe.detection.persons.boxes import clean, overlaps
from flowpipe.errors import AnnotationError, InvalidArgument, UnknownName
from flowpipe.registry import resolve

HEIGHT, WIDTH = 120, 160


def blank(count):
    return ((index, np.zeros((HEIGHT, WIDTH, 3), np.uint8)) for index in range(count))


def written(folder, text, name="boxes.csv"):
    (folder / name).write_text(text, "utf-8")
    return folder / name


def found_in(detector, frames):
    return {index: (boxes, scores) for index, boxes, scores in detector.find(frames)}


@pytest.mark.parametrize("name", DETECTORS)
def test_each_row_of_the_table_is_there(name):
    assert resolve(DETECTORS, name, kind="person boxes").__doc__


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        ("bakground", {}, UnknownName, 'did you mean "background"'),
        ("cvs:boxes.csv", {}, UnknownName, 'did you mean "csv"'),
        ("csv", {"video": "v"}, InvalidArgument, "csv:FILE"),
        ("hog:file", {}, InvalidArgument, "of the form hog"),
        ("hog", {"min_hight_px": 3}, InvalidArgument, 'did you mean "min_height_px"'),
        ("hog", {"min_height_px": 0}, InvalidArgument, "must be > 0"),
        ("background", {"min_height": 2.0}, InvalidArgument, "must lie in"),
    ],
)
def test_wrong_specs_say_what_is_right(spec, options, error, message):
    with pytest.raises(error, match=message):
        make_person_detector(spec, **options)


def test_clean_clips_ranks_and_leaves_out_doubles():
    boxes = np.array([[-5.0, 0, 20, 30], [0, 0, 20, 30], [50, 50, 50.5, 90], [30, 0, 400, 40]])
    kept, scores = clean(boxes, np.array([0.5, 0.9, 1.0, 0.7]), (60, 100), max_overlap=0.5)
    assert kept.tolist() == [[0, 0, 20, 30], [30, 0, 100, 40]]
    assert scores.tolist() == [0.9, 0.7]


def test_overlaps():
    one = np.array([[0.0, 0, 2, 2], [5, 5, 5, 5]])
    two = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 5, 5]])
    assert overlaps(one, two) == pytest.approx(np.array([[1 / 7, 1, 0], [0, 0, 0]]))


class TestCsv:
    def test_ava_detections_in_shares(self, tmp_path):
        path = written(
            tmp_path, "v,0902,.1,.1,.5,.5,3,.75\nv,0902,.1,.1,.5,.5,7,.5\nw,0902,0,0,1,1,3,.9\n"
        )
        detector = make_person_detector(f"csv:{path}", video="v", fps=4, start_s=900.0)
        found = found_in(detector, blank(10))
        assert list(found) == list(range(10))
        boxes, scores = found[8]
        assert boxes.tolist() == [[16, 12, 80, 60]]
        assert scores.tolist() == [0.75]
        assert all(not len(found[index][0]) for index in range(10) if index != 8)

    def test_ava_truth_has_numbers_of_persons_and_no_scores(self, tmp_path):
        path = written(tmp_path, "v,1,.1,.1,.5,.5,3,0\nv,1,.5,.1,.9,.5,3,12\nv,2\n")
        found = found_in(make_person_detector(f"csv:{path}", video="v", fps=1), blank(3))
        assert found[1][1].tolist() == [1.0, 1.0]
        assert not len(found[2][0])

    def test_plain_boxes_need_no_label(self, tmp_path):
        path = written(tmp_path, "video,frame,x1,y1,x2,y2,score\nv,2,10,20,30,200,.5\n")
        found = found_in(make_person_detector(f"csv:{path}", video="v"), blank(4))
        assert found[2][0].tolist() == [[10, 20, 30, HEIGHT]]
        weak = make_person_detector(f"csv:{path}", video="v", min_score=0.6)
        assert not len(found_in(weak, blank(4))[2][0])

    def test_tubes(self, tmp_path):
        path = written(tmp_path, "video,tube,label,frame,x,y,w,h\nv,0,run,1,10,20,30,40\n")
        found = found_in(make_person_detector(f"csv:{path}", video="v"), blank(2))
        assert found[1][0].tolist() == [[10, 20, 40, 60]]

    @pytest.mark.parametrize(
        ("text", "options", "error", "message"),
        [
            ("video,frame,x1,y1,x2,y2\nwalk,2,1,1,9,9\n", {}, InvalidArgument, 'mean "walk"'),
            ("video,time_s,x1,y1,x2,y2\nwalking,2,1,1,9,9\n", {}, InvalidArgument, "fps"),
            ("video,time_s,x1,y1,x2\nwalking,2,1,1,9\n", {}, AnnotationError, "no column y2"),
            ("video,frame,x1,y1,x2,y2\nwalking,2,1,1,9,inf\n", {}, AnnotationError, "finite"),
            ("", {}, InvalidArgument, "has no box"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, tmp_path, text, options, error, message):
        path = written(tmp_path, text)
        with pytest.raises(error, match=message):
            make_person_detector(f"csv:{path}", video="walking", **options)


def scene(count, *, seed=0, stays=False):
    """Two bright persons before a still, noisy wall; the second may stay and wave."""
    rng = np.random.default_rng(seed)
    wall = rng.integers(60, 110, (HEIGHT, WIDTH, 3))
    for index in range(count):
        frame = wall + rng.normal(0, 2, wall.shape)
        left = 10 + 2 * index
        truth = [(left, 30, left + 14, 80)]
        frame[30:80, left : left + 14] = (200, 60, 40)
        yield index, np.clip(frame, 0, 255).astype(np.uint8), truth


class TestBackground:
    def test_who_walks_is_found_on_every_frame(self):
        frames = list(scene(50))
        detector = make_person_detector("background")
        found = found_in(detector, ((index, frame) for index, frame, _ in frames))
        for index, _, truth in frames:
            boxes, scores = found[index]
            assert len(boxes) == 1
            assert overlaps(boxes, np.array(truth, float))[0, 0] > 0.75
            assert 0 < scores[0] <= 1

    def test_an_empty_room_has_nobody(self):
        rng = np.random.default_rng(0)
        wall = rng.integers(60, 110, (HEIGHT, WIDTH, 3))
        frames = (
            (k, np.clip(wall + rng.normal(0, 2, wall.shape), 0, 255).astype(np.uint8))
            for k in range(30)
        )
        detector = make_person_detector("background")
        assert all(not len(boxes) for boxes, _ in found_in(detector, frames).values())

    def test_memory_holds_a_window(self):
        read = []

        def frames():
            for index, frame, _ in scene(60):
                read.append(index)
                yield index, frame

        found = make_person_detector("background", window=20).find(frames())
        assert next(found)[0] == 0
        assert len(read) == 20


def test_hog_answers_each_frame_and_finds_nobody_on_a_wall():
    found = found_in(make_person_detector("hog"), blank(2))
    assert list(found) == [0, 1]
    assert all(boxes.shape == (0, 4) for boxes, _ in found.values())
