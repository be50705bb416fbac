"""mAP and average recall of segments against the public programs, and an independent slow form."""

import json

import numpy as np
import pytest

from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.localisation.annotations import (
    read_annotations,
    read_detections,
    write_detections,
    write_submission,
)
from flowpipe.localisation.nms import Suppression, suppress
from flowpipe.metrics.temporal import (
    Segments,
    proposal_recall,
    temporal_errors,
    temporal_iou,
    temporal_lengths,
    temporal_precision,
)

TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)


@pytest.fixture
def goldens(shared_data):
    return shared_data / "tal" / "goldens"


def random_segments(rng, count, *, scored, videos=6, classes=3):
    start = rng.uniform(0, 90, count)
    rows = [
        (f"v{rng.integers(videos)}", f"c{rng.integers(classes)}", s, s + rng.uniform(1, 30))
        for s in start
    ]
    return Segments.of(rows, rng.permutation(count) / count if scored else None)


def slow_average_precision(truth, detections, label, threshold):
    """ActivityNet's rules, read off line by line."""
    instances = [i for i in range(len(truth)) if truth.labels[i] == label]
    ranked = [i for i in np.argsort(-detections.scores) if detections.labels[i] == label]
    taken, hits = set(), []
    for i in ranked:
        overlaps = []
        for j in instances:
            if truth.videos[j] == detections.videos[i]:
                (s, e), (t, f) = detections.times_s[i], truth.times_s[j]
                shared = max(0.0, min(e, f) - max(s, t))
                overlaps.append((shared / (e - s + f - t - shared), j))
        free = [(o, j) for o, j in sorted(overlaps, reverse=True) if o >= threshold]
        free = [j for _, j in free if j not in taken]
        taken.update(free[:1])
        hits.append(bool(free))
    total, found, area = 0.0, 0, []
    for rank, hit in enumerate(hits, 1):
        found += hit
        area.append((found / len(instances), found / rank))
    for place, (recall, _) in enumerate(area):
        step = recall - (area[place - 1][0] if place else 0.0)
        total += step * max(p for _, p in area[place:])
    return total


def test_precision_equals_the_slow_form():
    rng = np.random.default_rng(0)
    truth, found = random_segments(rng, 40, scored=False), random_segments(rng, 300, scored=True)
    result = temporal_precision(truth, found, TIOU)
    for row, label in enumerate(result.classes):
        for column, threshold in enumerate(TIOU):
            slow = slow_average_precision(truth, found, label, threshold)
            assert result.ap_KT[row, column] == pytest.approx(slow, abs=1e-12)
    assert 0 < result.average < 1


def test_iou_of_touching_and_empty_segments():
    one = np.array([[0.0, 10], [0, 10], [3, 3], [0, 10]])
    two = np.array([[10.0, 20], [5, 15], [3, 3], [0, 10]])
    assert temporal_iou(one, two).tolist() == [0.0, pytest.approx(1 / 3), 0.0, 1.0]


def test_perfect_detections_have_no_errors_and_the_known_area():
    rng = np.random.default_rng(1)
    truth = random_segments(rng, 30, scored=False)
    perfect = Segments(truth.videos, truth.labels, truth.times_s, np.linspace(1, 0.5, 30))
    assert temporal_precision(truth, perfect).average == 1.0
    assert all(kind.count == 0 and kind.cost == 0 for kind in temporal_errors(truth, perfect))
    groups = temporal_lengths(truth, perfect)
    assert [(group.instances, group.found, group.mean_ap) for group in groups] == [
        (10, 10, 1.0)
    ] * 3
    one_each = Segments.of([(f"v{i}", "a", 0.0, 5.0) for i in range(4)])
    scored = Segments(one_each.videos, one_each.labels, one_each.times_s, np.ones(4))
    recall = proposal_recall(one_each, scored)
    assert recall.at(1) == recall.at(100) == 1.0
    assert recall.area == pytest.approx(0.99)


def test_kinds_of_error():
    truth = Segments.of([("v", "a", 0, 10), ("v", "b", 20, 30), ("v", "a", 50, 60)])
    rows = [
        ("v", "a", 0, 10),  # found
        ("v", "a", 1, 10),  # double
        ("v", "b", 20, 24),  # place
        ("v", "a", 20, 30),  # label
        ("v", "b", 70, 80),  # background
    ]
    kinds = {
        k.name: k for k in temporal_errors(truth, Segments.of(rows, [0.9, 0.8, 0.7, 0.6, 0.5]))
    }
    # Two instances of a, one of b: only the two best of a and the best of b are counted.
    counts = {name: kind.count for name, kind in kinds.items()}
    assert counts == {"label": 0, "place": 1, "double": 1, "background": 0, "missed": 2}
    assert kinds["missed"].cost == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("rows", "scores", "tiou", "message"),
    [
        ([("v", "a", 0.0, 1.0)], None, (0.5,), "without scores"),
        ([("v", "a", 0.0, 1.0)], [1.0], (0.0,), r"must lie in \(0, 1\]"),
        ([("v", "a", 0.0, float("nan"))], [1.0], (0.5,), "no finite number"),
    ],
)
def test_what_is_refused(rows, scores, tiou, message):
    truth = Segments.of([("v", "a", 0.0, 1.0)])
    with pytest.raises(InvalidArgument, match=message):
        temporal_precision(truth, Segments.of(rows, scores), tiou)
    with pytest.raises(InvalidArgument, match="no instance"):
        temporal_precision(Segments.of([]), Segments.of([], []))


