"""Boxes of persons: from files, from what moves, from OpenCV's detector."""

import csv

import numpy as np
import pytest

from flowpipe.detection.persons import DETECTORS, make_person_detector
from flowpipe.detection.persons.background import changes, regions
from flowpipe.detection.persons.boxes import clean, overlaps
from flowpipe.detection.persons.meetings import divide
from flowpipe.detection.persons.onnx_file import FORMS
from flowpipe.errors import AnnotationError, InvalidArgument, UnknownName, WeightsError
from flowpipe.registry import resolve
from flowpipe.video import VideoReader

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
        ("hog", {"min_height_px": "small"}, InvalidArgument, "must be > 0"),
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
            ("video,time_s,x1,y1,x2\nwalking,2,1,1,9\n", {}, AnnotationError, 'no column "y2"'),
            ("video,frame,x1,y1,x2,y2\nwalking,2,1,1,9,inf\n", {}, AnnotationError, "finite"),
            ("", {}, InvalidArgument, "has no box"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, tmp_path, text, options, error, message):
        path = written(tmp_path, text)
        with pytest.raises(error, match=message):
            make_person_detector(f"csv:{path}", video="walking", **options)


def wall(seed=0):
    return np.random.default_rng(seed).integers(90, 120, (HEIGHT, WIDTH, 3)).astype(float)


def noisy(frame, rng):
    return np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8)


def walker(count):
    """A red person who goes to the right before a noisy wall: frames, and the box on each."""
    rng, frames, truth = np.random.default_rng(1), [], []
    for index in range(count):
        frame, left = wall(), 10 + 2 * index
        frame[30:80, left : left + 14] = (200, 60, 40)
        frames.append((index, noisy(frame, rng)))
        truth.append((left, 30, left + 14, 80))
    return frames, np.array(truth, float)


def waver(count):
    """A person who stays, of whom an arm moves up and down."""
    rng, frames = np.random.default_rng(1), []
    for index in range(count):
        frame, hand = wall(), 30 + 3 * (index % 12)
        frame[30:95, 70:86] = (30, 30, 60)
        frame[hand : hand + 6, 56:70] = (30, 30, 60)
        frames.append((index, noisy(frame, rng)))
    return frames, np.tile(np.array([56.0, 30, 86, 95]), (count, 1))


