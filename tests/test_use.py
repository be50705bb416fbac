"""What was trained is used: predictions over time, one file to share, Python, flow to look at."""

import csv
import io
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from support import run_cli

import flowpipe
from flowpipe.errors import (
    ConfigError,
    FlowpipeError,
    InvalidArgument,
    VideoError,
    WeightsError,
)
from flowpipe.experiment import sharing
from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.features import NetworkChoice, extractors_of
from flowpipe.experiment.settings import load_settings
from flowpipe.experiment.sharing import export_run, open_run
from flowpipe.experiment.timeline import Timeline, TimelineReader
from flowpipe.flow.look import draw_flow, natural_scale_px
from flowpipe.video import VideoReader
from flowpipe.video.live import live_frames

SIDE, FPS = 32, 25
CONFIG = """
[data]
root = "videos"
folds = 2
flip = false
[extract]
flow = "farneback"
workers = 1
[streams.motion]
input = "flow"
frames = 4
crop_size = [24, 24]
flow_scale_px = 2.0
model_parameters = {width = 4}
[streams.whole]
input = "flow-histogram"
[train]
epochs = 10
batch_size = 8
optimiser = "adamw"
learning_rate = 0.02
clips_per_video = 2
scales = [1.0]
validation = 0.25
[test]
clips = 2
[fuse]
headline = "validated"
methods = ["validated"]
training_clips = 0
"""


def square(label: str, count: int, seed: int) -> np.ndarray:
    """A square that goes to the right, or down, and round the edge."""
    rng = np.random.default_rng(seed)
    frames = np.empty((count, SIDE, SIDE, 3), np.uint8)
    frames[:] = rng.integers(0, 60, (SIDE, SIDE, 1))
    shape = rng.integers(120, 255, (12, 12, 1))
    y, x = rng.integers(0, SIDE, 2)
    for frame in frames:
        rows, cols = (np.arange(12) + y) % SIDE, (np.arange(12) + x) % SIDE
        frame[np.ix_(rows, cols)] = shape
        x, y = (x + 2, y) if label == "right" else (x, y + 2)
    return frames


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_video) -> Path:
    """A finished run of two classes."""
    folder = tmp_path_factory.mktemp("use")
    for label in ("down", "right"):
        (folder / "videos" / label).mkdir(parents=True)
        for take in range(8):
            frames = square(label, 30, seed=take)
            write_video(folder / "videos" / label / f"{take}.mp4", frames, fps=FPS)
    (folder / "config.toml").write_text(CONFIG)
    settings = load_settings(folder / "config.toml", [f"data.cache={folder / 'cache'}"])
    experiment = Experiment(settings, folder / "run")
    experiment.run("all")
    return folder / "run"


@pytest.fixture(scope="module")
def long_video(tmp_path_factory, write_video) -> Path:
    """Three seconds to the right, three down, three to the right."""
    parts = [square(label, 75, seed=40 + k) for k, label in enumerate(("right", "down", "right"))]
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", np.concatenate(parts), fps=FPS)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "squares.flowpipe"
    export_run(run, out)
    return out


def test_segments_say_what_happens_when(run, long_video):
    timeline = flowpipe.load(run).over_time(long_video, every_s=0.25)
    segments = timeline.segments()
    assert [segment.label for segment in segments] == ["right", "down", "right"]
    edges = [segment.end_s for segment in segments[:-1]]
    assert edges == pytest.approx([3.0, 6.0], abs=0.6)
    assert segments[0].start_s == 0.0
    assert segments[-1].end_s == pytest.approx(9.0, abs=0.3)
    assert set(timeline.streams) == {"motion", "whole", "fused"}
    assert all(row.sum() == pytest.approx(1) for row in timeline.scores_TK)


def test_memory_holds_a_window_and_no_more(run, long_video):
    reader = TimelineReader(open_run(run), every_s=0.5, window_s=1.0)
    frames = VideoReader(long_video, rgb=True, **reader.geometry())
    sizes = [window.num_frames for _, _, window in reader.windows(frames)]
    assert max(sizes) <= 26
    assert len(sizes) == pytest.approx(17, abs=1)


def test_windows_do_not_depend_on_how_many_are_scored_together(run, long_video):
    reader = TimelineReader(open_run(run), every_s=1.0)

    def scores(at_once: int) -> np.ndarray:
        frames = VideoReader(long_video, rgb=True, **reader.geometry())
        return np.stack(reader.read("v", frames, at_once=at_once).scores_TK)

    np.testing.assert_allclose(scores(1), scores(16), atol=1e-4)


