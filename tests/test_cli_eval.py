"""`flowpipe localise eval` and `flowpipe detect eval`: keys, rules, options, no torch."""

import json
import subprocess
import sys

import pytest

from flowpipe.cli.main import main

TRUTH = "video,label,start_s,end_s,subset\na,run,0,10,x\na,run,20,30,x\nb,hop,0,5,x\nc,hop,1,2,y\n"
FOUND = "video,label,start_s,end_s,score\na,run,0,9,.9\nb,hop,0,5,.8\nb,swim,0,5,.7\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "truth.csv").write_text(TRUTH)
    (tmp_path / "found.csv").write_text(FOUND)
    return str(tmp_path / "truth.csv"), str(tmp_path / "found.csv")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_localise_json(files, capsys):
    code, out, err = run(capsys, "localise", "eval", *files, "--tiou", ".5:.2:.9", "--json")
    record = json.loads(out)
    assert code == 0
    # The detections are all of subset x, so that the instance of y is not asked for.
    assert (record["subset"], record["instances"]) == ("x", 3)
    assert list(record["mAP"]) == ["0.5", "0.7", "0.9"]
    assert record["mAP"]["0.5"] == 0.75
    assert record["average"] == pytest.approx(sum(record["mAP"].values()) / 3)
    assert record["AP"]["run"]["0.5"] == 0.5
    assert record["errors"]["missed"]["count"] == 1
    assert sum(group["instances"] for group in record["lengths"]) == 3
    assert "1 detections are of classes that the truth lacks" in err


def test_localise_table_says_the_rules(files, capsys):
    code, out, err = run(capsys, "localise", "eval", *files, "--protocol", "thumos14")
    assert code == 0
    assert "THUMOS'14" in err
    assert "background" in out
    assert "hop" in out


def test_proposals_json(files, capsys):
    _, out, _ = run(capsys, "localise", "eval", *files, "--protocol", "proposals", "--json")
    record = json.loads(out)
    assert {"1", "10", "100"} <= set(record["AR"])
    assert 0 < record["AUC"] < record["AR"]["100"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tiou", "a,b"), "must be .3,.5"),
        (("--tiou", ".3:.7:.1"), "start:step:last"),
        (("--tiou", "1.5"), "must be .3,.5"),
        (("--subset", "z"), "no video is of subset"),
        (("--protocol", "proposals", "--tiou", ".5"), "--tiou is for mAP"),
    ],
)
def test_localise_misuse(files, capsys, arguments, message):
    code, _, err = run(capsys, "localise", "eval", *files, *arguments)
    assert code == 2
    assert message in err


def test_detect_json(tmp_path, capsys):
    (tmp_path / "labels.pbtxt").write_text(
        'item {\n  name: "stand"\n  id: 1\n}\nitem {\n  name: "sit"\n  id: 2\n}\n'
    )
    (tmp_path / "truth.csv").write_text("v,0902,0,0,1,1,1,0\nv,0903,0,0,1,1,1,0\n")
    (tmp_path / "found.csv").write_text("v,902,0,0,1,1,1,.5\nv,0903,0,0,1,1,2,.9\n")
    (tmp_path / "excluded.csv").write_text("v,0903\n")
    files = [str(tmp_path / name) for name in ("truth.csv", "found.csv")]
    options = ["--protocol", "ava", "--labels", str(tmp_path / "labels.pbtxt"), "--json"]
    _, out, _ = run(capsys, "detect", "eval", *files, *options)
    record = json.loads(out)
    assert (record["mAP"], record["AP"]) == (0.5, {"stand": 0.5, "sit": None})
    options += ["--exclude", str(tmp_path / "excluded.csv")]
    _, out, _ = run(capsys, "detect", "eval", *files, *options)
    assert json.loads(out)["mAP"] == 1.0


def test_detect_tubes_json(tmp_path, capsys):
    rows = "".join(f"v,0,run,{frame},1,2,30,40\n" for frame in range(5))
    (tmp_path / "truth.csv").write_text("video,tube,label,frame,x,y,w,h\n" + rows)
    rows = "".join(f"v,0,run,{frame},1,2,30,40,.5\n" for frame in range(5))
    (tmp_path / "found.csv").write_text("video,tube,label,frame,x,y,w,h,score\n" + rows)
    files = [str(tmp_path / name) for name in ("truth.csv", "found.csv")]
    options = ["--protocol", "tubes", "--iou", ".2,.5", "--json"]
    _, out, _ = run(capsys, "detect", "eval", *files, *options)
    assert json.loads(out)["mAP"] == {"0.2": 1.0, "0.5": 1.0}
    code, _, err = run(capsys, "detect", "eval", *files, "--protocol", "ava")
    assert (code, "time_s" in err) == (2, True)


def test_measuring_needs_no_torch(files):
    program = (
        "import sys; sys.argv = ['flowpipe', 'localise', 'eval', *sys.argv[1:], '--json']\n"
        "from flowpipe.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*{'torch', 'cv2', 'h5py', 'numba'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *files], check=True, capture_output=True, text=True
    )
    assert not {"torch", "cv2", "h5py", "numba"} & set(done.stderr.split())
    assert json.loads(done.stdout)["mAP"]
