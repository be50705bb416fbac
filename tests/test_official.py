"""Official files of UCF101, HMDB51 and Kinetics, in small."""

import numpy as np
import pytest

from flowpipe.datasets import (
    Dataset,
    Video,
    folds,
    from_csv,
    from_hmdb51,
    from_kinetics,
    from_ucf101,
    split_fold,
)
from flowpipe.errors import AnnotationError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def halves(read, fold):
    """Return the ids of the training and of the test half."""
    return tuple([video.id for video in half.videos] for half in split_fold(read, fold))


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


def test_ucf101(ucf101):
    read = from_ucf101(ucf101 / "lists", ucf101 / "videos")
    walk, archery = "Walk/v_Walk_g{}.avi", "Archery/v_Archery_g{}.avi"
    assert read.classes == ("Walk", "Archery")  # the official order
    assert folds(read) == ["1", "2"]
    assert halves(read, "1") == (
        [walk.format("08_c01"), archery.format("08_c01")],
        [walk.format("01_c02"), archery.format("01_c01")],
    )
    assert halves(read, "2") == ([archery.format("01_c01")], [walk.format("08_c01")])
    assert [(video.label, video.group) for video in read.videos] == [
        ("Walk", "v_Walk_g01"),
        ("Walk", "v_Walk_g08"),
        ("Archery", "v_Archery_g01"),
        ("Archery", "v_Archery_g08"),
    ]
    (ucf101 / "lists" / "classInd.txt").unlink()
    assert from_ucf101(ucf101 / "lists", ucf101 / "videos").classes == ("Archery", "Walk")
    (ucf101 / "videos" / walk.format("01_c02")).unlink()
    with pytest.raises(AnnotationError, match="1 of 4 videos not found"):
        from_ucf101(ucf101 / "lists", ucf101 / "videos")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("testlist01.txt", "Walk/v_Walk_g08_c01.avi\n", r'split 1 of .*c01\.avi" listed more than'),
        ("trainlist01.txt", "Walk/v_Walk_g08_c01.avi 2\n", 'line 1: class number "2" does not be'),
        ("trainlist01.txt", "v_x.avi 1\n", "line 1: .* must be <class>/<file>"),
        (
            "trainlist01.txt",
            "Run/v_Run_g08_c01.avi 1\n",
            'line 1: "Run" is not among the 2 classes',
        ),
        ("classInd.txt", "2 Walk\n", "numbers rising from 1"),
        ("testlist03.txt", "Walk/v_Walk_g08_c01.avi\n", "has no trainlist03.txt"),
    ],
)
def test_ucf101_lists_that_disagree(ucf101, name, text, message):
    write(ucf101 / "lists" / name, text)
    with pytest.raises(AnnotationError, match=message):
        from_ucf101(ucf101 / "lists", ucf101 / "videos")


def test_hmdb51(tmp_path):
    lists = tmp_path / "lists"
    write(lists / "brush_hair_test_split1.txt", "a b#c.avi 1\n#d.avi 2 \ne.avi 0\n")
    write(lists / "wave_test_split1.txt", "f.avi 1\ng.avi 2\n")
    write(lists / "wave_test_split2.txt", "f.avi 2\ng.avi 1\n")
    for name in ("brush_hair/a b#c.avi", "brush_hair/#d.avi", "wave/f.avi", "wave/g.avi"):
        write(tmp_path / "videos" / name, "")
    read = from_hmdb51(lists, tmp_path / "videos")
    assert folds(read) == ["1", "2"]
    assert halves(read, 1) == (
        ["brush_hair/a b#c.avi", "wave/f.avi"],
        ["brush_hair/#d.avi", "wave/g.avi"],
    )
    assert halves(read, 2) == (["wave/g.avi"], ["wave/f.avi"])
    assert read.classes == ("brush_hair", "wave")
    assert {video.label for video in read.videos} == {"brush_hair", "wave"}
    write(lists / "wave_test_split1.txt", "f.avi 3\n")
    with pytest.raises(AnnotationError, match=r"line 1: \"3\" behind the video must be 1 .train."):
        from_hmdb51(lists, tmp_path / "videos")
    with pytest.raises(AnnotationError, match="holds no split file of UCF101"):
        from_ucf101(lists, tmp_path / "videos")
    with pytest.raises(AnnotationError, match="is not a folder"):
        from_hmdb51(tmp_path / "none", tmp_path / "videos")


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
    assert {video.id: video.folds[0] for video in read.videos} == {
        "riding_a_bike/abcdefghijk_000003_000013.mp4": "train",
        "val/clapping, loud/-bcdefghijk_000120_000130.mkv": "val",
        "ccdefghijkl.webm": "train",
    }
    assert [video.label for video in read.videos] == [
        "riding a bike", "clapping, loud", "testifying",
    ]  # fmt: skip


