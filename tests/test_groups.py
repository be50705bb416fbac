"""Groups that names tell, the form of a data set that is looked for, and what is said of both."""

from pathlib import Path

import pytest

from flowpipe.datasets import Dataset, Span, Video, open_dataset, seeded_split, with_groups
from flowpipe.errors import AnnotationError


def named(*names):
    """Return a data set of `class/file` names."""
    videos = tuple(Video(name, Path(name), (name.partition("/")[0],)) for name in names)
    return Dataset(videos, tuple(sorted({str(video.label) for video in videos})))


def product(*patterns):
    return [f"{label}/{pattern.format(label)}" for label in ("jump", "run") for pattern in patterns]


@pytest.mark.parametrize(
    ("patterns", "note", "first"),
    [
        (
            [f"v_{{}}_g{g:02}_c{c:02}.avi" for g in range(3) for c in range(2)],
            "groups: 6 films, as in UCF101",
            "v_jump_g00",
        ),
        (
            [f"Film_{f}_{{}}_f_cm_np1_ba_med_{c}.avi" for f in "abc" for c in range(2)],
            "groups: 6 films, as in HMDB51",
            "Film_a_jump",
        ),
        (
            [f"abcdefghij{v}_{10 * c:06}_{10 * c + 10:06}.mp4" for v in range(3) for c in range(2)],
            "groups: 3 YouTube videos",
            "abcdefghij0",
        ),
        (
            [f"person{p:02}_{{}}_d{c}.avi" for p in range(4) for c in range(2)],
            "groups: 4 persons",
            "person00",
        ),
        (
            [f"scene{s}_{c}.avi" for s in range(3) for c in range(3)],
            "groups: 3 scenes",
            "scene0",
        ),
        ([f"{who}_{{}}.avi" for who in ("daria", "ido", "eli")], "groups: 3 first words", "daria"),
        (
            [f"street{s}-part{c}.avi" for s in range(3) for c in range(2)],
            "groups: 3 first words",
            "street0",
        ),
        (
            [f"{{}} {s:02} {c}.avi" for s in range(3) for c in range(2)],
            "groups: 6 prefixes before the last number",
            "jump 00",
        ),
    ],
)
def test_names_that_tell_groups(patterns, note, first):
    read = with_groups(named(*product(*patterns)))
    assert read.notes[-1].startswith(note)
    assert read.videos[0].group == first
    train, test = seeded_split(read)
    assert {v.group for v in train.videos}.isdisjoint({v.group for v in test.videos})
    assert {v.label for v in train.videos} == {v.label for v in test.videos} == {"jump", "run"}


@pytest.mark.parametrize(
    "patterns",
    [
        [f"{{}}_{c}.avi" for c in range(6)],  # the class and a number
        [f"{c}.avi" for c in range(6)],
        ["one.avi", "two.avi", "three.avi"],
        [f"person01_{{}}_{c}.avi" for c in range(6)],  # one person: nothing to split by
    ],
)
def test_names_that_tell_none(patterns):
    read = with_groups(named(*product(*patterns)))
    assert all(video.group is None for video in read.videos)
    assert read.notes[-1].startswith("groups: none found in the names; if several videos show one")


def test_given_groups_stay():
    videos = tuple(
        Video(f"person{n:02}_a.avi", Path("x"), ("x",), group=f"g{n % 2}") for n in range(4)
    )
    read = with_groups(Dataset(videos, ("x",)))
    assert [video.group for video in read.videos] == ["g0", "g1", "g0", "g1"]
    assert read.notes == ("groups: as given",)


def test_parts_of_one_file_stay_together():
    videos = tuple(
        Video(f"{file}.mp4@{n}-{n + 1}s", Path(f"{file}.mp4"), (label,), span=Span(n, n + 1))
        for file in "abc"
        for n, label in enumerate(("run", "jump", "run"))
    )
    read = with_groups(Dataset(videos, ("jump", "run")))
    assert [video.group for video in read.videos[::3]] == ["a.mp4", "b.mp4", "c.mp4"]
    assert read.notes == ("groups: 3 files that the parts are of",)


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"video")
    return folder


def test_a_folder_with_its_annotations(tmp_path):
    root = made(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = (
        "clip,action,actor,fold_one,fold_two\na.mp4,run,x,0,1\nb.mp4,jump,y,1,0\nc.mp4,run,y,1,0\n"
    )
    (root / "splits.csv").write_text(text)
    read = open_dataset(root)
    assert [(v.label, v.group, v.folds) for v in read.videos] == [
        ("run", "x", ("0",)),
        ("jump", "y", ("1",)),
        ("run", "y", ("1",)),
    ]
    assert read.notes == ('folds: column "fold_one"; there are also fold_two',)
    (root / "annotations.csv").write_text("video,label\na.mp4,sit\n")
    assert open_dataset(root).classes == ("sit",)
    assert open_dataset(root, root / "splits.csv", fold_column="fold_two").videos[0].folds == ("1",)
    with pytest.raises(AnnotationError, match=r'"a.mp4" is outside of a class folder'):
        open_dataset(root, form="folders")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "a.mp4 run\nb.mp4 jump\n"),
        ("train.csv", "a.mp4 run\nb.mp4 jump\n"),  # as PySlowFast calls it
        ("k.csv", "label,youtube_id,time_start,time_end\nrun,a,0,1\njump,b,0,1\n"),
        ("any.csv", "path,class\na.mp4,run\nb.mp4,jump\n"),
    ],
)  # fmt: skip
def test_the_form_is_found_by_looking(tmp_path, name, text):
    root = made(tmp_path / "videos", "a.mp4", "b.mp4")
    (tmp_path / name).write_text(text)
    read = open_dataset(root, tmp_path / name)
    assert [(video.id, video.label) for video in read.videos] == [
        ("a.mp4", "run"),
        ("b.mp4", "jump"),
    ]


def test_forms_that_are_not_known(tmp_path):
    (tmp_path / "a.xml").write_text("<a/>")
    with pytest.raises(
        AnnotationError, match=r"a\.xml: its form is not known; name one of folders"
    ):
        open_dataset(tmp_path, tmp_path / "a.xml")
    with pytest.raises(AnnotationError, match=r'"ucf" .did you mean "ucf101".* must be one of'):
        open_dataset(tmp_path, form="ucf")
    with pytest.raises(AnnotationError, match='form "list" needs annotations'):
        open_dataset(tmp_path, form="list")
