"""Score files: what is saved comes back, what is foreign or damaged is refused."""

import io
import json
import zipfile

import numpy as np
import pytest

from flowpipe.errors import EntryCorrupt, InvalidArgument, UnknownName
from flowpipe.scores import FORMAT, Scores, load_scores


def scores_of(**changes):
    logits = np.random.default_rng(0).normal(0, 2, (3, 4)).astype(np.float32)
    exponentials = np.exp(logits.astype(np.float64))
    return Scores(
        **{
            "ids": ("run/a.avi", "run/b.avi", "Käse 猫.avi"),
            "labels_N": np.array([0, 3, -1]),
            "probabilities_NK": exponentials / exponentials.sum(axis=1, keepdims=True),
            "logits_NK": logits,
            "classes": ("run", "walk", "jump", "sit"),
            "stream": "flow",
            "protocol": {"clips": 25, "crops": "ten"},
            **changes,
        }
    )


def test_round_trip(tmp_path):
    scores = scores_of()
    path = scores.save(tmp_path / "deep" / "flow.npz")
    again = load_scores(path)
    for name in ("ids", "classes", "stream", "protocol"):
        assert getattr(again, name) == getattr(scores, name)
    for name in ("labels_N", "probabilities_NK", "logits_NK"):
        own, other = getattr(scores, name), getattr(again, name)
        np.testing.assert_array_equal(own, other)
        assert own.dtype == other.dtype
    assert [file.name for file in path.parent.iterdir()] == ["flow.npz"]
    assert "videos=3 (2 labelled), classes=4" in repr(again)


def test_saving_again_replaces(tmp_path):
    scores_of().save(tmp_path / "a.npz")
    scores_of(stream="rgb").save(tmp_path / "a.npz")
    assert load_scores(tmp_path / "a.npz").stream == "rgb"
    with pytest.raises(InvalidArgument, match=r"a.txt must end in .npz"):
        scores_of().save(tmp_path / "a.txt")


def test_arrays_are_copied_and_read_only():
    logits = np.zeros((3, 4), np.float32)
    scores = scores_of(logits_NK=logits)
    logits[0, 0] = 9
    assert scores.logits_NK[0, 0] == 0
    for array in (scores.labels_N, scores.probabilities_NK, scores.logits_NK):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_select_and_predictions():
    scores = scores_of()
    some = scores.select(["Käse 猫.avi", "run/a.avi"])
    assert some.ids == ("Käse 猫.avi", "run/a.avi")
    assert some.labels_N.tolist() == [-1, 0]
    np.testing.assert_array_equal(some.logits_NK, scores.logits_NK[[2, 0]])
    assert scores.predictions_N.tolist() == scores.probabilities_NK.argmax(axis=1).tolist()
    with pytest.raises(UnknownName, match=r'no scores of video "run/c.avi" \(did you mean "run/'):
        scores.select(["run/c.avi"])


