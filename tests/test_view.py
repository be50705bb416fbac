"""`flowpipe view`: what it lists and shows, and above all what it refuses."""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import Browser
from support import moving_texture, run_cli

from flowpipe.cache.manifest import FailureRow, add_failure
from flowpipe.cache.pack import pack
from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.experiment.results import MOVING, fused_file
from flowpipe.flow.color import flow_to_color
from flowpipe.scores import Scores
from flowpipe.sealed import write_table
from flowpipe.view import PageServer, open_catalogue
from flowpipe.view.pictures import PictureStore

NAMES = ("jump/one.avi", "run/two.avi", "walk/still.avi")
LABELS = ("jump", "run", "walk")
SECRET = b"the secret of another folder"


@pytest.fixture(scope="module")
def cache(tmp_path_factory, write_entry, smooth_flow) -> Path:
    """Two videos that move, one that stands still, one that failed."""
    folder = tmp_path_factory.mktemp("view") / "my.cache"
    for number, (name, label) in enumerate(zip(NAMES, LABELS, strict=True)):
        uv_THWC = smooth_flow(9, 48, 64, seed=number) * (label != "walk")
        rgb_THWC = moving_texture(10, 48, 64, seed=number)
        write_entry(
            folder, uv_THWC, rgb_THWC=rgb_THWC, name=name, label=label, digest=f"{number:02}" * 32
        )
    recipe = next(folder.glob("*/recipe.json")).parent.name
    failure = FailureRow("walk/broken.avi", "/videos/broken.avi", "ff" * 32, recipe, "no video", 1)
    add_failure(folder, failure)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache) -> Path:
    """A finished run of two streams and a fusion, whose cache lies elsewhere."""
    out = tmp_path_factory.mktemp("view-run") / "run"
    rows = {
        "spatial": [[0.8, 0.1, 0.1], [0.45, 0.4, 0.15], [0.1, 0.2, 0.7]],
        "temporal": [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]],
        "fused": [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.55, 0.2, 0.25]],
    }
    for name, values in rows.items():
        scores = Scores(
            ids=NAMES,
            labels_N=np.arange(3),
            probabilities_NK=np.array(values),
            logits_NK=np.log(values),
            classes=LABELS,
            stream=name,
        )
        fused = name == "fused"
        scores.save(fused_file(out, "logsum") if fused else out / "scores" / f"{name}.npz")
    write_table(
        out / "results.json",
        {
            "accuracy": {"fused": 2 / 3},
            "classes": list(LABELS),
            "folds": [{"fold": "1"}],
            "fusions": {"logsum": 2 / 3},
            "headline": "logsum",
        },
    )
    settings = {"data": {"cache": str(cache)}, "streams": {"spatial": {}, "temporal": {}}}
    write_table(out / "settings.json", settings, MOVING)
    return out


