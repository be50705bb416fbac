"""Lists of videos: what is read, what is refused, and that splits tear no group apart."""

from pathlib import Path

import pytest

from flowpipe import datasets
from flowpipe.datasets import Dataset, Span, Video, open_dataset, videos_of
from flowpipe.datasets.readers import VIDEO_COLUMNS, clean_name, list_videos
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
    return [video.id for video in annotated.videos]


def test_csv_with_folds_leaves_out_rows_without_one(root, tmp_path):
    text = "clip,label,actor,fold\nrun/a b.avi,run,x,0\nrun/ü.avi,run,y,\nwalk/c.mp4,walk,y,1\n"
    path = write(tmp_path / "list.csv", text, "utf-8-sig")
    read = datasets.from_csv(path, root, fold_column="fold", group_column="actor")
    assert ids(read) == ["run/a b.avi", "walk/c.mp4"]
    assert read.videos[0] == Video("run/a b.avi", root / "run/a b.avi", ("run",), "x", ("0",))
    assert read.classes == ("run", "walk")
    assert ids(datasets.from_csv(path, root)) == ["run/a b.avi", "run/ü.avi", "walk/c.mp4"]


@pytest.mark.parametrize("column", VIDEO_COLUMNS)
def test_csv_column_of_videos_is_found(root, tmp_path, column):
    path = write(tmp_path / "list.csv", f"label,{column}\nrun,run/ü.avi\n")
    assert ids(datasets.from_csv(path, root)) == ["run/ü.avi"]


@pytest.mark.parametrize("mark", [",", ";", "\t", ", "])
def test_csv_of_other_programs(root, tmp_path, mark):
    """Separators, upper case, paths as Windows writes them, names without extension."""
    rows = [("Label", "Filename"), ("run", "run\\ü.avi"), ("walk", "c"), ("walk", "walk/deep/d")]
    path = write(tmp_path / "list.csv", "\n".join(mark.join(row) for row in rows) + "\n")
    read = datasets.from_csv(path, root, label_column="Label")
    assert [(v.id, v.label) for v in read.videos] == [
        ("run/ü.avi", "run"), ("walk/c.mp4", "walk"), ("walk/deep/d.AVI", "walk"),
    ]  # fmt: skip
    assert datasets.open_dataset(root, path) == read
    path = path.rename(root / "list.tsv")
    assert [(v.id, v.label) for v in videos_of(path)[0]] == [(v.id, v.label) for v in read.videos]


def test_csv_with_named_columns_and_without_labels(root, tmp_path):
    path = write(tmp_path / "list.csv", 'where,what\n"run/a b.avi",x\n')
    read = datasets.from_csv(path, root, video_column="where", label_column=None)
    assert read.videos[0].label is None
    assert read.classes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("movie,label\nrun/ü.avi,run\n", "no column of videos among movie, label"),
        ("clip,lable\nrun/ü.avi,run\n", 'no column "label".*did you mean "lable"'),
        ("clip,label\nrun/ü.avi\n", "line 2: the row must have 2 values"),
        ("clip,label\nrun/ü.avi,run,more\n", "line 2: the row must have 2 values"),
        ("clip,label\nrun/ü.avi,\n", '"run/ü.avi" without a label'),
        ("clip,label\n,run\n", "line 2: video path .* is empty"),
        ("clip,label\n../x/..,run\n", r'line 2: ".." holds "\.\."'),
        ("clip,label\nC:\\x.avi,run\n", "line 2: .* is absolute"),
        ("clip,label\nrun/\x07.avi,run\n", r'1 of 1 videos not found: "run/\\x07.avi"'),
        ("clip,label\nrun/ü.avi,run\nrun/ü.avi,run\n", "listed more than once"),
        ('clip,label\n"run/ü.avi,run\n', "not valid CSV"),
        ("clip,label,label\nrun/ü.avi,run,x\n", 'two columns are called "label"'),
        ("clip,label,start_s,end_s\nrun/ü.avi,run,2,1\n", 'line 2: start_s "2" and end_s "1" must'),
        ("clip,label,start_s,end_s\nrun/ü.avi,run,x,1\n", 'line 2: start_s "x" and end_s "1" must'),
        ("clip,label\n", "no video is listed"),
        ("", "no column of videos"),
    ],
)
def test_broken_csv_is_refused_with_its_place(root, tmp_path, text, message):
    path = write(tmp_path / "list.csv", text)
    with pytest.raises(AnnotationError, match=message):
        datasets.from_csv(path, root)