def test_soft_suppression_by_hand():
    segments, scores = [[0, 10], [0, 10], [20, 30]], [0.9, 0.8, 0.7]
    ends, left, _ = suppress(segments, scores, [0, 0, 0])
    assert left.tolist() == pytest.approx([0.9, 0.7, 0.8 * np.exp(-2)])
    assert ends[0].tolist() == [0, 10]
    _, left, labels = suppress(segments, scores, [0, 1, 0])
    assert (left.tolist(), labels.tolist()) == ([0.9, 0.8, 0.7], [0, 1, 0])
    _, left, _ = suppress(segments, scores, [0, 0, 0], Suppression("hard"))
    assert left.tolist() == [0.9, 0.7]
    _, left, _ = suppress([[0, 10], [5, 15]], [0.9, 0.8], [0, 0], Suppression("linear"))
    assert left[1] == pytest.approx(0.8 * 2 / 3, abs=1e-6)
    assert [len(part) for part in suppress([], [], [])] == [0, 0, 0]
    with pytest.raises(InvalidArgument, match="must be one of gaussian"):
        Suppression("softer")


# Forms


def written(folder, name, text):
    (folder / name).write_text(text, "utf-8")
    return folder / name


def test_plain_csv(tmp_path):
    text = "video,label,start_s,end_s,subset\na,run,1,2.5,training\nb,,,,validation\n"
    annotations = read_annotations(written(tmp_path, "plain.csv", text))
    assert annotations.videos == ("a", "b")
    assert annotations.segments.times_s.tolist() == [[1, 2.5]]
    assert annotations.of_subset("Validation").videos == ("b",)
    with pytest.raises(AnnotationError, match='did you mean "training"'):
        annotations.of_subset("train")


def test_json_dialects(tmp_path):
    bmn = {
        "v_a": {
            "duration_second": 10.0,
            "duration_frame": 200,
            "feature_frame": 160,
            "annotations": [{"segment": [0, 4], "label": "run", "label_id": 3}],
        }
    }
    annotations = read_annotations(written(tmp_path, "bmn.json", json.dumps(bmn)))
    assert annotations.durations_s == {"v_a": 8.0}
    assert annotations.label_numbers == {3: "run"}
    found = {"results": {"v_a": [{"label": 3, "score": 0.5, "segment": [0, 4]}]}}
    read = read_detections(
        written(tmp_path, "found.json", json.dumps(found)), annotations.label_numbers
    )
    assert read.labels.tolist() == ["run"]


def test_charades_epic_and_afsd(tmp_path):
    charades = 'id,actions,length\nX,"c1 1.0 2.0;c2 3 40",12\nY,,5\n'
    annotations = read_annotations(written(tmp_path, "charades.csv", charades))
    assert annotations.videos == ("X", "Y")
    clipped, cut, dropped = annotations.clipped(annotations.durations_s)
    assert (clipped.segments.times_s.tolist(), cut, dropped) == ([[1, 2], [3, 12]], 1, 0)
    epic = "video_id,start_timestamp,stop_timestamp,verb,noun\nP01,00:01:00.5,00:01:02.5,cut,egg\n"
    path = written(tmp_path, "epic.csv", epic)
    assert read_annotations(path).segments.times_s.tolist() == [[60.5, 62.5]]
    assert read_annotations(path, label_column="noun").classes == ("egg",)
    afsd = "video,type,type_idx,start,end,startFrame,endFrame\nv,Dive,7,1.0,2.0,30,60\n"
    annotations = read_annotations(written(tmp_path, "afsd.csv", afsd))
    assert (annotations.classes, annotations.label_numbers) == (("Dive",), {7: "Dive"})