@pytest.mark.parametrize(("fps", "far"), [(12.5, "2 times"), (60, "0.42 times")])
def test_a_video_of_another_rate_is_refused_with_a_sentence(run, write_video, tmp_path, fps, far):
    """Motion from frame to frame would be another; the other videos are judged."""
    other = write_video(tmp_path / "other.mp4", square("right", 30, 3), fps=fps)
    same = write_video(tmp_path / "same.mp4", square("right", 30, 4), fps=FPS)
    found = flowpipe.load(run).predict([other, same])
    assert found.scores[0].ids == ("same.mp4",)
    (failure,) = found.failures
    assert failure.name == "other.mp4"
    assert f"it has {fps:g} frames/s, and the run was trained at 25" in failure.reason
    assert far in failure.reason
    with pytest.raises(VideoError, match="trained at 25"):
        flowpipe.load(run).over_time(other)
    alone = run_cli("predict", run, other)
    assert alone.status == 1
    assert "trained at 25" in alone.err


def test_short_segments_join_their_neighbours():
    timeline = Timeline("v", ("a", "b"), 0.5)
    for number, share in enumerate([0.9, 0.9, 0.9, 0.9, 0.2, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]):
        timeline.starts_s.append(0.5 * number)
        timeline.ends_s.append(0.5 * number + 1)
        timeline.scores_TK.append(np.array([share, 1 - share]))
    assert [s.label for s in timeline.segments(least_s=1.0)] == ["a", "b"]
    assert [s.label for s in timeline.segments(threshold=0.95)] == []
    assert Timeline("v", ("a", "b"), 0.5).segments() == []


def test_over_time_from_the_command_line(model, long_video, tmp_path):
    out = {name: tmp_path / name for name in ("a.csv", "s.csv", "p.html", "v.mp4")}
    done = run_cli(
        "predict", model, long_video, "--every", "0.5s", "--csv", out["a.csv"],
        "--segments", out["s.csv"], "--page", out["p.html"], "--video", out["v.mp4"], "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads(done.out)["videos"]["long.mp4"]
    assert [s["label"] for s in record["segments"]] == ["right", "down", "right"]
    with out["a.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(record["windows"])
    assert rows[0].keys() == {"video", "start_s", "end_s", "label", "score", "down", "right"}
    with out["s.csv"].open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["right", "down", "right"]
    page = out["p.html"].read_text()
    assert "data:video/mp4" in page
    assert "long.mp4" in page
    shown = VideoReader(out["v.mp4"], rgb=True)
    frames = list(shown)
    assert len(frames) == 225
    assert frames[0].rgb_HWC.shape[0] == SIDE + 30
    assert not list(tmp_path.glob(".*part"))


def test_a_pipe_is_read_as_it_comes(long_video, run):
    mkv = io.BytesIO()
    with av.open(mkv, "w", format="matroska") as target:
        stream = target.add_stream("libx264", rate=FPS)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in VideoReader(long_video, rgb=True):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame.rgb_HWC, format="rgb24")))
        target.mux(stream.encode(None))

    class Pipe(io.RawIOBase):
        """What can be read once, forwards."""

        def __init__(self) -> None:
            self.rest = mkv.getvalue()

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            part, self.rest = self.rest[:size], self.rest[size:]
            return part

    reader = TimelineReader(open_run(run), every_s=0.5)
    timeline = reader.read("-", live_frames(Pipe(), **reader.geometry()), at_once=1)
    assert [s.label for s in timeline.segments()] == ["right", "down", "right"]


@pytest.mark.parametrize("how", ["a read error", "an interrupt", "a large frame"])
def test_what_ends_a_live_source_early_costs_only_what_comes_after(
    run, long_video, tmp_path, monkeypatch, how
):
    from flowpipe.video import live

    def failing(source, *, damage, **geometry):
        for frame in VideoReader(long_video, rgb=True, **geometry):
            if frame.pts_s >= 5.5:
                raise {
                    "a read error": OSError(5, "Input/output error"),
                    "an interrupt": KeyboardInterrupt(),
                    "a large frame": VideoError("- has a frame of 9 × 9 px"),
                }[how]
            yield frame

    monkeypatch.setattr(live, "live_frames", failing)
    given = ("--every", "0.5s", "--csv", tmp_path / "s.csv", "--segments", tmp_path / "p.csv")
    done = run_cli("predict", run, "-", *given, "--json")
    assert done.status == (130 if how == "an interrupt" else 1)
    assert "; what was seen before is kept" in done.err
    seen = json.loads(done.out)["videos"]["-"]["segments"]
    assert [segment["label"] for segment in seen] == ["right", "down"]
    assert 4 < seen[-1]["end_s"] <= 5.5
    assert len((tmp_path / "s.csv").read_text().splitlines()) > 5
    assert (tmp_path / "p.csv").read_text().count("-,") == 2