def test_file_that_is_absent_or_not_utf8_is_refused(root, tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read: No such file"):
        datasets.from_csv(tmp_path / "absent.csv", root)
    path = write(tmp_path / "list.csv", "clip,label\nrun/ü.avi,run\n", "latin-1")
    with pytest.raises(AnnotationError, match="must be UTF-8"):
        datasets.from_csv(path, root)


def test_missing_videos_are_told_in_one_error(root, tmp_path):
    rows = "".join(f"gone/{number}.avi,run\n" for number in range(8))
    path = write(tmp_path / "list.csv", f"clip,label\nrun/ü.avi,run\n{rows}")
    with pytest.raises(AnnotationError, match=r'8 of 9 videos not found: "gone/0.avi".* 3 more'):
        datasets.from_csv(path, root)
    assert len(datasets.from_csv(path, root, missing="keep")) == 9
    for missing in ("refuse", "skip"):
        with pytest.raises(AnnotationError, match="check the root folder"):
            datasets.from_csv(path, tmp_path / "elsewhere", missing=missing)
    skipped = datasets.from_csv(path, root, missing="skip")
    assert ids(skipped) == ["run/ü.avi"]
    (note,) = skipped.notes
    assert note.startswith('left out: 8 of 9 videos not found: "gone/0.avi"')


def test_class_folders(root):
    read = datasets.from_folders(root)
    assert [(r.id, r.label) for r in read.videos] == [
        ("run/a b.avi", "run"),
        ("run/ü.avi", "run"),
        ("walk/c.mp4", "walk"),
        ("walk/deep/d.AVI", "walk"),
    ]
    (root / "stray.avi").write_bytes(b"video")
    with pytest.raises(AnnotationError, match=r'"stray.avi" is outside of a class folder'):
        datasets.from_folders(root)


@pytest.mark.parametrize("words", [("train", "test"), ("Training", "validation", "TEST")])
def test_folders_of_folds(tmp_path, words):
    for word in words:
        for label in ("jump", "run"):
            path = tmp_path / word / label / f"{word}.mp4"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"video")
    read = datasets.from_folders(tmp_path)
    assert read.classes == ("jump", "run")
    fold_of = {"validation": "val", "Training": "train", "TEST": "test"}
    names = {word: fold_of.get(word, word) for word in words}
    assert {v.id: (v.label, v.folds) for v in read.videos} == {
        f"{word}/{label}/{word}.mp4": (label, (names[word],))
        for word in words
        for label in ("jump", "run")
    }
    assert datasets.folds(read) == [name for name in ("test", "val") if name in names.values()]
    train, test = datasets.split_fold(read, "test")
    assert (len(train), len(test)) == (2, 2)
    assert {v.label for v in videos_of(tmp_path)[0]} == {"jump", "run"}


def test_folders_called_like_folds_may_be_classes(tmp_path):
    for name in ("train/a.mp4", "bus/b.mp4", "ship/c.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"video")
    assert datasets.from_folders(tmp_path).classes == ("bus", "ship", "train")


def laid_out(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return root


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("training_set/{c}/{n}.mp4 eval-set/{c}/{n}.mp4", {"train", "test"}),
        ("{c}/train/{n}.mp4 {c}/Test/{n}.mp4", {"train", "test"}),
        ("fold1/{c}/{n}.mp4 fold2/{c}/{n}.mp4", {"1", "2"}),
        ("split_01/{c}/{n}.mp4 split_02/{c}/{n}.mp4", {"01", "02"}),
    ],
)
def test_folders_of_folds_in_other_words_and_places(tmp_path, layout, names):
    paths = [p.format(c=c, n=n) for p in layout.split() for c in ("red", "blue") for n in range(2)]
    read = datasets.open_dataset(laid_out(tmp_path, *paths))
    assert read.classes == ("blue", "red")
    assert {fold for video in read.videos for fold in video.folds} == names
    assert all(f"{video.label}/" in video.id for video in read.videos)


