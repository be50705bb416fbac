"""`cache report` and `cache verify --recompute`: what a person learns of a cache."""

import json

import numpy as np
import pytest
from support import run_cli

from flowpipe import extract, open_cache
from flowpipe.cache.manifest import FailureRow, add_failure
from flowpipe.cache.quality import quality
from flowpipe.errors import InvalidArgument
from flowpipe.extraction.recompute import recompute
from flowpipe.flow.quantise import Quantiser


def command(*words):
    done = run_cli("cache", *words)
    return done.status, done.out, done.err


@pytest.fixture
def cache(tmp_path, write_entry, smooth_flow):
    """A good video, a still one, one that repeats frames, a clipped one, a partial, a gone one."""
    path = tmp_path / "c"
    uv = smooth_flow(8, 20, 24)
    write_entry(path, uv, name="good.avi", digest="1" * 64)
    write_entry(path, 0 * uv, name="still.avi", digest="2" * 64)
    repeats = uv * (np.arange(8) % 2)[:, None, None, None]
    write_entry(path, repeats, name="repeats.avi", digest="3" * 64)
    write_entry(path, 6 * uv, name="clipped.avi", digest="4" * 64)
    write_entry(
        path, uv, name="partial.avi", digest="5" * 64, problem="partial: ends at 1 s of 9 s"
    )
    gone = write_entry(path, uv, name="gone.avi", digest="6" * 64)
    gone.unlink()
    still16 = Quantiser("i16", tolerance_px=0.04)
    write_entry(path, 0 * uv, still16, name="still16.avi", digest="7" * 64)
    write_entry(path, 0 * uv, still16, "jpegls", name="few.avi", digest="8" * 64)
    add_failure(path, FailureRow("<b>bad</b>.avi", "/v/bad", "9" * 64, "r", "no frame", 1.0))
    return path


def test_quality_finds_what_was_put_there(cache):
    found = quality(open_cache(cache))
    videos = {video.name: video for video in found.videos}
    assert videos["good.avi"].suspicions == ()
    assert videos["good.avi"].still_share == 0
    assert videos["repeats.avi"].still_share == 0.5
    for name in ("still.avi", "still16.avi"):
        assert videos[name].still_share == videos[name].zero_share == 1
        assert "100% of fields are zero" in videos[name].suspicions[0]
    assert "50% of fields are zero: repeated frames" in videos["repeats.avi"].suspicions[0]
    assert "of components clipped; take a larger bound" in videos["clipped.avi"].suspicions[0]
    assert videos["partial.avi"].suspicions == ("partial: ends at 1 s of 9 s",)
    assert "no entry at" in videos["gone.avi"].damage
    assert found.videos[0].name == "gone.avi"
    assert [row.name for row in found.failures] == ["<b>bad</b>.avi"]
    totals = found.totals()
    assert (totals["videos"], totals["damaged"], totals["partial"], totals["failed"]) == (
        8,
        1,
        1,
        1,
    )
    assert totals["flows"] == 7 * 8
    shares = [entry.attributes["clipped_share"] for entry in map(open_cache(cache).__getitem__, (
        name for name in videos if name != "gone.avi"))]  # fmt: skip
    assert totals["clipped_share"] == pytest.approx(np.mean(shares))
    histogram = dict(found.histogram())
    assert sum(histogram.values()) == 7
    assert histogram["0–0.05"] == 3


def test_report_as_table_json_and_page(cache, tmp_path):
    page = tmp_path / "q.html"
    status, told, err = command("report", cache, "--html", page)
    assert (status, err) == (1, f"page: {page}\n")
    for text in (
        "clipped components",
        "fields that are zero everywhere",
        "0.05–0.1 px",
        "no frame",
    ):
        assert text in told
    html = page.read_text("utf-8")
    assert "&lt;b&gt;bad&lt;/b&gt;.avi" in html
    assert "<b>bad" not in html
    assert "<script" not in html
    assert "8 videos, 56 flows; 7 to look at, 1 failed" in html
    status, told, _ = command("report", cache, "--json")
    record = json.loads(told)
    assert status == 1
    assert record["totals"]["suspicious"] == 7
    assert {video["name"] for video in record["videos"]} == {*open_cache(cache)}
    packed = tmp_path / "p.h5"
    assert command("pack", cache, "--out", packed)[0] == 0
    assert command("report", packed)[0] == 0  # the gone one is not in it


@pytest.fixture
def extracted(tmp_path, write_video):
    rng = np.random.default_rng(0)
    (tmp_path / "v").mkdir()
    for number in range(3):
        frames = rng.integers(0, 255, (4, 48, 64, 3), np.uint8)
        write_video(tmp_path / "v" / f"{number}.mp4", frames)
    extract(tmp_path / "v", tmp_path / "e", flow="farneback", workers=1)
    return tmp_path / "e"


def test_recompute_agrees_and_tells_what_it_cannot_compute(extracted, tmp_path):
    told = list(recompute(open_cache(extracted), 2, seed=1))
    assert [(r.problem, r.note) for r in told] == [("", "")] * 2
    status, _, err = command("verify", extracted, "--recompute", 1)
    assert (status, "1 entry computed anew, 0 differ" in err) == (0, True)
    (tmp_path / "v" / "0.mp4").unlink()
    (tmp_path / "v" / "2.mp4").write_bytes(b"other")
    told = {r.name: r for r in recompute(open_cache(extracted), 3, seed=2)}
    assert "does not exist" in told["0.mp4"].note
    assert "is another video now" in told["2.mp4"].note
    assert told["1.mp4"] == type(told["1.mp4"])("1.mp4")
    with pytest.raises(InvalidArgument, match="recompute 0 must be >= 1"):
        list(recompute(open_cache(extracted), 0))


def test_recompute_names_the_field_that_differs(extracted):
    """The entry keeps its file; what stands in it is not what its video gives."""
    from flowpipe.cache.write import EntryWriter

    cache = open_cache(extracted)
    entry = cache["1.mp4"]
    uv, frames = entry.flow[:], [entry.rgb.jpeg(row) for row in range(entry.num_frames)]
    uv[2, 10, 10] += 1
    writer = EntryWriter(
        entry.path, quantiser=entry.quantiser, codec="jpegls", height=48, width=64, rgb_quality=95
    )
    with writer:
        for field in uv:
            writer.add_flow(field)
        for jpeg in frames:
            writer.add_jpeg(jpeg)
        writer.finish(entry.pts_s, entry.attributes)
    told = {r.name: r.problem for r in recompute(open_cache(extracted), 3)}
    assert (told["0.mp4"], told["2.mp4"]) == ("", "")
    assert "flow 2 differs from the computed one by up to 0.945 px" in told["1.mp4"]
    status, out, _ = command("verify", extracted, "--recompute", 3, "--json")
    assert status == 1
    assert [finding["name"] for finding in json.loads(out)["wrong"]] == ["1.mp4"]