UNIFORM = np.full((3, 4), 0.25)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ids": ("a", "a", "b")}, 'video ids hold "a" more than once'),
        ({"ids": ("a", "", "b")}, "video ids hold ''; each must be a text"),
        ({"ids": "abc"}, "must be a sequence of texts"),
        ({"ids": ("a", "b")}, r"labels of shape \(3,\) .* must be 2 whole numbers"),
        ({"classes": ("run",)}, "scores need one video and two classes at least"),
        ({"classes": ("a", "b", "c")}, r"label 3 must lie in \[0, 3\), or be −1"),
        ({"stream": ""}, "stream '' must be a name"),
        ({"labels_N": np.array([0.0, 1, 2])}, "float64 must be 3 whole numbers"),
        ({"labels_N": np.array([0, 4, 0])}, "label 4 must lie in"),
        ({"labels_N": np.array([0, -2, 0])}, "label -2 must lie in"),
        ({"logits_NK": np.zeros((3, 5))}, r"logits of shape \(3, 5\) must be \(3, 4\)"),
        ({"logits_NK": np.full((3, 4), np.inf)}, 'logits of video "run/a.avi" and 2 others are'),
        ({"probabilities_NK": UNIFORM * 2}, 'of video "run/a.avi" sum to 2.* through a softmax'),
        ({"probabilities_NK": UNIFORM - [[0.5, -0.5, 0, 0]]}, "lowest -0.25; they must be ≥ 0"),
        ({"protocol": [1]}, "must be a dict"),
        ({"protocol": {"x": object()}}, "protocol cannot be written as JSON"),
        ({"protocol": {"x": float("nan")}}, "protocol cannot be written as JSON"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_records_are_checked_where_they_are_made(changes, match):
    with pytest.raises(InvalidArgument, match=match):
        scores_of(**changes)


def member(array) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def rewritten(tmp_path, **members):
    """Save scores and put other members in."""
    path = scores_of().save(tmp_path / "a.npz")
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, data in members.items():
        content.pop(f"{name}.npy")
        if data is not None:
            content[f"{name}.npy"] = data
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def header(**changes) -> bytes:
    table = {
        "format": FORMAT,
        "version": 1,
        "ids": ["a", "b", "c"],
        "classes": ["w", "x", "y", "z"],
        "stream": "rgb",
        "protocol": {},
        **changes,
    }
    kept = {key: value for key, value in table.items() if value is not None}
    return member(np.frombuffer(json.dumps(kept).encode(), np.uint8))


def test_the_rewriting_itself_is_sound(tmp_path):
    assert load_scores(rewritten(tmp_path, header=header())).ids == ("a", "b", "c")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"logits": None}, "damaged: logits.npy missing"),
        ({"logits": member(np.array([object()]))}, "logits.npy of object .* must hold numbers"),
        ({"labels": member(np.zeros(3, "i4,i4"))}, r"labels.npy of \[.* must hold numbers"),
        (
            {"logits": member(np.zeros((3, 4), "f4"))[:-4]},
            r"of float32 and shape \(3, 4\) has 44 bytes",
        ),
        ({"logits": b"text"}, "magic"),
        ({"header": member(np.zeros(3))}, "header of type float64"),
        ({"header": member(np.frombuffer(b"[1", np.uint8))}, "is no score file of flowpipe"),
        ({"header": member(np.frombuffer(b"[" * 9**5, np.uint8))}, "nested too deeply|is no score"),
        ({"header": header(format="other")}, 'its header does not say "flowpipe scores"'),
        ({"header": header(version=2)}, "its version is 2, this flowpipe reads 1"),
        ({"header": header(ids=None, stream=None)}, "its header lacks ids, stream"),
        ({"header": header(ids=["a"])}, "must be 1 whole numbers"),
        ({"header": header(classes=5)}, "must be a sequence of texts"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_foreign_and_damaged_files_are_refused(tmp_path, members, match):
    with pytest.raises(EntryCorrupt, match=match):
        load_scores(rewritten(tmp_path, **members))


def test_files_that_are_no_archive(tmp_path):
    with pytest.raises(InvalidArgument, match=r"no score file at .*none.npz; flowpipe train"):
        load_scores(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(EntryCorrupt, match=r"text.npz is no score file of flowpipe, or damaged"):
        load_scores(tmp_path / "text.npz")
    path = scores_of().save(tmp_path / "a.npz")
    whole = path.read_bytes()
    for count in (10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:count])
        with pytest.raises(EntryCorrupt, match=r"a\.npz"):
            load_scores(path)


def test_flipped_bits_are_noticed(tmp_path):
    path = scores_of().save(tmp_path / "a.npz")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("probabilities.npy")
    start = info.header_offset + 30 + len(info.filename)
    for place in range(start + 20, start + info.compress_size, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(EntryCorrupt, match=r"a\.npz"):
            load_scores(path)
