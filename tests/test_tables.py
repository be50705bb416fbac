"""Text from elsewhere, read in one way by training, localisation and detection."""

import json

import numpy as np
import pytest
from support import run_cli

from flowpipe.datasets import open_dataset
from flowpipe.detection.annotations import read_boxes, read_label_map, read_tubes
from flowpipe.errors import AnnotationError
from flowpipe.localisation.annotations import read_annotations, read_detections
from flowpipe.tables import csv_rows, parse_json, parse_number, read_lines

TIMES = "video,label,start_s,end_s,score\nv,run,1,3,.5\nw,sit down,0,4,.25\n"
BOXES = "video,time_s,x1,y1,x2,y2,label,score\nv,2,.1,.2,.5,.6,run,.5\nw,3,0,0,1,1,sit down,.25\n"
AVA = "v,2,.1,.2,.5,.6,run,.5\nw,3,0,0,1,1,sit down,.25\n"
TUBES = "video,tube,label,frame,x,y,w,h,score\nv,0,run,7,1,2,8,9,.5\nw,0,sit down,7,1,2,8,9,.25\n"

# Forms of one file: what spreadsheets, editors and other countries make of it.
WRITINGS = {
    "as it is": lambda text: text.encode(),
    "byte order mark, CRLF": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "blanks behind commas": lambda text: text.replace(",", ", ").encode(),
    "blanks before commas": lambda text: text.replace(",", " ,").encode(),
    "empty lines": lambda text: ("\n\n" + text.replace("\n", "\n\n")).encode(),
    "quotes": lambda text: text.replace("sit down", '"sit down"').encode(),
}


@pytest.mark.parametrize("writing", WRITINGS)
def test_every_reader_reads_every_writing(tmp_path, writing):
    def written(text):
        path = tmp_path / "file.csv"
        path.write_bytes(WRITINGS[writing](text))
        return path

    found = read_detections(written(TIMES))
    assert found.labels.tolist() == ["run", "sit down"]
    assert found.times_s.tolist() == [[1, 3], [0, 4]]
    truth = read_annotations(written(TIMES)).segments
    assert truth.labels.tolist() == ["run", "sit down"]
    assert truth.videos.tolist() == ["v", "w"]
    for text in (BOXES, AVA):
        boxes = read_boxes(written(text), scored=True)
        assert boxes.frames.tolist() == [("v", 2_000_000), ("w", 3_000_000)]
        assert boxes.labels.tolist() == ["run", "sit down"]
        assert boxes.boxes.tolist() == [[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]]
        assert boxes.scores.tolist() == [0.5, 0.25]
    tubes = read_tubes(written(TUBES), scored=True)
    assert [(tube.video, tube.label, tube.score) for tube in tubes] == [
        ("v", "run", 0.5),
        ("w", "sit down", 0.25),
    ]


@pytest.mark.parametrize("label", ["a,b", "läuft", "a\u2028b", "a\x0bb", 'a"b', "#1", "a\nb"])
def test_odd_labels_are_kept(tmp_path, label):
    path = tmp_path / "file.csv"
    quoted = '"' + label.replace('"', '""') + '"'
    path.write_text(TIMES.replace("run", quoted), encoding="utf-8")
    assert read_detections(path).labels.tolist() == [label, "sit down"]
    path.write_text(AVA.replace("run", quoted), encoding="utf-8")
    assert read_boxes(path, scored=True).labels.tolist() == [label, "sit down"]