@contextmanager
def served(path: Path, **options: Path):
    """Serve a path from another thread."""
    with PageServer(open_catalogue(path, **options)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: PageServer, address: str, method: str = "GET", **headers: str):
    """Send exactly this address, which no library tidies up; return (status, body, headers)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    host = headers.pop("Host", f"127.0.0.1:{server.server_port}")
    connection.putrequest(method, address, skip_host=True)
    if host:
        connection.putheader("Host", host)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers


def get(server: PageServer, what: str):
    status, body, _ = ask(server, f"/{server.token}/{what}")
    assert status == 200, body
    return json.loads(body)


def picture(server: PageServer, what: str) -> np.ndarray:
    status, body, headers = ask(server, f"/{server.token}/picture?{what}")
    assert status == 200, body
    assert headers["Content-Type"] == "image/jpeg"
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)


def names(server: PageServer, query: str) -> list[str]:
    return [row["name"] for row in get(server, f"rows?{query}")["rows"]]


# What is refused


def test_without_the_token_and_from_other_hosts_there_is_nothing(cache):
    with served(cache) as server:
        port, page = server.server_port, f"/{server.token}/"
        assert server.server_address[0] == "127.0.0.1"
        assert ask(server, page)[0] == 200
        assert ask(server, page, Host=f"localhost:{port}")[0] == 200
        for address in ("/", "/about", "/rows", f"/{server.token[:-1]}/", f"/{'x' * 32}/about", ""):
            assert ask(server, address or "/view.js")[0] == 403
        # A foreign name that resolves to 127.0.0.1 is how a web page would get here.
        for host in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1.evil.example:{port}", ""):
            assert ask(server, page, Host=host)[0] == 403


ESCAPES = [
    "../secret.txt",
    "../../secret.txt",
    "%2e%2e/secret.txt",
    "..%2fsecret.txt",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "view.js/../../../etc/passwd",
    "..\\secret.txt",
    "manifest",
    "recipe.json",
    "view.html",
    "view.js%00",
    "server.py",
    "./",
    "picture/../about",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_address_leads_to_a_file(cache, escape):
    (cache.parent / "secret.txt").write_bytes(SECRET)
    with served(cache) as server:
        for address in (f"/{server.token}/{escape}", f"/{escape}", f"http://x/{escape}"):
            status, body, _ = ask(server, address)
            assert status in (403, 404), address
            assert len(body) < 60


@pytest.mark.parametrize(
    "given",
    [
        "item=../../secret.txt",
        "item=99999",
        "item=-1",
        "item=1e3",
        "item=²",
        "item=0&track=../../secret.txt",
        "item=0&track=frame&at=10",
        "item=0&track=flow&scale=nan",
        "item=0&track=flow&scale=0",
        "track=frame",
        "item=2",
    ],
)
def test_a_picture_of_what_is_not_there_is_refused(cache, given):
    with served(cache) as server:
        quoted = urllib.request.quote(given, safe="=&./")
        status, body, _ = ask(server, f"/{server.token}/picture?{quoted}")
        assert status == 400
        assert b"/view" not in body


def test_what_the_answers_say_of_themselves(cache):
    with served(cache) as server:
        _, page, headers = ask(server, f"/{server.token}/")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"  # the token leaves with no link
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        # Nothing from elsewhere: every address in page, style and script is relative.
        script = ask(server, f"/{server.token}/view.js")[1]
        style = ask(server, f"/{server.token}/view.css")[1]
        outside = set(re.findall(rb"(?:https?:)?//[\w.]+", page + style + script))
        assert outside <= {b"http://www.w3.org"}  # the name of SVG


def test_it_reads_only(cache):
    def state() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(cache.rglob("*")) if p.is_file()}

    before = state()
    with served(cache) as server:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert ask(server, f"/{server.token}/", method)[0] == 501
        status, body, headers = ask(server, f"/{server.token}/", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 1000
        get(server, "about?scan=1")
        for number in range(3):
            get(server, f"video?item={number if number < 2 else 3}")
            get(server, f"motion?item={number if number < 2 else 3}")
        picture(server, "item=0&track=thumbnail")
        kept = server.pictures.path
        assert not kept.is_relative_to(cache)
        assert list(kept.iterdir())
    assert not kept.exists()
    assert state() == before


def test_links_out_of_the_folder_are_not_followed(tmp_path, write_entry, smooth_flow, run, cache):
    own, outside = tmp_path / "own.cache", tmp_path / "outside"
    file = write_entry(own, smooth_flow(5, 32, 32), name="a.avi", digest="aa" * 32)
    outside.mkdir()
    moved = outside / file.name
    file.rename(moved)
    file.symlink_to(moved)
    with served(own) as server:  # an entry
        status, body, _ = ask(server, f"/{server.token}/picture?item=0")
        assert status == 400
        assert b"link that leads out" in body
        assert "link that leads out" in get(server, "video?item=0")["problem"]
    file.unlink()
    moved.rename(file)
    manifest = next((own / "manifest").iterdir())  # a list
    manifest.rename(outside / manifest.name)
    manifest.symlink_to(outside / manifest.name)
    with pytest.raises(InvalidArgument, match="leads out of"):
        open_catalogue(own)
    copied = tmp_path / "run"  # the scores of a run
    (copied / "scores").mkdir(parents=True)
    for path in run.rglob("*"):
        if path.is_file():
            (copied / path.relative_to(run)).symlink_to(path)
    with pytest.raises(InvalidArgument, match="leads out of"):
        open_catalogue(copied)
    videos = tmp_path / "videos"  # a video
    videos.mkdir()
    (outside / "one.avi").write_bytes(SECRET)
    (videos / "one.avi").symlink_to(outside / "one.avi")
    with served(cache, videos=videos) as server:
        assert "leads out of" in get(server, "video?item=0")["problem"]


def test_a_cache_that_a_run_names_is_not_opened_by_itself(run, cache):
    with served(run) as server:
        about = get(server, "about")
        assert "lies outside its folder" in about["notes"][0]
        assert not about["has_pictures"]
        assert get(server, "video?item=0")["tracks"] == []
        assert ask(server, f"/{server.token}/picture?item=0")[0] == 422
    with served(run, cache=cache) as server:
        assert get(server, "about")["notes"] == []
        assert get(server, "video?item=0")["tracks"] == ["frame", "flow"]


def test_video_files_are_opened_only_below_the_given_folder(
    tmp_path, write_entry, smooth_flow, write_video
):
    videos = tmp_path / "videos"
    videos.mkdir()
    frames = moving_texture(8, 48, 64)
    path = write_video(videos / "a.mp4", frames)
    own = tmp_path / "own.cache"
    write_entry(own, smooth_flow(7, 48, 64), name="a.mp4", digest="aa" * 32, path=str(path))
    with served(own) as server:
        assert get(server, "video?item=0")["tracks"] == ["flow"]
        assert ask(server, f"/{server.token}/picture?item=0&track=frame")[0] == 422
    with served(own, videos=videos) as server:
        assert get(server, "video?item=0")["tracks"] == ["frame", "flow"]
        for number in (5, 6, 2, 0, 7):  # forwards, backwards, to the ends
            shown = picture(server, f"item=0&track=frame&at={number}").astype(int)
            errors = [np.abs(shown - frame).mean() for frame in frames.astype(int)]
            assert np.argmin(errors) == number


# What is shown


def test_filters_of_a_cache(cache):
    with served(cache) as server:
        assert names(server, "") == [NAMES[0], NAMES[1], "walk/broken.avi", NAMES[2]]
        assert names(server, "label=run") == [NAMES[1]]
        assert names(server, "text=WALK") == ["walk/broken.avi", NAMES[2]]
        assert names(server, "state=failed") == ["walk/broken.avi"]
        assert names(server, "text=nothing") == []
        assert names(server, "start=1&count=2") == [NAMES[1], "walk/broken.avi"]
        assert get(server, "about")["states"] == {"all": 4, "suspicious": 0, "failed": 1}
        for name, value in (("state", "nice"), ("order", "random")):
            status, body, _ = ask(server, f"/{server.token}/rows?{name}={value}")
            assert status == 400
            assert b"is unknown; there are" in body


def test_suspicious_entries_are_found_in_the_background(cache):
    with served(cache) as server:
        assert names(server, "state=suspicious") == []
        get(server, "about?scan=1")
        for thread in threading.enumerate():
            if thread.name == "quality":
                thread.join()
        about = get(server, "about")
        assert about["checked"] == 1
        assert about["states"]["suspicious"] == 1
        (row,) = get(server, "rows?state=suspicious")["rows"]
        assert row["name"] == NAMES[2]
        assert "fields are zero" in row["suspicions"][0]


def test_filters_of_a_run(run, cache):
    with served(run, cache=cache) as server:
        about = get(server, "about")
        assert about["kind"] == "run"
        assert about["answered_by"] == ["logsum", "spatial", "temporal"]
        assert about["states"] == {"all": 3, "wrong": 1, "unsure": 0, "suspicious": 0, "failed": 0}
        assert about["confusion"]["classes"] == list(LABELS)
        assert about["confusion"]["cells"] == [[0, 0, 1], [1, 1, 1], [2, 0, 1]]
        assert names(server, "state=wrong") == [NAMES[2]]
        assert names(server, "state=wrong&by=spatial") == [NAMES[1]]
        assert names(server, "state=unsure&by=spatial") == [NAMES[1]]
        assert names(server, "label=walk&taken=jump") == [NAMES[2]]
        assert names(server, "label=walk&taken=jump&by=spatial") == []
        assert names(server, "order=least sure".replace(" ", "%20")) == [
            NAMES[2],
            NAMES[1],
            NAMES[0],
        ]
        assert names(server, "order=surest&by=temporal") == [NAMES[2], NAMES[1], NAMES[0]]
        clip = get(server, "video?item=2")
        assert (clip["labels"], clip["said"], clip["right"]) == (["walk"], "jump", False)
        best = {stream["name"]: stream["best"][0] for stream in clip["streams"]}
        assert best == {
            "logsum": ["jump", 0.55],
            "spatial": ["walk", 0.7],
            "temporal": ["jump", 0.9],
        }
        assert ["recipe id", next(cache.glob("*/recipe.json")).parent.name] in clip["facts"]


def test_pictures_are_those_of_the_entry(cache, smooth_flow):
    uv_THWC = smooth_flow(9, 48, 64, seed=0)
    frames = moving_texture(10, 48, 64, seed=0)
    with served(cache) as server:
        for at in (0, 4, 8):
            shown = picture(server, f"item=0&track=flow&at={at}&scale=6").astype(int)
            wanted = flow_to_color(uv_THWC[at], 6.0).astype(int)
            assert np.abs(shown - wanted).mean() < 4
            others = flow_to_color(uv_THWC[(at + 4) % 9], 6.0).astype(int)
            assert np.abs(shown - others).mean() > 12
            frame = picture(server, f"item=0&track=frame&at={at}").astype(int)
            assert np.abs(frame - frames[at].astype(int)).mean() < 6
        last = picture(server, "item=0&track=flow&at=9&scale=6")  # the last frame has no own
        assert (last == picture(server, "item=0&track=flow&at=8&scale=6")).all()
        clip = get(server, "video?item=0")
        largest = np.percentile(np.hypot(*np.moveaxis(uv_THWC[::2], -1, 0)), 99)
        assert clip["scale_px"] == pytest.approx(largest, rel=0.05)
        assert clip["times_s"] == pytest.approx(np.arange(10) / 25, abs=1e-4)
        curve = get(server, "motion?item=0")
        means = np.hypot(uv_THWC[..., 0], uv_THWC[..., 1]).mean(axis=(1, 2))
        assert [value for _, value in curve] == pytest.approx(means, abs=0.05)
        thumbnail = picture(server, "item=0")
        assert thumbnail.shape == (108, 288, 3)
        half = cv2.resize(thumbnail[:, :144], (64, 48), interpolation=cv2.INTER_AREA).astype(int)
        most = int(means[::2].argmax()) * 2
        assert np.abs(half - frames[most].astype(int)).mean() < 8


def test_a_packed_cache_is_shown_like_its_directory(cache, tmp_path):
    packed = tmp_path / "my.h5"
    pack(cache, packed)
    with served(packed) as server, served(cache) as other:
        assert names(server, "") == names(other, "")
        here, there = (picture(s, "item=1&track=flow&at=3&scale=6") for s in (server, other))
        assert (here == there).all()


def test_pictures_are_kept_within_a_bound(tmp_path):
    made = []

    def make(number: int):
        return lambda: made.append(number) or bytes([number]) * 400

    store = PictureStore(most_bytes=1000)
    for number in (0, 1, 0, 2, 0):
        assert store.get(f"{number}", make(number)) == bytes([number]) * 400
    assert made == [0, 1, 2]  # 1 went, being the oldest
    assert sorted(path.name for path in store.path.iterdir()) == ["0", "2"]
    assert store.num_bytes == 800
    for path in store.path.iterdir():  # a cleaner of temporary files
        path.unlink()
    store.path.rmdir()
    assert store.get("0", make(0)) == bytes(400)
    store.path.mkdir()
    store.close()


# Findings


@pytest.fixture
def findings(tmp_path) -> dict[str, Path]:
    """Localisations and their truth, boxes, tubes, scores over time; of the cache's videos."""
    found = {
        "one": [
            {"label": "jump", "score": 0.9, "segment": [0.0, 0.2]},
            {"label": "run", "score": 0.3, "segment": [0.1, 0.3]},
        ],
        "two": [{"label": "run", "score": 0.4, "segment": [0.2, 0.3]}],
    }
    truth = {
        name: {
            "subset": subset,
            "duration": 9,
            "annotations": [{"label": label, "segment": segment}],
        }
        for name, subset, label, segment in (
            ("one", "test", "jump", [0, 0.18]),
            ("two", "test", "run", [0, 0.1]),
            ("other", "training", "run", [0, 1]),
        )
    }
    texts = {
        "found.json": json.dumps({"version": "1", "results": found, "external_data": {}}),
        "truth.json": json.dumps({"version": "1", "database": truth}),
        "plain.csv": "video,label,start_s,end_s,score\none,jump,0,0.2,0.9\n",
        "ava.csv": "one,0.2,0.1,0.2,0.5,0.9,12,0.8\none,0.2,0.5,0.2,0.9,0.9,7,0.3\n",
        "tubes.csv": "video,tube,label,frame,x,y,w,h,score\n"
        + "".join(f"two,1,run,{frame},8,4,16,24,0.7\n" for frame in range(1, 9)),
        "long.csv": "video,start_s,end_s,label,score,jump,run\n"
        "one,0,0.1,jump,0.8,0.8,0.2\none,0.1,0.2,jump,0.6,0.6,0.4\none,0.2,0.3,run,0.9,0.1,0.9\n",
        "odd.csv": "a,b,c\n1,2,3\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name.partition(".")[0]: tmp_path / name for name in texts}


def test_localisations_beside_their_truth(findings, cache):
    with served(findings["found"], cache=cache, truth=findings["truth"]) as server:
        assert names(server, "") == ["one", "two"]  # the training videos are no mistakes
        assert names(server, "state=wrong") == ["two"]  # found, but elsewhere
        assert names(server, "state=unsure") == ["two"]
        clip = get(server, "video?item=0")
        assert clip["tracks"] == ["frame", "flow"]
        assert clip["true"] == [{"label": "jump", "start_s": 0, "end_s": 0.18, "score": 1}]
        assert [row["label"] for row in clip["found"]] == ["jump", "run"]
        curves = {curve["label"]: dict(curve["points"]) for curve in clip["curves"]}
        assert max(curves["jump"].values()) == 0.9
        assert all(value == 0 for time, value in curves["jump"].items() if time > 0.2)
        assert all(value == 0 for time, value in curves["run"].items() if time < 0.1)
    with served(findings["found"]) as server:  # without a truth nothing is wrong
        assert "wrong" not in get(server, "about")["states"]
        assert get(server, "rows?label=jump")["total"] == 1
    with served(findings["truth"]) as server:
        assert get(server, "about")["kind"] == "annotations"
        assert names(server, "label=run") == ["other", "two"]
    with served(findings["plain"]) as server:
        assert get(server, "video?item=0")["found"][0]["end_s"] == 0.2


def test_boxes_tubes_and_scores_over_time(findings, cache):
    with served(findings["ava"], cache=cache) as server:
        boxes = get(server, "video?item=0")["boxes"]
        assert boxes[0] == {
            "time_s": 0.2,
            "half_s": 0.5,
            "box": [0.1, 0.2, 0.5, 0.9],
            "label": "12",
            "score": 0.8,
        }
    with served(findings["tubes"], cache=cache) as server:
        clip = get(server, "video?item=0")
        assert len(clip["boxes"]) == 8
        assert clip["boxes"][0] == {"frame": 1, "box": [8, 4, 24, 28], "label": "run", "score": 0.7}
        assert clip["size"] == [48, 64]
    with served(findings["long"], cache=cache) as server:
        clip = get(server, "video?item=0")
        assert clip["found"] == [
            {"label": "jump", "start_s": 0, "end_s": 0.2, "score": 0.7},
            {"label": "run", "start_s": 0.2, "end_s": 0.3, "score": 0.9},
        ]
        assert clip["curves"][0] == {
            "label": "run",
            "points": [[0.05, 0.2], [0.15, 0.4], [0.25, 0.9]],
        }


def test_other_paths_are_refused_with_a_reason(findings, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArgument, match="is no cache, no finished run and no JSON or CSV"):
        open_catalogue(tmp_path / "empty")
    with pytest.raises(InvalidArgument, match="there is nothing at"):
        open_catalogue(tmp_path / "nowhere")
    with pytest.raises(InvalidArgument, match="no folder of videos"):
        open_catalogue(findings["found"], videos=tmp_path / "nowhere")
    with pytest.raises(AnnotationError, match="of no known form"):
        open_catalogue(findings["odd"])


# The command


def test_the_command_refuses_what_it_cannot_show(tmp_path, cache):
    assert run_cli("view", tmp_path / "nowhere", "--no-browser").status == 2
    with served(cache) as server:
        done = run_cli("view", cache, "--no-browser", "--port", server.server_port)
    assert done.status == 2
    assert "0 takes any that is free (--port)" in done.err


def test_the_command_prints_an_address_and_ends_on_ctrl_c(cache):
    command = [sys.executable, "-m", "flowpipe", "view", str(cache), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", url)
        with urllib.request.urlopen(url, timeout=20) as page:
            assert b"flowpipe view" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


# In a browser


def opened(browser: Browser, server: PageServer) -> None:
    browser.open(server.url)
    browser.until("document.body.dataset.ready")


@pytest.mark.slow
def test_the_keyboard_alone_leads_through_a_run(browser, run, cache):
    with served(run, cache=cache) as server:
        opened(browser, server)
        assert browser.js("document.activeElement.id") == "grid"
        browser.until("document.querySelectorAll('.cell img.there').length === 3")
        browser.key("ArrowRight")
        assert browser.js("document.querySelector('[aria-selected=true]').id") == "cell-1"
        browser.key("Enter")
        browser.until("document.querySelector('#clip').open && frame.naturalWidth === 64")
        assert browser.js("document.querySelector('#clip-name').innerText") == NAMES[1]
        for key, shown in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 9)):
            browser.key(key)
            wanted = f"at={shown}&" if shown else "at=0"
            browser.until(f"document.querySelector('#flow').src.includes('{wanted}')")
            browser.until(
                f"document.querySelector('#clock').innerText.includes('frame {shown} of 10')"
            )
        browser.key("Home")
        browser.key(" ")  # plays to the end
        browser.until("document.querySelector('#clock').innerText.includes('frame 9 of 10')")
        browser.until("document.querySelector('#play').innerText === '▶'")
        browser.key("n")
        browser.until(f"document.querySelector('#clip-name').innerText === '{NAMES[2]}'")
        browser.key("Escape")
        browser.until("!document.querySelector('#clip').open")
        assert browser.js("document.activeElement.id") == "grid"
        assert browser.js("document.querySelector('[aria-selected=true]').id") == "cell-2"
        browser.key("/")
        assert browser.js("document.activeElement.id") == "text"