def test_kinetics_videos_that_are_gone(tmp_path):
    root = tmp_path / "videos"
    write(root / "testifying" / "ccdefghijkl_000000_000010.mp4", "")
    path = write(tmp_path / "k.csv", KINETICS)
    with pytest.raises(AnnotationError, match="2 of 3 videos not found"):
        from_kinetics(path, root)
    assert len(from_kinetics(path, root, missing="skip")) == 1
    with pytest.raises(AnnotationError, match=r"3 of 3 videos not found.*check the root folder"):
        from_kinetics(path, tmp_path / "elsewhere", missing="skip")


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
    assert [video.labels for video in read.videos] == [("run", "jump"), ("swim",)]
    assert [video.label for video in read.videos] == ["run", "swim"]
    assert read.classes == ("jump", "run", "swim")
    write(path, "video,label\na.mp4,run;\n")
    with pytest.raises(AnnotationError, match=r"line 2: .*label is empty"):
        from_csv(path, tmp_path, label_separator=";")
    write(path, "video,label\na.mp4,run;run\n")
    with pytest.raises(AnnotationError, match="one is given twice"):
        from_csv(path, tmp_path, label_separator=";")


def test_every_label_must_be_a_class(tmp_path):
    video = Video("a.mp4", tmp_path / "a.mp4", ("run", "jmp"))
    with pytest.raises(AnnotationError, match=r'"jmp" is not among .* \(did you mean "jump"'):
        Dataset((video,), ("run", "jump"))


def test_only_the_training_split_trains(tmp_path):
    from flowpipe.errors import ConfigError
    from flowpipe.experiment.data import choose_folds, make_fold, read_dataset
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
        dataset = read_dataset(settings.data)
        assert choose_folds(dataset, fold) == [name]
        division = make_fold(settings.data, dataset, name, seed=0)
        assert {video.folds for video in division.train.videos} == {("train",)}
        assert {video.folds for video in division.test.videos} == {(name,)}
    (tmp_path / "list.csv").write_text("\n".join(rows[:3]) + "\n")
    with pytest.raises(ConfigError, match='all 2 videos are of the fold "train", none is left'):
        read_dataset(settings.data)
    (tmp_path / "list.csv").write_text("\n".join(rows[:2]) + "\n")
    with pytest.raises(AnnotationError, match="holds videos of 1 class; a classifier needs two"):
        read_dataset(settings.data)
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(AnnotationError, match='fold "first" must be one of'):
        make_fold(settings.data, dataset, "first", seed=0)

    data = {"root": "videos", "annotations": "../lists", "form": "hmdb51"}
    for label in ("run", "jump"):
        write(tmp_path / "lists" / f"{label}_test_split1.txt", "a.avi 1\nb.avi 2\nc.avi 0\n")
        write(tmp_path / "lists" / f"{label}_test_split2.txt", "a.avi 2\nb.avi 0\nc.avi 1\n")
        for name in "abc":
            write(tmp_path / "videos" / label / f"{name}.avi", "")
    settings = settings_from({**table, "data": data}, where="test", folder=tmp_path)
    dataset = read_dataset(settings.data)
    assert len(dataset) == 6  # extraction needs what any split uses
    names = choose_folds(dataset, "all")
    one, two = (make_fold(settings.data, dataset, name, seed=0) for name in names)
    assert [video.id for video in one.test.videos] == ["jump/b.avi", "run/b.avi"]
    assert [video.id for video in two.train.videos] == ["jump/c.avi", "run/c.avi"]
    with pytest.raises(AnnotationError, match='fold "3" must be one of: 1, 2'):
        make_fold(settings.data, dataset, "3", seed=0)


def test_tests_that_overlap_are_joined():
    """As of HMDB51's official splits: one video tested twice has two rows."""
    from flowpipe.experiment.results import concatenate
    from flowpipe.scores import Scores

    def scores(*ids):
        shares_NK = np.tile([0.25, 0.75], (len(ids), 1))
        return Scores(
            ids=ids,
            labels_N=np.zeros(len(ids), int),
            probabilities_NK=shares_NK,
            logits_NK=np.log(shares_NK),
            classes=("a", "b"),
            stream="rgb",
        )

    joined = concatenate([scores("x", "y"), scores("y", "z"), scores("x", "y")], ["1", "2", "3"])
    assert joined.ids == ("x", "y", "y (fold 2)", "z", "x (fold 3)", "y (fold 3)")
    assert joined.probabilities_NK.shape == (6, 2)


def test_classes_that_a_fold_tests_but_does_not_train():
    from flowpipe.experiment.results import Fold

    def half(*labels):
        videos = tuple(Video(f"{n}.avi", "x", (label,)) for n, label in enumerate(labels))
        return Dataset(videos, ("a", "b", "c"))

    assert Fold("1", half("a", "b"), half("a", "c", "b")).untrained == ["c"]
    assert Fold("1", half("a", "b"), half("b")).untrained == []
