"""Lists of videos: what is read, what is refused, and that splits tear no group apart."""

from pathlib import Path

import pytest

from flowpipe.datasets import annotations
from flowpipe.datasets.annotations import Dataset, Video
from flowpipe.errors import AnnotationError, InvalidArgument, VideoNotFound


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "videos"
    for name in ("run/a b.avi", "run/ü.avi", "walk/c.mp4", "walk/deep/d.AVI"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    (folder / "run" / "notes.txt").write_text("not a video")
    return folder


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def ids(annotated):
    return [record.id for record in annotated.records]


def test_csv_with_folds_leaves_out_rows_without_one(root, tmp_path):
    text = "clip,label,actor,fold\nrun/a b.avi,run,x,0\nrun/ü.avi,run,y,\nwalk/c.mp4,walk,y,1\n"
    path = write(tmp_path / "list.csv", text, "utf-8-sig")
    read = annotations.from_csv(path, root, fold_column="fold", group_column="actor")
    assert ids(read) == ["run/a b.avi", "walk/c.mp4"]
    assert read.records[0] == Video(
        "run/a b.avi", root / "run/a b.avi", label="run", fold="0", group="x"
    )
    assert read.classes == ("run", "walk")
    assert ids(annotations.from_csv(path, root)) == ["run/a b.avi", "run/ü.avi", "walk/c.mp4"]


@pytest.mark.parametrize("column", ["video", "clip", "path", "file", "name"])
def test_csv_column_of_videos_is_found(root, tmp_path, column):
    path = write(tmp_path / "list.csv", f"label,{column}\nrun,run/ü.avi\n")
    assert ids(annotations.from_csv(path, root)) == ["run/ü.avi"]


def test_csv_with_named_columns_and_without_labels(root, tmp_path):
    path = write(tmp_path / "list.csv", 'where,what\n"run/a b.avi",x\n')
    read = annotations.from_csv(path, root, video_column="where", label_column=None)
    assert read.records[0].label is None
    assert read.classes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("movie,label\nrun/ü.avi,run\n", "no column of videos among movie, label"),
        ("clip,lable\nrun/ü.avi,run\n", 'no column "label".*did you mean "lable"'),
        ("clip,label\nrun/ü.avi\n", "line 2: the row must have 2 values"),
        ("clip,label\nrun/ü.avi,run,more\n", "line 2: the row must have 2 values"),
        ("clip,label\nrun/ü.avi,\n", 'line 2: column "label" is empty'),
        ("clip,label\n,run\n", "line 2: video path .* is empty"),
        ("clip,label\n../x.avi,run\n", r'line 2: "../x.avi" holds "\.\."'),
        ("clip,label\n/x.avi,run\n", "line 2: .* is absolute"),
        ("clip,label\nC:\\x.avi,run\n", "line 2: .* is absolute"),
        ("clip,label\nrun/\x07.avi,run\n", "line 2: .* control character"),
        ("clip,label\nrun/ü.avi,run\nrun/ü.avi,run\n", "listed more than once"),
        ('clip,label\n"run/ü.avi,run\n', "not valid CSV"),
        ("clip,label\n", "no video is listed"),
        ("", "no column of videos"),
    ],
)
def test_broken_csv_is_refused_with_its_place(root, tmp_path, text, message):
    path = write(tmp_path / "list.csv", text)
    with pytest.raises(AnnotationError, match=message):
        annotations.from_csv(path, root)