@pytest.mark.parametrize("stray", ["extra/a.mp4", "extra/red/a.mp4", "train/a.mp4", "test/a.mp4"])
def test_what_is_beside_folders_of_folds_makes_them_no_classes(tmp_path, stray):
    folds = [f"{fold}/{label}/0.mp4" for fold in ("train", "test") for label in ("red", "blue")]
    root = laid_out(tmp_path, *folds, stray)
    with pytest.raises(AnnotationError, match=f'"{stray}" is outside .*annotations.csv'):
        datasets.open_dataset(root)
    found, _ = videos_of(root)  # for extraction it is a video without a label
    assert {v.id: v.label for v in found}[stray] is None
    assert {v.label for v in found} == {"red", "blue", None}


def test_folders_without_a_video_are_told(tmp_path):
    root = laid_out(tmp_path, "red/a.mp4", "blue/a.mp4")
    (root / "green").mkdir()
    assert datasets.open_dataset(root).notes == ('folders without a video: "green"',)


def test_a_column_called_folder_holds_no_folds(tmp_path):
    root = laid_out(tmp_path, "red/a.mp4", "blue/a.mp4")
    write(root / "annotations.csv", "video,folder,label\nred/a.mp4,red,x\nblue/a.mp4,blue,y\n")
    assert datasets.folds(datasets.open_dataset(root)) == []


def test_what_a_list_in_the_folder_leaves_out_is_told(tmp_path):
    root = laid_out(tmp_path, "red/a.mp4", "blue/a.mp4", "blue/b.mp4")
    write(root / "annotations.csv", "\n\nvideo,label\nred/a.mp4,Red\nblue/a.mp4,red\n")
    write(root / "splits.csv", "video,label\nred/a.mp4,other\n")
    read = datasets.open_dataset(root)
    assert [(v.id, v.label) for v in read.videos] == [("red/a.mp4", "Red"), ("blue/a.mp4", "red")]
    assert read.notes == (
        'classes whose names look the same: "Red", "red"',
        "the labels are those of annotations.csv; not read: splits.csv",
        'left out: 1 videos not in annotations.csv: "blue/b.mp4"',
    )
    write(root / "annotations.csv", "video,label,fold\nred/a.mp4,x,0\nblue/a.mp4,y,\n")
    read = datasets.open_dataset(root)
    assert read.notes[1:] == ('left out: 1 rows without a value in "fold"',)


def test_one_file_under_two_names_is_refused(tmp_path):
    root = laid_out(tmp_path, "red/a.mp4", "blue/a.mp4")
    for other in ("blue/../red/a.mp4", root / "red/a.mp4"):
        path = write(tmp_path / "list.csv", f"video,label\nred/a.mp4,red\n{other},blue\n")
        with pytest.raises(AnnotationError, match=r'"red/a\.mp4" and "a\.mp4" are one file'):
            datasets.open_dataset(root, path)


def test_class_folders_without_videos_or_root(tmp_path):
    with pytest.raises(AnnotationError, match="no video is listed"):
        datasets.from_folders(tmp_path)
    with pytest.raises(VideoNotFound, match="is not a directory"):
        datasets.from_folders(tmp_path / "absent")


def test_extraction_and_training_read_a_list_alike(tmp_path):
    lines = {
        "a.mp4 long jump": ("a.mp4", "long jump"),
        "b.mp4 3": ("b.mp4", "3"),
        "run/c d.MKV\trun": ("run/c d.MKV", "run"),
        "v.1.mp4 x.y": ("v.1.mp4", "x.y"),
        "a.mp4.avi walk": ("a.mp4.avi", "walk"),
        "./e.avi walk": ("e.avi", "walk"),
    }
    path = write(tmp_path / "list.txt", "# one video a line\n" + "\n".join(lines))
    trained = datasets.from_list(path, tmp_path, missing="keep")
    assert [(v.id, v.label) for v in trained.videos] == list(lines.values())
    assert videos_of(path) == (list(trained.videos), [])
    bare = write(tmp_path / "bare.txt", "a b.mp4\nfilm reel.xyz\n")
    assert [(v.id, v.labels) for v in videos_of(bare)[0]] == [
        ("a b.mp4", ()),
        ("film reel.xyz", ()),
    ]
    for read in (videos_of, lambda file: datasets.from_list(file, tmp_path)):
        with pytest.raises(AnnotationError, match=r'line 1: "a\.xyz 3" names no video file'):
            read(write(tmp_path / "wrong.txt", "a.xyz 3\n"))