def test_thumos_text(tmp_path):
    written(tmp_path, "Diving_val.txt", "video_1  1.5   3.0\nvideo_2 4 5\n")
    written(tmp_path, "Ambiguous_val.txt", "video_1 7 8\n")
    written(tmp_path, "detclasslist.txt", "26 Diving\n")
    annotations = read_annotations(tmp_path)
    assert (annotations.classes, len(annotations.ambiguous)) == (("Diving",), 1)
    text = written(tmp_path, "found.out", "video_1.mpeg 3.0 1.5 26 0.7\n")
    found = read_detections(text, annotations.label_numbers)
    assert (found.videos[0], found.labels[0]) == ("video_1", "Diving")
    assert found.times_s.tolist() == [[1.5, 3.0]]
    result = temporal_precision(annotations.segments, found, (0.5,), protocol="thumos14")
    assert result.average == pytest.approx(6 / 11)  # recall .5: six of eleven points


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "video,label\n", "of no known form"),
        ("a.csv", "video,label,start_s,end_s\nv,run,2,1\n", "no stretch of time"),
        ("a.csv", "video,label,start_s,end_s\nv,run,x,1\n", "no finite number"),
        ("a.csv", "video,label,start_s,end_s\n,run,0,1\n", "line 2: video is empty"),
        ("a.json", "[]", "one JSON object"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"v": {"annotations": [{"segment": [1]}]}}', "must have"),
        ("a.json", '{"v": 3}', "no table"),
    ],
)
def test_broken_annotations(tmp_path, name, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_annotations(written(tmp_path, name, text))


def test_detections_written_are_read_again(tmp_path):
    found = Segments.of([("a", "run", 1.0, 2.0), ("b", "7", 0.5, 3.25)], [0.5, 0.25])
    write_submission(tmp_path / "out.json", found, ["a", "b", "empty"])
    write_detections(tmp_path / "out.csv", found)
    assert json.loads((tmp_path / "out.json").read_text())["results"]["empty"] == []
    for name in ("out.json", "out.csv"):
        again = read_detections(tmp_path / name)
        assert again.videos.tolist() == ["a", "b"]
        assert again.times_s.tolist() == found.times_s.tolist()
        assert again.scores.tolist() == found.scores.tolist()


# The public programs


@pytest.mark.data
def test_hand_cases(goldens, tmp_path):
    cases = json.loads((goldens / "small_cases.json").read_text())
    for case in cases:
        truth = written(tmp_path, "truth.json", json.dumps(case["ground_truth"]))
        found = written(tmp_path, "found.json", json.dumps(case["detections"]))
        result = temporal_precision(
            read_annotations(truth).segments, read_detections(found), case["tiou"]
        )
        expected = case["expected"]
        # Where ActivityNet's program stops with a KeyError, OpenTAD ignores the class, as we do.
        program = "opentad" if "error" in expected["activitynet"] else "activitynet"
        assert result.map_T == pytest.approx(expected[program]["mAP"], abs=1e-6), case["case"]
        assert result.unknown == ("error" in expected["activitynet"])


@pytest.mark.data
def test_golden_map(goldens):
    truth = read_annotations(goldens / "thumos_validation_truth.json").segments
    found = read_detections(goldens / "thumos_validation_detections.json")
    expected = json.loads((goldens / "thumos_validation_expected.json").read_text())["activitynet"]
    result = temporal_precision(truth, found, TIOU)
    assert result.map_T == pytest.approx(expected["mAP"], abs=1e-6)
    for row, name in enumerate(result.classes):
        assert result.ap_KT[row] == pytest.approx(expected["ap_per_class"][name], abs=1e-6)


@pytest.mark.data
def test_golden_proposals(goldens):
    truth = read_annotations(goldens / "proposals_truth.json").segments
    recall = proposal_recall(truth, read_detections(goldens / "proposals.json"))
    expected = json.loads((goldens / "proposals_expected.json").read_text())
    for number in (1, 5, 10, 50, 100):
        assert recall.at(number) == pytest.approx(expected[f"AR@{number}"], abs=1e-6)
    assert recall.area == pytest.approx(expected["AUC"], abs=1e-6)


@pytest.mark.data
def test_golden_thumos_kit(goldens):
    kit = goldens / "thumos_official"
    truth = read_annotations(kit / "groundtruth")
    found = read_detections(kit / "detections.txt", truth.label_numbers)
    expected = json.loads((kit / "expected.json").read_text())
    result = temporal_precision(
        truth.segments, found, expected["tiou"], protocol="thumos14", ambiguous=truth.ambiguous
    )
    assert result.map_T == pytest.approx(expected["mAP"], abs=1e-6)
    for row, name in enumerate(result.classes):
        assert result.ap_KT[row] == pytest.approx(expected["ap_per_class"][name], abs=1e-6)


@pytest.mark.data
def test_golden_suppression(goldens):
    record = json.loads((goldens / "nms.json").read_text())
    for case in record["cases"]:
        given = case["arguments"]
        options = Suppression(
            form="gaussian" if given["use_soft_nms"] else "hard",
            sigma=given.get("sigma", 0.5),
            iou=given["iou_threshold"],
            min_score=given["min_score"],
            keep=given["max_seg_num"],
            by_class=given["multiclass"],
            voting=given.get("voting_thresh", 0.0),
        )
        ends, scores, labels = suppress(
            record["segments"], record["scores"], record["labels"], options
        )
        shown = len(case["scores"])
        assert len(scores) == case["n"]
        assert ends[:shown] == pytest.approx(np.array(case["segments"]), abs=1e-4)
        assert scores[:shown] == pytest.approx(case["scores"], abs=1e-4)
        assert labels[:shown].tolist() == case["labels"]