@pytest.mark.slow
def test_a_cell_of_the_confusion_opens_its_videos(browser, run, cache):
    with served(run, cache=cache) as server:
        opened(browser, server)
        browser.click("#show-confusion")
        browser.click("#matrix [aria-label='walk taken for jump: 1']")
        browser.until("document.querySelectorAll('.cell').length === 1")
        browser.until("document.querySelector('.cell').innerText.includes('walk/still.avi')")
        assert browser.js("document.querySelectorAll('.cell').length") == 1
        browser.click("#count button")
        browser.until("document.querySelectorAll('.cell').length === 3")
        assert browser.js("document.querySelectorAll('.cell').length") == 3


@pytest.mark.slow
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(browser, run, cache, phone):
    width = 390 if phone else 1280
    browser.size(width, 800, phone=phone)
    with served(run, cache=cache) as server:
        opened(browser, server)
        wide = "document.documentElement.scrollWidth"
        assert browser.js(wide) <= width
        browser.click(".cell")
        browser.until("document.querySelector('#flow').naturalWidth === 64")
        assert browser.js(wide) <= width
        sides = browser.js(
            "['#frame', '#flow'].map(i => document.querySelector(i).getBoundingClientRect())"
            ".map(b => [b.left, b.right, b.width / b.height])"
        )
        (left, middle, share), (begin, right, _) = sides
        assert 0 <= left < middle <= begin < right <= width  # side by side, also on a phone
        assert share == pytest.approx(64 / 48, rel=0.03)
        unnamed = browser.js(
            "[...document.querySelectorAll('button, input, select')].filter(e => !e.innerText &&"
            " !e.ariaLabel && !e.labels?.length).map(e => e.id)"
        )
        assert unnamed == []