class TestBackground:
    def test_who_walks_is_found_on_every_frame(self):
        frames, truth = walker(50)
        found = found_in(make_person_detector("background"), frames)
        for index, (boxes, scores) in found.items():
            assert len(boxes) == 1
            assert overlaps(boxes, truth[index : index + 1])[0, 0] > 0.75
            assert 0 < scores[0] <= 1

    def test_who_stays_is_cut_out_of_the_background(self):
        frames, truth = waver(48)
        found = found_in(make_person_detector("background"), frames)
        shared = [overlaps(boxes, truth[k : k + 1]).max() for k, (boxes, _) in found.items()]
        assert min(shared) > 0.7
        # Without that, the arm is all that is found.
        moving = found_in(make_person_detector("background", staying=False), frames)
        assert all(overlaps(b, truth[:1]).max(initial=0) < 0.4 for b, _ in moving.values())

    def test_boxes_are_in_px_of_the_frame(self):
        frames, truth = walker(50)
        large = [(k, frame.repeat(3, 0).repeat(3, 1)) for k, frame in frames]
        found = found_in(make_person_detector("background"), large)
        assert overlaps(found[20][0], 3 * truth[20:21])[0, 0] > 0.75

    def test_the_same_frames_give_the_same_boxes(self):
        frames, _ = waver(24)
        once, again = (found_in(make_person_detector("background"), frames) for _ in range(2))
        assert all(np.array_equal(once[k][0], again[k][0]) for k in once)

    def test_a_lamp_that_is_switched_on_is_nobody(self):
        frames, truth = walker(50)
        lit = [
            (k, np.clip(frame + 40.0 * (k >= 20) * (np.arange(WIDTH) > 60)[:, None], 0, 255))
            for k, frame in frames
        ]
        found = found_in(
            make_person_detector("background"), [(k, f.astype(np.uint8)) for k, f in lit]
        )
        hits = [overlaps(b, truth[k : k + 1]).max(initial=0) > 0.5 for k, (b, _) in found.items()]
        assert np.mean(hits) > 0.9
        assert max(len(boxes) for boxes, _ in found.values()) <= 2

    def test_changes_of_the_background_are_none_of_persons(self):
        frames = np.stack([frame for _, frame in walker(50)[0]])
        assert not changes(frames).any()
        frames[40:, :, : WIDTH // 4] += 12
        changed = changes(frames)
        assert np.flatnonzero(changed.any(axis=(1, 2))).tolist() == [40]
        parts = {tuple(times): mask.mean() for mask, times in regions(changed, frames.shape[1:3])}
        assert set(parts) == {(), (40,)}
        assert parts[40,] == pytest.approx(0.25, abs=0.1)

    def test_a_last_window_knows_the_one_before(self):
        frames, truth = walker(46)
        found = found_in(make_person_detector("background", window=40), frames)
        assert all(overlaps(found[k][0], truth[k : k + 1]).max() > 0.75 for k in range(40, 46))

    def test_an_empty_room_has_nobody(self):
        rng = np.random.default_rng(0)
        frames = ((k, noisy(wall(), rng)) for k in range(30))
        detector = make_person_detector("background")
        assert all(not len(boxes) for boxes, _ in found_in(detector, frames).values())

    def test_memory_holds_a_window(self):
        read = []

        def frames():
            for index, frame in walker(60)[0]:
                read.append(index)
                yield index, frame

        found = make_person_detector("background", window=20).find(frames())
        assert next(found)[0] == 0
        assert len(read) == 20


class TestMeetings:
    """Persons of 10×30 px who walk by each other are one part while they touch."""

    @staticmethod
    def parts(ours, theirs):
        frames = []
        for x, y in zip(ours, theirs, strict=True):
            one, other = np.array([x, 20, x + 10, 50.0]), np.array([y, 20, y + 10, 50.0])
            if abs(x - y) > 10:
                frames.append(np.stack([one, other]))
            else:
                corners = np.minimum(one, other)[:2], np.maximum(one, other)[2:]
                frames.append(np.concatenate(corners)[None])
        return frames

    def test_who_pass_each_other_keep_their_boxes(self):
        ours, theirs = np.arange(40.0), 60 - np.arange(40.0)
        parts = self.parts(ours, theirs)
        assert min(len(frame) for frame in parts) == 1
        for x, y, divided in zip(ours, theirs, divide(parts), strict=True):
            found = np.sort(np.concatenate(divided)[:, 0])
            assert len(found) == 2
            assert np.abs(found - np.sort([x, y])).max() <= 2

    def test_who_touch_at_first_are_known_from_later(self):
        ours, theirs = np.full(40, 10.0), 15 + np.maximum(0, np.arange(40.0) - 15)
        divided = divide(self.parts(ours, theirs))
        assert [len(np.concatenate(frame)) for frame in divided] == [2] * 40
        np.testing.assert_allclose(np.concatenate(divided[0])[:, [0, 2]], [[10, 20], [15, 25]])

    def test_who_always_touch_and_one_who_falls_apart_remain_one(self):
        together = self.parts(np.full(20, 10.0), np.full(20, 15.0))
        assert all(len(np.concatenate(frame)) == 1 for frame in divide(together))
        whole = np.array([[10, 20, 30, 50.0]])
        # An arm is apart from the body for a while: it is not as high as a person.
        arm = np.array([[10, 20, 20, 50.0], [23, 25, 30, 32.0]])
        divided = divide([whole] * 5 + [arm] * 10 + [whole] * 5)
        assert [len(np.concatenate(frame)) for frame in divided] == [1] * 5 + [2] * 10 + [1] * 5

    def test_nobody(self):
        nobody = np.zeros((0, 4))
        assert divide([nobody, nobody]) == [[], []]


def test_hog_answers_each_frame_and_finds_nobody_on_a_wall():
    found = found_in(make_person_detector("hog"), blank(2))
    assert list(found) == [0, 1]
    assert all(boxes.shape == (0, 4) for boxes, _ in found.values())


def form_like(name, boxes, person, size=416):
    """Write boxes (center, sides in px of the input) as the network of a form says them."""
    output = np.zeros((len(boxes), 5 + 3))
    output[:, 4], output[:, 5 + person] = 1.0, [0.9 - 0.1 * k for k in range(len(boxes))]
    output[:, :4] = boxes
    if name == "yolov8":
        return np.delete(output, 4, axis=1).T
    return output


class TestOnnxForms:
    """What a network gives, written by hand, becomes the boxes that it means."""

    BOXES = np.array([[100.0, 120, 40, 80], [300, 200, 60, 100]])
    CORNERS = ((80, 80, 120, 160), (270, 150, 330, 250))

    @pytest.mark.parametrize("name", ["yolov5", "yolov8"])
    def test_centers_in_px(self, name):
        boxes, scores = FORMS[name].decode(form_like(name, self.BOXES, 1), (416, 416), 1)
        assert [tuple(box) for box in boxes.tolist()] == list(self.CORNERS)
        assert scores.tolist() == pytest.approx([0.9, 0.8])

    def test_corners(self):
        output = np.array([[80.0, 80, 120, 160, 0.9, 1], [0, 0, 9, 9, 0.9, 0]])
        boxes, scores = FORMS["corners"].decode(output, (416, 416), 1)
        assert boxes.tolist() == [[80, 80, 120, 160]]
        assert scores.tolist() == [0.9]

    def test_yolox_strides(self):
        output = np.full((3549, 7), -20.0)
        output[:, 4:] = 0.0
        # Cell x 6, y 7 of stride 16, which comes behind the 52 × 52 cells of stride 8.
        row = 52 * 52 + 7 * 26 + 6
        output[row] = [0.25, 0.5, np.log(40 / 16), np.log(80 / 16), 0.8, 0.0, 0.5]
        boxes, scores = FORMS["yolox"].decode(output, (416, 416), 1)
        assert boxes[row] == pytest.approx([80, 80, 120, 160])
        assert scores[row] == pytest.approx(0.4)
        with pytest.raises(WeightsError, match="3549 boxes, and strides"):
            FORMS["yolox"].decode(output, (640, 640), 1)

    def test_fastestdet_cells(self):
        output = np.zeros((7, 22, 22))
        # Cell x 6, y 7 of 22 on 352 px: 16 px each.
        output[:, 7, 6] = [0.8, np.arctanh(0.25), np.arctanh(0.5), 0, np.log(3), 0.1, 0.5]
        boxes, scores = FORMS["fastestdet"].decode(output, (352, 352), 1)
        row = 7 * 22 + 6
        assert boxes[row] == pytest.approx([100 - 88, 120 - 132, 100 + 88, 120 + 132])
        assert scores[row] == pytest.approx(0.4)

    @pytest.mark.parametrize(
        ("name", "options", "error", "message"),
        [
            ("net.onnx", {}, UnknownName, "cannot be told from its name"),
            ("net.onnx", {"form": "yolo5"}, UnknownName, 'did you mean "yolov5"'),
            ("yolox_s.onnx", {}, WeightsError, "no network at"),
            ("yolox_s.onnx", {"size": 0}, InvalidArgument, "size 0 must be a number of px > 0"),
            ("yolox_s.onnx", {"size": "416x416"}, InvalidArgument, "or height and width"),
            ("yolox_s.onnx", {"size": [416]}, InvalidArgument, "or height and width"),
            ("yolox_s.onnx", {"min_score": "high"}, InvalidArgument, "must lie in"),
            ("yolox_s.onnx", {"person_class": -1}, InvalidArgument, "must be >= 0"),
        ],
    )
    def test_wrong_options(self, tmp_path, name, options, error, message):
        with pytest.raises(error, match=message):
            make_person_detector(f"onnx:{tmp_path / name}", **options)

    def test_a_file_that_is_no_network(self, tmp_path):
        path = written(tmp_path, "no network", "yolox.onnx")
        with pytest.raises(WeightsError, match="cannot be run"):
            make_person_detector(f"onnx:{path}")


@pytest.fixture(scope="module")
def weizmann(shared_data):
    """Clips with, for each frame, the true boxes."""
    truth = {}
    text = (shared_data / "ava" / "weizmann_boxes.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        box = [float(row[key]) for key in ("x1", "y1", "x2", "y2")]
        truth.setdefault(row["clip"], {}).setdefault(int(row["frame"]), []).append(box)
    return {shared_data / "weizmann" / clip: boxes for clip, boxes in truth.items()}


def recall(clips, spec, every=1, **options):
    """Return the share of true boxes that a box overlaps by a half, and the inverse."""
    hits, right = [], []
    for path, truth in clips:
        reader = VideoReader(path, rgb=True)
        frames = ((f.index, f.rgb_HWC) for f in reader if f.index % every == 0)
        for index, boxes, _ in make_person_detector(spec, **options).find(frames):
            if index in truth:
                shared = overlaps(np.array(truth[index]), boxes)
                hits += (shared.max(axis=1, initial=0) >= 0.5).tolist()
                right += (shared.max(axis=0, initial=0) >= 0.5).tolist()
    return np.mean(hits), np.mean(right)


@pytest.mark.data
@pytest.mark.slow
class TestWeizmann:
    def test_background(self, weizmann):
        clips = list(weizmann.items())
        assert min(recall(clips, "background")) > 0.95
        assert recall(clips[::4], "background", staying=False)[0] < 0.7

    @pytest.mark.parametrize(
        ("name", "least", "precision"), [("yolox_nano", 0.99, 0.98), ("FastestDet", 0.9, 0.55)]
    )
    def test_networks(self, weizmann, shared_data, name, least, precision):
        spec = f"onnx:{shared_data / 'weights' / name}.onnx"
        found, right = recall(list(weizmann.items())[::6], spec, every=10)
        assert found >= least
        assert right >= precision

    def test_a_network_refuses_another_size(self, weizmann, shared_data):
        spec = f"onnx:{shared_data / 'weights' / 'yolox_nano.onnx'}"
        with pytest.raises(WeightsError, match="yolox_nano"):
            recall(list(weizmann.items())[:1], spec, size=300)

    def test_hog(self, weizmann):
        assert recall(list(weizmann.items())[::8], "hog", every=12)[0] > 0.6
