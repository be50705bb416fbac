"""Official files of UCF101, HMDB51 and Kinetics, in small."""

import pytest

from flowpipe.datasets.annotations import from_csv
from flowpipe.datasets.official import from_kinetics, hmdb51_split, split_numbers, ucf101_split
from flowpipe.datasets.splits import split_fold
from flowpipe.datasets.video import Dataset, Video
from flowpipe.errors import AnnotationError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def folds(read):
    return {record.id: record.fold for record in read.records}


@pytest.fixture
def ucf101(tmp_path):
    lists = tmp_path / "lists"
    write(lists / "classInd.txt", "1 Walk\n2 Archery\n")
    write(lists / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2\nWalk/v_Walk_g08_c01.avi 1\n")
    write(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi\nWalk/v_Walk_g01_c02.avi\n")
    write(lists / "trainlist02.txt", "Archery/v_Archery_g01_c01.avi 2\n")
    write(lists / "testlist02.txt", "Walk/v_Walk_g08_c01.avi\n")
    for line in ("Archery/v_Archery_g08_c01", "Archery/v_Archery_g01_c01", "Walk/v_Walk_g08_c01"):
        write(tmp_path / "videos" / f"{line}.avi", "")
    write(tmp_path / "videos" / "Walk/v_Walk_g01_c02.avi", "")
    return tmp_path


def test_ucf101_split(ucf101):
    read = ucf101_split(ucf101 / "lists", ucf101 / "videos", 1)
    assert folds(read) == {
        "Archery/v_Archery_g08_c01.avi": "train",
        "Walk/v_Walk_g08_c01.avi": "train",
        "Archery/v_Archery_g01_c01.avi": "test",
        "Walk/v_Walk_g01_c02.avi": "test",
    }
    assert read.classes == ("Walk", "Archery")  # the official order
    train, test = split_fold(read, "test")
    assert (len(train), len(test)) == (2, 2)
    assert split_numbers("ucf101", ucf101 / "lists") == [1, 2]
    with pytest.raises(AnnotationError, match="split 4 must be one of 1, 2"):
        ucf101_split(ucf101 / "lists", ucf101 / "videos", 4)


def test_ucf101_video_in_both_lists(ucf101):
    write(ucf101 / "lists" / "testlist01.txt", "Walk/v_Walk_g08_c01.avi\n")
    with pytest.raises(AnnotationError, match=r"g08_c01\.avi\" listed more than once"):
        ucf101_split(ucf101 / "lists", ucf101 / "videos", 1)


def test_hmdb51_split(tmp_path):
    lists = tmp_path / "lists"
    write(lists / "brush_hair_test_split1.txt", "a b#c.avi 1\nd.avi 2 \ne.avi 0\n")
    write(lists / "wave_test_split1.txt", "f.avi 1\ng.avi 2\n")
    write(lists / "wave_test_split2.txt", "f.avi 2\ng.avi 1\n")
    for name in ("brush_hair/a b#c.avi", "brush_hair/d.avi", "wave/f.avi", "wave/g.avi"):
        write(tmp_path / "videos" / name, "")
    read = hmdb51_split(lists, tmp_path / "videos", 1)
    assert folds(read) == {
        "brush_hair/a b#c.avi": "train",
        "brush_hair/d.avi": "test",
        "wave/f.avi": "train",
        "wave/g.avi": "test",
    }
    assert read.classes == ("brush_hair", "wave")
    assert {record.label for record in read.records} == {"brush_hair", "wave"}
    assert split_numbers("hmdb51", lists) == [1, 2]
    write(lists / "wave_test_split1.txt", "f.avi 3\n")
    with pytest.raises(AnnotationError, match=r"line 1: \"3\" behind the video must be 1 .train."):
        hmdb51_split(lists, tmp_path / "videos", 1)
    with pytest.raises(AnnotationError, match="holds no split file of ucf101"):
        split_numbers("ucf101", lists)
    with pytest.raises(AnnotationError, match="is not a folder"):
        split_numbers("hmdb51", tmp_path / "none")


KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
riding a bike,abcdefghijk,3,13,train,0
"clapping, loud",-bcdefghijk,120,130,val,0
testifying,ccdefghijkl,0,10,train,1
"""


def test_kinetics_list_finds_each_usual_place(tmp_path):
    root = tmp_path / "videos"
    write(root / "riding_a_bike" / "abcdefghijk_000003_000013.mp4", "")
    write(root / "val" / "clapping, loud" / "-bcdefghijk_000120_000130.mkv", "")
    write(root / "ccdefghijkl.webm", "")
    read = from_kinetics(write(tmp_path / "k.csv", KINETICS), root)
    assert folds(read) == {
        "riding_a_bike/abcdefghijk_000003_000013.mp4": "train",
        "val/clapping, loud/-bcdefghijk_000120_000130.mkv": "val",
        "ccdefghijkl.webm": "train",
    }
    assert [record.label for record in read.records] == [
        "riding a bike", "clapping, loud", "testifying",
    ]  # fmt: skip


def test_kinetics_videos_that_are_gone(tmp_path):
    root = tmp_path / "videos"
    write(root / "testifying" / "ccdefghijkl_000000_000010.mp4", "")
    path = write(tmp_path / "k.csv", KINETICS)
    with pytest.raises(AnnotationError, match="2 of 3 videos not found"):
        from_kinetics(path, root)
    assert len(from_kinetics(path, root, skip_missing=True)) == 1
    with pytest.raises(AnnotationError, match="none of its videos is below"):
        from_kinetics(path, tmp_path / "elsewhere", skip_missing=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("label,time_start,time_end\n", 'no column "youtube_id"'),
        ("youtube_id,time_start,time_end\nabc,one,2\n", "must be seconds"),
        ("youtube_id,time_start,time_end\nabc,1\n", "must have 3 values"),
    ],
)
def test_kinetics_list_that_is_broken(tmp_path, text, told):
    with pytest.raises(AnnotationError, match=told):
        from_kinetics(write(tmp_path / "k.csv", text), tmp_path)


def test_csv_of_several_labels(tmp_path):
    write(tmp_path / "a.mp4", "")
    write(tmp_path / "b.mp4", "")
    path = write(tmp_path / "list.csv", "video,label\na.mp4,run; jump\nb.mp4,swim\n")
    read = from_csv(path, tmp_path, label_separator=";")
    assert [record.labels for record in read.records] == [("run", "jump"), ("swim",)]
    assert [record.label for record in read.records] == ["run", "swim"]
    assert read.classes == ("jump", "run", "swim")
    write(path, "video,label\na.mp4,run;\n")
    with pytest.raises(AnnotationError, match=r"line 2: .*label is empty"):
        from_csv(path, tmp_path, label_separator=";")
    write(path, "video,label\na.mp4,run;run\n")
    with pytest.raises(AnnotationError, match="one stands twice"):
        from_csv(path, tmp_path, label_separator=";")


def test_every_label_must_be_a_class(tmp_path):
    record = Video("a.mp4", tmp_path / "a.mp4", "run", more_labels=("jmp",))
    with pytest.raises(AnnotationError, match=r'"jmp" is not among .* \(did you mean "jump"'):
        Dataset((record,), ("run", "jump"))


def test_only_the_training_split_trains(tmp_path):
    from flowpipe.errors import ConfigError
    from flowpipe.experiment.data import divide, load_annotations
    from flowpipe.experiment.settings import settings_from

    rows = ["video,label,split"]
    for split in ("train", "val", "test"):
        for label in ("run", "jump"):
            write(tmp_path / f"{split}-{label}.mp4", "")
            rows.append(f"{split}-{label}.mp4,{label},{split}")
    write(tmp_path / "list.csv", "\n".join(rows) + "\n")
    data = {"root": ".", "annotations": "list.csv", "fold_column": "split"}
    table = {"data": data, "streams": {"spatial": {"input": "rgb"}}}
    settings = settings_from(table, where="test", folder=tmp_path)
    for fold, name in ((None, "test"), ("all", "test"), ("val", "val")):
        (division,) = divide(settings, load_annotations(settings), fold)
        assert division.name == name
        assert {record.fold for record in division.train.records} == {"train"}
        assert {record.fold for record in division.test.records} == {name}
    with pytest.raises(AnnotationError, match='fold "first" must be one of'):
        divide(settings, load_annotations(settings), "first")

    data = {"root": "videos", "annotations": "../lists", "form": "hmdb51"}
    for label in ("run", "jump"):
        write(tmp_path / "lists" / f"{label}_test_split1.txt", "a.avi 1\nb.avi 2\nc.avi 0\n")
        write(tmp_path / "lists" / f"{label}_test_split2.txt", "a.avi 2\nb.avi 0\nc.avi 1\n")
        for name in "abc":
            write(tmp_path / "videos" / label / f"{name}.avi", "")
    settings = settings_from({**table, "data": data}, where="test", folder=tmp_path)
    annotations = load_annotations(settings)
    assert len(annotations) == 6  # extraction needs what any split uses
    one, two = divide(settings, annotations, "all")
    assert [record.id for record in one.test.records] == ["jump/b.avi", "run/b.avi"]
    assert [record.id for record in two.train.records] == ["jump/c.avi", "run/c.avi"]
    with pytest.raises(ConfigError, match='no split "3"; there are: 1, 2'):
        divide(settings, annotations, "3")