@pytest.mark.slow
def test_boxes_lie_where_they_were_found(browser, findings, cache):
    with served(findings["tubes"], cache=cache) as server:
        opened(browser, server)
        browser.click(".cell")
        place = browser.until(
            "document.querySelector('#boxes rect') && frame.naturalWidth && (() => {"
            " const box = document.querySelector('#boxes rect').getBoundingClientRect();"
            " const all = document.querySelector('#frame').getBoundingClientRect();"
            " return [(box.left - all.left) / all.width, (box.top - all.top) / all.height,"
            " box.width / all.width, box.height / all.height] })()"
        )
        assert place == pytest.approx([8 / 64, 4 / 48, 16 / 64, 24 / 48], abs=0.02)


@pytest.mark.slow
def test_only_what_is_on_the_screen_is_in_the_page(browser, tmp_path):
    rows = 30_000
    text = "".join(f"video-{n:06},jump,0,1,{0.5 + n / rows / 2:.4f}\n" for n in range(rows))
    file = tmp_path / "many.csv"
    file.write_text("video,label,start_s,end_s,score\n" + text)
    with served(file) as server:
        opened(browser, server)
        assert browser.js("document.querySelectorAll('.cell').length") < 60
        browser.js("grid.scrollTop = grid.scrollHeight / 2")
        browser.until("document.querySelectorAll('.cell')[3].innerText.includes('video-01')")
        assert browser.js("document.querySelectorAll('.cell').length") < 60
        browser.js("grid.focus()")
        browser.key("End")
        browser.until("document.querySelector('[aria-selected=true]').innerText.includes('029999')")
