"""Persons drawn into videos and shown on a page."""

import base64
import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from flowpipe.detection.tracks import Track, TrackCollector, labels_of
from flowpipe.errors import InvalidArgument
from flowpipe.report import annotated
from flowpipe.report.annotated import PERSON_COLORS, STRIP_PX, draw_persons, write_boxes
from flowpipe.report.detection import write_detection_page
from flowpipe.video import VideoReader, probe

CLASSES = ("walk", "wave", "hug")


def track(number=0, start=0.0, count=6, step=0.2, label=0):
    """A person who goes 10 px to the right at each look."""
    times = start + step * np.arange(count)
    lefts = 20 + 10 * np.arange(count)
    boxes = np.stack((lefts, np.full(count, 60), lefts + 30, np.full(count, 140)), 1).astype(float)
    scores = np.full((count, 3), 0.1)
    scores[:, label] = 0.8
    return Track(number, 5 * np.arange(count), times, boxes, scores)


class TestTrack:
    def test_boxes_lie_on_the_line_between_two_looks(self):
        person = track()
        assert person.box_at(0.2).tolist() == [30, 60, 60, 140]
        assert person.box_at(0.3) == pytest.approx([35, 60, 65, 140])
        assert person.box_at(1.05).tolist() == [70, 60, 100, 140]
        assert person.box_at(1.2) is None
        assert person.box_at(-0.2) is None

    def test_a_long_gap_is_no_line(self):
        times, boxes = np.array([0.0, 0.2, 3.0]), np.tile([0.0, 0, 9, 9], (3, 1))
        person = Track(0, np.array([0, 5, 75]), times, boxes, np.ones((3, 1)))
        assert person.box_at(1.5) is None
        assert person.box_at(0.2) is not None

    @pytest.mark.parametrize(
        ("times", "boxes", "message"),
        [([0.0, 0.0], 2, "must ascend"), ([0.0, 1.0], 1, "one of each"), ([], 0, "one moment")],
    )
    def test_what_is_no_track(self, times, boxes, message):
        with pytest.raises(InvalidArgument, match=message):
            Track(
                0,
                np.arange(len(times)),
                np.array(times),
                np.zeros((boxes, 4)),
                np.zeros((len(times), 3)),
            )

    def test_labels_are_the_best_and_those_above(self):
        assert labels_of(np.array([0.1, 0.2, 0.05]), CLASSES, min_score=0.5) == [("wave", 0.2)]
        several = labels_of(np.array([0.6, 0.2, 0.9]), CLASSES, min_score=0.5)
        assert [name for name, _ in several] == ["hug", "walk"]

    def test_collecting(self):
        collector = TrackCollector()
        for k in range(4):
            collector.add(
                SimpleNamespace(
                    video="v",
                    frame=5 * k,
                    time_s=0.2 * k,
                    boxes=np.array([[k, 0, 9, 9], [50.0, 0, 60, 9], [0, 0, 1, 1]])[: 3 - k // 2],
                    ids=np.array([7, 3, -1])[: 3 - k // 2],
                    probabilities=np.full((3 - k // 2, 3), 0.3),
                )
            )
        assert [(t.number, len(t.times_s)) for t in collector.tracks("v")] == [(3, 4), (7, 4)]
        assert collector.tracks("v", min_moments=5) == []
        assert collector.tracks("w") == []
        tubes = collector.tubes("v", CLASSES)
        assert {(t.label, t.frames[0], t.frames[-1]) for t in tubes} == {
            (name, 0, 15) for name in CLASSES
        }
        assert collector.tubes("w", CLASSES) == []


@pytest.fixture(scope="module")
def video(tmp_path_factory, write_video):
    frames = np.full((30, 180, 240, 3), 90, np.uint8)
    return write_video(tmp_path_factory.mktemp("video") / "street.mp4", frames, fps=25)


def near(pixel, color):
    return np.abs(np.asarray(pixel, int) - color).max() < 70


class TestVideo:
    def test_boxes_are_drawn_where_and_while_persons_are(self, video, tmp_path):
        write_boxes(video, tmp_path / "out.mp4", [track(count=4)], CLASSES)
        info = probe(tmp_path / "out.mp4")
        # Twice as large, so that labels can be read, over a strip with the time.
        assert (info.width, info.height) == (480, 360 + STRIP_PX)
        pictures = [frame.rgb_HWC for frame in VideoReader(tmp_path / "out.mp4", rgb=True)]
        assert len(pictures) == 30
        # At .2 s (frame 5) the box begins at x = 30; the person is gone after .7 s.
        assert near(pictures[5][2 * 100, 2 * 30], PERSON_COLORS[0])
        assert not near(pictures[5][2 * 100, 2 * 45], PERSON_COLORS[0])
        assert not near(pictures[25][2 * 100, 2 * 50], PERSON_COLORS[0])

    def test_plates_do_not_cover_each_other_nor_leave_the_picture(self):
        picture = np.zeros((200, 300, 3), np.uint8)
        persons = [track(0), track(1), track(2, label=1)]
        draw_persons(picture, persons, CLASSES, 0.2)
        for color in PERSON_COLORS[:3]:
            # A plate is filled: its color covers more than the lines of a box do.
            assert (picture == color).all(axis=2).sum() > 800
        # The text of each is ink on it.
        assert ((picture > 0).any(axis=2) & (picture < 60).all(axis=2)).sum() > 100

    def test_a_box_outside_the_picture_is_not_drawn(self):
        picture = np.zeros((50, 20, 3), np.uint8)
        draw_persons(picture, [track()], CLASSES, 0.2)
        assert not picture.any()


def shown(path):
    """Return the page's text and what its script gets of each video."""
    text = path.read_text("utf-8")
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return text, [json.loads(part) for part in found]


class TestPage:
    def test_persons_and_what_they_do(self, video, tmp_path):
        both = Track(
            5,
            5 * np.arange(6),
            0.2 * np.arange(6),
            track().boxes_T4,
            np.array([[0.9, 0.1, 0]] * 3 + [[0.2, 0.7, 0.4]] * 3),
        )
        path = write_detection_page(
            tmp_path / "page.html",
            "found by <run>",
            {"a <b>/street.mp4": [track(), both]},
            CLASSES,
            paths={"a <b>/street.mp4": video},
        )
        text, (data,) = shown(path)
        assert "found by &lt;run&gt;" in text
        assert "2 persons in 1 video" in text
        assert data["size"] == [240, 180]
        person = data["persons"][1]
        assert (person["n"], person["t"]) == (5, [0, 0.2, 0.4, 0.6, 0.8, 1.0])
        assert person["b"][1] == [30, 60, 60, 140]
        assert person["l"][0] == [["walk", 90]]
        assert person["l"][5] == [["wave", 70], ["hug", 40]]
        # Of whoever does two things there are two bars, the second from .6 s on.
        assert 'title="5: walk 0.00 to 0.60 s, score 0.90"' in text
        assert 'title="5: wave 0.60 to 1.20 s, score 0.70"' in text
        assert re.findall(r'<button [^>]*data-class="(\w+)"', text) == ["walk", "wave"]
        # Nothing is outside the file, and the video in it plays.
        assert not re.search(r'(src|href)="(?!data:)', text)
        carried = re.search(r'src="data:video/mp4;base64,([^"]+)"', text)
        (tmp_path / "carried.mp4").write_bytes(base64.b64decode(carried[1]))
        assert len(list(VideoReader(tmp_path / "carried.mp4"))) == 30

    def test_without_a_video_the_boxes_can_be_scrubbed(self, tmp_path):
        paths = {"gone.mp4": tmp_path / "gone.mp4"}
        tracks = {"gone.mp4": [track()], "unknown": []}
        text, data = shown(
            write_detection_page(tmp_path / "page.html", "title", tracks, CLASSES, paths=paths)
        )
        assert "<video" not in text
        assert text.count('type="range"') == 2
        assert data[0]["size"] == [320, 240]
        assert "nobody was found" in text

    def test_measured_results(self, tmp_path):
        record = {
            "mAP": 0.91234,
            "AP": {"walk": 0.9, "hug": None},
            "errors": {"label": {"count": 3, "cost": 0.02}},
        }
        path = write_detection_page(
            tmp_path / "page.html", "title", {"v": [track()]}, CLASSES, record=record
        )
        text, _ = shown(path)
        assert "mAP 0.912" in text
        assert "0.900" in text
        assert "0.020" in text


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 has no such letters")
def test_labels_beyond_ascii_are_drawn_as_they_are():
    def drawn(text):
        picture = np.zeros((24, 300, 3), np.uint8)
        annotated._write(picture, text, 6, 18)
        return picture

    for text, other in (("走る", "歩く"), ("Übung", "Ubung"), ("бег", "???"), ("走る", "??")):
        assert (drawn(text) != drawn(other)).any()
        columns = np.flatnonzero(drawn(text).any(axis=(0, 2)))
        assert columns[0] >= 6
        assert columns[-1] <= 6 + annotated._text_px(text) + 1