def test_extraction_and_training_read_a_csv_alike(tmp_path):
    text = "filename,label\nrun/a.mp4,long jump\n../b.mp4,3\n/films/c.mp4,walk\n"
    path = write(tmp_path / "list.csv", text)
    trained = datasets.from_csv(path, tmp_path, missing="keep")
    assert [(v.id, v.label) for v in trained.videos] == [
        ("run/a.mp4", "long jump"), ("b.mp4", "3"), ("c.mp4", "walk"),
    ]  # fmt: skip
    extracted, _ = videos_of(path)
    assert [(v.id, v.labels) for v in extracted] == [(v.id, v.labels) for v in trained.videos]
    assert [v.path for v in extracted] == [
        tmp_path / "run/a.mp4", tmp_path.parent / "b.mp4", Path("/films/c.mp4"),
    ]  # fmt: skip
    write(path, "clip,label\nx.mp4,\n")
    assert [v.labels for v in videos_of(path)[0]] == [()]
    for text in ("clip,label\n", "clip\n"):
        with pytest.raises(AnnotationError, match="names no video"):
            videos_of(write(path, text))


def test_extraction_and_training_read_folders_alike(root):
    assert tuple(videos_of(root)[0]) == datasets.from_folders(root).videos
    (root / "stray.avi").write_bytes(b"video")
    (root / "none").mkdir()
    videos, empty = videos_of([root, root / "none"])
    assert ("stray.avi", None) in [(v.id, v.label) for v in videos]
    assert empty == [root / "none"]