READERS = {
    "times": (TIMES, read_annotations),
    "scored times": (TIMES, read_detections),
    "boxes": (BOXES, lambda path: read_boxes(path, scored=True)),
    "tubes": (TUBES, lambda path: read_tubes(path, scored=True)),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_what_it_would_read_wrong(tmp_path, reader):
    text, read = READERS[reader]
    header, row, _ = text.splitlines()
    last = header.split(",")[3 if reader == "times" else -1]
    path = tmp_path / "file.csv"
    for broken, message in (
        ("", "no column|no known form|has no header"),
        (text.replace(last, "label", 1), "two columns are called"),
        (text.replace(last, "other", 1), f'no column "{last}"'),
        (text.replace("video", "Video", 1), 'no column "video".*did you mean "Video"'),
        (f"{header}\n{row},7\n", "line 2: the row must have"),
        (f"{header}\n{row.rsplit(',', 1)[0]}\n", "line 2: the row must have"),
        (f'{header}\n"{row}\n', "not valid CSV"),
    ):
        path.write_text(broken)
        if reader == "boxes" and not broken:
            assert len(read(path)) == 0  # AVA's form: no key frame
            continue
        with pytest.raises(AnnotationError, match=message):
            read(path)
    for number in ("nan", "inf", "1_0", "x", "", "1e999"):
        cells = row.split(",")
        cells[3] = number
        path.write_text(f"{header}\n{','.join(cells)}\n")
        with pytest.raises(AnnotationError, match="line 2"):
            read(path)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(AnnotationError, match="save it as UTF-8"):
        read(path)


@pytest.mark.parametrize("value", [True, None, [1], "1_0", "nan", float("inf"), 10**400, "1,5"])
def test_what_is_no_number(value):
    with pytest.raises(AnnotationError, match="is no finite number"):
        parse_number(value, "file")
    assert parse_number(" 2.5e1 ", "file") == 25


def test_json_that_would_lose_something(tmp_path):
    for text, message in (
        ('{"v": [], "v": [1]}', '"v" is there twice'),
        ("[" * 100_000, "not valid JSON"),
        ("{", "not valid JSON"),
    ):
        with pytest.raises(AnnotationError, match=message):
            parse_json(text, "file")
    path = tmp_path / "file.json"
    path.write_text("{")
    with pytest.raises(AnnotationError, match="not valid JSON"):
        open_dataset(tmp_path, annotations=path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotations": None}, "no table with a list"),
        ({"annotations": [], "duration": 10**400}, "no finite number"),
        ({"annotations": [], "duration": 0}, "must be > 0"),
        ({"annotations": [{"label": None, "segment": [0, 1]}]}, 'must have a "label"'),
        ({"annotations": [{"label": ["a"], "segment": [0, 1]}]}, 'must have a "label"'),
        ({"annotations": [{"label": " ", "segment": [0, 1]}]}, 'must have a "label"'),
        ({"annotations": [{"label": "a", "segment": [False, True]}]}, "no finite number"),
        ({"annotations": [], "duration_second": 9, "duration_frame": "many"}, "no finite number"),
    ],
)
def test_broken_entries_of_json(tmp_path, entry, message):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"database": {"v": entry}}))
    with pytest.raises(AnnotationError, match=message):
        read_annotations(path)


def test_frame_counts_that_are_text(tmp_path):
    """BMN's duration: of the frames that features reach."""
    path = tmp_path / "truth.json"
    entry = {"annotations": [], "duration_second": 10, "duration_frame": "300"}
    path.write_text(json.dumps({"v": entry | {"feature_frame": "270"}}))
    assert read_annotations(path).durations_s == {"v": 9.0}


def test_results_that_are_no_lists(tmp_path):
    path = tmp_path / "found.json"
    for found in (None, {"label": "run"}, 3):
        path.write_text(json.dumps({"results": {"v": found}}))
        with pytest.raises(AnnotationError, match="video v: its detections must be a list"):
            read_detections(path)


@pytest.mark.parametrize(("column", "values"), [("subset", "training test"), ("duration_s", "5 9")])
def test_one_video_is_of_one_subset_and_length(tmp_path, column, values):
    one, other = values.split()
    path = tmp_path / "truth.csv"
    rows = f"v,run,1,3,{one}\nw,run,1,3,{other}\nv,run,3,4,"
    path.write_text(f"video,label,start_s,end_s,{column}\n{rows}{one}\n")
    assert len(read_annotations(path).segments) == 3
    path.write_text(f"video,label,start_s,end_s,{column}\n{rows}{other}\n")
    with pytest.raises(AnnotationError, match="line 4: video v is of"):
        read_annotations(path)