def test_a_damaged_video_is_told_over_time_too(run, long_video, tmp_path):
    cut = tmp_path / "cut.ts"
    with av.open(str(cut), "w") as target:
        stream = target.add_stream("mpeg2video", rate=FPS)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in VideoReader(long_video, rgb=True):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame.rgb_HWC, format="rgb24")))
        target.mux(stream.encode(None))
    whole = bytearray(cut.read_bytes())
    whole[len(whole) // 3 : len(whole) // 2] = b""
    cut.write_bytes(whole)
    done = run_cli("predict", run, cut, "--every", "0.5s")
    assert done.status == 0
    assert "note: cut.ts: " in done.err


def test_an_exported_file_predicts_as_its_run(run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos = sorted((run.parent / "videos").rglob("*.mp4"))[:4]
    ours, theirs = (flowpipe.load(path).predict(videos) for path in (run, model))
    assert theirs.names == ours.names == ["motion", "whole", "fused"]
    for one, other in zip(ours.scores, theirs.scores, strict=True):
        np.testing.assert_allclose(other.probabilities_NK, one.probabilities_NK, atol=1e-5)
    assert flowpipe.load(model).accuracies == flowpipe.load(run).accuracies
    page = flowpipe.load(model).report()
    assert page.read_text().count("right") > 1
    header, rows = theirs.table(2)
    assert header[0] == "video"
    assert len(rows) == 4
    assert len(theirs.to_csv("p.csv").read_text().splitlines()) == 1 + 3 * 4


def test_nothing_of_the_machine_is_in_the_file(run, model):
    content = model.read_bytes()
    for secret in (str(run.parent), "0.mp4", "down/"):
        assert secret.encode() not in content


@pytest.mark.parametrize("at", [0.02, 0.3, 0.6, 0.95])
def test_a_tampered_file_is_refused(model, tmp_path, at):
    content = bytearray(model.read_bytes())
    content[int(at * len(content))] ^= 4
    bad = tmp_path / "bad.flowpipe"
    bad.write_bytes(content)
    with pytest.raises(WeightsError, match=r"no exported run|not what was exported|this flowpipe"):
        flowpipe.load(bad)


def test_foreign_files_are_refused(tmp_path):
    text = tmp_path / "text.flowpipe"
    text.write_text("no model")
    with pytest.raises(WeightsError, match="is no exported run"):
        flowpipe.load(text)
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.flowpipe")
    with pytest.raises(WeightsError, match="a safetensors file, but no exported run"):
        flowpipe.load(tmp_path / "other.flowpipe")
    with pytest.raises(ConfigError, match="no finished run"):
        flowpipe.load(tmp_path / "nothing")


def test_a_run_shows_itself(run):
    shown = flowpipe.load(run)
    assert "2 classes" in repr(shown)
    assert "<table>" in shown._repr_html_()
    assert shown.accuracy == shown.accuracies["fused"]


def test_notebooks_show_caches_entries_predictions_and_time(run, long_video):
    cache = flowpipe.open_cache(run.parent / "cache")
    assert "<td>16</td>" in cache._repr_html_()  # entries of the recipe
    entry = cache[next(iter(cache))]._repr_html_()
    assert entry.count("data:image/png;base64,") == 2
    assert "farneback" in entry
    model = flowpipe.load(run)
    assert "long.mp4" in model.predict(long_video)._repr_html_()
    assert model.over_time(long_video, every_s=1.0)._repr_html_().count("<tr>") >= 3


def test_training_from_python_shows_a_bar_or_keeps_quiet(run, tmp_path, capsys):
    config = run.parent / "config.toml"
    words = [f"data.cache={run.parent / 'cache'}", "train.epochs=1"]
    for quiet in (False, True):
        trained = flowpipe.train(config, out=tmp_path / str(quiet), settings=words, quiet=quiet)
        assert trained.classes == ("down", "right")
        assert bool(capsys.readouterr().err) != quiet


def test_a_video_too_short_for_any_window_is_a_failure(run, write_video, long_video, tmp_path):
    short = write_video(tmp_path / "short.mp4", square("right", 1, 3), fps=FPS)
    done = run_cli("predict", run, short, long_video, "--every", "0.5s")
    assert done.status == 1
    assert "short.mp4: ends before a second frame" in done.err
    assert "right" in done.out


def test_options_over_time_need_every(model, long_video):
    done = run_cli("predict", model, long_video, "--page", "p.html")
    assert done.status == 2
    assert "give --every too" in done.err
    with pytest.raises(InvalidArgument, match="every 0 s must be > 0"):
        flowpipe.load(model).over_time(long_video, every_s=0)


def test_flow_of_a_video_to_look_at(long_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_cli("flow", long_video, "--out", "look", "--flow", "farneback", "--arrows")
    assert done.status == 0, done.err
    frames = list(VideoReader(tmp_path / "look" / "long.mp4", rgb=True))
    assert len(frames) == 224
    assert frames[0].rgb_HWC.shape == (SIDE, 2 * SIDE, 3)
    for form, name in (("npy", "long.npy"), ("flo", "long/flow_00223.flo")):
        done = run_cli("flow", long_video, "--out", form, "--as", form, "--flow", "farneback")
        assert done.status == 0, done.err
        assert (tmp_path / form / name).is_file()
    flow = np.load(tmp_path / "npy" / "long.npy")
    np.testing.assert_array_equal(flow, flowpipe.compute_flow(long_video, "farneback"))
    # The square goes to the right first, then down.
    moving = np.linalg.norm(flow[:70], axis=-1) > 1
    assert flow[:70][moving][:, 0].mean() == pytest.approx(2, abs=0.5)


def test_stillness_stays_white():
    noise = np.random.default_rng(0).normal(0, 0.05, (32, 32, 2)).astype(np.float32)
    assert natural_scale_px(np.hypot(noise[..., 0], noise[..., 1])) == 2
    assert draw_flow(noise).min() > 225
    one, other = (draw_flow(np.full((4, 4, 2), px), scale_px=5) for px in (1, 3))
    assert other.min() < one.min()


@pytest.mark.slow
def test_a_network_as_onnx_is_that_of_torch(run, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    done = run_cli("export", run, "--out", tmp_path / "x.flowpipe", "--onnx", tmp_path, "--json")
    (told,) = json.loads(done.out)["onnx"]  # the SVM on histograms is no network
    assert told["largest_difference"] <= 1e-4
    assert told["input_shape"] == ["batch", 8, 24, 24]
    assert "torchvision" not in done.err
    session = onnxruntime.InferenceSession(told["file"], providers=["CPUExecutionProvider"])
    clips = np.zeros((3, 8, 24, 24), np.float32)
    assert session.run(None, {"clips": clips})[0].shape == (3, 2)


def test_a_window_holds_no_frame_before_it(run, long_video):
    reader = TimelineReader(open_run(run), every_s=1.0, window_s=0.4)
    windows = list(reader.windows(reader.frames(long_video)))
    assert len(windows) > 5
    for start_s, end_s, window in windows:
        assert window.num_frames == 10
        assert window.num_flows == 9
        assert start_s - 1e-6 <= window.pts_s[0]
        assert window.pts_s[-1] < end_s


@pytest.mark.parametrize(("frames", "window_s"), [(1, None), (60, 0.01)])
def test_what_is_too_short_for_windows_is_refused(run, tmp_path, write_video, frames, window_s):
    path = write_video(tmp_path / "short.mp4", np.zeros((frames, SIDE, SIDE, 3), np.uint8))
    reader = TimelineReader(open_run(run), every_s=0.04, window_s=window_s)
    with pytest.raises(VideoError, match=r"second frame|fewer than two frames"):
        reader.read("short.mp4", reader.frames(path))


def test_no_source_is_replaced_and_no_output_is_lost(model, long_video, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    videos = [shutil.copy(long_video, folder / "x.mp4") for folder in folders]
    content = videos[0].read_bytes()
    listed = tmp_path / "list.csv"
    listed.write_text("video\na/x.mp4\n")
    for given, message in (
        ([videos[0], "--every", "2s", "--video", videos[0]], "would be replaced"),
        ([listed, "--csv", listed], "would be replaced"),
        ([videos[0], "--csv", tmp_path / "no" / "x.csv"], "there is no folder"),
        ([videos[0], "--csv", folders[0]], "is a folder"),
        ([videos[0], "--every", "2s", "--least", "nan"], "no time in seconds"),
    ):
        refused = run_cli("predict", model, *given)
        assert refused.status == 2
        assert message in refused.err
    assert videos[0].read_bytes() == content
    assert listed.read_text().startswith("video")
    done = run_cli("predict", model, *videos, "--every", "2s", "--video", tmp_path / "out")
    assert done.status == 0, done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-x.mp4", "b-x.mp4"}


@pytest.mark.parametrize("place", ["fold", "stream", "scores", "fit"])
def test_a_forged_file_writes_nowhere_else(model, tmp_path, place):
    facts, tensors = sharing.read_file(model)
    outside = str(tmp_path / "outside")
    if place == "fold":
        facts["fold"] = f"x/../../{outside}"
    elif place == "stream":
        facts["settings"]["streams"][outside] = facts["settings"]["streams"]["motion"]
    else:
        key = f"fit/motion/{outside}" if place == "fit" else f"scores/{outside}"
        facts["scores"][key] = facts["scores"]["scores/motion"]
        of_scores = {k: v for k, v in tensors.items() if k.startswith("scores/motion/")}
        tensors |= {k.replace("scores/motion", key): v.clone() for k, v in of_scores.items()}
    facts["sha256"] = sharing._digest(facts, tensors)
    forged = tmp_path / "forged.flowpipe"
    forged.write_bytes(sharing.save(tensors, {sharing.FACTS: json.dumps(facts)}))
    with pytest.raises(WeightsError, match="cannot be the name"):
        sharing.unpack(forged, tmp_path / "run")
    assert not list(tmp_path.glob("outside*"))


class TestForgedSizes:
    """A file from elsewhere names sizes; its digest is right, as the forger computed it."""

    @staticmethod
    def forged(model, folder, part, changes):
        facts, tensors = sharing.read_file(model)
        name = next(iter(facts["settings"]["streams"]))
        table = facts["settings"]["streams"][name] if part == "stream" else facts["settings"][part]
        table.update(changes)
        facts["sha256"] = sharing._digest(facts, tensors)
        path = folder / "forged.flowpipe"
        path.write_bytes(sharing.save(tensors, {sharing.FACTS: json.dumps(facts)}))
        return path

    @pytest.mark.parametrize(
        ("part", "changes", "message"),
        [
            ("stream", {"crop_size": [10**6, 10**6]}, "more than memory holds"),
            ("stream", {"frames": 10**9}, "more than memory holds"),
            ("stream", {"model_parameters": {"width": 10**6}}, "does not fit the network"),
            ("test", {"clips": 10**9}, "must be a whole number from 1 to 10000"),
        ],
    )
    def test_take_no_memory(self, model, long_video, tmp_path, part, changes, message):
        path = self.forged(model, tmp_path, part, changes)
        with pytest.raises(FlowpipeError, match=message):
            flowpipe.load(path).predict([long_video])

    def test_as_many_workers_as_another_machine_has(self, model, tmp_path):
        path = self.forged(model, tmp_path, "extract", {"workers": 10**6})
        assert sharing.open_run(path).settings.extract.workers is None
        assert sharing.read_file(model)[0]["settings"]["extract"]["workers"] is None


def test_what_a_file_cannot_do_is_said(model, tmp_path):
    for words in (("test", model), ("export", model, "--out", tmp_path / "o.flowpipe")):
        done = run_cli(*words)
        assert done.status == 2
        assert "is no folder of a run; an exported file predicts" in done.err
    with pytest.raises(InvalidArgument, match="is no network; name the folder of a run"):
        next(extractors_of(str(model), NetworkChoice()))
    assert run_cli("verify", model).status == 0
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    (tmp_path / "bad.flowpipe").write_bytes(content)
    done = run_cli("verify", tmp_path / "bad.flowpipe")
    assert (done.status, "is not what was exported" in done.out) == (1, True)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2.73 TiB for an array"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_too_little_memory_is_no_fault_of_flowpipe(error, monkeypatch, tmp_path):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("flowpipe.experiment.verify.verify_run", fail)
    done = run_cli("verify", tmp_path)
    assert (done.status, "fault of flowpipe" in done.err) == (1, False)
    assert f"out of memory: {error}; take smaller sizes" in done.err
