"""Parts of videos as annotation programs export them; every form with its values."""

import json

import pytest

from flowpipe.datasets import Span, from_segments, open_dataset
from flowpipe.datasets.opening import FORMS
from flowpipe.errors import AnnotationError
from flowpipe.experiment.settings import Form


@pytest.fixture
def root(tmp_path):
    for name in ("videos/day 1/one.mp4", "videos/two.avi"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return tmp_path / "videos"


def parts(read):
    return [(video.name, video.labels, video.span) for video in read.videos]


ONE, TWO = "day 1/one.mp4", "two.avi"
EXPECTED = [
    (ONE, ("walk",), Span(0.5, 2)),
    (ONE, ("run",), Span(2, 3.25)),
    (TWO, ("walk",), Span(61, 62)),
]

BORIS_AGGREGATED = (
    "Observation id\tSubject\tBehavior\tBehavior type\tStart (s)\tStop (s)\t"
    "Media file name at start\n"
    "o1\tA\twalk\tSTATE\t0.5\t2.0\t/home/me/day 1/one.mp4\n"
    "o1\tA\trun\tSTATE\t2.0\t3.25\t/home/me/day 1/one.mp4\n"
    "o1\tA\tlook\tPOINT\t3.0\t3.0\t/home/me/day 1/one.mp4\n"
    "o2\t\twalk\tSTATE\t61.0\t62.0\tC:\\films\\two.avi\n"
)
BORIS_EVENTS = (
    "Observation id,o1\nMedia file(s)\n\n"
    "Time,Media file path,Total length,FPS,Subject,Behavior,Behavioral category,Comment,Status\n"
    "0.5,player #1:day 1/one.mp4,90,25,A,walk,,,START\n"
    "2.0,player #1:day 1/one.mp4,90,25,A,walk,,,STOP\n"
    "2.0,player #1:day 1/one.mp4,90,25,A,run,,,START\n"
    "3.25,player #1:day 1/one.mp4,90,25,A,run,,,STOP\n"
    "61.0,two.avi,90,25,,walk,,,START\n62.0,two.avi,90,25,,walk,,,STOP\n"
)
VIA = (
    "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
    '# ATTRIBUTE = {"1":{"aname":"action","options":{"w":"walk","r":"run"}}}\n'
    "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
    '"1_a","[""one.mp4""]",0,"[0.5,2]","[]","{""1"":""w""}"\n'
    '"1_b","[""one.mp4""]",0,"[2,3.25]","[]","{""1"":""r""}"\n'
    '"1_c","[""one.mp4""]",0,"[2.5]","[2,1,2,3,4]","{""1"":""r""}"\n'
    '"2_a","[""two.avi""]",0,"[61,62]","[]","{""1"":""w""}"\n'
)
ACTIVITYNET = json.dumps(
    {
        "version": "1.3",
        "database": {
            "one": {
                "subset": "training",
                "annotations": [
                    {"segment": [0.5, 2], "label": "walk"},
                    {"segment": [2, 3.25], "label": "run"},
                ],
            },
            "two": {
                "subset": "validation",
                "annotations": [{"segment": [61, 62], "label": "walk"}],
            },
        },
    }
)


@pytest.mark.parametrize(
    ("form", "name", "text"),
    [
        ("boris", "aggregated.tsv", BORIS_AGGREGATED),
        ("boris", "events.csv", BORIS_EVENTS),
        ("via", "via.csv", VIA),
        ("activitynet", "anet.json", ACTIVITYNET),
    ],
)
def test_forms_with_seconds(root, form, name, text):
    path = root.parent / name
    path.write_text(text, encoding="utf-8")
    read = from_segments(path, root, form)
    assert parts(read) == EXPECTED
    assert read.classes == ("run", "walk")
    assert read.videos[0].path == root / ONE
    assert open_dataset(root, path) == read  # the form is found by looking
    if form == "activitynet":
        assert [video.folds for video in read.videos] == [("train",), ("train",), ("val",)]


@pytest.mark.parametrize(
    "rows",
    [
        [
            "act\tA\t00:00:00.500\t00:00:02.000\t00:00:01.500\twalk",
            "act\tA\t00:00:02.000\t00:00:03.250\t00:00:01.250\trun",
        ],
        ["act\t\t0.500\t2.000\t1.500\twalk", "act\t\t2.000\t3.250\t1.250\trun"],
        ["act\t500\t2000\twalk", "act\t2000\t3250\trun"],
        [
            "Tier\tBegin Time - ss.msec\tEnd Time - ss.msec\tDuration - ss.msec\tact\tFile Path",
            "act\t0.5\t2.0\t1.5\twalk\t/x/one.eaf",
            "act\t2.0\t3.25\t1.25\trun\t/x/one.eaf",
        ],
    ],
    ids=["clock", "seconds", "milliseconds", "header"],
)  # fmt: skip
def test_elan(root, rows):
    path = root.parent / ("one.txt" if "eaf" not in rows[-1] else "all.txt")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    read = from_segments(path, root, "elan")
    assert parts(read) == EXPECTED[:2]
    assert open_dataset(root, path) == read


def test_label_studio(root):
    def result(kind, labels, **value):
        return {"type": kind, "value": {kind: labels, **value}}

    tasks = [
        {
            "id": 7,
            "data": {"video": "/data/upload/1/0a1b2c3d-one.mp4"},
            "annotations": [
                {
                    "result": [
                        result("timelinelabels", ["walk"], ranges=[{"start": 1, "end": 50}]),
                        result("timelinelabels", ["run"], ranges=[{"start": 51, "end": 60}]),
                        result("labels", ["jump"], start=2.0, end=2.5),
                    ]
                }
            ],
        },
        {
            "id": 8,
            "data": {"video_url": "/data/local-files/?d=two.avi"},
            "annotations": [{"result": [result("choices", ["walk", "outside"])]}],
        },
    ]
    path = root.parent / "tasks.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    read = from_segments(path, root, "label-studio")
    assert parts(read) == [
        (ONE, ("walk",), Span(0, 50, "frame")),
        (ONE, ("run",), Span(50, 60, "frame")),
        (ONE, ("jump",), Span(2, 2.5)),
        (TWO, ("walk", "outside"), None),
    ]
    assert open_dataset(root, path) == read


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("boris", "Time,Code\n1,2\n", 'no line is a header with the column "Behavior"'),
        ("boris", BORIS_EVENTS.rpartition("62.0")[0], 'START of "walk" in two.avi without a STOP'),
        ("boris", BORIS_EVENTS.replace(",START", ",STOP", 1), 'line 5: STOP of "walk" without'),
        ("boris", BORIS_AGGREGATED.replace("\t0.5\t", "\tnow\t"), 'line 2: time "now" must be'),
        (
            "boris",
            BORIS_EVENTS.replace("2.0,player #1:day 1/one.mp4,90,25,A,walk,,,STOP\n", "").replace(
                "A,run,,,START", "A,walk,,,START"
            ),
            'line 6: a second START of "walk" before its STOP',
        ),
        ("boris", BORIS_AGGREGATED.replace("2.0\t3.25", "3.25\t2.0"), "line 3: part 3.25-2s of a"),
        ("elan", "one two\n", "line 1: the line has no tabs"),
        ("elan", "act\twalk\n", "line 1: begin and end time must be"),
        ("elan", "act\t\t00:00:03.000\t00:00:02.000\twalk\n", "line 1: part 3-2s of a video must"),
        ("via", '"1","[""one.mp4""]",0,"[0,1"\n', "line 1: must have the columns"),
        ("label-studio", "{}", "must be a list of tasks"),
        ("label-studio", '[{"data": {}}]', "task 0: its data names no video"),
        ("label-studio", "[1]", "not of the form label-studio (AttributeError"),
        ("via", '"1","[]",0,"[0.5,2]","[]","{}"\n', "not of the form via (ValueError"),
        (
            "activitynet",
            '{"database": {"a": {"annotations": [{"label": "x"}]}}}',
            "not of the form activitynet (KeyError: 'segment')",
        ),
        ("activitynet", "{", "not valid JSON"),
        ("activitynet", "{}", 'must hold {"database"'),
        ("activitynet", '{"database": {}}', "no video is listed"),
        ("cvat", "", 'form "cvat" must be one of: boris, elan'),
    ],
)
def test_what_is_broken_is_refused_with_its_place(root, form, text, message):
    path = root.parent / "one.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError) as caught:
        from_segments(path, root, form)
    assert message in str(caught.value)


