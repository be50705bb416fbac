"""The page of a run: every part is there, nothing is fetched, names are escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from flowpipe.errors import InvalidArgument
from flowpipe.report import Sample, results_table, summary_text, write_report
from flowpipe.report.drawings import confusion_drawing, curves_drawing
from flowpipe.scores import Scores

CLASSES = ("run & hide", "walk", "<wave>")
VOID = {"meta", "img", "br", "path", "circle", "rect"}


def scores(stream, taken, labels=(0, 1, 2, 0)):
    shares_NK = np.full((4, 3), 0.1)
    shares_NK[np.arange(4), taken] = 0.8
    return Scores(
        ids=tuple(f"clip-{n}.avi" for n in range(4)),
        labels_N=np.array(labels),
        probabilities_NK=shares_NK,
        logits_NK=np.log(shares_NK).astype(np.float32),
        classes=CLASSES,
        stream=stream,
        protocol={"clips": 2},
    )


@pytest.fixture
def page(tmp_path):
    grey = np.full((4, 6, 3), 128, np.uint8)
    path = write_report(
        tmp_path / "new" / "report.html",
        title="Three <classes>",
        streams=[scores("spatial", [0, 1, 1, 1]), scores("temporal", [0, 1, 2, 1])],
        fused={"logsum": scores("logsum", [0, 1, 2, 1]), "average": scores("a", [0, 1, 2, 0])},
        headline="75.0% fused",
        history={
            "spatial": [
                {"epoch": n, "loss": 1 / n, "accuracy": n / 10, "learning_rate": 0.1 / n}
                for n in range(1, 6)
            ]
        },
        protocol={"test": {"clips": 2, "crops": "center"}},
        versions={"torch": "2.0"},
        samples=[Sample(title="walk", rgb_HWC=grey, flow_rgb_HWC=grey, caption="frame 3")],
        folds=[{"fold": 0, "videos": 2, "spatial": 0.5}, {"fold": 1, "videos": 2, "spatial": 0.75}],
        notes=("A note.",),
        mistaken=[
            Sample(title="hide, taken for run", rgb_HWC=grey, flow_rgb_HWC=grey, caption="frame 9")
        ],
        published={"source": "Table 3", "accuracy": {"temporal": 0.81, "logsum": 0.869}},
    )
    return path.read_text(encoding="utf-8")


class Balanced(HTMLParser):
    """Refuses tags that are closed in another order than they were opened in."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_has_every_part_in_sound_html(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Results",
        "Published",
        "Folds",
        "Frames and their flow",
        "Learning curves",
        "Confusion",
        "Worst mistakes",
        "Protocol",
        "Versions",
    ]
    for text in ("75.0% fused", "A note.", "frame 3", "test.crops", "62.5", "torch"):
        assert text in page
    assert page.count("data:image/png;base64,") == 4
    assert page.count('aria-label="confusion matrix"') == 4
    assert page.count('class="curves"') == 3


def test_refers_to_nothing_outside_and_escapes_names(page):
    assert not re.search(r"<script|<link|@import|url\(|https?://(?!www\.w3\.org/)", page)
    assert all(source.startswith("data:") for source in re.findall(r'src="(.*?)"', page))
    assert "<wave>" not in page
    assert "Three &lt;classes&gt;" in page
    assert "run &amp; hide taken for walk: 1" in page


def test_lists_the_mistakes_of_the_first_fusion(page):
    mistakes = page.partition("Worst mistakes")[2].partition("</section>")[0]
    assert "1 of 4 videos are mistaken by logsum" in mistakes
    assert "clip-3.avi" in mistakes
    assert "10.0 → 80.0" in mistakes
    assert "clip-2.avi" not in mistakes
    assert "hide, taken for run" in mistakes


def test_what_is_published_stands_beside_what_was_reached(page):
    published = page.partition("<h2>Published</h2>")[2].partition("</section>")[0]
    assert "Table 3" in published
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", published)
    assert cells[3:] == ["temporal", "81.0 %", "75.0 %", "logsum", "86.9 %", "75.0 %"]


def test_an_unlabelled_video_counts_nowhere():
    (row,) = results_table([scores("spatial", [0, 1, 1, 1], labels=(0, 1, 2, -1))], {})
    assert (row.videos, row.top_1) == (3, pytest.approx(2 / 3))
    assert row.top_5 is None
    assert row.low < row.top_1 < row.high
    text = summary_text([scores("spatial", [0, 1, 1, 1])], {})
    assert "spatial" in text.splitlines()[1]
    assert "50.0" in text


def test_curves_leave_gaps():
    drawing = curves_drawing({"loss": [(1, 2.0), (2, float("nan")), (3, 1.0), (4, 0.5)]})
    ((name, runs, _),) = drawing["curves"]
    assert name == "loss"
    assert [len(run) for run in runs] == [1, 2]
    assert runs[0] == ["48.0 31.2"]  # left edge, 5 % below the top
    assert curves_drawing({"loss": [(1, float("inf"))]}) is None


def test_a_diverged_loss_is_a_gap_on_the_page(tmp_path):
    losses = {"a": [2.0, float("nan"), 1.0], "b": [float("nan")] * 3}
    history = {
        name: [{"epoch": n, "loss": loss} for n, loss in enumerate(values)]
        for name, values in losses.items()
    }
    own = {"streams": [scores("spatial", [0, 1, 1, 1])], "fused": {}, "headline": ""}
    path = write_report(
        tmp_path / "r.html", title="", history=history, protocol={}, versions={}, **own
    )
    page = path.read_text("utf-8")
    assert page.count('class="curve c0 dot"') == 2  # points between gaps
    assert page.count("no finite value") == 1
    assert "nan" not in page.partition("<main>")[2]


def test_confusion_counts():
    drawing = confusion_drawing(np.array([[3, 1], [0, 2]]), ["a", "b"])
    assert [cell[:4] for cell in drawing["cells"]] == [
        (0, 0, 3, 0.75),
        (0, 1, 1, 0.25),
        (1, 1, 2, 1),
    ]
    assert drawing["cells"][1][4] == "a taken for b: 1"
    assert drawing["numbered"]
    assert not confusion_drawing(np.eye(26, dtype=int), ["x"] * 26)["numbered"]


def test_refuses_pictures_of_another_kind_and_a_page_without_scores(tmp_path):
    grey = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(InvalidArgument, match=r'flow_rgb_HWC of sample "walk" .* must be H×W×3'):
        Sample(title="walk", rgb_HWC=grey, flow_rgb_HWC=grey[..., :2])
    empty = {"streams": [], "fused": {}, "headline": "", "history": {}}
    with pytest.raises(InvalidArgument, match="no scores"):
        write_report(tmp_path / "r.html", title="", protocol={}, versions={}, **empty)
    assert not list(tmp_path.iterdir())