def test_file_that_is_absent_or_not_utf8_is_refused(root, tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read: No such file"):
        annotations.from_csv(tmp_path / "absent.csv", root)
    path = write(tmp_path / "list.csv", "clip,label\nrun/ü.avi,run\n", "latin-1")
    with pytest.raises(AnnotationError, match="must be UTF-8"):
        annotations.from_csv(path, root)


def test_missing_videos_are_told_in_one_error(root, tmp_path):
    rows = "".join(f"gone/{number}.avi,run\n" for number in range(8))
    path = write(tmp_path / "list.csv", f"clip,label\nrun/ü.avi,run\n{rows}")
    with pytest.raises(AnnotationError, match=r'8 of 9 videos not found: "gone/0.avi".* 3 more'):
        annotations.from_csv(path, root)
    assert len(annotations.from_csv(path, root, check_files=False)) == 9
    with pytest.raises(AnnotationError, match="check the root folder"):
        annotations.from_csv(path, tmp_path / "elsewhere")


def test_class_folders(root):
    read = annotations.from_folders(root)
    assert [(r.id, r.label) for r in read.records] == [
        ("run/a b.avi", "run"),
        ("run/ü.avi", "run"),
        ("walk/c.mp4", "walk"),
        ("walk/deep/d.AVI", "walk"),
    ]
    (root / "stray.avi").write_bytes(b"video")
    with pytest.raises(AnnotationError, match=r'"stray.avi" stands outside of a class folder'):
        annotations.from_folders(root)


def test_class_folders_without_videos_or_root(tmp_path):
    with pytest.raises(AnnotationError, match="no video is listed"):
        annotations.from_folders(tmp_path)
    with pytest.raises(VideoNotFound, match="is not a directory"):
        annotations.from_folders(tmp_path / "absent")


UCF = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
ARCHERY = "Archery/v_Archery_g01_c02.avi"


def test_ucf101_training_and_test_lists(tmp_path):
    train = write(tmp_path / "trainlist01.txt", f"{UCF} 1\r\n{ARCHERY} 2\r\n")
    test = write(tmp_path / "testlist01.txt", f"{ARCHERY}\n\n")
    index = write(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\n2 Archery\n3 YoYo\n")
    read = annotations.from_ucf101(train, tmp_path, index, check_files=False)
    assert [(r.id, r.label, r.group) for r in read.records] == [
        (UCF, "ApplyEyeMakeup", "v_ApplyEyeMakeup_g08"),
        (ARCHERY, "Archery", "v_Archery_g01"),
    ]
    assert read.classes == ("ApplyEyeMakeup", "Archery", "YoYo")
    tested = annotations.from_ucf101(test, tmp_path, check_files=False)
    assert tested.records[0].label == "Archery"
    assert tested.classes == ("Archery",)


@pytest.mark.parametrize(
    ("listed", "index", "message"),
    [
        (f"{UCF} 2\n", "1 ApplyEyeMakeup\n", 'line 1: class number "2" does not belong'),
        (f"{UCF} 1\n{UCF[:-5]}2.avi 2\n", None, 'line 2: class number "2" does not belong'),
        ("v_x.avi 1\n", None, "must be <class>/<file>"),
        (f"{ARCHERY}\n", "1 ApplyEyeMakeup\n", 'label "Archery" is not among the 1 classes'),
        (f"{UCF} 1\n", "2 ApplyEyeMakeup\n", "numbers rising from 1"),
    ],
)
def test_ucf101_lists_that_disagree_are_refused(tmp_path, listed, index, message):
    path = write(tmp_path / "list.txt", listed)
    index_path = index and write(tmp_path / "classInd.txt", index)
    with pytest.raises(AnnotationError, match=message):
        annotations.from_ucf101(path, tmp_path, index_path, check_files=False)


def test_plain_list_with_spaces_in_names_and_labels(root, tmp_path):
    text = "# films\nrun/a b.avi long run\n\nwalk/deep/d.AVI\twalk\n"
    read = annotations.from_list(write(tmp_path / "list.txt", text, "utf-8-sig"), root)
    assert [(r.id, r.label) for r in read.records] == [
        ("run/a b.avi", "long run"),
        ("walk/deep/d.AVI", "walk"),
    ]
    bare = annotations.from_list(write(tmp_path / "bare.txt", "run/ü.avi\n"), root)
    assert bare.records[0].label is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run/ü.avi\nsome words\n", 'line 2: "some words" names no video file'),
        ("run/ü.avi run\nwalk/c.mp4\n", '"walk/c.mp4" without a label'),
    ],
)
def test_broken_plain_list_is_refused(root, tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        annotations.from_list(write(tmp_path / "list.txt", text), root)


def made(labels, groups=None, folds=None):
    records = [
        Video(
            f"{label}/{number}.avi",
            Path("x"),
            label,
            fold=folds[number] if folds else None,
            group=groups[number] if groups else None,
        )
        for number, label in enumerate(labels)
    ]
    return Dataset(tuple(records), tuple(sorted(set(labels))))


def test_a_label_outside_of_the_classes_is_refused():
    with pytest.raises(AnnotationError, match=r'"runn" is not among the 1 classes.*"run"'):
        Dataset((Video("a.avi", Path("a.avi"), "runn"),), ("run",))
    with pytest.raises(AnnotationError, match="a class name stands twice"):
        Dataset((Video("a.avi", Path("a.avi")),), ("run", "run"))


def test_fold_is_the_test_half():
    whole = made("aabbc", folds=["10", "2", "2", "x", None])
    assert annotations.folds(whole) == ["2", "10", "x"]
    train, test = annotations.split_fold(whole, 2)
    assert ids(test) == ["a/1.avi", "b/2.avi"]
    assert ids(train) == ["a/0.avi", "b/3.avi"]
    assert train.classes == test.classes == ("a", "b", "c")
    with pytest.raises(AnnotationError, match='fold "3" must be one of: 2, 10, x'):
        annotations.split_fold(whole, 3)
    with pytest.raises(AnnotationError, match="the only fold"):
        annotations.split_fold(made("ab", folds=["0", "0"]), 0)


@pytest.mark.parametrize("seed", range(5))
def test_seeded_split_keeps_groups_whole_and_covers_classes(seed):
    labels = [label for label in "abcd" for _ in range(12)]
    whole = made(labels, groups=[f"actor{number % 6}" for number in range(48)])
    train, test = annotations.seeded_split(whole, test_fraction=0.3, seed=seed)
    assert {r.group for r in train.records}.isdisjoint({r.group for r in test.records})
    assert sorted(ids(train) + ids(test)) == sorted(ids(whole))
    assert {r.label for r in train.records} == {r.label for r in test.records} == set("abcd")
    assert len(test) == 16  # two of six actors: nearest to 0.3


def test_seeded_split_depends_on_the_seed_and_not_on_the_order():
    whole = made("a" * 40)
    backwards = Dataset(whole.records[::-1], whole.classes)
    halves = [annotations.seeded_split(whole, seed=seed)[1] for seed in (1, 1, 2)]
    assert ids(halves[0]) == ids(halves[1]) != ids(halves[2])
    assert sorted(ids(annotations.seeded_split(backwards, seed=1)[1])) == sorted(ids(halves[0]))
    assert len(halves[0]) == 10


def test_seeded_split_reads_groups_from_the_id():
    names = [f"a/v_a_g{group:02}_c{clip:02}.avi" for group in range(8) for clip in range(3)]
    records = tuple(Video(name, Path(name), "a") for name in names)
    whole = Dataset(records, ("a",))
    train, test = annotations.seeded_split(whole, group_pattern=r"_(g\d+)_c")
    assert len(test) == 6
    assert {i[6:9] for i in ids(train)}.isdisjoint({i[6:9] for i in ids(test)})


def test_class_of_a_single_group_stays_in_training():
    whole = made("aaab", groups=["x", "y", "z", "w"])
    train, test = annotations.seeded_split(whole)
    assert [r.label for r in test.records] == ["a"]
    assert {r.label for r in train.records} == {"a", "b"}
    with pytest.raises(AnnotationError, match="every class stands in one group only"):
        annotations.seeded_split(made("ab"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 1.0}, "test_fraction 1.0 must be between 0 and 1"),
        ({"group_pattern": "("}, "must be a regular expression"),
    ],
)
def test_seeded_split_refuses_wrong_arguments(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        annotations.seeded_split(made("aa"), **arguments)


@pytest.mark.data
def test_weizmann_splits(shared_data):
    folder = shared_data / "weizmann"
    read = annotations.from_csv(
        folder / "splits.csv", folder, fold_column="fold_leave_one_actor_out", group_column="actor"
    )
    assert len(read) == 90
    assert len(read.classes) == 10
    assert annotations.folds(read) == [str(fold) for fold in range(9)]
    for fold in range(9):
        train, test = annotations.split_fold(read, fold)
        assert (len(train), len(test)) == (80, 10)
        assert {r.group for r in train.records}.isdisjoint({r.group for r in test.records})