def test_label_maps_in_any_order(tmp_path):
    path = tmp_path / "labels.pbtxt"
    for text in (
        'item {\n  name: "sit"\n  id: 12\n}\nitem {\n  name: "run (fast)"\n  id: 14\n}\n',
        "item {\n  id: 12\n  name: 'sit'\n}\nitem {\n  id: 14\n  name: 'run (fast)'\n}\n",
        'item { name: "sit" id: 12 } item { name: "run (fast)" id: 14 }',
        'label {\n name: "sit"\n label_id: 12\n label_type: X\n}\nlabel { name:"run (fast)"\n'
        "\tlabel_id:14 }",
        'item { display_name: "b" name: "sit" id: 12 } item { id: 14 name: "run (fast)" }',
    ):
        path.write_text(text)
        assert read_label_map(path) == {"12": "sit", "14": "run (fast)"}
    for other in ('name: "b" id: 1', 'name: "a" id: 2'):
        path.write_text(f'i {{name: "a" id: 1}} i {{{other}}}')
        with pytest.raises(AnnotationError, match="is there twice"):
            read_label_map(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v,0,run,7.5,1,2,8,9,.5", "whole number"),
        ("v,0,run,1e300,1,2,8,9,.5", "whole number"),
        ("v,0,run,8,1,2,-8,9,.5", "must be >= 0"),
        ("v,0,run,7,1,2,8,9,.5", "a frame twice"),
        ("v,0,run,8,1,2,8,9,.75", "has the scores 0.5 to 0.75"),
    ],
)
def test_broken_tubes(tmp_path, row, message):
    path = tmp_path / "tubes.csv"
    path.write_text(f"{TUBES}{row}\n")
    with pytest.raises(AnnotationError, match=message):
        read_tubes(path, scored=True)


def test_lines_end_at_line_breaks_only(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("a\u2028b.mp4\r\nc\x1c.mp4\rd.mp4".encode())
    assert read_lines(path) == ["a\u2028b.mp4\n", "c\x1c.mp4\n", "d.mp4"]
    path.write_text(" a ;b\n1; 2\n;\n")
    assert csv_rows(path) == (["a", "b"], [(f"{path}, line 2", {"a": "1", "b": "2"})])


class TestCommands:
    def test_boxes_of_two_units_are_told(self, tmp_path):
        truth, found = tmp_path / "truth.csv", tmp_path / "found.csv"
        truth.write_text(BOXES.replace(",score", "").replace(",.5\n", "\n").replace(",.25\n", "\n"))
        found.write_text(BOXES.replace(".5,.6", "120,90"))
        arguments = ("detect", "eval", truth, found, "--protocol", "ava")
        ran = run_cli(*arguments)
        assert ran.status == 0
        assert "boxes of the truth reach to 1, those of the detections to 120: pixels" in ran.err

    def test_detections_backwards_are_told(self, tmp_path):
        truth, found = tmp_path / "truth.csv", tmp_path / "found.csv"
        truth.write_text(TIMES)
        found.write_text(TIMES.replace("1,3", "3,1"))
        ran = run_cli("localise", "eval", truth, found, "--json")
        assert (ran.status, json.loads(ran.out)["average"]) == (0, pytest.approx(0.5))
        assert "1 detections end before they begin" in ran.err

    @pytest.mark.parametrize("text", [".1:1e-9:.5", ".5:1e-300:.6", "nan", "0", ".5:nan:.6"])
    def test_thresholds_without_end(self, tmp_path, text):
        (tmp_path / "truth.csv").write_text(TIMES)
        arguments = ("localise", "eval", tmp_path / "truth.csv", tmp_path / "truth.csv")
        ran = run_cli(*arguments, "--tiou", text)
        assert (ran.status, "fault of flowpipe" in ran.err) == (2, False)


def test_probe_takes_folds_of_a_csv_with_semicolons(tmp_path):
    """The header was read by commas alone, so that the folds were drawn at random."""
    from flowpipe.cli.probe import _from_csv

    rows = "".join(f"{n}.mp4;{'ab'[n % 2]};{n // 2}\n" for n in range(4))
    (tmp_path / "list.csv").write_text(f"video;label;fold\n{rows}")
    dataset = _from_csv(tmp_path / "list.csv", None, "label", None)
    assert [video.folds for video in dataset.videos] == [("0",), ("0",), ("1",), ("1",)]
    assert np.unique([video.label for video in dataset.videos]).tolist() == ["a", "b"]