def test_ids_in_the_cache(root):
    """The names of existing caches: a change here makes every cache strange to its sources."""
    a, b = root / "run/ü.avi", root / "walk/ü.avi"
    b.write_bytes(b"video")
    assert ids_of(a) == ["ü.avi"]
    assert ids_of([a, a]) == ["ü.avi"]
    assert ids_of([a, b]) == ["run/ü.avi", "walk/ü.avi"]
    assert ids_of([root, a]) == [v.id for v in videos_of(root)[0]]
    other = root.parent / "more"
    for name in ("run/ü.avi", "run/x.avi"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(b"video")
    assert ids_of([root, other]) == [
        "run/a b.avi", "videos/run/ü.avi", "walk/c.mp4", "walk/deep/d.AVI", "walk/ü.avi",
        "run/x.avi", "more/run/ü.avi",
    ]  # fmt: skip
    assert ids_of([root / "run", other / "run"]) == ["a b.avi", "run/ü.avi", "x.avi", "run/ü.avi~2"]
    one = Video("name", a, ("run",))
    assert videos_of(one) == ([one], [])
    assert ids_of([Dataset((one,), ("run",)), b]) == ["name", "ü.avi"]
    assert clean_name("a\nb\udcff.avi") == "a\\nb\\udcff.avi"


def ids_of(given):
    return [video.id for video in videos_of(given)[0]]


def test_plain_list_with_spaces_in_names_and_labels(root, tmp_path):
    text = "# films\nrun/a b.avi long run\n\nwalk/deep/d.AVI\twalk\n"
    read = datasets.from_list(write(tmp_path / "list.txt", text, "utf-8-sig"), root)
    assert [(r.id, r.label) for r in read.videos] == [
        ("run/a b.avi", "long run"),
        ("walk/deep/d.AVI", "walk"),
    ]
    bare = datasets.from_list(write(tmp_path / "bare.txt", "run/ü.avi\n"), root)
    assert bare.videos[0].label is None


def test_lists_of_frame_folders(tmp_path):
    """`path num_frames label_index`: the path may lack its extension."""
    for name in ("a/v_1.avi", "b/v_2.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"video")
    for text in ("a/v_1 164 0\nb/v_2 99 1\n", "a/v_1.avi 164 0\nb/v_2.mp4 99 1\n"):
        read = datasets.from_list(write(tmp_path / "list.txt", text), tmp_path)
        assert [(v.id, v.label) for v in read.videos] == [("a/v_1.avi", "0"), ("b/v_2.mp4", "1")]
    # Only if every line is so: a label may hold numbers.
    write(tmp_path / "list.txt", "a/v_1.avi 10 4\nb/v_2.mp4 over and out\n")
    read = datasets.from_list(tmp_path / "list.txt", tmp_path)
    assert [v.label for v in read.videos] == ["10 4", "over and out"]


def test_csv_of_parts_of_videos(root, tmp_path):
    text = (
        "file_name, label,start_s,end_s\n"
        "run/ü.avi,run,0,2.5\nrun/ü.avi,jump,2.5,4\nwalk/c.mp4,walk,,\n\n,,,\n"
    )
    read = datasets.from_csv(write(tmp_path / "list.csv", text), root)
    assert [(v.id, v.name, v.label) for v in read.videos] == [
        ("run/ü.avi@0-2.5s", "run/ü.avi", "run"),
        ("run/ü.avi@2.5-4s", "run/ü.avi", "jump"),
        ("walk/c.mp4", "walk/c.mp4", "walk"),
    ]
    assert read.videos[0].span == Span(0, 2.5)
    assert [(v.id, v.labels, v.span) for v in videos_of(read)[0]] == [
        ("run/ü.avi", (), None),
        ("walk/c.mp4", ("walk",), None),
    ]
    assert [(v.id, v.span) for v in videos_of(tmp_path / "list.csv")[0]] == [
        ("run/ü.avi", None),
        ("walk/c.mp4", None),
    ]
    write(tmp_path / "list.csv", "video,label,start_frame,end_frame\nwalk/c.mp4,walk,10,20\n")
    (video,) = datasets.from_csv(tmp_path / "list.csv", root).videos
    assert (video.id, video.span) == ("walk/c.mp4@10-20f", Span(10, 20, "frame"))


@pytest.mark.parametrize("fold", ["../outside", "a/b", "..", "a\\b", "c:d", "a\nb"])
def test_a_fold_that_is_no_name_of_a_folder_is_refused(fold):
    with pytest.raises(AnnotationError, match="cannot be the name of a folder"):
        Video("a.avi", Path("a.avi"), ("x",), folds=(fold,))


def test_other_words_for_folds(root, tmp_path):
    text = "video,label,part\nrun/a b.avi,run,Training\nrun/ü.avi,run,validate\nwalk/c.mp4,walk,x\n"
    read = datasets.from_csv(write(tmp_path / "l.csv", text), root, fold_column="part")
    assert [v.folds for v in read.videos] == [("train",), ("val",), ("x",)]


def test_unlabelled_videos_are_in_neither_half():
    videos = [
        Video("a", Path("a"), ("x",), folds=("train",)),
        Video("b", Path("b"), ("x",), folds=("val",)),
        Video("c", Path("c"), folds=("test",)),
        Video("d", Path("d"), folds=("train",)),
    ]
    read = Dataset(tuple(videos), ("x",))
    assert datasets.folds(read) == ["val"]
    train, test = datasets.split_fold(read, "val")
    assert (ids(train), ids(test)) == (["a"], ["b"])


def test_a_name_that_begins_with_a_hash(root):
    (root / "#1 fight.mp4").write_bytes(b"video")
    path = write(
        root / "list.txt", "#1 fight.mp4 fight\n#2 gone.mp4 fight\n# words\nrun/ü.avi run\n"
    )
    wanted = [("#1 fight.mp4", "fight"), ("run/ü.avi", "run")]
    assert [(v.id, v.label) for v in datasets.from_list(path, root).videos] == wanted
    assert [(v.id, v.label) for v in videos_of(path)[0]] == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run/ü.avi\nsome words\n", 'line 2: "some words" names no video file'),
        ("run/ü.avi run\nwalk/c.mp4\n", '"walk/c.mp4" without a label'),
    ],
)
def test_broken_plain_list_is_refused(root, tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        datasets.from_list(write(tmp_path / "list.txt", text), root)


def made(labels, groups=None, folds=None):
    records = [
        Video(
            f"{label}/{number}.avi",
            Path("x"),
            (label,),
            groups[number] if groups else None,
            (folds[number],) if folds else (),
        )
        for number, label in enumerate(labels)
    ]
    return Dataset(tuple(records), tuple(sorted(set(labels))))


def test_a_label_outside_of_the_classes_is_refused():
    with pytest.raises(AnnotationError, match=r'"runn" is not among the 1 classes.*"run"'):
        Dataset((Video("a.avi", Path("a.avi"), ("runn",)),), ("run",))
    with pytest.raises(AnnotationError, match="a class name is given twice"):
        Dataset((Video("a.avi", Path("a.avi")),), ("run", "run"))


def test_fold_is_the_test_half():
    whole = made("aabb", folds=["10", "2", "2", "x"])
    assert datasets.folds(whole) == ["2", "10", "x"]
    train, test = datasets.split_fold(whole, 2)
    assert ids(test) == ["a/1.avi", "b/2.avi"]
    assert ids(train) == ["a/0.avi", "b/3.avi"]
    assert train.classes == test.classes == ("a", "b")
    with pytest.raises(AnnotationError, match='fold "3" must be one of: 2, 10, x'):
        datasets.split_fold(whole, 3)
    with pytest.raises(AnnotationError, match='fold "0" holds all videos; none is left to train'):
        datasets.split_fold(made("ab", folds=["0", "0"]), 0)


def test_only_the_fold_train_trains():
    whole = made("abcde", folds=["train", "val", "test", "train", "test"])
    assert datasets.folds(whole) == ["test", "val"]
    train, test = datasets.split_fold(whole, "val")
    assert (ids(train), ids(test)) == (["a/0.avi", "d/3.avi"], ["b/1.avi"])


def test_a_video_tests_in_several_folds_and_is_unused_in_others():
    names = {"a": (("1", "2"), ()), "b": ((), ("1",)), "c": ((), ()), "d": (("3",), ("2",))}
    videos = [Video(n, Path(n), ("x",), None, *marks) for n, marks in names.items()]
    whole = Dataset(tuple(videos), ("x",))
    halves = {fold: datasets.split_fold(whole, fold) for fold in datasets.folds(whole)}
    assert {fold: (ids(train), ids(test)) for fold, (train, test) in halves.items()} == {
        "1": (["c", "d"], ["a"]),
        "2": (["b", "c"], ["a"]),
        "3": (["a", "b", "c"], ["d"]),
    }


@pytest.mark.parametrize("seed", range(5))
def test_seeded_split_keeps_groups_whole_and_covers_classes(seed):
    labels = [label for label in "abcd" for _ in range(12)]
    whole = made(labels, groups=[f"actor{number % 6}" for number in range(48)])
    train, test = datasets.seeded_split(whole, test_fraction=0.3, seed=seed)
    assert {r.group for r in train.videos}.isdisjoint({r.group for r in test.videos})
    assert sorted(ids(train) + ids(test)) == sorted(ids(whole))
    assert {r.label for r in train.videos} == {r.label for r in test.videos} == set("abcd")
    assert len(test) == 16  # two of six actors: nearest to 0.3


def test_seeded_split_depends_on_the_seed_and_not_on_the_order():
    whole = made("a" * 40)
    backwards = Dataset(whole.videos[::-1], whole.classes)
    halves = [datasets.seeded_split(whole, seed=seed)[1] for seed in (1, 1, 2)]
    assert ids(halves[0]) == ids(halves[1]) != ids(halves[2])
    assert sorted(ids(datasets.seeded_split(backwards, seed=1)[1])) == sorted(ids(halves[0]))
    assert len(halves[0]) == 10


def test_seeded_split_reads_groups_from_the_id():
    names = [f"a/v_a_g{group:02}_c{clip:02}.avi" for group in range(8) for clip in range(3)]
    records = tuple(Video(name, Path(name), ("a",)) for name in names)
    whole = Dataset(records, ("a",))
    train, test = datasets.seeded_split(whole, group_pattern=r"_(g\d+)_c")
    assert len(test) == 6
    assert {i[6:9] for i in ids(train)}.isdisjoint({i[6:9] for i in ids(test)})


def test_of_two_large_groups_one_is_the_test():
    whole = made("abababab", groups=["x", "x", "x", "x", "y", "y", "y", "y"])
    train, test = datasets.seeded_split(whole, test_fraction=0.25)
    assert {v.group for v in train.videos} != {v.group for v in test.videos}
    assert len(train) == len(test) == 4


def test_class_of_a_single_group_stays_in_training():
    whole = made("aaab", groups=["x", "y", "z", "w"])
    train, test = datasets.seeded_split(whole)
    assert [r.label for r in test.videos] == ["a"]
    assert {r.label for r in train.videos} == {"a", "b"}
    with pytest.raises(AnnotationError, match="every class has one group only"):
        datasets.seeded_split(made("ab"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 1.0}, "test_fraction 1.0 must be between 0 and 1"),
        ({"group_pattern": "("}, "must be a regular expression"),
    ],
)
def test_seeded_split_refuses_wrong_arguments(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        datasets.seeded_split(made("aa"), **arguments)


@pytest.mark.data
def test_weizmann_splits(shared_data):
    folder = shared_data / "weizmann"
    read = datasets.from_csv(
        folder / "splits.csv", folder, fold_column="fold_leave_one_actor_out", group_column="actor"
    )
    assert len(read) == 90
    assert len(read.classes) == 10
    assert datasets.folds(read) == [str(fold) for fold in range(9)]
    for fold in range(9):
        train, test = datasets.split_fold(read, fold)
        assert (len(train), len(test)) == (80, 10)
        assert {r.group for r in train.videos}.isdisjoint({r.group for r in test.videos})


class TestWhatProgramsWrite:
    @pytest.fixture
    def root(self, tmp_path):
        for name in "abc":
            (tmp_path / f"{name}.mp4").write_bytes(b"video")
        return tmp_path

    def read(self, root, name, text, **options):
        (root / name).write_text(text)
        return open_dataset(root, annotations=root / name, **options)

    @pytest.mark.parametrize("value", ["nan", "NaN", "<NA>", "#N/A", ""])
    def test_missing_values(self, root, value):
        """Pandas writes nan for a missing label, fold or group; they are no class, fold, group."""
        with pytest.raises(AnnotationError, match=r'"a.mp4" without a label.*nan is none'):
            self.read(root, "l.csv", f"video,label\na.mp4,{value}\nb.mp4,run\n")
        read = self.read(
            root, "l.csv", f"video,label,fold,group\na.mp4,x,{value},g\nb.mp4,x,1,{value}\n"
        )
        assert [(video.id, video.folds, video.group) for video in read.videos] == [
            ("b.mp4", ("1",), None)
        ]
        assert any("1 rows without a value" in note for note in read.notes)

    @pytest.mark.parametrize("name", ["None", "null", "NA", "nanny"])
    def test_words_that_may_be_classes(self, root, name):
        read = self.read(root, "l.csv", f"video,label\na.mp4,{name}\nb.mp4,run\n")
        assert name in read.classes

    @pytest.mark.parametrize("columns", ["start,end", "start_time,end_time", "start_s", "Onset"])
    def test_times_that_are_not_read_are_told(self, root, columns):
        values = ",".join("1" for _ in columns.split(","))
        rows = f"a.mp4,x,{values}\nb.mp4,y,{values}\n"
        read = self.read(root, "l.csv", f"video,label,{columns}\n{rows}")
        assert any(note.startswith(f'not read: "{columns.split(",")[0]}"') for note in read.notes)

    def test_columns_of_times_in_capitals(self, root):
        read = self.read(root, "l.csv", "Video,Label,Start_s,END_S\na.mp4,x,0,1\na.mp4,y,1,2\n")
        assert [video.id for video in read.videos] == ["a.mp4@0-1s", "a.mp4@1-2s"]
        with pytest.raises(AnnotationError, match="start_frame"):
            self.read(root, "l.csv", "video,label,start_frame,end_frame\na.mp4,x,0.5,2\n")

    @pytest.mark.parametrize(
        ("one", "other"), [("run", "Run"), ("1", "1.0"), ("é", "e\u0301"), ("a", "a\u200b")]
    )
    def test_names_that_look_the_same(self, root, one, other):
        read = self.read(root, "l.csv", f"video,label\na.mp4,{one}\nb.mp4,{other}\n")
        assert [note for note in read.notes if "look the same" in note]

    @pytest.mark.parametrize("label", ["250 3.0", "250 1 2", "250 -2"])
    def test_numbers_that_are_no_label(self, root, label):
        with pytest.raises(AnnotationError, match=f'line 1: "{label}" is no label'):
            self.read(root, "l.txt", f"a.mp4 {label}\nb.mp4 100 0\n")

    def test_unknown_labels_of_lists(self, root):
        (root / "l.txt").write_text("a 250 -1\nb 100 0\n")
        assert [video.labels for video in list_videos(root / "l.txt", root)] == [(), ("0",)]