def test_a_name_that_two_files_have(root):
    (root / "other").mkdir()
    (root / "other" / "one.mp4").write_bytes(b"video")
    path = root.parent / "via.csv"
    path.write_text(VIA, encoding="utf-8")
    with pytest.raises(AnnotationError, match=r'"one.mp4" may be .*one\.mp4; write its folder'):
        from_segments(path, root, "via")


def test_the_configuration_takes_every_form():
    assert set(Form.__args__) == set(FORMS)


class TestWhatWouldBeLost:
    """Exports whose labels or times were read as others, or not at all, without a word."""

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            # Numbers as annotations: the tier's name was taken.
            (
                "tier\t\t00:00:00.000\t00:00:00.200\t00:00:00.200\t1\n"
                "tier\t\t00:00:00.200\t00:00:00.400\t00:00:00.200\t2\n",
                [("1",), ("2",)],
            ),
            # Two tiers that say something at one time: the second alone was kept.
            (
                "Begin Time - ss.msec\tEnd Time - ss.msec\tone\ttwo\n0.0\t0.2\twalk\tfast\n"
                "0.2\t0.4\trun\t\n",
                [("walk", "fast"), ("run",)],
            ),
        ],
    )
    def test_elan(self, root, rows, expected):
        path = root / "two.txt"
        path.write_text(rows)
        read = from_segments(path, root, "elan")
        assert [video.labels for video in read.videos] == expected

    def test_an_empty_annotation_of_elan_is_no_tier(self, root):
        path = root / "two.txt"
        path.write_text("Tier\tBegin Time - msec\tEnd Time - msec\tAnnotation\nt\t0\t200\t\n")
        with pytest.raises(AnnotationError, match="line 2: the annotation is empty"):
            from_segments(path, root, "elan")

    def test_boris_with_semicolons(self, root):
        path = root / "events.csv"
        path.write_text(BORIS_AGGREGATED.replace("\t", ";"))
        assert parts(from_segments(path, root, "boris")) == EXPECTED

    def test_annotations_that_were_cancelled(self, root):
        choice = {"type": "choices", "value": {"choices": ["walk"]}}
        other = {"type": "choices", "value": {"choices": ["run"]}}
        annotations = [{"was_cancelled": True, "result": [other]}, {"result": [choice]}]
        path = root / "tasks.json"
        path.write_text(json.dumps([{"data": {"video": "two.avi"}, "annotations": annotations}]))
        assert parts(from_segments(path, root, "label-studio")) == [(TWO, ("walk",), None)]

    def test_several_ticked_boxes_of_via(self, root):
        path = root / "via.csv"
        path.write_text(VIA.replace('""1"":""r""', '""1"":""w,r""'))
        labels = {video.labels for video in from_segments(path, root, "via").videos}
        assert labels == {("walk",), ("walk", "run")}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label": None}, "label None must be a name"),
            ({"label": ["run"]}, "must be a name"),
            ({"segment": [0, "nan"]}, "no finite number"),
        ],
    )
    def test_activitynet(self, root, change, message):
        entry = {"subset": None, "annotations": [{"label": "run", "segment": [0, 1]}]}
        path = root / "truth.json"
        path.write_text(json.dumps({"database": {"two": entry}}))
        (video,) = from_segments(path, root, "activitynet").videos
        assert (video.labels, video.folds) == (("run",), ())  # no subset is no fold "None"
        entry["annotations"][0].update(change)
        path.write_text(json.dumps({"database": {"two": entry}}))
        with pytest.raises(AnnotationError, match=message):
            from_segments(path, root, "activitynet")


@pytest.mark.parametrize(
    ("labels", "agreed"), [(["run"], True), (["run", "run"], True), (["run", "walk"], False)]
)
def test_annotators_who_disagree_are_not_several_labels(tmp_path, labels, agreed):
    (tmp_path / "a.mp4").touch()
    annotations = [
        {"result": [{"type": "choices", "value": {"choices": [label]}}]} for label in labels
    ]
    dropped = {"was_cancelled": True, "result": annotations[0]["result"] * 2}
    task = {"id": 7, "data": {"video": "a.mp4"}, "annotations": [*annotations, dropped]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    if agreed:
        (video,) = open_dataset(tmp_path, tmp_path / "export.json").videos
        assert video.labels == ("run",)
    else:
        with pytest.raises(AnnotationError, match=r"task 7: its 2 annotations differ; export one"):
            open_dataset(tmp_path, tmp_path / "export.json")
