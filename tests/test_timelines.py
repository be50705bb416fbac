"""The pages of found actions and persons, clicked in a browser, on a desk and on a phone."""

import numpy as np
import pytest

from flowpipe.detection.tracks import Track
from flowpipe.metrics.temporal import Segments
from flowpipe.report.detection import write_detection_page
from flowpipe.report.localisation import write_localisation_page

pytestmark = pytest.mark.slow
LINE = "parseFloat(document.querySelector('.lane u').style.left)"


def person(number: int, labels: list[int]) -> Track:
    """One look each fifth of a second, 10 px further to the right; two classes."""
    lefts = 20 + 10 * np.arange(len(labels))
    boxes = np.stack((lefts, 0 * lefts + 60, lefts + 30, 0 * lefts + 140), 1).astype(float)
    scores = np.where(np.array(labels)[:, None] == np.arange(2), 0.8, 0.1)
    return Track(number, 5 * np.arange(len(labels)), 0.2 * np.arange(len(labels)), boxes, scores)


def shown(browser, path, phone: bool) -> None:
    browser.size(390 if phone else 1280, 800, phone=phone)
    browser.open(path.as_uri())
    browser.until("document.readyState === 'complete' && document.querySelector('.lane') !== null")
    assert browser.js("document.documentElement.scrollWidth") <= (390 if phone else 1280)


@pytest.fixture
def film(tmp_path, write_video):
    frames = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), np.uint8)
    write_video(tmp_path / "film.mp4", frames)
    return tmp_path / "film.mp4"


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_a_class_is_picked_and_a_moment_shown(browser, tmp_path, phone):
    tracks = {"a": [person(0, [0] * 6), person(1, [0] * 3 + [1] * 3)]}
    page = write_detection_page(tmp_path / "page.html", "persons", tracks, ("walk", "wave"))
    shown(browser, page, phone)
    faint = "[...document.querySelectorAll('.lane b.other')].map(b => b.innerText)"
    rows = (
        "[...document.querySelectorAll('tr[data-start]')].map(r => r.classList.contains('other'))"
    )
    assert (browser.js(faint), browser.js(rows)) == ([], [False, False])
    browser.click(".pick [data-class=wave]")
    assert (browser.js(faint), browser.js(rows)) == (["walk", "walk"], [True, False])
    pressed = "[...document.querySelectorAll('.pick [aria-pressed=true]')].map(b => b.innerText)"
    assert browser.js(pressed) == ["wave"]
    # At the start both walk; two thirds on the second waves.
    boxes = "[...document.querySelectorAll('.over div')].map(b => b.classList.contains('other'))"
    assert browser.js(boxes) == [True, True]
    browser.click_at(".lane", 2 / 3)
    assert browser.js(LINE) == pytest.approx(200 / 3, abs=1)
    assert browser.js("+document.querySelector('.scrub').value") == pytest.approx(0.8, abs=0.03)
    assert browser.js(boxes) == [True, False]
    assert browser.js("document.querySelectorAll('.over span')[1].innerText") == "1: wave 80 %"
    browser.click("tr[data-start]")
    assert browser.js(LINE) == 0
    browser.click(".pick [data-class='']")
    assert browser.js(faint) == []


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_a_segment_shows_its_moment_in_the_video(browser, tmp_path, film, phone):
    found = Segments(
        videos=np.array(["film"] * 2, object),
        times_s=np.array([[0.2, 0.6], [1.0, 1.6]]),
        labels=np.array(["bend", "walk"], object),
        scores=np.array([0.9, 0.7]),
    )
    page = write_localisation_page(
        tmp_path / "page.html", "found", found, durations_s={"film": 2.0}, paths={"film": film}
    )
    shown(browser, page, phone)
    browser.until("document.querySelector('video').readyState > 0")
    browser.js("HTMLMediaElement.prototype.play = function () {}")  # so that it stays there
    browser.click("tr[data-start='1.0']")
    assert browser.js("document.querySelector('video').currentTime") == pytest.approx(1.0)
    browser.until(f"Math.abs({LINE} - 50) < 2")
    browser.click_at(".lane", 0.2)
    assert browser.js("document.querySelector('video').currentTime") == pytest.approx(0.4, abs=0.03)
    assert browser.js(LINE) == pytest.approx(20, abs=1)
    times = "[...document.querySelectorAll('.axis-row span')].filter(s => s.offsetWidth)"
    sides = f"{times}.map(s => s.getBoundingClientRect()).map(b => [b.left, b.right, b.height])"
    lefts, rights, heights = zip(*browser.js(sides), strict=True)
    assert max(heights) < 20  # on one line, none over the next or the edge
    assert all(right < left for right, left in zip(rights, lefts[1:], strict=False))
    assert rights[-1] <= (390 if phone else 1280)
    titles = browser.js("[...document.querySelectorAll('.lane b')].map(b => b.title)")
    assert titles == ["bend 0.20 to 0.60 s, score 0.90", "walk 1.00 to 1.60 s, score 0.70"]
